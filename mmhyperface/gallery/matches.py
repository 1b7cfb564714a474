"""Who is found: the best people of each query, by exact scores of candidates."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from mmhyperface.evaluation.functional.arrays import (
    Bools,
    Floats,
    Ints,
    blocks,
    row_dots,
)


class Match(NamedTuple):
    """A person that was found.

    Attributes:
        person: The name.
        score: Cosine of the query and this person.
        image: The one that is closest to the query.
    """

    person: str
    score: float
    image: str


@dataclass(frozen=True)
class Found:
    """Queries, and rows that may answer them, with their owners; each [M]."""

    queries: Ints
    owners: Ints
    rows: Ints
    scores: Floats

    def at(self, places: Ints | Bools) -> 'Found':
        """Those of some places, in their order."""
        return Found(
            self.queries[places],
            self.owners[places],
            self.rows[places],
            self.scores[places],
        )

    @classmethod
    def joined(cls, parts: Sequence['Found']) -> 'Found':
        """All of some parts, which are one or more."""
        return cls(
            np.concatenate([part.queries for part in parts]),
            np.concatenate([part.owners for part in parts]),
            np.concatenate([part.rows for part in parts]),
            np.concatenate([part.scores for part in parts]),
        )


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


def paired(found: Found) -> tuple[Ints, Bools]:
    """An order by query and owner, the best first, and where each pair begins in it.

    Equal scores of a pair stay in their order.
    """
    pairs = found.queries * (1 + found.owners.max(initial=0).astype(np.int64))
    pairs += found.owners
    order = np.lexsort((-found.scores, pairs))
    first = np.ones(len(order), np.bool_)
    first[1:] = np.diff(pairs[order]) != 0
    return order, first


def best_of(found: Found) -> Found:
    """The best row of each query and owner; of equal ones that which comes first."""
    order, first = paired(found)
    return found.at(order[first])


def ranked(found: Found, top_k: int, least: float) -> Found:
    """The `top_k` best of each query, of those with `least` or more.

    Equal scores are in the order of their owners.

    Args:
        found: of each query and owner one.
    """
    order = np.lexsort((found.owners, -found.scores, found.queries))
    queries = found.queries[order]
    rank = np.arange(len(queries)) - np.searchsorted(queries, queries)
    kept = order[(rank < top_k) & (found.scores[order] >= least)]
    return found.at(kept)
