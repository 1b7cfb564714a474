"""Training sets made of others: with wrong labels, or one after the other."""

import bisect
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from torch.utils.data import Dataset

from mmhyperface.errors import UserError
from mmhyperface.registry import DATASETS


def labels_of(dataset: Any) -> np.ndarray:
    """Labels of all images of a training set, int64 [N]."""
    if hasattr(dataset, 'labels'):
        return np.asarray(dataset.labels(), np.int64)
    return np.array([dataset.get_cat_ids(i)[0] for i in range(len(dataset))], np.int64)


class _Wrapper(Dataset):
    """What the sets that are made of others have in common with mmengine's."""

    datasets: list[Any]

    @staticmethod
    def _built(dataset: dict | Dataset) -> Any:
        built = DATASETS.build(dataset) if isinstance(dataset, dict) else dataset
        if hasattr(built, 'full_init'):
            built.full_init()
        if not getattr(built, 'metainfo', {}).get('num_classes'):
            raise UserError(
                f'{type(built).__name__} does not tell its number of identities '
                "(metainfo['num_classes'])"
            )
        return built

    def full_init(self) -> None:
        """All is done when it is built."""

    @property
    def on_error(self) -> str:
        skips = any(getattr(d, 'on_error', '') == 'skip' for d in self.datasets)
        return 'skip' if skips else 'raise'


@DATASETS.register_module()
class LabelNoise(_Wrapper):
    """Gives some images the label of another person.

    Which ones and whose depends on `seed` alone, so that it is the same in every
    process, epoch and run.

    Args:
        dataset: a training set or its config.
        share: of the images, in [0, 1].
        seed: another number draws others.
        to: 'any' other person with equal chance (symmetric noise), or the most
            'similar' person by `centres`.
        centres: file of a ``.npy`` array [C, D], one vector per person, for 'similar'.

    Attributes:
        clean: the true labels, int64 [N].

    Raises:
        UserError: for a share that is none, fewer than two people, or centres of
            another number.
    """

    def __init__(
        self,
        dataset: dict | Dataset,
        share: float,
        seed: int = 0,
        to: Literal['any', 'similar'] = 'any',
        centres: str | None = None,
    ) -> None:
        self.datasets = [self._built(dataset)]
        (self.dataset,) = self.datasets
        count = self.dataset.metainfo['num_classes']
        if not 0 <= share <= 1 or count < 2 or to not in ('any', 'similar'):
            raise UserError(
                "LabelNoise: share is in [0, 1], to is 'any' or 'similar', and there "
                f'are two people at least; got {share}, {to!r} and {count}'
            )
        if (to == 'similar') != (centres is not None):
            raise UserError("LabelNoise: to='similar' and centres go together")
        self.clean = labels_of(self.dataset)
        self.noisy = self.clean.copy()
        chance = np.random.default_rng(seed)
        people = np.flatnonzero(self.clean >= 0)  # damaged images are nobody's
        chosen = chance.permutation(people)[: round(share * len(people))]
        true = self.clean[chosen]
        if to == 'any':
            # Each of the others, with equal chance.
            self.noisy[chosen] = (true + chance.integers(1, count, len(true))) % count
        else:
            self.noisy[chosen] = _nearest(str(centres), count)[true]

    @property
    def metainfo(self) -> dict:
        return self.dataset.metainfo

    def __len__(self) -> int:
        return len(self.noisy)

    def labels(self) -> np.ndarray:
        """The labels that are given, int64 [N]."""
        return self.noisy

    def get_cat_ids(self, idx: int) -> list[int]:
        return [int(self.noisy[idx])]

    def get_data_info(self, idx: int) -> dict:
        return {**self.dataset.get_data_info(idx), 'gt_label': int(self.noisy[idx])}

    def __getitem__(self, idx: int) -> Any:
        item = self.dataset[idx]
        # What is damaged may have been replaced by another image.
        sample = item.get('data_samples')
        if sample is None:
            item['gt_label'] = int(self.noisy[item['sample_idx']])
        else:
            sample.set_gt_label(int(self.noisy[sample.sample_idx]))
        return item

    def skipped(self) -> dict[int, str]:
        """See :meth:`FaceDataset.skipped`."""
        return self.dataset.skipped()


def _nearest(path: str, count: int) -> np.ndarray:
    """For each person the most similar other one, int64 [C]."""
    try:
        centres = np.load(path).astype(np.float32)
    except (OSError, ValueError) as error:
        raise UserError(f'LabelNoise: {path}: cannot be read: {error}') from None
    if centres.ndim != 2 or len(centres) != count:
        raise UserError(
            f'LabelNoise: {path}: expected centres [{count}, D], got '
            f'{list(centres.shape)}'
        )
    norms = np.linalg.norm(centres, axis=1, keepdims=True)
    centres = centres / np.where(norms == 0, 1, norms)
    nearest = np.empty(count, np.int64)
    size = max(1, 2**24 // count)
    for start in range(0, count, size):
        block = centres[start : start + size] @ centres.T
        own = np.arange(len(block))
        block[own, start + own] = -np.inf
        nearest[start : start + size] = block.argmax(1)
    return nearest


@DATASETS.register_module()
class FaceSets(_Wrapper):
    """Training sets one after the other, their people told apart.

    The labels of each set follow those of the one before.
    ``metainfo['classes']`` are the names of all, if all sets have names, with the
    number of the set before each: ``0/anna``. ``metainfo['set_sizes']`` are the numbers
    of people of each set. With ``load_centres='map'`` a set gets the centres of the
    training set that a checkpoint was made with, whose names have no such number.

    Args:
        datasets: training sets or their configs.

    Raises:
        UserError: without any data set.
    """

    def __init__(self, datasets: Sequence[dict | Dataset]) -> None:
        if not datasets:
            raise UserError('FaceSets: datasets is empty; list at least one')
        self.datasets = [self._built(dataset) for dataset in datasets]
        counts = [dataset.metainfo['num_classes'] for dataset in self.datasets]
        self._first_labels = np.cumsum([0, *counts]).tolist()
        self._starts = np.cumsum([0, *map(len, self.datasets)]).tolist()

    @property
    def metainfo(self) -> dict:
        found: dict[str, Any] = {
            'num_classes': self._first_labels[-1],
            'set_sizes': tuple(np.diff(self._first_labels).tolist()),
        }
        names = [dataset.metainfo.get('classes') for dataset in self.datasets]
        if all(of_one is not None for of_one in names):
            found['classes'] = tuple(
                f'{number}/{name}' for number, n in enumerate(names) for name in n
            )
        return found

    def __len__(self) -> int:
        return self._starts[-1]

    def _locate(self, idx: int) -> tuple[int, int]:
        """The number of the data set that holds an image, and its index there."""
        if not -len(self) <= idx < len(self):
            raise IndexError(f'image {idx} of {len(self)}')
        which = bisect.bisect_right(self._starts, idx % len(self)) - 1
        return which, idx % len(self) - self._starts[which]

    def labels(self) -> np.ndarray:
        """Labels of all images, int64 [N]; -1 for what is damaged."""
        parts = []
        for first, dataset in zip(self._first_labels, self.datasets, strict=False):
            labels = labels_of(dataset)
            parts.append(np.where(labels < 0, labels, labels + first))
        return np.concatenate(parts)

    def get_cat_ids(self, idx: int) -> list[int]:
        which, local = self._locate(idx)
        (label,) = self.datasets[which].get_cat_ids(local)
        return [label + self._first_labels[which]]

    def get_data_info(self, idx: int) -> dict:
        which, local = self._locate(idx)
        info = self.datasets[which].get_data_info(local)
        label = info['gt_label'] + self._first_labels[which]
        return {**info, 'gt_label': label, 'sample_idx': idx % len(self)}

    def __getitem__(self, idx: int) -> Any:
        which, local = self._locate(idx)
        item = self.datasets[which][local]
        first, start = self._first_labels[which], self._starts[which]
        sample = item.get('data_samples')
        if sample is None:
            item['gt_label'] += first
            item['sample_idx'] += start
        else:
            sample.set_gt_label(sample.gt_label + first)
            sample.set_metainfo({'sample_idx': sample.sample_idx + start})
        return item

    def skipped(self) -> dict[int, str]:
        """See :meth:`FaceDataset.skipped`."""
        return {
            start + number: why
            for start, dataset in zip(self._starts, self.datasets, strict=False)
            if getattr(dataset, 'on_error', 'raise') == 'skip'
            for number, why in dataset.skipped().items()
        }
