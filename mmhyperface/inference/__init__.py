"""Trained networks put to use, on pictures of any origin."""

from typing import TYPE_CHECKING

from mmhyperface.utils.optional_imports import importing

if TYPE_CHECKING:
    from .backends import EmbeddingNetwork as EmbeddingNetwork
    from .backends import ExportedNetwork as ExportedNetwork
    from .backends import OnnxNetwork as OnnxNetwork
    from .backends import TorchNetwork as TorchNetwork
    from .backends import open_network as open_network
    from .detection import DetectedFace as DetectedFace
    from .detection import YuNet as YuNet
    from .inferencer import FaceInferencer as FaceInferencer
    from .results import Face as Face
    from .results import FaceEmbeddings as FaceEmbeddings
    from .results import Identification as Identification
    from .results import Verification as Verification

_PLACES = {
    'DetectedFace': '.detection',
    'EmbeddingNetwork': '.backends',
    'ExportedNetwork': '.backends',
    'Face': '.results',
    'FaceEmbeddings': '.results',
    'FaceInferencer': '.inferencer',
    'Identification': '.results',
    'OnnxNetwork': '.backends',
    'TorchNetwork': '.backends',
    'Verification': '.results',
    'YuNet': '.detection',
    'open_network': '.backends',
}

__all__ = list(_PLACES)

if not TYPE_CHECKING:
    __getattr__, __dir__ = importing(__name__, _PLACES)
