"""Trained networks put to use, on pictures of any origin."""

from typing import TYPE_CHECKING

from mmhyperface.utils.optional_imports import importing

if TYPE_CHECKING:
    from .detection import DetectedFace as DetectedFace
    from .detection import YuNet as YuNet
    from .inferencer import FaceInferencer as FaceInferencer
    from .networks import EmbeddingNetwork as EmbeddingNetwork
    from .networks import ExportedNetwork as ExportedNetwork
    from .networks import OnnxNetwork as OnnxNetwork
    from .networks import TorchNetwork as TorchNetwork
    from .networks import open_network as open_network
    from .results import Face as Face
    from .results import FaceEmbeddings as FaceEmbeddings
    from .results import Identification as Identification
    from .results import Verification as Verification

_PLACES = {
    'DetectedFace': '.detection',
    'EmbeddingNetwork': '.networks',
    'ExportedNetwork': '.networks',
    'Face': '.results',
    'FaceEmbeddings': '.results',
    'FaceInferencer': '.inferencer',
    'Identification': '.results',
    'OnnxNetwork': '.networks',
    'TorchNetwork': '.networks',
    'Verification': '.results',
    'YuNet': '.detection',
    'open_network': '.networks',
}

__all__ = list(_PLACES)

if not TYPE_CHECKING:
    __getattr__, __dir__ = importing(__name__, _PLACES)
