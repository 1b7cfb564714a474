"""Which records of a ``.rec`` file are images, and where they start.

An index is parsed once and kept in a file that all processes map: 8 bytes a record
where keys are 0, 1, 2, ... or 1, 2, 3, ..., else 16.
"""

import bisect
import hashlib
import os
from array import array
from pathlib import Path

import numpy as np

from mmhyperface.datasets.damage import DamagedImage
from mmhyperface.utils.atomic_files import new_files
from mmhyperface.utils.errors import UserError

from .numeric_lists import line_of, read_rows
from .recordio import RecordFile, split_record

_LINE = [('key', 'i8'), ('offset', 'i8')]
REBUILD = 'Delete the file, to have the index rebuilt from the records'


class Places:
    """Keys of records, ascending, and the byte at which each starts.

    Made from and stored as one array: the first key and the offsets if the keys have
    no gap, else -1, the keys and the offsets. A copy in another process maps the file.

    Args:
        numbers: That array, int64.
        path: The file it is mapped from, if it is.
    """

    def __init__(self, numbers: np.ndarray, path: Path | None = None) -> None:
        self.numbers = numbers
        self.path = path
        # Plain arrays: items of a memmap are several times as slow.
        plain = np.asarray(numbers)
        self.keys: range | np.ndarray
        if not len(plain) or plain[0] >= 0:
            self.offsets = plain[1:]
            first = plain.item(0) if len(plain) else 0
            self.keys = range(first, first + len(self.offsets))
        else:
            self.keys, self.offsets = np.split(plain[1:], 2)

    @classmethod
    def of(cls, keys: np.ndarray, offsets: np.ndarray) -> 'Places':
        """Of int64 arrays of one length, the keys ascending."""
        gapless = not len(keys) or keys[-1] - keys[0] + 1 == len(keys)
        if gapless:
            return cls(np.concatenate([keys[:1], offsets]))
        return cls(np.concatenate([np.array([-1]), keys, offsets]))

    def __len__(self) -> int:
        return len(self.offsets)

    def __getstate__(self) -> object:
        return (None, self.path) if self.path else (self.numbers, None)

    def __setstate__(self, state: tuple[np.ndarray | None, Path | None]) -> None:
        numbers, path = state
        self.__init__(np.load(path, 'r') if path else numbers, path)  # type: ignore

    def key(self, place: int) -> int:
        return int(self.keys[place])

    def find(self, key: int) -> int:
        """The first place with this key or a greater one."""
        return bisect.bisect_left(self.keys, key)


def places_of(
    file: RecordFile, index: str | None, cache_dir: str | None
) -> tuple[Places, list[DamagedImage]]:
    """The records of a file, from the cache if they were looked up before.

    Args:
        file: The records.
        index: The ``.idx`` file; None to scan the records.
        cache_dir: Folder for what has been found. By default that of the records, or
            where that cannot be written the user's cache folder.

    Returns:
        The places, and what was damaged in a scan.

    Raises:
        UserError: For an index that cannot be read.
    """
    candidates = _cache_files(file, index, cache_dir)
    for path in candidates:
        try:
            return Places(np.load(path, 'r'), path), []
        except (OSError, ValueError, EOFError):
            continue
    damaged: list[DamagedImage] = []
    if index is None:
        keys, offsets, damaged = scan(file)
    else:
        keys, offsets = read_index_file(index)
    places = Places.of(keys, offsets)
    if not damaged:
        for path in candidates:
            if _store(places.numbers, path):
                return Places(np.load(path, 'r'), path), []
    return places, damaged


def read_index_file(path: str) -> tuple[np.ndarray, np.ndarray]:
    """Keys and offsets, int64, sorted by key, of an ``.idx`` file.

    Raises:
        UserError: With file and line: not `key <tab> offset`, or a key that comes
            twice.
    """
    rows = read_rows(path, _LINE, '`key <tab> byte offset`', REBUILD)
    wrong = (rows['key'] < 0) | (rows['offset'] < 0)
    if wrong.any():
        line = line_of(path, int(wrong.argmax()))
        raise UserError(f'{path}:{line}: a key or an offset below 0. {REBUILD}')
    keys, offsets, twice = _sorted(rows['key'], rows['offset'])
    if twice is not None:
        raise UserError(f'{path}: the key {twice} comes twice. {REBUILD}')
    return keys, offsets


def _sorted(
    keys: np.ndarray, offsets: np.ndarray
) -> tuple[np.ndarray, np.ndarray, int | None]:
    """Both by ascending key, and a key that comes twice."""
    if (np.diff(keys) <= 0).any():
        order = np.argsort(keys, kind='stable')
        keys, offsets = keys[order], offsets[order]
        twice = np.flatnonzero(np.diff(keys) == 0)
        if len(twice):
            return keys, offsets, int(keys[twice[0]])
    return keys, offsets, None


def scan(file: RecordFile) -> tuple[np.ndarray, np.ndarray, list[DamagedImage]]:
    """Keys and offsets of all records, by reading them all, and what is damaged.

    Keys are the records' ids, or their places in the file if ids come twice.
    """
    ids, starts = array('Q'), array('q')
    damaged = []
    for offset, data in file.records():
        try:
            if isinstance(data, DamagedImage):
                raise data
            header, _ = split_record(data, f'{file.path}: record at byte {offset}')
        except DamagedImage as error:
            damaged.append(error)
        else:
            ids.append(header.id)
            starts.append(offset)
    offsets = np.array(starts, np.int64)
    keys = np.array(ids, np.uint64)
    if (keys < 1 << 62).all():
        keys, offsets_by_key, twice = _sorted(keys.astype(np.int64), offsets)
        if twice is None:
            return keys, offsets_by_key, damaged
    return np.arange(len(offsets)), offsets, damaged


def _cache_files(file: RecordFile, index: str | None, folder: str | None) -> list[Path]:
    """Where the places may be; the name tells of which files as they are now."""
    state: list[object] = []
    for path in (file.path, index):
        if path is not None:
            status = os.stat(path)
            state += [os.path.abspath(path), status.st_size, status.st_mtime_ns]
    digest = hashlib.sha256(repr(state).encode()).hexdigest()[:16]
    name = f'{os.path.basename(file.path)}.{digest}.places.npy'
    own = Path(folder or os.path.dirname(os.path.abspath(file.path)))
    users = Path(os.environ.get('XDG_CACHE_HOME') or '~/.cache').expanduser()
    return [own / f'.{name}', users / 'mmhyperface' / name]


def _store(numbers: np.ndarray, path: Path) -> bool:
    """Write a file at one stroke; False where that is not possible."""
    try:
        with new_files([str(path)], overwrite=True) as (file,):
            np.save(file, numbers)
        # Others who train on these records may read it too.
        path.chmod(0o644)
    except (OSError, UserError):
        return False
    return True
