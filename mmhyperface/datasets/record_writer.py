"""Writing training sets as MXNet RecordIO files, in the layout of insightface.

Images have the keys 1, 2, 3, ...; then there is a record for each identity, with the
keys [first, one past the last) of its images; at last comes key 0, with those of the
identities. In a record all of these are float32. Beyond 2^24 images they are rounded,
as they are in the files of others, which FaceRecord knows how to read.
"""

import glob
import os
from array import array
from contextlib import ExitStack
from typing import Any

import numpy as np

from mmhyperface.utils.atomic_files import new_files
from mmhyperface.utils.errors import UserError

from .readers.recordio import MOST_EXACT, chunks_of, pack_record
from .transforms import decode_face


class RecordWriter:
    """Writes ``NAME.rec``, ``NAME.idx``, ``NAME.lst`` and ``property`` of its folder.

    The list is that of MXNet's im2rec: key, label and name of each image, between
    tabs. The files get their names when all is written, at the end of the ``with``
    block, that of the records last; if it ends in an error there are none, and what
    was there before stays. Memory grows by 8 bytes an identity::

        with RecordWriter('train.rec') as writer:
            writer.add(jpeg, 0, 'ann/1.jpg')

    Args:
        path: of the ``.rec`` file.
        size: height and width of the images, which ``property`` tells; by default
            those of the first image.
        overwrite: replace files that are there.

    Raises:
        UserError: another ending, files that are there or cannot be written, other
            records in the folder, no image.
    """

    def __init__(
        self, path: str, size: tuple[int, int] | None = None, overwrite: bool = False
    ) -> None:
        self._name, ending = os.path.splitext(path)
        if ending != '.rec':
            raise UserError(f'{path}: the file of the records ends with .rec')
        self.path = path
        self.size = size
        self.overwrite = overwrite
        self._key = 1
        # The key of the first image of each identity.
        self._starts = array('q')
        self._stack = ExitStack()

    @property
    def num_images(self) -> int:
        return self._key - 1

    @property
    def num_classes(self) -> int:
        return len(self._starts)

    def __enter__(self) -> 'RecordWriter':
        folder, name = os.path.split(self.path)
        property_file = os.path.join(folder, 'property')
        others = {*glob.glob('*.rec', root_dir=folder or None)} - {name}
        if os.path.lexists(property_file) and others:
            raise UserError(
                f'{property_file} tells of {min(others)}, and can tell of one; choose '
                f'another folder for {name}'
            )
        paths = [f'{self._name}.idx', f'{self._name}.lst', property_file, self.path]
        self._index, self._list, self._property, self._records = (
            self._stack.enter_context(new_files(paths, self.overwrite))
        )
        # Comes before the files get their names.
        self._stack.push(self._finish)
        return self

    def __exit__(self, *error: Any) -> bool | None:
        return self._stack.__exit__(*error)

    def add(self, image: bytes, label: int, name: str) -> None:
        """Write an image.

        Args:
            image: Encoded bytes, which are stored as they are.
            label: Its identity. Images of one come together, and identities in the
                order 0, 1, 2, ...
            name: Its path, for the list.

        Raises:
            UserError: For a label out of order, or a name that no list can hold.
        """
        expected = range(max(self.num_classes - 1, 0), self.num_classes + 1)
        if label not in expected:
            raise UserError(
                f'{name}: the label is {label}, expected '
                f'{" or ".join(map(str, expected))}: images of one identity come '
                'together, and identities in the order 0, 1, 2, ...'
            )
        if label > MOST_EXACT:
            raise UserError(
                f'{name}: the label {label} is beyond {MOST_EXACT}, the last one that '
                'RecordIO holds exactly'
            )
        line = self._line(label, name)
        if self.size is None:
            self.size = decode_face(image, name).shape[:2]
        if label == self.num_classes:
            self._starts.append(self._key)
        self._write(self._key, pack_record(image, float(label), self._key))
        self._list.write(line)
        self._key += 1

    def _line(self, label: int, name: str) -> bytes:
        if name != name.strip() or not name or any(c in name for c in '\t\r\n'):
            raise UserError(
                f'{name!r}: a list cannot hold a name with a tab or a line break, or '
                'with white space at an end'
            )
        try:
            return f'{self._key}\t{label}\t{name}\n'.encode()
        except UnicodeEncodeError:
            raise UserError(
                f'{name!r}: a list cannot hold a name that is no UTF-8'
            ) from None

    def _finish(self, error: type[BaseException] | None, *_: Any) -> None:
        """Write the records of the identities, key 0 and ``property``."""
        if error is not None:
            return
        if not self.num_images:
            raise UserError(f'{self.path}: there is no image to write')
        first = key = self._key
        ends = self._starts[1:]
        ends.append(first)
        for key_range in zip(self._starts, ends, strict=True):
            self._write(key, pack_record(b'', np.array(key_range), key))
            key += 1
        self._write(0, pack_record(b'', np.array([first, key]), 0))
        assert self.size is not None
        height, width = self.size
        self._property.write(f'{self.num_classes},{height},{width}\n'.encode())

    def _write(self, key: int, record: bytes) -> None:
        self._index.write(b'%d\t%d\n' % (key, self._records.tell()))
        self._records.write(chunks_of(record))
