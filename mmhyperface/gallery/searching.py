"""Search among people as they are now, and what it keeps until they change."""

import numpy as np

from mmhyperface.evaluation.functional.arrays import Floats, Ints

from . import exact
from .approximate import ApproximateIndex
from .matches import Found, cosines
from .rows import Members
from .templates import mean_rows


class Search:
    """
    Args:
        rows: of images, float32 [N, D] of length 1.
        owners: [N], the people they are of.
        people: [P], their names.
        members: the rows of each of them.
        mean: compare queries with the mean of each person's rows, not with all rows.

    Raises:
        UserError: If the images of a person have no mean.
    """

    def __init__(
        self,
        rows: Floats,
        owners: Ints,
        people: list[str],
        members: Members,
        mean: bool,
    ) -> None:
        self._rows = rows
        self._members = members
        if mean:
            self._matrix = mean_rows(rows, self._members, people)
            self._owners: Ints = np.arange(len(people))
            self._compared = Members(self._owners, len(people))
        else:
            self._matrix, self._owners = rows, owners
            self._compared = self._members
        self._mean = mean
        self._index: ApproximateIndex | None = None

    def find(
        self, queries: Floats, top_k: int, least: float, approximate: bool
    ) -> Found:
        """The `top_k` best people of each query, of those that score `least` or more.

        Each with the row of the image that is closest to the query.

        Args:
            queries: float64 [Q, D] of length 1.
            approximate: with FAISS.
        """
        if approximate:
            if self._index is None:
                self._index = ApproximateIndex(self._matrix)
            found = self._index.search(
                queries, self._matrix, self._owners, self._compared, top_k, least
            )
        else:
            found = exact.search(queries, self._matrix, self._owners, top_k, least)
        return self._with_images(queries, found) if self._mean else found

    def _with_images(self, queries: Floats, found: Found) -> Found:
        which, rows = self._members.of_each(found.owners)
        scores = cosines(queries, found.queries[which], self._rows, rows)
        order = np.lexsort((rows, -scores, which))
        closest = order[np.searchsorted(which, np.arange(len(found.owners)))]
        return Found(found.queries, found.owners, rows[closest], found.scores)
