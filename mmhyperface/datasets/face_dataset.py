"""What the data sets of face images have in common."""

import os
import pickle
from collections.abc import Callable, Sequence
from typing import Any, Literal

import numpy as np
from mmpretrain.datasets import BaseDataset

from mmhyperface.errors import UserError
from mmhyperface.registry import TRANSFORMS

from .damage import DamagedImage, Skipped

#: So many damaged images one after the other are more than some damage.
MOST_IN_A_ROW = 1000
IMAGE_EXTENSIONS = ('.jpg', '.jpeg', '.png', '.bmp', '.pgm', '.webp')


class FaceDataset(BaseDataset):
    """Base of the data sets that are found on a disk.

    Its pipeline may use transforms of mmhyperface, mmpretrain and mmcv without a
    prefix, also where no default scope is set.

    Args:
        data_root: what relative paths start from; ``~`` is expanded.
        ann_file: relative to `data_root`, or absolute.
        data_prefix: folder of the images, relative to `data_root`, or absolute.
        pipeline: transforms or their configs.
        indices: only the first (or last, if negative) so many images, or these.
        on_error: 'raise' at an image that is damaged, or 'skip' to the next one; see
            :meth:`skipped` and :class:`SkippedImagesHook`, which tells of them at the
            end. Test sets cannot go without an image.
        metainfo, serialize_data, test_mode, lazy_init: as in mmengine.
    """

    _fully_initialized: bool

    #: Where a config has this data set, for advice in errors.
    LOADER = 'train_dataloader'

    def __init__(
        self,
        data_root: str = '',
        ann_file: str = '',
        data_prefix: str = '',
        pipeline: Sequence[dict | Callable] = (),
        indices: int | Sequence[int] | None = None,
        on_error: Literal['raise', 'skip'] = 'raise',
        metainfo: dict | None = None,
        serialize_data: bool = True,
        test_mode: bool = False,
        lazy_init: bool = False,
    ) -> None:
        if on_error not in ('raise', 'skip') or (on_error == 'skip' and test_mode):
            raise self._error(
                f"on_error is 'raise' or, for training, 'skip'; got {on_error!r}"
            )
        self.on_error = on_error
        self._skipped: Skipped | None = None
        super().__init__(
            ann_file=ann_file,
            data_root=os.path.expanduser(data_root),
            data_prefix=data_prefix,
            pipeline=[
                TRANSFORMS.build(t) if isinstance(t, dict) else t for t in pipeline
            ],
            indices=indices,
            metainfo=metainfo,
            serialize_data=serialize_data,
            test_mode=test_mode,
            lazy_init=lazy_init,
        )

    def full_init(self) -> None:
        """Load what the data set lists, unless this is done."""
        if not self._fully_initialized:
            self._find_images()
            self._fully_initialized = True
            if self.on_error == 'skip':
                self._skipped = Skipped(len(self))

    def _find_images(self) -> None:
        super().full_init()

    def __getitem__(self, idx: int) -> Any:
        """Image `idx` after the pipeline; the next good one with ``on_error='skip'``.

        Raises:
            DamagedImage: With ``on_error='raise'``; also if very many in a row are.
        """
        if self.on_error == 'raise':
            return super().__getitem__(idx)
        self.full_init()
        assert self._skipped is not None
        if not -len(self) <= idx < len(self):
            raise IndexError(f'image {idx} of {len(self)}')
        error = None
        for step in range(min(MOST_IN_A_ROW, len(self))):
            number = (idx + step) % len(self)
            try:
                return super().__getitem__(number)
            except DamagedImage as caught:
                self._skipped.add(number)
                error = caught
        raise self._error(
            f'{min(MOST_IN_A_ROW, len(self))} images in a row are damaged; the last '
            f'one: {error}'
        )

    def skipped(self) -> dict[int, str]:
        """What is wrong with the images that were passed over so far, by number."""
        if self._skipped is None:
            return {}
        found = {}
        for number in self._skipped.numbers().tolist():
            try:
                super().__getitem__(number)
            except DamagedImage as error:
                found[number] = str(error)
            else:
                found[number] = 'it can be read by now'
        return found

    def _serialize_data(self) -> tuple[np.ndarray, np.ndarray]:
        """mmengine's layout: pickled items end to end, and where each ends.

        mmengine itself holds an array per item before it joins them, which for
        millions of items is most of the memory and of the time.
        """
        data = bytearray()
        ends = np.empty(len(self.data_list), np.int64)
        for i, item in enumerate(self.data_list):
            data += pickle.dumps(item, protocol=4)
            ends[i] = len(data)
        self.data_list.clear()
        return np.frombuffer(data, np.uint8), ends

    def _images_of(
        self, paths: Sequence[str], persons: Sequence[int], ids: dict[str, int]
    ) -> list[dict]:
        """Items of these images; the labels are their persons, sorted by name.

        Args:
            paths: of the images.
            persons: of each, the number that ``ids`` gives its person's name.
            ids: 0, 1, 2, ... in the order of the dict.
        """
        classes = sorted(ids)
        self._set_classes(classes)
        position = {name: label for label, name in enumerate(classes)}
        label_of = [position[name] for name in ids]
        return [
            dict(img_path=path, gt_label=label_of[person])
            for path, person in zip(paths, persons, strict=True)
        ]

    def _set_classes(self, classes: Sequence[str]) -> None:
        self._metainfo.update(classes=tuple(classes), num_classes=len(classes))

    def _error(self, message: str) -> UserError:
        return UserError(f'{type(self).__name__}: {message}')

    def _option(self, name: str) -> str:
        """Advice to set an argument, with the way to do so from the command line."""
        return f'{name} (for instance --cfg-options {self.LOADER}.dataset.{name}=...)'


def as_extensions(extensions: str | Sequence[str]) -> tuple[str, ...]:
    """('jpg', '.PNG') -> ('.jpg', '.png'), to be compared in lower case."""
    if isinstance(extensions, str):
        extensions = (extensions,)
    return tuple('.' + extension.lower().lstrip('.') for extension in extensions)
