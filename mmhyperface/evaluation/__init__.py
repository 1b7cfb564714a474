"""How well a network recognises: metrics, reports, and functions on arrays.

The functions need neither metrics nor a runner, which are imported when they are first
asked for.
"""

from typing import TYPE_CHECKING

from mmhyperface.utils.optional_imports import importing

if TYPE_CHECKING:
    from .evaluator import FaceEvaluator as FaceEvaluator
    from .metrics import EmbeddingMetric as EmbeddingMetric
    from .metrics import FaceVerification as FaceVerification
    from .metrics import MegaFaceIdentification as MegaFaceIdentification
    from .metrics import TemplateIdentification as TemplateIdentification
    from .metrics import TemplateVerification as TemplateVerification
    from .protocols import VerificationResult as VerificationResult

_PLACES = {
    'EmbeddingMetric': '.metrics',
    'FaceEvaluator': '.evaluator',
    'FaceVerification': '.metrics',
    'MegaFaceIdentification': '.metrics',
    'TemplateIdentification': '.metrics',
    'TemplateVerification': '.metrics',
    'VerificationResult': '.protocols',
}

__all__ = list(_PLACES)

if not TYPE_CHECKING:
    __getattr__, __dir__ = importing(__name__, _PLACES)
