"""How well a network recognises: metrics, reports, and functions on arrays.

The functions need neither metrics nor a runner, which are imported when they are first
asked for.
"""

from mmhyperface.extras import importing

_PLACES = {
    'EmbeddingMetric': '.metrics',
    'FaceEvaluator': '.evaluator',
    'FaceVerification': '.metrics',
    'MegaFaceIdentification': '.metrics',
    'TemplateIdentification': '.metrics',
    'TemplateVerification': '.metrics',
    'VerificationResult': '.results',
}

__all__ = list(_PLACES)

__getattr__ = importing(__name__, _PLACES)
