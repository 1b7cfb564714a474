"""What an inferencer is asked for: pictures in files, folders, lists and arrays."""

import glob
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from mmhyperface.datasets.face_dataset import IMAGE_EXTENSIONS
from mmhyperface.datasets.tables import ENDINGS, is_table
from mmhyperface.datasets.text_lists import read_lines
from mmhyperface.errors import UserError

from .landmarks import as_points, landmark_rows, read_landmarks

#: Of the pictures of a folder. A file that is named may have any.
PICTURE_EXTENSIONS = (
    *IMAGE_EXTENSIONS,
    *('.ppm', '.tif', '.tiff', '.gif', '.jp2', '.avif'),
)
LIST_EXTENSIONS = ('.txt', *ENDINGS)


@dataclass(frozen=True)
class Item:
    """A picture that is to be read.

    Attributes:
        source: Its path, or a name of an array.
        data: The path, or the array.
        landmarks: float64 [5, 2] in pixels as they are stored, where they are given.
        needs_landmarks: Whether landmarks were given, but none for this picture.
    """

    source: str
    data: str | npt.NDArray[Any]
    landmarks: npt.NDArray[np.float64] | None = None
    needs_landmarks: bool = False


def expand(inputs: Any, landmarks: Any = None) -> Iterator[Item]:
    """The pictures that are meant, in a stable order, without reading any.

    Args:
        inputs: A path, a folder (of any depth, in the order of the names), a glob
            pattern, a list file (``.txt`` with a path in each line, or a table with
            columns path, x1, y1 ... x5, y5; paths start from the file's folder), an
            array uint8 [H, W], [H, W, 3] or [H, W, 4], or any number of these.
        landmarks: A list or table of them (see :func:`.landmark_rows`) whose paths
            start from `inputs`, a folder; or by path; or for each picture in turn,
            [N, 5, 2], or [5, 2] for one.

    Raises:
        UserError: For a folder or a pattern without pictures, a list that cannot be
            read, inputs of another kind, or landmarks that do not belong to them.
    """
    items = _expand(inputs, count(1))
    if landmarks is None:
        return items
    if isinstance(landmarks, str | os.PathLike):
        return _by_table(items, inputs, os.fspath(landmarks))
    if isinstance(landmarks, Mapping):
        return _by_path(items, landmarks)
    return _in_turn(items, landmarks)


def images_below(
    folder: str, extensions: tuple[str, ...] = IMAGE_EXTENSIONS
) -> tuple[list[str], int]:
    """Paths of the images, from there on, and the number of other files.

    Links are followed, but for those to a folder that they lie in.

    Raises:
        UserError: If a folder cannot be listed.
    """

    def fail(error: OSError) -> None:
        raise UserError(f"cannot list '{error.filename}': {error.strerror}")

    images = []
    others = 0
    for parent, folders, files in os.walk(folder, onerror=fail, followlinks=True):
        folders[:] = [
            name
            for name in folders
            if not name.startswith('.') and not _leads_up(parent, name)
        ]
        within = os.path.relpath(parent, folder)
        for name in files:
            if name.lower().endswith(extensions) and not name.startswith('.'):
                images.append(os.path.normpath(os.path.join(within, name)))
            else:
                others += 1
    return images, others


def _leads_up(parent: str, name: str) -> bool:
    """Whether a link leads to a folder that it lies in, and so to itself again."""
    path = os.path.join(parent, name)
    if not os.path.islink(path):
        return False
    above, here = os.path.realpath(path), os.path.realpath(parent)
    return os.path.commonpath([above, here]) == above


def _expand(inputs: Any, numbers: Iterator[int]) -> Iterator[Item]:
    """Likewise; arrays are numbered from 1."""
    if isinstance(inputs, np.ndarray):
        return iter([Item(f'array {next(numbers)}', inputs)])
    if isinstance(inputs, str | os.PathLike):
        return _of_path(os.fspath(inputs))
    # A tensor would go on as its rows, and they as theirs.
    is_one = isinstance(inputs, bytes | Mapping) or hasattr(inputs, 'numpy')
    if isinstance(inputs, Iterable) and not is_one:
        return (item for one in inputs for item in _expand(one, numbers))
    raise UserError(
        'expected a path, a folder, a glob pattern, a list file, an array uint8 '
        f'[H, W, 3] (BGR), or any number of these, got {type(inputs).__name__}'
    )


def _of_path(path: str) -> Iterator[Item]:
    if os.path.isdir(path):
        names, _ = images_below(path, PICTURE_EXTENSIONS)
        if not names:
            raise UserError(f"there is no picture below '{path}'")
        return (_file(os.path.join(path, name)) for name in sorted(names))
    if not os.path.lexists(path) and glob.has_magic(path):
        names = sorted(glob.glob(path, recursive=True))
        files = [name for name in names if not os.path.isdir(name)]
        if not files:
            raise UserError(f"no file fits the pattern '{path}'")
        return map(_file, files)
    if path.lower().endswith(LIST_EXTENSIONS):
        return _of_list(path)
    return iter([_file(path)])


def _file(path: str) -> Item:
    return Item(path, path)


def _of_list(file: str) -> Iterator[Item]:
    folder = os.path.dirname(file)
    empty = True
    if is_table(file):
        for row in landmark_rows(file):
            empty = False
            path = os.path.join(folder, row.path)
            yield replace(_file(path), landmarks=as_points(row.numbers, path))
    else:
        for _, line in read_lines(file, 'Name a list of pictures'):
            empty = False
            yield _file(os.path.join(folder, line))
    if empty:
        raise UserError(f"the list '{file}' names no picture")


def _by_table(items: Iterator[Item], inputs: Any, file: str) -> Iterator[Item]:
    if not (isinstance(inputs, str | os.PathLike) and os.path.isdir(inputs)):
        raise UserError(
            f"the paths of '{file}' start from a folder: give that folder alone as "
            'input. A table whose paths start from its own place can be the input '
            'itself'
        )
    known = read_landmarks(file)
    return (
        _with(item, known.get(os.path.relpath(item.source, inputs))) for item in items
    )


def _by_path(items: Iterator[Item], landmarks: Mapping) -> Iterator[Item]:
    known = {os.fspath(path): points for path, points in landmarks.items()}
    return (_with(item, known.get(item.source)) for item in items)


def _in_turn(items: Iterator[Item], landmarks: Any) -> Iterator[Item]:
    if not isinstance(landmarks, Iterable):
        raise UserError(f'expected landmarks, got {type(landmarks).__name__}')
    points = list(landmarks)
    if len(points) == 5 and all(np.shape(point) == (2,) for point in points):
        points = [points]
    given = list(items)
    if len(points) != len(given):
        raise UserError(
            f'landmarks are given for {len(points)} pictures, and there are '
            f'{len(given)}'
        )
    return (_with(item, of) for item, of in zip(given, points, strict=True))


def _with(item: Item, landmarks: Any) -> Item:
    if landmarks is None:
        return replace(item, needs_landmarks=True)
    return replace(item, landmarks=as_points(landmarks, item.source))


def arrays_of(inputs: Any) -> dict[str, npt.NDArray[Any]]:
    """The arrays among inputs that can be read again, by their names."""
    if not isinstance(inputs, np.ndarray | list | tuple):
        return {}
    return {
        item.source: item.data
        for item in expand(inputs)
        if isinstance(item.data, np.ndarray)
    }


def people_below(folder: str | Path) -> dict[str, Sequence[str]]:
    """Pictures of each subfolder, by its name, in the order of the names.

    Raises:
        UserError: If there is no picture in a subfolder, or one that is in none.
    """
    if not os.path.isdir(folder):
        raise UserError(f"there is no folder '{folder}'")
    found: dict[str, list[str]] = {}
    names, _ = images_below(str(folder), PICTURE_EXTENSIONS)
    for name in sorted(names):
        if os.sep not in name:
            raise UserError(
                f"'{os.path.join(folder, name)}' lies in no subfolder; expected "
                'PERSON/image'
            )
        person = name.partition(os.sep)[0]
        found.setdefault(person, []).append(os.path.join(folder, name))
    if not found:
        raise UserError(f"there is no picture below '{folder}', as PERSON/image")
    return dict(found)
