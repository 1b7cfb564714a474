"""Unit rows in memory, each of an owner, that grow and shrink."""

import numpy as np

from mmhyperface.evaluation.arrays import Floats, Ints, blocks, row_dots, unit_rows
from mmhyperface.utils.errors import UserError

# Rows of images that are added up at a time, if no person has more.
AT_ONCE = 4096
# Means that are shorter than this have a direction of rounding alone.
SHORTEST = 1e-4


class OwnedRows:
    """Rows float32 [N, D] of length 1, and their owners int32 [N], in order of entry.

    Args:
        rows, owners: Those to begin with.
    """

    def __init__(self, rows: Floats, owners: Ints) -> None:
        self._rows, self._owners, self._count = rows, owners, len(rows)

    @property
    def rows(self) -> Floats:
        """[N, D], without a copy; until the next change."""
        return self._rows[: self._count]

    @property
    def owners(self) -> Ints:
        """[N], without a copy; until the next change."""
        return self._owners[: self._count]

    def add(self, rows: Floats, owners: Ints) -> None:
        """Enter rows [n, D] of any lengths, of these owners [n].

        The room doubles, so that entering rows one by one copies each a few times; it
        takes memory only where rows are entered.
        """
        place = slice(self._count, self._count + len(rows))
        if place.stop > len(self._rows):
            size = max(place.stop, 2 * self._count)
            room = np.empty((size, rows.shape[1]), np.float32), np.empty(size, np.int32)
            room[0][: self._count], room[1][: self._count] = self.rows, self.owners
            self._rows, self._owners = room
        for part in blocks(*rows.shape):
            self._rows[place][part] = unit_rows(rows[part])
        self._owners[place] = owners
        self._count = place.stop

    def remove(self, places: Ints) -> None:
        """Let rows go; those that follow move up."""
        self._rows = np.delete(self.rows, places, axis=0)
        self._owners = np.delete(self.owners, places)
        self._count = len(self._rows)


class Members:
    """The rows of each owner.

    Args:
        owners: [N], from 0 to P - 1.
        count: P.
    """

    def __init__(self, owners: Ints, count: int) -> None:
        self._order = np.argsort(owners, kind='stable')
        self.starts = np.searchsorted(owners[self._order], np.arange(count + 1))

    def of(self, owner: int) -> Ints:
        """In ascending order."""
        return self._order[self.starts[owner] : self.starts[owner + 1]]

    def of_each(self, owners: Ints) -> tuple[Ints, Ints]:
        """Numbers of `owners` [M], and a row of each, for all rows of all of them."""
        counts = self.starts[owners + 1] - self.starts[owners]
        which = np.repeat(np.arange(len(owners)), counts)
        within = np.arange(len(which)) - np.repeat(np.cumsum(counts) - counts, counts)
        return which, self._order[self.starts[owners][which] + within]


def mean_rows(rows: Floats, members: Members, names: list[str]) -> Floats:
    """The mean of each owner's rows, of length 1, float32 [P, D].

    The sums are of float64.

    Args:
        rows: [N, D] of length 1.
        names: [P], of the owners.

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
