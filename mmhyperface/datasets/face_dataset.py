"""What the data sets of face images have in common."""

import os
import pickle
from collections.abc import Callable, Sequence

import numpy as np
from mmpretrain.datasets import BaseDataset

from mmhyperface.errors import UserError
from mmhyperface.registry import TRANSFORMS

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
        metainfo, serialize_data, test_mode, lazy_init: as in mmengine.
    """

    #: Where a config has this data set, for advice in errors.
    LOADER = 'train_dataloader'

    def __init__(
        self,
        data_root: str = '',
        ann_file: str = '',
        data_prefix: str = '',
        pipeline: Sequence[dict | Callable] = (),
        indices: int | Sequence[int] | None = None,
        metainfo: dict | None = None,
        serialize_data: bool = True,
        test_mode: bool = False,
        lazy_init: bool = False,
    ) -> None:
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
