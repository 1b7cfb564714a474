"""Verification packs: ``lfw.bin`` and the like, as insightface distributes them."""

import os
from collections.abc import Sequence
from typing import Any

import numpy as np

from mmhyperface.datasets.face_dataset import FaceDataset
from mmhyperface.datasets.pair_sets import consecutive_folds
from mmhyperface.datasets.readers.safe_pickle import as_array, load_data
from mmhyperface.registry import DATASETS
from mmhyperface.utils.errors import UserError


@DATASETS.register_module()
class FacePack(FaceDataset):
    """A pickle of encoded images, and whether each two in a row are of one person.

    It is read without running it (see :mod:`.safe_pickle`), packs
    of Python 2 too. The pairs are in ``metainfo['test_sets'][name]``, described in
    :mod:`.pair_sets`.

    Args:
        ann_file: the pack, relative to `data_root` or absolute.
        name: of the test set, in reports; by default that of the file.
        data_root: what `ann_file` is relative to.
        folds: the pairs are so many consecutive folds of equal size (the first ones
            larger by one if need be), as insightface evaluates them. None: no folds.
        **kwargs: see :class:`FaceDataset`; without `data_prefix`, `indices` is refused.

    Raises:
        UserError: a file that is missing, damaged, no pack, or wants to run code.
    """

    LOADER = 'test_dataloader'

    def __init__(
        self,
        ann_file: str,
        name: str | None = None,
        data_root: str = '',
        folds: int | None = 10,
        **kwargs: Any,
    ) -> None:
        self.name = name or os.path.splitext(os.path.basename(ann_file))[0]
        self.folds = folds
        super().__init__(data_root=data_root, ann_file=ann_file, **kwargs)

    def load_data_list(self) -> list[dict]:
        images, same = self._read()
        self._set_pairs(
            self.name,
            num_images=len(images),
            index_a=np.arange(0, len(images), 2),
            index_b=np.arange(1, len(images), 2),
            same=same,
            folds=consecutive_folds(
                len(same), self.folds, self.ann_file, self._option('folds', 'None')
            ),
            source=self.ann_file,
        )
        return [
            dict(img_bytes=image, img_path=f'{self.ann_file}: image {number}')
            for number, image in enumerate(images)
        ]

    def _read(self) -> tuple[list[bytes], np.ndarray]:
        """Encoded images, and bool [P]: of one person?"""
        try:
            with open(self.ann_file, 'rb') as file:
                content = file.read()
        except OSError as error:
            raise UserError(
                f"cannot read the pack '{self.ann_file}': {error.strerror}. Set "
                f'ann_file, or {self._option("data_root")}'
            ) from None
        pack = load_data(content, self.ann_file)
        if type(pack) not in (tuple, list) or len(pack) != 2:
            raise self._no_pack('expected a pair (images, same)')
        images, same = map(as_array, pack)
        for part in (images, same):
            if not isinstance(part, list | tuple | np.ndarray):
                raise self._no_pack(f'images and same are lists, not {type(part)}')
        if not len(same) or len(images) != 2 * len(same):
            raise self._no_pack(
                f'{len(images)} images and {len(same)} pairs, expected two images for '
                'each pair'
            )
        return [self._image(i, x) for i, x in enumerate(images)], self._flags(same)

    def _image(self, number: int, value: Any) -> bytes:
        value = as_array(value)
        if isinstance(value, np.ndarray) and value.dtype == np.uint8:
            return value.tobytes()
        if isinstance(value, bytes | bytearray):
            return bytes(value)
        raise self._no_pack(
            f'image {number} is {type(value).__name__}, not the bytes of an image file'
        )

    def _flags(self, same: Sequence | np.ndarray) -> np.ndarray:
        wrong = [
            (number, flag) for number, flag in enumerate(same) if flag not in (0, 1)
        ]
        if wrong:
            number, flag = wrong[0]
            value = repr(flag) if isinstance(flag, int | float) else type(flag).__name__
            raise self._no_pack(f'pair {number} is neither 0 nor 1, but {value}')
        return np.array([bool(flag) for flag in same])

    def _no_pack(self, why: str) -> UserError:
        return self._error(f"'{self.ann_file}' is no verification pack: {why}")
