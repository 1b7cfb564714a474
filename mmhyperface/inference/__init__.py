"""Trained networks put to use, on pictures of any origin."""

from mmhyperface.extras import importing

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

__getattr__ = importing(__name__, _PLACES)
