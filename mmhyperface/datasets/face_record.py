"""Training sets in MXNet RecordIO files, as insightface distributes them."""

import os
from typing import Any

import numpy as np

from mmhyperface.registry import DATASETS
from mmhyperface.utils.errors import UserError

from .damage import DamagedImage
from .face_dataset import FaceDataset
from .readers.record_index import places_of
from .readers.recordio import MOST_EXACT, Header, RecordFile, first_labels, split_record

_SAMPLE = 16


@DATASETS.register_module()
class FaceRecord(FaceDataset):
    """A ``.rec`` file of images, read as it lies, without MXNet.

    The index is the ``.idx`` file of the same name; without one it is rebuilt by a
    scan. Whatever is found out about a file is kept beside it, or in the user's cache
    folder if that cannot be written, and mapped by all processes: 8 or 16 bytes of
    memory an image, once.

    If the record of key 0 has no image, it says which records are images and which
    are identities (insightface's layout); otherwise all are images. Where a record has
    an array of labels the first one counts. The number of identities is the first one
    in the file ``property`` of the same folder; without one, that of the identity
    records; without these, one more than the greatest label.

    Args:
        data_root: what `ann_file` is relative to.
        ann_file: the ``.rec`` file, relative to `data_root` or absolute.
        num_classes: the number of identities, if none of the files knows.
        cache_dir: folder to keep the index in; by default beside the records.
        **kwargs: see :class:`FaceDataset`; without `data_prefix`.

    Raises:
        UserError: files that are missing or no such files, an index that belongs to
            another file, no image; with ``on_error='raise'`` also, when it comes to
            it, records and images that are damaged and labels out of range.
    """

    def __init__(
        self,
        data_root: str = '',
        ann_file: str = 'train.rec',
        num_classes: int | None = None,
        cache_dir: str | None = None,
        **kwargs: Any,
    ) -> None:
        if kwargs.get('data_prefix'):
            raise self._error(
                'the images are in ann_file; take data_prefix out: set '
                + self._option('data_prefix', "''")
            )
        self.num_classes = num_classes
        self.cache_dir = cache_dir
        # Nothing is there to serialise: places are mapped from a file.
        kwargs['serialize_data'] = False
        super().__init__(data_root=data_root, ann_file=ann_file, **kwargs)

    def full_init(self) -> None:
        if self._fully_initialized:
            return
        super().full_init()
        count = self.num_classes or self._from_property() or self._identities
        # For now any label goes.
        self._metainfo['num_classes'] = count or 0
        if not count:
            greatest = int(self.labels().max())
            if greatest < 0:
                self._fully_initialized = False
                raise self._error(
                    f'no record of {self.ann_file} has a label; set '
                    f'{self._option("num_classes")}, or take another file'
                )
            self._metainfo['num_classes'] = greatest + 1

    def load_data_list(self) -> range:
        self._file = RecordFile(self.ann_file, f'Set {self._option("data_root")}')
        index = os.path.splitext(self.ann_file)[0] + '.idx'
        self._index = index if os.path.lexists(index) else None
        self._places, damaged = places_of(self._file, self._index, self.cache_dir)
        if damaged and self.on_error == 'raise':
            raise damaged[0]
        for error in damaged:
            self._warn(f'not in the index that was rebuilt: {error}')
        if not len(self._places):
            raise self._error(f'there is no record in {self.ann_file}')
        self._has_ids = self._check_sample()
        self._check_end()
        first, end, self._identities = self._images()
        if first == end:
            raise self._error(f'{self.ann_file} has no image')
        return range(first, end)

    def get_data_info(self, idx: int) -> dict:
        """The encoded image, its label, and where it is from.

        Raises:
            DamagedImage: If the record is damaged, is another than that of its key,
                or has a label out of range.
        """
        idx = self._number(idx)
        header, image, source = self._record(int(self.data_list[idx]))
        return {
            'img_bytes': image,
            'img_path': source,
            'gt_label': self._label(header, source),
            'sample_idx': idx,
        }

    def get_cat_ids(self, idx: int) -> list[int]:
        return [self.get_data_info(idx)['gt_label']]

    def labels(self) -> np.ndarray:
        """Labels of all images, int32 [N]; -1 for what is damaged."""
        places = self._places.offsets[np.asarray(self.data_list, np.int64)]
        values = first_labels(self._file, places)
        limit = self._metainfo.get('num_classes') or np.inf
        with np.errstate(invalid='ignore'):
            good = (values == np.floor(values)) & (values >= 0) & (values < limit)
        return np.where(good, values, -1).astype(np.int32)

    def _record(self, place: int) -> tuple[Header, bytes, str]:
        key = self._places.key(place)
        source = f'{self.ann_file}: key {key}'
        offsets = self._places.offsets
        start = offsets.item(place)
        # The next record, as a rule, is what comes next in the file.
        after = offsets.item(place + 1) if place + 1 < len(offsets) else 0
        stop = after if after > start else self._file.size
        header, image = split_record(self._file.read(start, stop), source)
        if self._has_ids and header.id != key:
            raise DamagedImage(
                f'{source}: the record at byte {start} is that of key {header.id}; '
                'index and records belong to different files, or are damaged'
            )
        return header, image, source

    def _label(self, header: Header, source: str) -> int:
        label = header.label
        limit = self._metainfo['num_classes']
        if not (label.is_integer() and 0 <= label < limit):
            raise DamagedImage(
                f'{source}: the label {label:g} is none of the {limit} identities, '
                f'0 to {limit - 1}'
            )
        return int(label)

    def _images(self) -> tuple[int, int, int]:
        """First place of an image, the place after the last one, and the number of
        identity records."""
        places = self._places
        everything = 0, len(places), 0
        if places.key(0) != 0:
            return everything
        try:
            header, image, source = self._record(0)
        except DamagedImage as error:
            raise self._error(
                'the record of key 0, which says where images end, cannot be read. '
                f'{error}'
            ) from None
        if image or header.length < 2:
            return everything
        end = places.find(self._first_identity(header.label, source))
        return 1, end, len(places) - end

    def _first_identity(self, end: float, source: str) -> int:
        """The key of the first identity record, which the header has in float32."""
        if not (end.is_integer() and end >= 1):
            raise self._error(
                f'{source}: the header says that images end before key {end:g}'
            )
        key = int(end)
        if key <= MOST_EXACT:
            return key
        # Off by rounding: records of identities are those without an image.
        near = int(np.spacing(np.float32(end)))
        low, high = self._places.find(key - near), self._places.find(key + near)
        for place in range(low, high):
            try:
                header, image, _ = self._record(place)
            except DamagedImage:
                continue
            if header.length and not image:
                return self._places.key(place)
        return key

    def _check_sample(self) -> bool:
        """Whether records know their keys, by the example of some of them.

        Raises:
            UserError: If few are where the index says.
        """
        offsets = self._places.offsets
        chosen = np.unique(np.linspace(0, len(offsets) - 1, _SAMPLE).astype(np.int64))
        right = []
        error: UserError | None = None
        for place in chosen:
            try:
                data = self._file.read(int(offsets[place]))
                header, _ = split_record(data, self.ann_file)
            except DamagedImage as caught:
                error = caught
            else:
                right.append(header.id == self._places.key(int(place)))
        if error is not None and len(right) <= len(chosen) // 2:
            raise self._error(
                f'of {len(chosen)} records that {self._index or "a scan"} lists, '
                f'{len(right)} are in {self.ann_file}: it belongs to another file, or '
                f'that is damaged ({error})'
            )
        # One alone may agree by chance.
        return len(right) > 1 and sum(right) > len(right) // 2

    def _check_end(self) -> None:
        """Whether the index lists the last record of the file.

        Raises:
            UserError: If not, with ``on_error='raise'``; else it is a warning.
        """
        last = int(self._places.offsets.max())
        try:
            _, end = self._file.read_to(last)
        except DamagedImage:
            return  # the file is cut off, and not the index
        if end < self._file.size:
            message = (
                f'the last record that {self._index} lists ends at byte {end} of the '
                f'{self._file.size} of {self.ann_file}: the index is cut off, or that '
                'of a part. Delete it, to have it rebuilt'
            )
            if self.on_error == 'raise':
                raise self._error(
                    f'{message}, or set {self._option("on_error", "skip")}'
                )
            self._warn(message)

    def _from_property(self) -> int | None:
        path = os.path.join(os.path.dirname(self.ann_file), 'property')
        try:
            with open(path, encoding='utf-8') as file:
                line = file.readline(1000).strip()
        except FileNotFoundError:
            return None
        except (OSError, UnicodeDecodeError) as error:
            raise self._error(f'{path}: cannot be read: {error}') from None
        first = line.split(',')[0].strip()
        if not first.isdecimal() or not int(first):
            raise self._error(
                f'{path}:1: expected `num_classes,height,width`, got {line[:80]!r}'
            )
        return int(first)
