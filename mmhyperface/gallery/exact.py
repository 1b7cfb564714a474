"""Exact search: one pass over the gallery in float32, and its candidates in float64.

A product in float32 is off by less than a bound that is known (:func:`slack`). What it
leaves in doubt is compared again in float64, so that the result is that of float64, and
equal rows have equal scores.

Legend: Q queries, N rows, D values, k people that are wanted.
"""

import numpy as np

from mmhyperface.evaluation.functional.arrays import Floats, Ints

from .matches import Found, best_of, cosines, paired, ranked

# Queries that are searched for in one pass. More of them need smaller blocks.
QUERIES = 128
# Products [rows, queries] that are in memory at a time.
PRODUCTS = 2**22
# Large blocks, for threads that wait for each other after each.
ROWS = 2**16
# The first block is small: what it finds limits the next ones.
FIRST_ROWS = 2**7
# Pairs of a query and a row that a pass may hold if all people are wanted.
HELD = 2**23


def search(
    queries: Floats, matrix: Floats, owners: Ints, top_k: int, least: float
) -> Found:
    """The `top_k` best owners of each query, of those that score `least` or more.

    Args:
        queries: float64 [Q, D] of length 1.
        matrix: float32 [N, D] of length 1.
        owners: [N]; the score of one is that of its best row.
    """
    at_once = max(min(QUERIES, HELD // max(min(top_k, len(matrix)), 1)), 1)
    parts = []
    for start in range(0, len(queries), at_once):
        block = queries[start : start + at_once]
        of, rows = _candidates(block, matrix, owners, top_k, least)
        scores = cosines(block, of, matrix, rows)
        found = best_of(Found(of + start, owners[rows], rows, scores))
        parts.append(ranked(found, top_k, least))
    return Found.joined(parts)


def slack(width: int) -> float:
    """More than a product of unit rows in float32 can be off.

    D products and sums (Higham, Accuracy and Stability of Numerical Algorithms, 3.1),
    the rounding of the query, of the length of the row and of a limit: (D + 8)·2⁻²⁴.
    """
    return (width + 8) * 2.0**-24


def _candidates(
    queries: Floats, matrix: Floats, owners: Ints, top_k: int, least: float
) -> tuple[Ints, Ints]:
    """Pairs of a query and a row, among which are all that could be wanted."""
    # numpy, and not torch: torch's products in float32 may be of bfloat16, on CPUs
    # too, once someone set `torch.set_float32_matmul_precision('medium')`.
    columns = np.ascontiguousarray(queries.T, np.float32)
    off = slack(matrix.shape[1])
    lowest = np.clip(least - off, -2, 2)
    limits: Floats = np.full(len(queries), lowest, np.float32)
    nobody = np.empty(0, np.int64)
    held = Found(nobody, nobody, nobody, np.empty(0, np.float32))
    pending: list[Found] = []
    waiting, start, size = 0, 0, FIRST_ROWS
    largest = max(min(PRODUCTS // len(queries), ROWS), 1)
    while start < len(matrix):
        size = min(size, largest)
        products = matrix[start : start + size] @ columns
        pending.append(_above(products, limits, start, owners))
        waiting += len(pending[-1].rows)
        start, size = start + size, 4 * size
        # Sorting costs as much as there is: so often that it is worth it.
        if waiting > len(held.rows) or start >= len(matrix):
            held = Found.joined([held, *pending])
            held, limits = _narrowed(held, limits, top_k, off)
            pending, waiting = [], 0
    return held.queries, held.rows


def _above(products: Floats, limits: Floats, start: int, owners: Ints) -> Found:
    """The pairs of a block of products [rows, queries] from their limits on."""
    found = np.flatnonzero(products >= limits)
    rows, queries = np.divmod(found, len(limits))
    rows += start
    return Found(queries, owners[rows], rows, products.ravel()[found])


def _narrowed(
    held: Found, limits: Floats, top_k: int, off: float
) -> tuple[Found, Floats]:
    """Without pairs that others beat beyond doubt, and what others must reach."""
    within, first = paired(held)
    best = held.at(within[first])
    order = np.lexsort((-best.scores, best.queries))
    ends = np.searchsorted(best.queries, np.arange(len(limits) + 1))
    last = ends[:-1] + top_k - 1
    enough = last < ends[1:]
    limits = limits.copy()
    kth = best.scores[order[last[enough]]].astype(np.float64)
    # Rounding to float32 must not raise it.
    reached = np.nextafter((kth - 2 * off).astype(np.float32), np.float32(-2))
    limits[enough] = np.maximum(limits[enough], reached)
    # Nor is a row wanted if another one of its owner is better beyond doubt, or people
    # with many images would fill the memory. Rounding to float32 takes less than `off`.
    of_owner = best.scores[np.cumsum(first) - 1]
    keep = np.empty(len(within), np.bool_)
    keep[within] = held.scores[within] >= of_owner - np.float32(3 * off)
    keep &= held.scores >= limits[held.queries]
    return held.at(keep), limits
