from ..protocols import VerificationResult
from .base import EmbeddingMetric
from .face_verification import FaceVerification
from .megaface_identification import MegaFaceIdentification
from .templates import TemplateIdentification, TemplateVerification

__all__ = [
    'EmbeddingMetric',
    'FaceVerification',
    'MegaFaceIdentification',
    'TemplateIdentification',
    'TemplateVerification',
    'VerificationResult',
]
