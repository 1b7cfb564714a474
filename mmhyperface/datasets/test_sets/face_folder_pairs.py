"""Test sets of pairs from any folder of identities."""

from typing import Any, Literal

import numpy as np

from mmhyperface.datasets.face_folder import FaceFolder
from mmhyperface.registry import DATASETS


@DATASETS.register_module()
class FaceFolderPairs(FaceFolder):
    """Pairs of the images of a folder ``root/identity/image``: by default all pairs of
    one person and as many of two, drawn from `seed`.

    Items are the images, as in :class:`FaceFolder`. The pairs are in
    ``metainfo['test_sets'][name]``, described in
    :mod:`.pair_sets`: first those of one person, then the others.
    They depend on the file names and `seed` alone.

    Args:
        data_root: the folder; `include`, `exclude`, `holdout`, `split`, `split_seed`
            and `extensions` choose from it as in :class:`FaceFolder`.
        name: of the test set, in reports.
        num_same: how many pairs of one person, drawn without replacement, or 'all'.
        num_different: how many pairs of two people, drawn without replacement, each
            as likely as any other; 'equal': as many as of one person, or all if there
            are fewer.
        folds: number of folds; each holds the same share of both kinds, assigned from
            `seed`. None: no folds.
        seed: of the draws.
        **kwargs: see :class:`FaceFolder`; `indices` is refused.

    Raises:
        UserError: fewer than two identities, no identity with two images, or fewer
            pairs than asked for.
    """

    LOADER = 'test_dataloader'

    def __init__(
        self,
        data_root: str,
        name: str = 'folder',
        num_same: int | Literal['all'] = 'all',
        num_different: int | Literal['equal'] = 'equal',
        folds: int | None = 10,
        seed: int = 0,
        **kwargs: Any,
    ) -> None:
        self.name = name
        self.num_same = num_same
        self.num_different = num_different
        self.folds = folds
        self.seed = seed
        self._check_integer('seed', 0)
        for option, other in (
            ('num_same', 'all'),
            ('num_different', 'equal'),
            ('folds', None),
        ):
            if getattr(self, option) != other:
                self._check_integer(option, 1)
        super().__init__(data_root, **kwargs)

    def load_data_list(self) -> list[dict]:
        images = super().load_data_list()
        labels = np.array([image['gt_label'] for image in images], np.int64)
        here = np.arange(len(labels))
        after = np.searchsorted(
            labels, labels, side='right'
        )  # first of the next person

        # Image i is paired with the images `first[i]` .. `first[i] + count[i]` - 1: the
        # rest of its person's, or all of the later people's.
        num_same = int((after - here - 1).sum())
        num_different = int((len(labels) - after).sum())
        if not (num_same and num_different):
            raise self._error(
                f'the {len(labels)} images of {labels[-1] + 1} identities chosen from '
                f"'{self.data_root}' make {num_same} pairs of one person and "
                f'{num_different} of two; a test needs both. {self._more_people()}'
            )
        # RandomState: its streams are frozen, those of Generator change with numpy.
        rng = np.random.RandomState(self.seed)
        count = num_same
        if self.num_same != 'all':
            count = self._wanted('num_same', self.num_same, num_same)
        pairs_same = _pairs(
            _draw(num_same, count, rng), first=here + 1, count=after - here - 1
        )
        if self.num_different == 'equal':
            count = min(count, num_different)
        else:
            count = self._wanted('num_different', self.num_different, num_different)
        pairs_different = _pairs(
            _draw(num_different, count, rng), first=after, count=len(labels) - after
        )

        index_a, index_b = np.concatenate([pairs_same, pairs_different], axis=1)
        same = np.arange(len(index_a)) < pairs_same.shape[1]
        self._set_pairs(
            self.name,
            num_images=len(labels),
            index_a=index_a,
            index_b=index_b,
            same=same,
            folds=None if self.folds is None else self._stratified_folds(same, rng),
            source=f"{type(self).__name__} of '{self.data_root}'",
            identities=labels,
        )
        return images

    def _wanted(self, option: str, wanted: int, available: int) -> int:
        if wanted > available:
            raise self._error(
                f"{option}={wanted}: '{self.data_root}' has {available} such pairs. "
                f'Set {self._option(option)}. {self._more_people()}'
            )
        return wanted

    def _more_people(self) -> str:
        """What makes more pairs."""
        advice = 'More pairs take more people with two images or more'
        if self.holdout:
            advice += (
                f', or to hold out more than {self.holdout}, from training as well: '
                f'{self._option("holdout")} and train_dataloader.dataset.holdout=...'
            )
        return advice

    def _stratified_folds(
        self, same: np.ndarray, rng: np.random.RandomState
    ) -> np.ndarray:
        assert self.folds is not None
        fewest = min(int(same.sum()), int((~same).sum()))
        if not 2 <= self.folds <= fewest:
            possible = str(fewest) if fewest > 1 else 'None'
            raise self._error(
                f'folds={self.folds}: expected 2 or more, and a pair of each kind for '
                f"every fold, of which '{self.data_root}' has {fewest}. Set "
                f'{self._option("folds", possible)}. {self._more_people()}'
            )
        folds = np.empty(len(same), np.int64)
        for kind in (same, ~same):
            folds[kind] = rng.permutation(int(kind.sum())) % self.folds
        return folds


def _draw(total: int, count: int, rng: np.random.RandomState) -> np.ndarray:
    """`count` of 0 .. `total` - 1 in rising order, every choice equally likely.

    In memory O(`count`): of a million images there are 10¹¹ pairs.
    """
    if total <= 2 * count:
        return np.sort(rng.permutation(total)[:count])
    drawn = np.empty(0, np.int64)
    while len(drawn) < count:
        more = rng.randint(total, size=count, dtype=np.int64)
        drawn = np.unique(np.concatenate([drawn, more]))
    return np.sort(rng.permutation(drawn)[:count])


def _pairs(rank: np.ndarray, first: np.ndarray, count: np.ndarray) -> np.ndarray:
    """The pairs [2, len(rank)] at these ranks of the list in which image i is paired
    with the images `first[i]` .. `first[i] + count[i]` - 1."""
    end = np.cumsum(count)
    i = np.searchsorted(end, rank, side='right')
    return np.stack([i, first[i] + rank - (end - count)[i]])
