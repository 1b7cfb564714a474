"""Search among people as they are now, and what it keeps until they change."""

from functools import cached_property
from typing import NamedTuple

import numpy as np

from mmhyperface.evaluation.arrays import Floats, Ints

from . import exact
from .approximate import ApproximateIndex
from .exact import Candidates, cosines
from .rows import Members, mean_rows

# Queries at a time: more of them need smaller blocks of the gallery.
QUERIES = 128
# Pairs of a query and a row that a pass may hold if all people are wanted.
HELD = 2**23


class Match(NamedTuple):
    """A person that a search gives.

    Attributes:
        person: The name.
        score: Cosine of the query and this person.
        image: The one that is closest to the query.
    """

    person: str
    score: float
    image: str


class Search:
    """Whom queries are most like.

    Args:
        rows: Of images, float32 [N, D] of length 1.
        owners: [N], the people they are of.
        people: [P], their names.
        images: [N], their names.
        mean: Compare queries with the mean of each person's rows, not with all rows.
    """

    def __init__(
        self,
        rows: Floats,
        owners: Ints,
        people: list[str],
        images: list[str],
        mean: bool,
    ) -> None:
        self.people, self.images = people, images
        self.members = Members(owners, len(people))
        self._rows, self._owners, self._mean = rows, owners, mean

    @cached_property
    def _compared(self) -> tuple[Floats, Ints, Members]:
        """Rows that queries are compared with, their owners, and the rows of each."""
        if not self._mean:
            return self._rows, self._owners, self.members
        own = np.arange(len(self.people))
        means = mean_rows(self._rows, self.members, self.people)
        return means, own, Members(own, len(own))

    @cached_property
    def _index(self) -> ApproximateIndex:
        return ApproximateIndex(self._compared[0])

    def find(
        self, queries: Floats, top_k: int, least: float, approximate: bool
    ) -> Candidates:
        """The `top_k` best people of each query, of those that score `least` or more.

        Each with the row of the image that is closest to the query.

        Args:
            queries: float64 [Q, D] of length 1.
            approximate: With FAISS.

        Raises:
            UserError: If the images of a person have no mean, or FAISS is missing.
        """
        matrix, owners, members = self._compared
        at_once = QUERIES
        if not approximate:
            at_once = max(min(QUERIES, HELD // max(min(top_k, len(matrix)), 1)), 1)
        parts = []
        for start in range(0, len(queries), at_once):
            block = queries[start : start + at_once]
            if approximate:
                of, people = self._index.people(block, owners, top_k)
                # All rows of a person: its score is that of the best of them.
                which, rows = members.of_each(people)
                of = of[which]
            else:
                of, rows = exact.candidates(block, matrix, owners, top_k, least)
            scores = cosines(block, of, matrix, rows)
            some = Candidates(of + start, owners[rows], rows, scores)
            parts.append(some.best(top_k, least))
        best = Candidates.joined(parts)
        return self._with_images(queries, best) if self._mean else best

    def matches(
        self, queries: Floats, top_k: int, least: float, approximate: bool
    ) -> list[list[Match]]:
        """What :meth:`find` gives, with names, for each of one or more queries."""
        matches: list[list[Match]] = [[] for _ in queries]
        best = self.find(queries, top_k, least, approximate)
        columns = (column.tolist() for column in best)
        for query, owner, row, score in zip(*columns, strict=True):
            match = Match(self.people[owner], score, self.images[row])
            matches[query].append(match)
        return matches

    def _with_images(self, queries: Floats, best: Candidates) -> Candidates:
        """With the row of an image, not that of a mean."""
        which, rows = self.members.of_each(best.owners)
        scores = cosines(queries, best.queries[which], self._rows, rows)
        order = np.lexsort((rows, -scores, which))
        closest = order[np.searchsorted(which, np.arange(len(best.owners)))]
        return best._replace(rows=rows[closest])
