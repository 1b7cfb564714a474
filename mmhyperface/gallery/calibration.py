"""The threshold of an open-set search, by strangers."""

import math

import numpy as np

from mmhyperface.evaluation.functional.arrays import (
    Floats,
    as_rates,
    floor_product,
    rounding,
)
from mmhyperface.evaluation.functional.highest import thresholds_among
from mmhyperface.utils.errors import UserError


def threshold_at(scores: Floats, fpir: float) -> float:
    """The lowest threshold that at most ⌊FPIR·n⌋ strangers reach.

    The rule is that of :func:`mmhyperface.evaluation.functional.identify`: the
    (⌊FPIR·n⌋ + 1)-th highest score, which one must exceed by more than rounding.

    Args:
        scores: [n], the best score of each of n strangers, of float32 embeddings.
        fpir: false positive identification rate, a fraction.

    Raises:
        UserError: If there are fewer than 1 / fpir strangers.
    """
    (rate,) = as_rates([fpir], 'a false positive identification rate')
    allowed = floor_product(np.array([rate]), len(scores))
    if not allowed[0]:
        raise UserError(
            f'{len(scores):,} strangers cannot tell of a false positive identification '
            f'rate of {rate:g}: give at least 1 / rate of them, or a higher fpir '
            '(--fpir)'
        )
    descending = np.sort(scores)[::-1]
    once = np.ones(len(scores), np.int64)
    (highest,) = thresholds_among(descending, once, allowed, len(scores))
    if math.isinf(highest):
        return -math.inf
    # The scores are of float64, but two runs of a network differ by this much.
    least = highest + rounding(np.empty(0, np.float32))
    return math.nextafter(least, math.inf)
