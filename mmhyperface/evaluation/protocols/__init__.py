"""One class per protocol of the evaluation: whatever a test can tell of itself.

Each class holds the evidence of one test (scores, ranks) and owns what follows from it:
the figures with their units, how they are drawn again for an interval, why one has
none, what a report says besides, and the pictures. Metrics, intervals and reports ask
the class and know no protocol by name.

To add a figure, give the class a :class:`FigureOfMerit` in ``FIGURES``: in which unit
and to how many digits it is written, and which attribute holds its value. A new
attribute has a default, for results that were saved without it, and is computed where
its kind is: in ``_numbers`` what follows from the scores of pairs, in ``rates`` or
``drawn_rates`` what follows from searches. Tables, files, intervals and comparisons
need nothing more.
"""

from .base import (
    NOT_FINITE,
    NOT_RESOLVABLE,
    NUMBER,
    PERCENT,
    FigureOfMerit,
    Plot,
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
    'FigureOfMerit',
    'IdentificationResult',
    'MegaFaceResult',
    'Plot',
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


def figure_of(protocol: str, name: str) -> FigureOfMerit:
    """The figure that has this name in metrics and files.

    One that no protocol knows, of a newer version's report, counts as a rate.
    """
    figures = PROTOCOLS[protocol].FIGURES if protocol in PROTOCOLS else ()
    fitting = (figure for figure in figures if figure.fits(name))
    return next(fitting, FigureOfMerit(name, name, name))
