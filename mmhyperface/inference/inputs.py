"""What an inferencer is asked for: pictures in files, folders, lists and arrays, and
their landmarks."""

import glob
import logging
import os
from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from mmhyperface.datasets.readers.image_files import (
    begins_as_image,
    is_image_name,
    is_of_no_account,
)
from mmhyperface.datasets.readers.tables import ENDINGS, is_table, read_table
from mmhyperface.datasets.readers.text_lists import read_lines, split_fields
from mmhyperface.utils.errors import UserError, some

#: Columns of the five landmarks of a picture.
NUMBERS = tuple(f'{axis}{point}' for point in range(1, 6) for axis in 'xy')
COLUMNS = ('path', *NUMBERS)
LIST_EXTENSIONS = ('.txt', *ENDINGS)
MISNAMED = (
    'is an image by its content, but its name does not end as that of one that can be '
    'read; rename it, or convert it to JPEG'
)


@dataclass(frozen=True)
class Item:
    """A picture that is to be read.

    Attributes:
        source: Its path, or a name of an array.
        data: The path, or the array.
        landmarks: float64 [5, 2] in pixels as they are stored, where they are given.
        needs_landmarks: Whether landmarks were given, but none for this picture.
        problem: Why there is nothing to be read.
    """

    source: str
    data: str | npt.NDArray[Any]
    landmarks: npt.NDArray[np.float64] | None = None
    needs_landmarks: bool = False
    problem: str = ''


def expand(
    inputs: Any, landmarks: Any = None, numbers: Iterator[int] | None = None
) -> Iterator[Item]:
    """The pictures that are meant, in a stable order, without reading any.

    What is wrong with one of any number of inputs is the problem of its item. In a
    folder the names tell what is a picture; a file that is one by its content alone is
    an item with a problem, and what is no picture is passed over with a warning.

    Args:
        inputs: A path, a folder (of any depth, in the order of the names), a glob
            pattern, a list file (``.txt`` with a path in each line, or a table with
            columns path, x1, y1 ... x5, y5; paths start from the file's folder), an
            array uint8 [H, W], [H, W, 3] or [H, W, 4], or any number of these.
        landmarks: A list or table of them (see :func:`.landmark_rows`) whose paths
            start from `inputs`, a folder; or by path; or for each picture in turn,
            [N, 5, 2], or [5, 2] for one.
        numbers: Of arrays, for their names; by default from 1.

    Raises:
        UserError: For a folder or a pattern without pictures, a list that cannot be
            read, inputs of another kind, or landmarks that do not belong to them.
    """
    items = _expand(inputs, count(1) if numbers is None else numbers)
    if landmarks is None:
        return items
    if isinstance(landmarks, str | os.PathLike):
        if not (isinstance(inputs, str | os.PathLike) and os.path.isdir(inputs)):
            raise UserError(
                f"the paths of '{landmarks}' start from a folder: give that folder "
                'alone as input. A table whose paths start from its own place can be '
                'the input itself'
            )
        known = read_landmarks(os.fspath(landmarks))
        return (
            _with(item, known.get(os.path.relpath(item.source, inputs)))
            for item in items
        )
    if isinstance(landmarks, Mapping):
        given = {os.fspath(path): points for path, points in landmarks.items()}
        return (_with(item, given.get(item.source)) for item in items)
    if not isinstance(landmarks, Iterable):
        raise UserError(f'expected landmarks, got {type(landmarks).__name__}')
    points = list(landmarks)
    if len(points) == 5 and all(np.shape(point) == (2,) for point in points):
        points = [points]
    listed = list(items)
    if len(points) != len(listed):
        raise UserError(
            f'landmarks are given for {len(points)} pictures, and there are '
            f'{len(listed)}'
        )
    return map(_with, listed, points)


def _with(item: Item, landmarks: Any) -> Item:
    if landmarks is None:
        return replace(item, needs_landmarks=True)
    return replace(item, landmarks=as_points(landmarks, item.source))


def images_below(folder: str) -> tuple[list[str], list[str]]:
    """Paths of the images by name, from there on, and of other files, both sorted.

    Links are followed, but for those to a folder that they lie in. Hidden files, and
    what systems and our tools leave in folders, are neither.

    Raises:
        UserError: If a folder cannot be listed.
    """

    def fail(error: OSError) -> None:
        raise UserError(f"cannot list '{error.filename}': {error.strerror}")

    images: list[str] = []
    others: list[str] = []
    for parent, folders, files in os.walk(folder, onerror=fail, followlinks=True):
        folders[:] = [
            name
            for name in folders
            if not is_of_no_account(name) and not _leads_up(parent, name)
        ]
        within = os.path.relpath(parent, folder)
        for name in files:
            if not is_of_no_account(name):
                path = os.path.normpath(os.path.join(within, name))
                (images if is_image_name(name) else others).append(path)
    return sorted(images), sorted(others)


def misnamed_among(folder: str, others: list[str]) -> list[str]:
    """Those of :func:`images_below` that begin as images do; of the rest it warns."""
    misnamed = [name for name in others if begins_as_image(os.path.join(folder, name))]
    rest = sorted(set(others) - set(misnamed))
    if rest:
        logging.getLogger(__name__).warning(
            "passed over in '%s': %d files that are not pictures (%s)",
            folder,
            len(rest),
            some(rest, 5),
        )
    return misnamed


def _pictures_below(folder: str) -> dict[str, Item]:
    """Items by their paths from there on, in the order of these."""
    images, others = images_below(folder)
    misnamed = set(misnamed_among(folder, others))
    items = {}
    for name in sorted([*images, *misnamed]):
        path = os.path.join(folder, name)
        problem = MISNAMED if name in misnamed else ''
        items[name] = Item(path, path, problem=problem)
    return items


def _leads_up(parent: str, name: str) -> bool:
    """Whether a link leads to a folder that it lies in, and so to itself again."""
    path = os.path.join(parent, name)
    if not os.path.islink(path):
        return False
    above, here = os.path.realpath(path), os.path.realpath(parent)
    return os.path.commonpath([above, here]) == above


def _expand(inputs: Any, numbers: Iterator[int]) -> Iterator[Item]:
    """The items of inputs without landmarks; `numbers` are for the names of arrays."""
    if isinstance(inputs, Item):
        return iter([inputs])
    if isinstance(inputs, np.ndarray):
        return iter([Item(f'array {next(numbers)}', inputs)])
    if isinstance(inputs, str | os.PathLike):
        return _of_path(os.fspath(inputs))
    # A tensor would go on as its rows, and they as theirs.
    is_one = isinstance(inputs, bytes | Mapping) or hasattr(inputs, 'numpy')
    if isinstance(inputs, Iterable) and not is_one:
        return _of_each(inputs, numbers)
    raise UserError(
        'expected a path, a folder, a glob pattern, a list file, an array uint8 '
        f'[H, W, 3] (BGR), or any number of these, got {type(inputs).__name__}'
    )


def _of_each(inputs: Iterable, numbers: Iterator[int]) -> Iterator[Item]:
    """Of any number: what is wrong with one does not stop the others."""
    for one in inputs:
        try:
            yield from _expand(one, numbers)
        except UserError as error:
            is_path = isinstance(one, str | os.PathLike)
            source = os.fspath(one) if is_path else f'array {next(numbers)}'
            yield Item(source, source, problem=str(error))


def _of_path(path: str) -> Iterator[Item]:
    if os.path.isdir(path):
        items = _pictures_below(path)
        if not items:
            raise UserError(f"there is no picture below '{path}'")
        return iter(items.values())
    if not os.path.lexists(path) and glob.has_magic(path):
        files = [
            name
            for name in sorted(glob.glob(path, recursive=True))
            if not (os.path.isdir(name) or is_of_no_account(os.path.basename(name)))
        ]
        if not files:
            raise UserError(f"no file fits the pattern '{path}'")
        return (Item(name, name) for name in files)
    if path.lower().endswith(LIST_EXTENSIONS):
        return _of_list(path)
    return iter([Item(path, path)])


def _of_list(file: str) -> Iterator[Item]:
    folder = os.path.dirname(file)
    empty = True
    if is_table(file):
        for _, name, numbers in landmark_rows(file):
            empty = False
            path = os.path.join(folder, name)
            yield Item(path, path, as_points(numbers, path))
    else:
        for _, name in read_lines(file, 'Name a list of pictures'):
            empty = False
            path = os.path.join(folder, name)
            yield Item(path, path)
    if empty:
        raise UserError(f"the list '{file}' names no picture")


def arrays_of(inputs: Any) -> dict[str, npt.NDArray[Any]]:
    """The arrays among inputs that can be read again, by their names."""
    if not isinstance(inputs, np.ndarray | list | tuple):
        return {}
    return {
        item.source: item.data
        for item in expand(inputs)
        if isinstance(item.data, np.ndarray)
    }


def people_below(folder: str | Path) -> dict[str, list[Item]]:
    """Pictures of each subfolder, by its name, in the order of the names.

    Raises:
        UserError: If there is no picture in any subfolder, or one that is in none.
    """
    folder = str(folder)
    if not os.path.isdir(folder):
        raise UserError(f"there is no folder '{folder}'")
    # One without any picture is a person, too.
    people: dict[str, list[Item]] = {
        name: []
        for name in sorted(os.listdir(folder))
        if os.path.isdir(os.path.join(folder, name))
        and not is_of_no_account(name)
        and not _leads_up(folder, name)
    }
    for name, item in _pictures_below(folder).items():
        person, separator, _ = name.partition(os.sep)
        if not separator:
            raise UserError(
                f"'{item.source}' lies in no subfolder; expected PERSON/image"
            )
        people[person].append(item)
    if not any(people.values()):
        raise UserError(f"there is no picture below '{folder}', as PERSON/image")
    return people


# ---- landmarks


def landmark_rows(file: str) -> Iterator[tuple[int, str, Sequence[float]]]:
    """Line or row, from 1, path and ten numbers, x1 y1 to x5 y5, of each picture.

    From lines ``path x1 y1 ... x5 y5``, perhaps with a score, or rows of a table, a
    .csv, .tsv or .parquet file with columns path, x1, y1 ... x5, y5. Left eye, right
    eye, nose, left and right corner of the mouth, left and right as one looks at the
    picture; in pixels as they are stored, NaN where a table has none.

    Raises:
        UserError: With file and line, for a list or table of another kind.
    """
    for place, path, numbers in _table_rows(file) if is_table(file) else _lines(file):
        try:
            yield place, path, array('d', map(float, numbers))
        except ValueError as error:
            raise UserError(
                f'{file}:{place}: {error}; paths with spaces need tabs between fields'
            ) from None


def _table_rows(file: str) -> Iterator[tuple[int, str, Sequence[Any]]]:
    for place, (path, *values) in read_table(file, COLUMNS, 'Set --landmarks'):
        # What is empty in a table is no number, as for a picture without a face.
        yield place, str(path or ''), [np.nan if v in ('', None) else v for v in values]


def _lines(file: str) -> Iterator[tuple[int, str, Sequence[str]]]:
    for number, line in read_lines(file, 'Set --landmarks'):
        path, *numbers = split_fields(line)
        if len(numbers) not in (10, 11):
            raise UserError(
                f'{file}:{number}: expected `path x1 y1 x2 y2 x3 y3 x4 y4 x5 y5`, '
                f'perhaps with a score, got {line!r}. Paths with spaces need tabs '
                'between the fields'
            )
        yield number, path, numbers[:10]


def read_landmarks(file: str) -> dict[str, Sequence[float]]:
    """Ten numbers, x1 y1 to x5 y5, of each picture that a list or table names.

    Raises:
        UserError: Also for a path that is absolute or leads out of the folder that
            paths start from, or comes a second time.
    """
    known: dict[str, Sequence[float]] = {}
    for place, name, numbers in landmark_rows(file):
        path = os.path.normpath(name)
        if os.path.isabs(path) or path.split(os.sep)[0] in ('.', '..'):
            raise UserError(
                f'{file}:{place}: expected a path that starts from SOURCE and stays in '
                f'it, got {name!r}'
            )
        if path in known:
            raise UserError(f'{file}:{place}: {name!r} comes a second time')
        known[path] = numbers
    return known


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
