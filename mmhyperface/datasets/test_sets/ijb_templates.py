"""Test sets IJB-B and IJB-C: templates of images, aligned on the fly."""

import os
from collections.abc import Sequence
from typing import Any

import numpy as np

from mmhyperface.datasets.face_dataset import FaceDataset
from mmhyperface.datasets.readers.ijb_meta import read_ijb_meta
from mmhyperface.registry import DATASETS
from mmhyperface.utils.choices import PROTOCOLS


@DATASETS.register_module()
class IJBTemplates(FaceDataset):
    """The loose crops of IJB-B or IJB-C with their landmarks, which AlignFace takes.

    Items are the images in the order of the meta files (:mod:`.ijb_meta`). What is
    compared with what is in ``metainfo['test_sets'][name]``, described in
    :mod:`.template_sets`. Everything is checked when the data set is loaded.

    Args:
        data_root: folder of the set, as insightface distributes it.
        subset: 'IJBC' or 'IJBB'.
        name: of the test set, in reports; by default 'ijbc' or 'ijbb'.
        data_prefix: folder of the images, relative to `data_root` or absolute.
        meta_prefix: folder of the meta files, likewise.
        protocols: '1:1', '1:N' or both; files of the other one need not be there.
        check_files: compare the list with the folder's, once.
        **kwargs: see :class:`FaceDataset`; `indices` is refused.

    Raises:
        UserError: with file and line, where there is one: meta files that are missing,
            malformed or disagree; images that are missing.
    """

    LOADER = 'test_dataloader'

    def __init__(
        self,
        data_root: str = 'data/ijb/IJBC',
        subset: str = 'IJBC',
        name: str | None = None,
        data_prefix: str = 'loose_crop',
        meta_prefix: str = 'meta',
        protocols: Sequence[str] = PROTOCOLS,
        check_files: bool = True,
        **kwargs: Any,
    ) -> None:
        self.subset = subset
        self.name = name or str(subset).lower()
        self.protocols = protocols
        self.check_files = check_files
        # Nothing is there to serialise: items are made from arrays.
        kwargs['serialize_data'] = False
        super().__init__(
            data_root=data_root,
            ann_file=meta_prefix,
            data_prefix=data_prefix,
            **kwargs,
        )

    def load_data_list(self) -> range:
        # Before the meta files, which take seconds.
        files = self._files() if self.check_files else None
        meta = read_ijb_meta(
            self.ann_file,
            self.subset,
            self.protocols,
            f'Set {self._option("data_root")}',
        )
        if files is not None:
            self._check(meta.names, files)
        self._names, self._landmarks = meta.names, meta.landmarks
        self._set_test_set(self.name, meta.test_set(), self.ann_file, 'templates')
        return range(len(meta.names))

    def _files(self) -> set[bytes]:
        try:
            return set(os.listdir(os.fsencode(self.img_prefix)))
        except OSError as error:
            raise self._error(
                f"cannot read the folder of the images '{self.img_prefix}': "
                f'{error.strerror}. Set {self._option("data_root")}'
            ) from None

    def _check(self, names: np.ndarray, files: set[bytes]) -> None:
        missing = [name for name in names.tolist() if name not in files]
        if missing:
            raise self._error(
                f'{len(missing)} of the {len(names)} images that the meta files name '
                f"are not in '{self.img_prefix}', for instance {missing[0].decode()!r}"
                f'. Set {self._option("data_prefix")}'
            )

    def get_data_info(self, idx: int) -> dict:
        """``img_path``, ``sample_idx`` and ``landmarks``, float32 [5, 2], (x, y) in
        the image's pixels."""
        idx = self._number(idx)
        place = self.data_list[idx]
        name = self._names[place].decode()
        return dict(
            img_path=os.path.join(self.img_prefix, name),
            landmarks=np.array(self._landmarks[place]),
            sample_idx=idx,
        )
