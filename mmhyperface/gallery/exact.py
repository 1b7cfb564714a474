"""Exact search: one pass over the gallery in float32, and its candidates in float64.

A product in float32 is off by less than a bound that is known (:func:`slack`). What it
leaves in doubt is compared again in float64, so that the result is that of float64, and
equal rows have equal scores.

Legend: Q queries, N rows, D values, M candidates, k people that are wanted.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from mmhyperface.evaluation.arrays import Bools, Floats, Ints, blocks, row_dots

# Products [rows, queries] that are in memory at a time.
PRODUCTS = 2**22
# Large blocks, for threads that wait for each other after each.
ROWS = 2**16
# The first block is small: what it finds limits the next ones.
FIRST_ROWS = 2**7


class Candidates(NamedTuple):
    """Queries, rows that may answer them, and their owners and scores; each [M]."""

    queries: Ints
    owners: Ints
    rows: Ints
    scores: Floats

    def at(self, places: Ints | Bools) -> 'Candidates':
        """Those of some places, in their order."""
        return Candidates._make(column[places] for column in self)

    @classmethod
    def joined(cls, parts: Sequence['Candidates']) -> 'Candidates':
        """All of some parts, which are one or more."""
        return cls(*map(np.concatenate, zip(*parts, strict=True)))

    def by_owner(self) -> tuple[Ints, Bools]:
        """An order by query and owner, the best first, and where each pair begins.

        Equal scores of a pair stay in their order.
        """
        pairs = self.queries * (1 + self.owners.max(initial=0).astype(np.int64))
        pairs += self.owners
        order = np.lexsort((-self.scores, pairs))
        first = np.ones(len(order), np.bool_)
        first[1:] = np.diff(pairs[order]) != 0
        return order, first

    def best(self, top_k: int, least: float) -> 'Candidates':
        """The `top_k` best owners of each query, of those with `least` or more.

        Each with its best row; of equal rows that which comes first. Equal scores are
        in the order of their owners.
        """
        order, first = self.by_owner()
        one = self.at(order[first])
        order = np.lexsort((one.owners, -one.scores, one.queries))
        queries = one.queries[order]
        rank = np.arange(len(queries)) - np.searchsorted(queries, queries)
        return one.at(order[(rank < top_k) & (one.scores[order] >= least)])


def cosines(queries: Floats, of: Ints, matrix: Floats, rows: Ints) -> Floats:
    """[M] in float64: of query ``of[i]`` and row ``rows[i]``, i < M.

    The same for equal rows, wherever they are and however many are compared.

    Args:
        queries: float64 [Q, D] of length 1.
        matrix: float32 [N, D], of length 1 within rounding.
    """
    scores = np.empty(len(rows))
    for part in blocks(len(rows), matrix.shape[1]):
        block = matrix[rows[part]].astype(np.float64)
        lengths = np.sqrt(row_dots(block, block))
        scores[part] = row_dots(block, queries[of[part]]) / lengths
    return scores


def slack(width: int) -> float:
    """More than a product of unit rows in float32 can be off.

    D products and sums (Higham, Accuracy and Stability of Numerical Algorithms, 3.1),
    the rounding of the query, of the length of the row and of a limit: (D + 8)·2⁻²⁴.
    """
    return (width + 8) * 2.0**-24


def candidates(
    queries: Floats, matrix: Floats, owners: Ints, top_k: int, least: float
) -> tuple[Ints, Ints]:
    """Pairs of a query and a row, among which are the best of all that are wanted.

    Args:
        queries: float64 [Q, D] of length 1.
        matrix: float32 [N, D] of length 1.
        owners: [N]; the score of one is that of its best row.
        top_k, least: See :meth:`Candidates.best`.
    """
    # numpy, and not torch: torch's products in float32 may be of bfloat16, on CPUs
    # too, once someone set `torch.set_float32_matmul_precision('medium')`.
    columns = np.ascontiguousarray(queries.T, np.float32)
    off = slack(matrix.shape[1])
    lowest = np.clip(least - off, -2, 2)
    limits: Floats = np.full(len(queries), lowest, np.float32)
    nobody = np.empty(0, np.int64)
    held = Candidates(nobody, nobody, nobody, np.empty(0, np.float32))
    pending: list[Candidates] = []
    waiting, start, size = 0, 0, FIRST_ROWS
    largest = max(min(PRODUCTS // len(queries), ROWS), 1)
    while start < len(matrix):
        size = min(size, largest)
        products = matrix[start : start + size] @ columns
        above = np.flatnonzero(products >= limits)
        rows, of = np.divmod(above, len(queries))
        rows += start
        pending.append(Candidates(of, owners[rows], rows, products.ravel()[above]))
        waiting += len(rows)
        start, size = start + size, 4 * size
        # Sorting costs as much as there is: so often that it is worth it.
        if waiting > len(held.rows) or start >= len(matrix):
            held = Candidates.joined([held, *pending])
            held, limits = _narrowed(held, limits, top_k, off)
            pending, waiting = [], 0
    return held.queries, held.rows


def _narrowed(
    held: Candidates, limits: Floats, top_k: int, off: float
) -> tuple[Candidates, Floats]:
    """Without pairs that others beat beyond doubt, and what others must reach."""
    order, first = held.by_owner()
    best = held.at(order[first])
    by_score = np.lexsort((-best.scores, best.queries))
    ends = np.searchsorted(best.queries, np.arange(len(limits) + 1))
    last = ends[:-1] + top_k - 1
    enough = last < ends[1:]
    limits = limits.copy()
    kth = best.scores[by_score[last[enough]]].astype(np.float64)
    # Rounding to float32 must not raise it.
    reached = np.nextafter((kth - 2 * off).astype(np.float32), np.float32(-2))
    limits[enough] = np.maximum(limits[enough], reached)
    # Nor is a row wanted if another one of its owner is better beyond doubt, or people
    # with many images would fill the memory. Rounding to float32 takes less than `off`.
    of_owner = best.scores[np.cumsum(first) - 1]
    keep = np.empty(len(order), np.bool_)
    keep[order] = held.scores[order] >= of_owner - np.float32(3 * off)
    keep &= held.scores >= limits[held.queries]
    return held.at(keep), limits
