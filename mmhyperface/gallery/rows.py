"""Unit rows in memory, each of an owner, that grow and shrink."""

import numpy as np

from mmhyperface.evaluation.functional.arrays import Floats, Ints, blocks, unit_rows

# Rows that are moved at a time.
MOVED = 4096


class OwnedRows:
    """Rows float32 [N, D] of length 1, and their owners int32 [N], in order of entry.

    Args:
        width: D.
    """

    def __init__(self, width: int) -> None:
        self._rows: Floats = np.empty((0, width), np.float32)
        self._owners: Ints = np.empty(0, np.int32)
        self._count = 0

    def __len__(self) -> int:
        return self._count

    @property
    def rows(self) -> Floats:
        """[N, D], without a copy; until the next change."""
        return self._rows[: self._count]

    @property
    def owners(self) -> Ints:
        """[N], without a copy; until the next change."""
        return self._owners[: self._count]

    def reserve(self, count: int) -> None:
        """Have room for so many more rows, without entering any.

        The room doubles, so that entering rows one by one copies each a few times; it
        takes memory only where rows are entered.
        """
        wanted = self._count + count
        if wanted <= len(self._rows):
            return
        size = max(wanted, 2 * self._count)
        rows = np.empty((size, self._rows.shape[1]), np.float32)
        owners = np.empty(size, np.int32)
        rows[: self._count] = self.rows
        owners[: self._count] = self.owners
        self._rows, self._owners = rows, owners

    def add(self, rows: Floats, owners: Ints) -> None:
        """Enter rows [n, D] of any lengths, of these owners [n]."""
        self.reserve(len(rows))
        end = self._count + len(rows)
        for part in blocks(*rows.shape):
            place = slice(self._count + part.start, self._count + part.stop)
            self._rows[place][: end - place.start] = unit_rows(rows[part])
        self._owners[self._count : end] = owners
        self._count = end

    def adopt(self, rows: Floats, owners: Ints) -> None:
        """Have these unit rows, float32 [N, D], instead of all others."""
        self._rows, self._owners, self._count = rows, owners, len(rows)

    def remove(self, places: Ints) -> None:
        """Let rows go, in ascending order; those that follow move up."""
        keep = np.ones(self._count, np.bool_)
        keep[places] = False
        kept = np.flatnonzero(keep)
        first = int(places[0]) if len(places) else self._count
        # A row moves to a lower place only, so that none is overwritten before it
        # has moved.
        for start in range(first, len(kept), MOVED):
            moving = kept[start : start + MOVED]
            self._rows[start : start + len(moving)] = self._rows[moving]
            self._owners[start : start + len(moving)] = self._owners[moving]
        self._count = len(kept)

    def renumber(self, gone: int) -> None:
        """Owners after one that has no rows any more have a number less."""
        self.owners[self.owners > gone] -= 1


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
