"""Lists and tables of landmarks: five points of each face of a picture."""

import os
from array import array
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from mmhyperface.datasets.readers.tables import is_table, read_table
from mmhyperface.datasets.readers.text_lists import read_lines, split_fields
from mmhyperface.utils.errors import UserError

NUMBERS = tuple(f'{axis}{point}' for point in range(1, 6) for axis in 'xy')
COLUMNS = ('path', *NUMBERS)


class Row(NamedTuple):
    """A line of a list, or a row of a table.

    Attributes:
        place: Number of the line or row, from 1.
        path: Of the picture, as it is written there.
        numbers: x1 y1 to x5 y5, in pixels as they are stored; NaN where a table has
            none.
    """

    place: int
    path: str
    numbers: Sequence[float]


def landmark_rows(file: str) -> Iterator[Row]:
    """Lines ``path x1 y1 ... x5 y5``, perhaps with a score, or rows of a table.

    A table is a .csv, .tsv or .parquet file with columns path, x1, y1 ... x5, y5. Left
    eye, right eye, nose, left and right corner of the mouth, left and right as one
    looks at the picture.

    Raises:
        UserError: With file and line, for a list or table of another kind.
    """
    for place, name, numbers in _rows(file):
        try:
            yield Row(place, name, array('d', map(float, numbers)))
        except ValueError as error:
            raise UserError(
                f'{file}:{place}: {error}; paths with spaces need tabs between fields'
            ) from None


def read_landmarks(file: str) -> dict[str, Sequence[float]]:
    """Ten numbers, x1 y1 to x5 y5, of each picture that a list or table names.

    Raises:
        UserError: Also for a path that is absolute or leads out of the folder that
            paths start from, or comes a second time.
    """
    found: dict[str, Sequence[float]] = {}
    for place, name, numbers in landmark_rows(file):
        path = os.path.normpath(name)
        if os.path.isabs(path) or path.split(os.sep)[0] in ('.', '..'):
            raise UserError(
                f'{file}:{place}: expected a path that starts from SOURCE and stays in '
                f'it, got {name!r}'
            )
        if path in found:
            raise UserError(f'{file}:{place}: {name!r} comes a second time')
        found[path] = numbers
    return found


def as_points(numbers: Any, source: str) -> npt.NDArray[np.float64]:
    """Landmarks of any kind as float64 [5, 2].

    Raises:
        UserError: If they are not ten numbers.
    """
    try:
        points = np.asarray(numbers, np.float64)
    except (TypeError, ValueError):
        points = np.empty(0)
    if points.shape not in ((5, 2), (10,)):
        raise UserError(
            f'{source}: landmarks are five points (x, y): left eye, right eye, nose, '
            f'left and right corner of the mouth; got {str(numbers)[:80]}'
        )
    return points.reshape(5, 2)


def _rows(file: str) -> Iterator[tuple[int, str, Sequence[Any]]]:
    """(line or row, path, ten numbers) of each picture."""
    if not is_table(file):
        yield from _list_rows(file)
        return
    for place, (path, *values) in read_table(file, COLUMNS, 'Set --landmarks'):
        # What is empty in a table is no number, as for a picture without a face.
        yield place, str(path or ''), [np.nan if v in ('', None) else v for v in values]


def _list_rows(file: str) -> Iterator[tuple[int, str, Sequence[str]]]:
    for number, line in read_lines(file, 'Set --landmarks'):
        path, *numbers = split_fields(line)
        if len(numbers) not in (10, 11):
            raise UserError(
                f'{file}:{number}: expected `path x1 y1 x2 y2 x3 y3 x4 y4 x5 y5`, '
                f'perhaps with a score, got {line!r}. Paths with spaces need tabs '
                'between the fields'
            )
        yield number, path, numbers[:10]
