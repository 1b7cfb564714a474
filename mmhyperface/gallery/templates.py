"""One row for each person: the mean of the unit rows of its images."""

import numpy as np

from mmhyperface.evaluation.functional.arrays import Floats, row_dots
from mmhyperface.utils.errors import UserError

from .rows import Members

# Rows of images that are added up at a time, if no person has more.
AT_ONCE = 4096
# Means that are shorter than this have a direction of rounding alone.
SHORTEST = 1e-4


def mean_rows(rows: Floats, members: Members, names: list[str]) -> Floats:
    """Means, of length 1, float32 [P, D]; the sums are of float64.

    Args:
        rows: [N, D] of length 1.

    Raises:
        UserError: If the images of a person cancel each other out.
    """
    means = np.empty((len(names), rows.shape[1]), np.float32)
    starts = members.starts
    first = 0
    while first < len(names):
        last = int(np.searchsorted(starts, starts[first] + AT_ONCE, 'right')) - 1
        people = np.arange(first, max(last, first + 1))
        _, places = members.of_each(people)
        block = rows[places].astype(np.float64)
        sums = np.add.reduceat(block, starts[people] - starts[first], axis=0)
        lengths = np.sqrt(row_dots(sums, sums))
        short = np.flatnonzero(lengths < SHORTEST * np.diff(starts)[people])
        if len(short):
            raise UserError(
                f'the images of {names[first + short[0]]!r} cancel each other out, so '
                'that they have no mean; remove the wrong ones'
            )
        means[people] = sums / lengths[:, None]
        first = int(people[-1]) + 1
    return means
