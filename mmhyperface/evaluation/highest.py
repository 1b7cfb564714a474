"""The highest of more scores than memory holds, and thresholds among them."""

import numpy as np

from .arrays import Floats, Ints


class Highest:
    """Keeps the highest of scores that come in blocks, and the rows they are of.

    Args:
        count: how many to keep.
    """

    def __init__(self, count: int) -> None:
        self.count = count
        self._scores: list[Floats] = []
        self._rows: list[Ints] = []
        self._held = 0
        self._least = -np.inf

    def add(self, block: Floats, first_row: int) -> None:
        """Scores [B, G], whose rows are numbered from ``first_row``."""
        if self.count < 1:
            return
        places = np.flatnonzero(block > self._least)
        if len(places) > 4 * self.count:
            # Nothing below the block's own highest is needed.
            values = block.ravel()[places]
            least = np.partition(values, len(places) - self.count)[-self.count]
            places = places[values >= least]
        self._scores.append(block.ravel()[places])
        self._rows.append(first_row + places // max(block.shape[1], 1))
        self._held += len(places)
        if self._held > 4 * self.count:
            self._drop()

    def result(self) -> tuple[Floats, Ints]:
        """Scores, descending, and their rows; all there were if they are fewer."""
        if not self._scores:
            return np.empty(0), np.empty(0, np.int64)
        self._drop()
        order = np.argsort(-self._scores[0], kind='stable')[: self.count]
        return self._scores[0][order], self._rows[0][order]

    def _drop(self) -> None:
        scores, rows = np.concatenate(self._scores), np.concatenate(self._rows)
        if len(scores) > self.count:
            least = np.partition(scores, len(scores) - self.count)[-self.count]
            keep = scores >= least
            scores, rows = scores[keep], rows[keep]
            # Ties with the last one add nothing.
            self._least = float(least)
        self._scores, self._rows, self._held = [scores], [rows], len(scores)


def thresholds_among(
    descending: Floats, weights: Ints, allowed: Ints, total: int | None = None
) -> Floats:
    """Thresholds that at most n scores lie above, for each n of ``allowed`` [F].

    Args:
        descending: [M]. There may be more scores below, that were not kept.
        weights: [M], how many times each counts.
        total: the weight of all scores, if it is known.

    Returns:
        [F], the (n + 1)-th highest score, or minus infinity where all are allowed; NaN
        where not so many scores were kept, or there are none.
    """
    places = np.searchsorted(np.cumsum(weights), allowed, 'right')
    thresholds = np.append(descending.astype(np.float64), np.nan)[places]
    if total:
        thresholds[allowed >= total] = -np.inf
    return thresholds
