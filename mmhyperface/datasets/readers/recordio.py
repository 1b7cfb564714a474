"""MXNet RecordIO without MXNet: records in a ``.rec`` file and where they start.

A file is a row of chunks, each at a multiple of 4:

    u32 magic 0xced7230a,  u32 kind << 29 | length,  length bytes,  zeros to 4

little-endian. Kind 0 is a whole record; 1, 2 and 3 are the first, middle and last chunk
of one that was split where the magic stood in it, at a multiple of 4 from its start:
the magic belongs between them. A record begins with ``struct '<IfQQ'``: the number of
labels in an array that follows (0: none), the label, id and id2; the rest is an image.
"""

import mmap
import os
import struct
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from mmhyperface.datasets.damage import DamagedImage
from mmhyperface.utils.errors import UserError

MAGIC = struct.pack('<I', 0xCED7230A)
_CHUNK = struct.Struct('<4sI')
_HEADER = struct.Struct('<IfQQ')
_LABEL = struct.Struct('<f')
_WHOLE, _FIRST, _MIDDLE, _LAST = range(4)
_MOST_BYTES = (1 << 29) - 1
#: Up to here float32, which labels are, has all integers.
MOST_EXACT = 1 << 24
#: Every chunk begins at a multiple of so many bytes.
ALIGNMENT = 4
# Records that are looked at together.
_AT_ONCE = 1 << 20


class Header(NamedTuple):
    """What a record says of its image.

    Attributes:
        label: The label, or the first one of an array.
        length: Number of labels, if they are an array, which identity records have;
            else 0.
        id: Key of the record, as its writer saw it.
    """

    label: float
    length: int
    id: int


class RecordFile:
    """Random and sequential access to the records of a file, which is mapped.

    It can be pickled, forked and shared by threads; a copy opens the file anew.

    Args:
        path: Of the ``.rec`` file.
        advice: What to do if it cannot be read.

    Raises:
        UserError: If it is missing, empty, no file, or may not be read.
    """

    def __init__(self, path: str, advice: str = '') -> None:
        self.path = path
        try:
            with open(path, 'rb') as file:
                self.size = os.fstat(file.fileno()).st_size
                if not self.size:
                    raise UserError(f'{path}: the file is empty. {advice}'.strip())
                self.mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except OSError as error:
            raise UserError(
                f'{path}: cannot be read: {error.strerror}. {advice}'.strip()
            ) from None

    def __getstate__(self) -> str:
        return self.path

    def __setstate__(self, path: str) -> None:
        self.__init__(path)  # type: ignore[misc]

    def read(self, offset: int, stop: int | None = None) -> bytes:
        """The record that starts at a byte of the file.

        Args:
            offset: Its first byte.
            stop: Where the next record begins, if that is known.

        Raises:
            DamagedImage: If there is none, or it is damaged.
        """
        data, end = self.read_to(offset)
        if stop is not None and end > stop:
            raise self._damaged(
                offset, f'it ends at byte {end}, where the next one begins at {stop}'
            )
        return data

    def records(self) -> Iterator[tuple[int, bytes | DamagedImage]]:
        """(offset, record) of all records from the start of the file on.

        In the place of a damaged one comes the error; then it goes on at the next
        magic at which a record begins.
        """
        offset = 0
        while offset < self.size:
            try:
                data, end = self.read_to(offset)
            except DamagedImage as error:
                yield offset, error
                offset = self._next_start(offset + ALIGNMENT)
            else:
                yield offset, data
                offset = end

    def read_to(self, offset: int) -> tuple[bytes, int]:
        """A record and where it ends, with its padding.

        Raises:
            DamagedImage: If there is none, or it is damaged.
        """
        kind, start, end = self._chunk(offset, offset)
        if kind == _WHOLE:
            return self.mapped[start:end], _aligned(end)
        if kind != _FIRST:
            raise self._damaged(offset, 'it is in the middle of a record')
        parts = [self.mapped[start:end]]
        while kind != _LAST:
            kind, start, end = self._chunk(_aligned(end), offset)
            if kind not in (_MIDDLE, _LAST):
                raise self._damaged(offset, 'another one begins before it has ended')
            parts.append(self.mapped[start:end])
        return MAGIC.join(parts), _aligned(end)

    def _chunk(self, at: int, record: int) -> tuple[int, int, int]:
        """Kind, start and end of the content of the chunk at a byte."""
        if at < 0 or at % ALIGNMENT or at + _CHUNK.size > self.size:
            raise self._damaged(
                record,
                f'there is no chunk at byte {at} of {self.size}: the file is cut off, '
                'or the index is that of another file',
            )
        magic, word = _CHUNK.unpack_from(self.mapped, at)
        if magic != MAGIC:
            raise self._damaged(
                record,
                f'expected the magic {MAGIC.hex(" ")} at byte {at}, found '
                f'{magic.hex(" ")}',
            )
        kind, length = word >> 29, word & _MOST_BYTES
        start, end = at + _CHUNK.size, at + _CHUNK.size + length
        if kind > _LAST:
            raise self._damaged(record, f'its chunk at byte {at} has the kind {kind}')
        if end > self.size:
            raise self._damaged(
                record,
                f'its {length} bytes from byte {start} on end after the file, which '
                f'has {self.size}: the file is cut off',
            )
        return kind, start, end

    def _next_start(self, offset: int) -> int:
        """Where the next record begins that can be read; else the size of the file."""
        while True:
            offset = self.mapped.find(MAGIC, offset)
            if offset < 0:
                return self.size
            if not offset % ALIGNMENT:
                try:
                    self.read_to(offset)
                except DamagedImage:
                    pass
                else:
                    return offset
            offset += 1

    def _damaged(self, offset: int, why: str) -> DamagedImage:
        return DamagedImage(f'{self.path}: record at byte {offset}: {why}')


def split_record(data: bytes, source: str) -> tuple[Header, bytes]:
    """The header of a record and the bytes of its image.

    Raises:
        DamagedImage: If it is shorter than its header; ``source`` names it.
    """
    if len(data) < _HEADER.size:
        raise DamagedImage(
            f'{source}: {len(data)} bytes, fewer than the {_HEADER.size} of a header'
        )
    length, label, identity, _ = _HEADER.unpack_from(data)
    end = _HEADER.size + 4 * length
    if end > len(data):
        raise DamagedImage(
            f'{source}: {length} labels do not fit into its {len(data)} bytes'
        )
    if length:
        (label,) = _LABEL.unpack_from(data, _HEADER.size)
    return Header(label, length, identity), data[end:]


def first_labels(file: RecordFile, offsets: np.ndarray) -> np.ndarray:
    """The (first) labels of the records at these bytes, float32 [n].

    NaN where no record begins.
    """
    content = np.frombuffer(file.mapped, np.uint8)
    labels = np.full(len(offsets), np.nan, np.float32)
    head = _CHUNK.size + _HEADER.size
    for low in range(0, len(offsets), _AT_ONCE):
        starts = offsets[low : low + _AT_ONCE]
        inside = (starts >= 0) & (starts % ALIGNMENT == 0)
        inside &= starts <= file.size - head - 4
        rows = content[starts[inside, None] + np.arange(head + 4)]
        words = rows.view('<u4')
        # What has an array of labels has them after the header.
        bits = np.where(words[:, 2] > 0, words[:, head // 4], words[:, 3])
        good = words[:, 0] == int.from_bytes(MAGIC, 'little')
        labels[low : low + _AT_ONCE][inside] = np.where(
            good, np.ascontiguousarray(bits).view('<f4'), np.nan
        )
    return labels


def pack_record(
    image: bytes, label: float | np.ndarray, key: int, always_array: bool = False
) -> bytes:
    """A record of an image, as MXNet's ``recordio.pack`` makes it.

    Args:
        image: Encoded bytes; empty for the records of identities.
        label: A number, or an array of them.
        key: Number of the record.
        always_array: Write a single number as an array, too.
    """
    labels = np.atleast_1d(np.asarray(label, '<f4'))
    if np.ndim(label) or always_array:
        return _HEADER.pack(len(labels), 0.0, key, 0) + labels.tobytes() + image
    return _HEADER.pack(0, float(labels[0]), key, 0) + image


def chunks_of(record: bytes) -> bytes:
    """A record as it stands in a file: split where the magic is in it."""
    if len(record) > _MOST_BYTES:
        raise UserError(f'a record has at most {_MOST_BYTES} bytes, got {len(record)}')
    parts, start, at = [], 0, record.find(MAGIC)
    while at >= 0:
        if at % ALIGNMENT:
            at = record.find(MAGIC, at + 1)
            continue
        parts.append(record[start:at])
        start = at + len(MAGIC)
        at = record.find(MAGIC, start)
    parts.append(record[start:])
    kinds = [_WHOLE]
    if len(parts) > 1:
        kinds = [_FIRST, *[_MIDDLE] * (len(parts) - 2), _LAST]
    return b''.join(
        _CHUNK.pack(MAGIC, kind << 29 | len(part)) + part + b'\0' * (-len(part) % 4)
        for kind, part in zip(kinds, parts, strict=True)
    )


def _aligned(offset: int) -> int:
    return -(-offset // ALIGNMENT) * ALIGNMENT
