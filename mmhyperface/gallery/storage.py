"""Galleries in files: one ``.npz`` archive of plain arrays, nothing pickled.

``header``, ``people`` and ``images`` are JSON in UTF-8, as bytes; ``rows`` are float32
[N, D] of length 1, ``owners`` int32 [N] are places in ``people``. ``origins``, [digest,
alignment] of each image, is JSON likewise; files of mmhyperface 0.1.0 have none.
"""

import errno
import json
import os
import re
import threading
from collections.abc import Generator, Sequence
from contextlib import contextmanager, suppress
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from mmhyperface.evaluation.arrays import Floats, Ints, blocks, row_dots
from mmhyperface.utils.atomic_files import new_files
from mmhyperface.utils.errors import UserError

try:
    import fcntl
except ImportError:  # not of Windows, where processes are not kept apart
    fcntl = None  # type: ignore[assignment]

FORMAT = 'mmhyperface gallery'
VERSION = 1
ARRAYS = ('header', 'people', 'images', 'rows', 'owners')
# How far rounding to float32 leaves the square of a length from 1, with room.
ROUNDED = 2.0**-22
# Control characters, breaks of lines, and halves of characters (which stand for bytes
# of a file name that are no UTF-8).
_UNFIT = re.compile('[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]')


class Origin(NamedTuple):
    """Where the embedding of an image is from; each empty where it is not known.

    Attributes:
        digest: Of the content of the image, see :class:`.Picture`.
        alignment: How the face was found, see :class:`.Face`.
    """

    digest: str = ''
    alignment: str = ''


def require_ids(ids: Sequence[str], what: str) -> None:
    """Refuse names that cannot be shown and written to a file.

    Args:
        what: ``person`` or ``image``, for messages.

    Raises:
        UserError: If one is no string, has nothing to show, or holds a character that
            is none.
    """
    for number, name in enumerate(ids):
        if not isinstance(name, str):
            raise UserError(
                f'{what} {number}: the name must be a string, not {name!r} '
                f'({type(name).__name__})'
            )
        if not name.strip():
            raise UserError(f'{what} {number}: the name is empty')
        if _UNFIT.search(name):
            raise UserError(
                f'{what} {number}: the name {name!a} holds a control character, a '
                'line break or bytes that are no UTF-8; rename it'
            )


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
        status = os.stat(path)
        return cls(status.st_ino, status.st_mtime_ns, status.st_size)


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
    """Write a gallery, and give the stamp of the new file.

    Args:
        expected: Of the file as it was read; None if nobody knows it.

    Raises:
        UserError: If it cannot be written, is there and may not be replaced, or is not
            the one that was read.
    """
    header = dict(
        format=FORMAT,
        version=VERSION,
        fingerprint=contents.fingerprint,
        score=contents.score,
    )
    arrays: dict[str, npt.NDArray[Any]] = dict(
        header=_bytes(header),
        people=_bytes(contents.people),
        images=_bytes(contents.images),
        rows=contents.rows,
        owners=contents.owners,
    )
    # Earlier versions pass over what they do not know.
    if any(map(any, contents.origins)):
        arrays['origins'] = _bytes(contents.origins)
    with locked(path):
        is_known = expected is not None and os.path.exists(path)
        if is_known and Stamp.of(path) != expected:
            raise UserError(
                f'{path} was changed by another process since it was read: it is left '
                'as it is, and nothing is saved. Load it again (FaceGallery.load) and '
                'repeat the change, or save under another name'
            )
        with new_files([path], overwrite) as (file,):
            np.savez(file, **arrays)  # type: ignore[arg-type]
        return Stamp.of(path)


def read(path: str) -> tuple[Contents, Stamp]:
    """What a file holds, and its stamp.

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
    """Contents whose parts fit each other.

    Raises:
        UserError: If they do not.
    """
    try:
        header, people, images = (_json(arrays[name]) for name in ARRAYS[:3])
        origins = _origins(arrays.get('origins'), len(images))
        require_ids(people, 'person')
        require_ids(images, 'image')
    except (TypeError, ValueError, RecursionError) as error:
        raise UserError(f'{path} is damaged: {error}') from None
    rows, owners = arrays['rows'], arrays['owners']
    sound = (
        all(isinstance(header.get(x), str) for x in ('fingerprint', 'score'))
        and all(isinstance(x, list) and len(set(x)) == len(x) for x in (people, images))
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
    """One of each image; ``ValueError`` if they are not as many pairs of strings."""
    if array is None:
        return [Origin()] * count
    pairs = _json(array)
    if not isinstance(pairs, list) or len(pairs) != count:
        raise ValueError('origins are not as many as images')
    for pair in pairs:
        if not isinstance(pair, list) or [type(x) for x in pair] != [str, str]:
            raise ValueError('an origin is no pair of strings')
    return [Origin(*pair) for pair in pairs]


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
