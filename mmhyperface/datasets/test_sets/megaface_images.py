"""MegaFace: probes of FaceScrub and up to a million distractors.

A data set tells a metric of them in ``metainfo['test_sets']``, a dict from the name of
a set (see :mod:`.test_sets`) to ::

    dict(kind='megaface',
         offset=0,               # sample_idx of image 0 of this set
         num_images=P + N,       # first the probes, then the distractors
         subjects=int64[P + N],  # of the probes, counted from 0; -1: a distractor
         noisy=bool[P + N])      # shows someone else than the list says
"""

import os
from typing import Any

from mmhyperface.datasets.face_dataset import FaceDataset
from mmhyperface.datasets.readers.megaface_lists import read_megaface_lists
from mmhyperface.registry import DATASETS


@DATASETS.register_module()
class MegaFaceImages(FaceDataset):
    """The aligned images of insightface's testpack for MegaFace.

    Items are the probes and then the distractors, in the order of their lists; for
    those and the lists of noise see :mod:`.megaface_lists`. Who they are is in
    ``metainfo['test_sets'][name]``, described in :mod:`.megaface_images`. There is a
    warning of identities with a single image that is not noise.

    Args:
        data_root: folder of the set.
        name: of the test set, in reports.
        facescrub_list: list of the probes, relative to `data_root` or absolute, as are
            all of these.
        megaface_list: list of the distractors.
        facescrub_prefix: folder that the paths of the probes start from.
        megaface_prefix: folder that the paths of the distractors start from.
        facescrub_noises: list of the probes that show someone else; None: there is
            none.
        megaface_noises: list of the distractors that show one of the probes, likewise.
        num_distractors: only the first so many.
        check_files: look for every image now, which takes its time.
        **kwargs: see :class:`FaceDataset`, without `ann_file` and `data_prefix`;
            `indices` is refused.

    Raises:
        UserError: lists that :func:`.read_megaface_lists` refuses; a missing image.
    """

    LOADER = 'test_dataloader'

    def __init__(
        self,
        data_root: str = 'data/megaface',
        name: str = 'megaface',
        facescrub_list: str = 'facescrub_lst',
        megaface_list: str = 'megaface_lst',
        facescrub_prefix: str = 'facescrub_images',
        megaface_prefix: str = 'megaface_images',
        facescrub_noises: str | None = 'facescrub_noises.txt',
        megaface_noises: str | None = 'megaface_noises.txt',
        num_distractors: int | None = None,
        check_files: bool = True,
        **kwargs: Any,
    ) -> None:
        self.name = name
        self.lists: dict[str, Any] = dict(
            facescrub_list=facescrub_list,
            megaface_list=megaface_list,
            facescrub_noises=facescrub_noises,
            megaface_noises=megaface_noises,
            num_distractors=num_distractors,
        )
        self.prefixes = facescrub_prefix, megaface_prefix
        self.check_files = check_files
        # Nothing is there to serialise: items are made from arrays.
        kwargs['serialize_data'] = False
        super().__init__(data_root=data_root, **kwargs)

    def load_data_list(self) -> range:
        lists = read_megaface_lists(
            self.data_root, advice=f'Set {self._option("data_root")}', **self.lists
        )
        self._parts = [
            (os.path.join(self.data_root, prefix), paths)
            for prefix, paths in zip(
                self.prefixes, (lists.probes, lists.distractors), strict=True
            )
        ]
        single = lists.single_probes()
        if single:
            self._warn(
                f'{len(single)} identities have one image that is not noise, and so no '
                f'mate to look for: {", ".join(single[:5])}'
            )
        if self.check_files:
            self._check()
        self._set_test_set(self.name, lists.test_set(), self.data_root, 'probes')
        return range(len(lists.subjects))

    def _check(self) -> None:
        for folder, paths in self._parts:
            full = (os.path.join(folder, path.decode()) for path in paths.tolist())
            missing = [path for path in full if not os.path.isfile(path)]
            if missing:
                raise self._error(
                    f"no image '{missing[0]:.300}'; {len(missing)} of the "
                    f"{len(paths)} in '{folder}' are missing. Set "
                    f'{self._option("data_root")}'
                )

    def get_data_info(self, idx: int) -> dict:
        """``img_path`` and ``sample_idx`` of an image."""
        idx = self._number(idx)
        place = self.data_list[idx]
        folder, paths = self._parts[0]
        if place >= len(paths):
            place -= len(paths)
            folder, paths = self._parts[1]
        path = os.path.join(folder, paths[place].decode())
        return dict(img_path=path, sample_idx=idx)
