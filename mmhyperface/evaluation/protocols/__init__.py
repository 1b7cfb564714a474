"""One class per protocol of the evaluation: whatever a test can tell of itself.

Each class holds the evidence of one test (scores, ranks) and owns what follows from it:
the figures with their units, how they are drawn again for an interval, why one has
none, what a report says besides, and the pictures. Metrics, intervals and reports ask
the class and know no protocol by name.
"""

from .base import (
    NOT_FINITE,
    NOT_RESOLVABLE,
    NUMBER,
    PERCENT,
    Figure,
    Picture,
    Result,
    Unit,
    rate_name,
)
from .identification import IdentificationResult
from .megaface import MegaFaceResult
from .verification import VerificationResult

__all__ = [
    'NOT_FINITE',
    'NOT_RESOLVABLE',
    'NUMBER',
    'PERCENT',
    'PROTOCOLS',
    'Figure',
    'IdentificationResult',
    'MegaFaceResult',
    'Picture',
    'Result',
    'Unit',
    'VerificationResult',
    'figure_of',
    'rate_name',
]

PROTOCOLS: dict[str, type[Result]] = {
    result.protocol: result
    for result in (VerificationResult, IdentificationResult, MegaFaceResult)
}


def figure_of(protocol: str, name: str) -> Figure:
    """The figure that has this name in metrics and files.

    One that no protocol knows, of a newer version's report, counts as a rate.
    """
    figures = PROTOCOLS[protocol].FIGURES if protocol in PROTOCOLS else ()
    fitting = (figure for figure in figures if figure.fits(name))
    return next(fitting, Figure(name, name, name))
