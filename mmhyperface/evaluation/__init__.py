"""How well a network recognises: metrics, reports, and functions on arrays.

The functions need neither metrics nor a runner, which are imported when they are first
asked for.
"""

from importlib import import_module
from typing import Any

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


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
    return getattr(import_module(_PLACES[name], __name__), name)
