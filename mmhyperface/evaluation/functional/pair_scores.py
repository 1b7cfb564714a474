"""Scores of pairs: few of them exactly, or millions of them among few templates."""

import math

import numpy as np
import torch

from ..arrays import (
    Array,
    Bools,
    Floats,
    Ints,
    as_integers,
    as_rows,
    blocks,
    check_directions,
    check_lengths,
    check_rows,
    row_dots,
    unit_rows,
)

# From so many pairs on, score_pairs may take one product of all rows with all others,
# if that has at most so many entries for each pair.
MANY_PAIRS = 2**18
MOST_ENTRIES_A_PAIR = 8
# Entries of a product that are held at once, at most: 512 MB of float32.
PRODUCT_ENTRIES = 2**27


def score_pairs(templates: Array, index_a: Array, index_b: Array) -> Floats:
    """Cosine of the rows ``index_a`` [P] and ``index_b`` [P] of templates [T, D].

    In float64 and in blocks of rows, so that the memory is that of the templates and a
    score does not depend on its neighbours. Millions of pairs among few templates, as
    IJB has them, are taken from the products of all with all, in blocks and in the type
    of the templates.

    Raises:
        UserError: for an index outside the templates, or a row in use that is zero or
            not finite.
    """
    rows = as_rows(templates, 'templates')
    first, second = as_integers(index_a, 'index_a'), as_integers(index_b, 'index_b')
    check_lengths(index_a=first, index_b=second)
    check_rows('index_a', first, len(rows))
    check_rows('index_b', second, len(rows))
    used_first, used_second = _used(first, len(rows)), _used(second, len(rows))
    check_directions('features', rows, aside=~(used_first | used_second))
    entries = np.count_nonzero(used_first) * np.count_nonzero(used_second)
    if len(first) >= MANY_PAIRS and entries <= MOST_ENTRIES_A_PAIR * len(first):
        return _scores_among(rows, used_first, used_second, first, second)
    scores = np.empty(len(first))
    for part in blocks(len(first), rows.shape[1]):
        a = rows[first[part]].astype(np.float64, copy=False)
        b = rows[second[part]].astype(np.float64, copy=False)
        # The product of the squares could overflow.
        lengths = np.sqrt(row_dots(a, a)), np.sqrt(row_dots(b, b))
        scores[part] = row_dots(a, b) / lengths[0] / lengths[1]
    return scores


def _scores_among(
    rows: Floats, used_first: Bools, used_second: Bools, first: Ints, second: Ints
) -> Floats:
    """Scores of pairs from the products of all first with all second rows."""
    a, b = unit_rows(rows[used_first]), unit_rows(rows[used_second])
    # Where each row of the templates is among those in use.
    place_a = np.cumsum(used_first, dtype=np.int32) - np.int32(1)
    place_b = np.cumsum(used_second, dtype=np.int32) - np.int32(1)
    width = np.int32(len(b))
    # Each block of the product costs a pass over all pairs.
    num_blocks = min(math.ceil(len(a) * len(b) / PRODUCT_ENTRIES), len(a))
    step = math.ceil(len(a) / num_blocks)
    scores = np.empty(len(first), rows.dtype)
    for start in range(0, len(a), step):
        product = torch.from_numpy(a[start : start + step] @ b.T).view(-1)
        for low in range(0, len(first), MANY_PAIRS):
            part = slice(low, low + MANY_PAIRS)
            row, column = place_a[first[part]], place_b[second[part]]
            inside = slice(None) if step >= len(a) else (row // step == start // step)
            entry = (row[inside] - np.int32(start)) * width + column[inside]
            scores[part][inside] = product.index_select(0, torch.from_numpy(entry))
    return scores


def _used(index: Ints, rows: int) -> Bools:
    """Which rows an index names, [T]."""
    used = np.zeros(rows, np.bool_)
    used[index] = True
    return used
