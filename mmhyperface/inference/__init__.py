from .detection import DetectedFace, YuNet
from .inferencer import FaceInferencer
from .networks import (
    EmbeddingNetwork,
    ExportedNetwork,
    OnnxNetwork,
    TorchNetwork,
    open_network,
)
from .results import Face, FaceEmbeddings, Identification, Verification

__all__ = [
    'DetectedFace',
    'EmbeddingNetwork',
    'ExportedNetwork',
    'Face',
    'FaceEmbeddings',
    'FaceInferencer',
    'Identification',
    'OnnxNetwork',
    'TorchNetwork',
    'Verification',
    'YuNet',
    'open_network',
]
