"""Why figures have no interval, in words."""

from ..intervals import MANY_PAIRS
from ..results import Result, VerificationResult

UNKNOWN_IMAGES = 'the list does not tell who is on the images'
UNKNOWN_TEMPLATES = (
    'it is not known who is in the templates, which only the lists of 1:N tell'
)
MANY = f'of more than {MANY_PAIRS:,} pairs only TARs are drawn again'
NOT_EXACT_TAR = 'only exact TARs are drawn again, not interpolated ones'
NOT_EXACT_ACCURACY = 'only an exact accuracy over folds is drawn again'
ONE_KIND = 'draws lack pairs of the same or of different people'
FEW_SCORES = 'it would take lower scores than were kept'


def unknown_identities(result: Result) -> str | None:
    """None where they are known."""
    if not isinstance(result, VerificationResult):
        return None
    if result.identity_a is not None and result.identity_b is not None:
        return None
    return UNKNOWN_TEMPLATES if 'templates' in result.counts else UNKNOWN_IMAGES


def why_no_interval(result: Result, figure: str) -> str:
    """Of a figure that is a number, but has none in :mod:`..intervals`."""
    unknown = unknown_identities(result)
    if unknown is not None:
        return unknown
    if isinstance(result, VerificationResult):
        if figure == 'accuracy' and result.folds is None:
            return NOT_EXACT_ACCURACY
        is_tar = figure.startswith('tar@far=')
        if is_tar and result.interpolation != 'exact':
            return NOT_EXACT_TAR
        if not is_tar and len(result.scores) > MANY_PAIRS:
            return MANY
        return ONE_KIND
    return FEW_SCORES
