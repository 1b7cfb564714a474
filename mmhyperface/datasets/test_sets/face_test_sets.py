"""Several test sets behind one loader."""

import copy
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from torch.utils.data import Dataset

from mmhyperface.datasets.face_dataset import building, option
from mmhyperface.datasets.pair_sets import join_identities
from mmhyperface.datasets.wrappers import Joined
from mmhyperface.registry import DATASETS
from mmhyperface.utils.errors import UserError

from .face_pack import FacePack


@DATASETS.register_module()
class FaceTestSets(Joined):
    """Puts test sets one after the other, so that one loader serves them all.

    Any mmengine data set with ``metainfo['test_sets']`` (see
    :mod:`.test_sets`) can be put together; each keeps its own
    pipeline. ``sample_idx`` of an item is its index here, and ``offset`` of a test set
    is where its images begin here.

    Args:
        datasets: the data sets or their configs.
        combined: name of one more test set: all pairs of all sets; or a dict of names
            and which sets each puts together. SphereFace2's validation is that of LFW,
            AgeDB-30, CA-LFW and CP-LFW. Folds are the union of the sets' folds of one
            number, None if a set has none; people of different sets are different.

    Raises:
        UserError: no data set, one without test sets, a name that two share, a
            combination of what there is not.
    """

    def __init__(
        self,
        datasets: Sequence[dict | Dataset],
        combined: str | dict[str, Sequence[str]] | None = None,
    ) -> None:
        built = [_built(number, dataset) for number, dataset in enumerate(datasets)]
        if not built:
            raise UserError(
                'FaceTestSets: datasets is empty; list at least one in '
                + option('datasets', 'test_dataloader')
            )
        named = [_test_sets_of(dataset) for dataset in built]
        super().__init__(built, {})
        self._test_sets: dict[str, dict] = {}
        for start, of_one in zip(self._starts, named, strict=False):
            for name, test_set in of_one.items():
                self._add(name, {**test_set, 'offset': test_set['offset'] + start})
        if isinstance(combined, str):
            combined = {combined: list(self._test_sets)}
        for name, parts in (combined or {}).items():
            self._add(name, self._put_together(name, parts))

    def _add(self, name: str, test_set: dict) -> None:
        if name in self._test_sets:
            raise UserError(
                f'FaceTestSets: two test sets are called {name!r}; give each data set '
                'its own name: set ' + option('datasets.NUMBER.name', 'test_dataloader')
            )
        self._test_sets[name] = test_set

    def _put_together(self, name: str, parts: Sequence[str]) -> dict:
        other = [
            part
            for part in parts
            if part not in self._test_sets or self._test_sets[part]['kind'] != 'pairs'
        ]
        if other or not parts:
            raise UserError(
                f'FaceTestSets: combined={name!r} puts sets of pairs together, but '
                f'{", ".join(map(repr, other)) or "nothing"} is no set of pairs here; '
                f'there are {", ".join(map(repr, self._test_sets))}. Set '
                + option('combined', 'test_dataloader')
            )
        sets = [self._test_sets[part] for part in parts]
        folds = None
        if all(s['folds'] is not None for s in sets):
            folds = np.concatenate([s['folds'] for s in sets])
        start = min(s['offset'] for s in sets)
        end = max(s['offset'] + s['num_images'] for s in sets)
        sets = [{**s, 'offset': s['offset'] - start} for s in sets]
        return dict(
            kind='pairs',
            offset=start,
            num_images=end - start,
            index_a=np.concatenate([s['index_a'] + s['offset'] for s in sets]),
            index_b=np.concatenate([s['index_b'] + s['offset'] for s in sets]),
            same=np.concatenate([s['same'] for s in sets]),
            folds=folds,
            identities=join_identities(sets, end - start),
        )

    @property
    def metainfo(self) -> dict:
        return dict(test_sets=copy.deepcopy(self._test_sets))

    def __getitem__(self, idx: int) -> Any:
        which, _ = self._locate(idx)
        return self.datasets[which].pipeline(self.get_data_info(idx))


@DATASETS.register_module()
class FacePacks(FaceTestSets):
    """The verification packs of a folder: see :class:`.FacePack`.

    Args:
        names: of the files ``NAME.bin``.
        data_root: the folder.
        pipeline: of all.
        combined: see :class:`FaceTestSets`.
        **kwargs: see :class:`.FacePack`.
    """

    def __init__(
        self,
        names: Sequence[str],
        data_root: str = '',
        pipeline: Sequence[dict | Callable] = (),
        combined: str | dict[str, Sequence[str]] | None = None,
        **kwargs: Any,
    ) -> None:
        packs = [
            FacePack(
                f'{name}.bin',
                data_root=data_root,
                pipeline=pipeline,
                test_mode=True,
                **kwargs,
            )
            for name in names
        ]
        super().__init__(packs, combined)


def _built(number: int, dataset: dict | Dataset) -> Any:
    with building(f'datasets.{number}'):
        return DATASETS.build(dataset) if isinstance(dataset, dict) else dataset


def _test_sets_of(dataset: Any) -> dict[str, dict]:
    if isinstance(dataset, FaceTestSets):
        raise UserError(
            'FaceTestSets: list the data sets of the inner FaceTestSets here'
        )
    if hasattr(dataset, 'full_init'):
        dataset.full_init()
    test_sets = getattr(dataset, 'metainfo', {}).get('test_sets')
    if not test_sets:
        raise UserError(
            f'FaceTestSets: {type(dataset).__name__} has no test sets; use FacePairs, '
            'FacePack, IJBTemplates or another data set with test sets'
        )
    return test_sets
