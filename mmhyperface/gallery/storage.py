"""Galleries in files: one ``.npz`` archive of plain arrays, nothing pickled.

``header``, ``people`` and ``images`` are JSON in UTF-8, as bytes; ``rows`` are float32
[N, D] of length 1, ``owners`` int32 [N] are places in ``people``. ``origins``, [digest,
alignment] of each image, is JSON likewise; files of mmhyperface 0.1.0 have none.
"""

import errno
import json
import os
import threading
from collections.abc import Generator
from contextlib import contextmanager, suppress
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from mmhyperface.evaluation.functional.arrays import Floats, Ints, blocks, row_dots
from mmhyperface.utils.atomic_files import new_files
from mmhyperface.utils.errors import UserError

from .ids import UNKNOWN, Origin, require_ids

try:
    import fcntl
except ImportError:  # not of Windows, where processes are not kept apart
    fcntl = None  # type: ignore[assignment]

FORMAT = 'mmhyperface gallery'
VERSION = 1
ARRAYS = ('header', 'people', 'images', 'rows', 'owners')
# How far rounding to float32 leaves the square of a length from 1, with room.
ROUNDED = 2.0**-22


class Contents(NamedTuple):
    """Of a gallery; see the module."""

    fingerprint: str
    score: str
    people: list[str]
    images: list[str]
    rows: Floats
    owners: Ints
    origins: list[Origin]


class Stamp(NamedTuple):
    """What tells a file from one that has come into its place."""

    inode: int
    modified: int
    size: int

    @classmethod
    def of(cls, path: str | int) -> 'Stamp':
        """Of a path, or of a file that is open."""
        found = os.stat(path)
        return cls(found.st_ino, found.st_mtime_ns, found.st_size)


_held = threading.local()
# Of file systems that have none: there the stamp alone tells of others.
_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)


@contextmanager
def locked(path: str | os.PathLike) -> Generator[None, None, None]:
    """While it lasts no other thread or process reads, changes and saves a gallery so.

    It waits for whoever has the lock. The lock is a file beside the gallery,
    ``.NAME.lock``, which goes afterwards.

    Raises:
        UserError: If no file can be made there.
    """
    folder, name = os.path.split(os.path.realpath(path))
    lock = os.path.join(folder, f'.{name}.lock')
    mine: set[str] = _held.__dict__.setdefault('locks', set())
    if lock in mine or fcntl is None:
        yield
        return
    try:
        os.makedirs(folder, exist_ok=True)
        file = _lock(lock)
    except OSError as error:
        raise UserError(f'{path} cannot be written: {error}') from None
    mine.add(lock)
    try:
        yield
    finally:
        mine.discard(lock)
        with suppress(OSError):
            os.unlink(lock)
        os.close(file)


def _lock(path: str) -> int:
    while True:
        file = os.open(path, os.O_CREAT | os.O_RDWR, 0o666)
        try:
            try:
                fcntl.flock(file, fcntl.LOCK_EX)
            except OSError as error:
                if error.errno in _NO_LOCKS:
                    return file
                raise
            # Whoever had it has removed it: another may have made a new one.
            if os.fstat(file).st_ino == os.stat(path).st_ino:
                return file
        except FileNotFoundError:
            pass
        except BaseException:
            os.close(file)
            raise
        os.close(file)


def write(
    path: str, contents: Contents, overwrite: bool, expected: Stamp | None = None
) -> Stamp:
    """
    Args:
        expected: Of the file as it was read; None if nobody knows it.

    Returns:
        That of the new file.

    Raises:
        UserError: If it cannot be written, is there and may not be replaced, or is not
            the one that was read.
    """
    with locked(path):
        is_known = expected is not None and os.path.exists(path)
        if is_known and Stamp.of(path) != expected:
            raise UserError(
                f'{path} was changed by another process since it was read: it is left '
                'as it is, and nothing is saved. Load it again (FaceGallery.load) and '
                'repeat the change, or save under another name'
            )
        _write(path, contents, overwrite)
        return Stamp.of(path)


def _write(path: str, contents: Contents, overwrite: bool) -> None:
    header = {
        'format': FORMAT,
        'version': VERSION,
        'fingerprint': contents.fingerprint,
        'score': contents.score,
    }
    # Earlier versions pass over what they do not know.
    origins: dict[str, Any] = {}
    if any(origin != UNKNOWN for origin in contents.origins):
        origins['origins'] = _bytes(contents.origins)
    with new_files([path], overwrite) as (file,):
        np.savez(
            file,
            header=_bytes(header),
            people=_bytes(contents.people),
            images=_bytes(contents.images),
            rows=contents.rows,
            owners=contents.owners,
            **origins,
        )


def read(path: str) -> tuple[Contents, Stamp]:
    """
    Raises:
        UserError: If it is no gallery, or is damaged.
    """
    if not os.path.isfile(path):
        raise UserError(f'there is no gallery {path}')
    try:
        with open(path, 'rb') as file:
            stamp = Stamp.of(file.fileno())
            arrays = _arrays(path, file)
    except UserError:
        raise
    except Exception as error:  # Of many kinds, for bytes that are not an archive's.
        raise UserError(
            f'{path} cannot be read as a gallery; it is damaged, cut off or of another '
            f'kind ({type(error).__name__}: {error})'
        ) from None
    return _checked(path, arrays), stamp


def _arrays(path: str, file: Any) -> dict[str, npt.NDArray[Any]]:
    """Those of an archive, if it is one of a gallery."""
    if file.read(2) != b'PK':
        raise UserError(f'{path} is no gallery')
    file.seek(0)
    with np.load(file, allow_pickle=False) as archive:
        if 'header' not in archive.files:
            raise UserError(f'{path} is an archive, but not of a gallery')
        header = _json(archive['header'])
        if not isinstance(header, dict) or header.get('format') != FORMAT:
            raise UserError(f'{path} is an archive, but not of a gallery')
        if header.get('version') != VERSION:
            raise UserError(
                f'{path} is a gallery of version {header.get("version")!r}; this '
                f'mmhyperface reads version {VERSION}'
            )
        # Each is read to its end, where zipfile compares the checksum.
        there = [*ARRAYS, *(['origins'] if 'origins' in archive.files else [])]
        arrays = {name: archive[name] for name in there}
    if not all(isinstance(array, np.ndarray) for array in arrays.values()):
        raise ValueError('a part is no array')
    return arrays


def _checked(path: str, arrays: dict[str, npt.NDArray[Any]]) -> Contents:
    """
    Raises:
        UserError: If the arrays do not fit each other.
    """
    try:
        header, people, images = (_json(arrays[name]) for name in ARRAYS[:3])
        origins = _origins(arrays.get('origins'), len(images))
    except (TypeError, ValueError, RecursionError) as error:
        raise UserError(f'{path} is damaged: {error}') from None
    rows, owners = arrays['rows'], arrays['owners']
    for ids, what in ((people, 'person'), (images, 'image')):
        if isinstance(ids, list):
            try:
                require_ids(ids, what)
            except UserError as error:
                raise UserError(f'{path} is damaged: {error}') from None
    sound = (
        all(isinstance(header.get(x), str) for x in ('fingerprint', 'score'))
        and _names(people)
        and _names(images)
        and rows.dtype == np.float32
        and rows.ndim == 2
        and rows.shape[1] > 0
        and owners.dtype == np.int32
        and owners.shape == rows.shape[:1] == (len(images),)
        and np.array_equal(np.unique(owners), np.arange(len(people)))
        and _of_length_one(rows)
    )
    if not sound:
        raise UserError(f'{path} is damaged: its parts do not fit each other')
    return Contents(
        header['fingerprint'], header['score'], people, images, rows, owners, origins
    )


def _origins(array: npt.NDArray[Any] | None, count: int) -> list[Origin]:
    """
    Raises:
        ValueError: If they are not as many pairs of strings.
    """
    if array is None:
        return [UNKNOWN] * count
    listed = _json(array)
    if not isinstance(listed, list) or len(listed) != count:
        raise ValueError('origins are not as many as images')
    known: dict[tuple, Origin] = {}
    origins = []
    for pair in listed:
        if not isinstance(pair, list) or [type(x) for x in pair] != [str, str]:
            raise ValueError('an origin is no pair of strings')
        origins.append(known.setdefault(tuple(pair), Origin(*pair)))
    return origins


def _names(value: Any) -> bool:
    """Whether it is a list of which none comes twice."""
    return isinstance(value, list) and len(set(value)) == len(value)


def _of_length_one(rows: Floats) -> bool:
    for part in blocks(*rows.shape):
        block = rows[part].astype(np.float64)
        # Not `>`: NaN is not close to 1 either.
        if not (np.abs(row_dots(block, block) - 1) <= ROUNDED).all():
            return False
    return True


def _bytes(value: Any) -> npt.NDArray[np.uint8]:
    text = json.dumps(value, ensure_ascii=False, separators=(',', ':'))
    return np.frombuffer(text.encode(), np.uint8)


def _json(array: npt.NDArray[Any]) -> Any:
    if not isinstance(array, np.ndarray) or array.dtype != np.uint8 or array.ndim != 1:
        raise ValueError('text must be bytes in one dimension')
    return json.loads(array.tobytes())
