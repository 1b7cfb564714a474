"""Training sets made of others: with wrong labels, or one after the other.

``sample_idx`` of an item is its index in the data set that gives it. What mmengine,
mmpretrain and torch have for data sets made of others hands items over with the index
in the innermost one; :func:`numbered` puts that right.
"""

import bisect
import copy
import logging
import random
from collections.abc import Sequence
from typing import Any, Literal

import mmengine.dataset
import numpy as np
import torch.utils.data
from mmengine.logging import print_log
from mmpretrain.datasets import KFoldDataset
from torch.utils.data import Dataset, Subset

from mmhyperface.registry import DATASETS
from mmhyperface.utils.errors import UserError

from .face_dataset import building, loader, option


def labels_of(dataset: Any) -> np.ndarray:
    """Labels of all images of a training set, int64 [N]; -1 for what is damaged.

    Raises:
        UserError: If it does not tell them.
    """
    dataset = numbered(dataset)
    if hasattr(dataset, 'labels'):
        return np.asarray(dataset.labels(), np.int64)
    if not hasattr(dataset, 'get_cat_ids'):
        raise UserError(
            f'{type(dataset).__name__} does not tell the labels of its images: it has '
            'neither labels() nor get_cat_ids(idx)'
        )
    return np.array([dataset.get_cat_ids(i)[0] for i in range(len(dataset))], np.int64)


def numbered(dataset: dict | Dataset, entry: str = 'dataset') -> Any:
    """A data set, built from its config if need be, whose items have its indices.

    For mmengine's ``ConcatDataset``, ``RepeatDataset`` and ``ClassBalancedDataset``,
    mmpretrain's ``KFoldDataset`` and torch's ``ConcatDataset`` and ``Subset`` it is
    one with the same items. Others, and test sets, stay as they are.

    Args:
        dataset: it, or its config.
        entry: where the config is, in that of a loader or of another data set.
    """
    if isinstance(dataset, dict):
        with building(entry):
            dataset = DATASETS.build(dataset)
    if hasattr(dataset, 'full_init'):
        dataset.full_init()
    if isinstance(dataset, torch.utils.data.ConcatDataset):
        parts = [numbered(part) for part in dataset.datasets]
    elif isinstance(dataset, mmengine.dataset.RepeatDataset):
        parts = [numbered(dataset.dataset)] * dataset.times
    elif isinstance(
        dataset, mmengine.dataset.ClassBalancedDataset | KFoldDataset | Subset
    ):
        parts = [numbered(dataset.dataset)]
    else:
        return dataset
    metainfo = getattr(dataset, 'metainfo', None) or getattr(parts[0], 'metainfo', {})
    known = all(hasattr(part, 'get_data_info') for part in parts)
    if not known or 'test_sets' in metainfo:
        return dataset
    order = None
    if isinstance(dataset, mmengine.dataset.ClassBalancedDataset):
        order = np.asarray(dataset.repeat_indices, np.int64)
    elif isinstance(dataset, Subset):
        order = np.asarray(dataset.indices, np.int64)
        order = np.where(order < 0, order + len(parts[0]), order)
    return Joined(parts, metainfo, order)


def placed(config: Any, name: str, shared_root: str | None = None) -> Any:
    """The config of the loader of that name, with a :func:`numbered` data set.

    What is no config of a loader stays as it is. `shared_root`: see :func:`loader`.
    """
    if not isinstance(config, dict) or 'dataset' not in config:
        return config

    def dataset() -> Any:
        own = config['dataset']
        with loader(name, shared_root):
            return numbered(copy.deepcopy(own) if isinstance(own, dict) else own)

    return {**config, 'dataset': {'type': dataset}}


def _sample_idx(item: Any) -> int | None:
    """The index of an item after the pipeline, if that has left it."""
    sample = item.get('data_samples', item) if isinstance(item, dict) else item
    return sample.get('sample_idx') if hasattr(sample, 'get') else None


def _mark(item: dict, **values: int) -> None:
    """Give an item after the pipeline another index or label."""
    sample = item.get('data_samples')
    if sample is None:
        item.update(values)
        return
    if 'gt_label' in values:
        sample.set_gt_label(values.pop('gt_label'))
    sample.set_metainfo(values)


@DATASETS.register_module()
class RepeatDataset(mmengine.dataset.RepeatDataset):
    """mmengine's, which :class:`ClassBalancedDataset` can take as well."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        with building('dataset'):
            super().__init__(*args, **kwargs)

    def get_cat_ids(self, idx: int) -> list[int]:
        return self.dataset.get_cat_ids(self._get_ori_dataset_idx(idx))


@DATASETS.register_module()
class ConcatDataset(mmengine.dataset.ConcatDataset):
    """mmengine's, for data sets of the same people, who keep their labels.

    :class:`FaceSets` joins data sets of different people.

    Raises:
        UserError: For data sets of different people, and for test sets.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        try:
            with building('datasets.NUMBER'):
                super().__init__(*args, **kwargs)
        except UserError:
            raise
        except ValueError as error:
            raise UserError(
                f'ConcatDataset: {error}. It keeps labels, so all its data sets must '
                'have the same people (metainfo): put training sets of different '
                "people together with type='FaceSets', test sets with "
                "type='FaceTestSets'"
            ) from None

    def get_cat_ids(self, idx: int) -> list[int]:
        which, local = self._get_ori_dataset_idx(idx)
        return self.datasets[which].get_cat_ids(local)


class Joined(Dataset):
    """Data sets one after the other, or a choice of their images.

    Args:
        datasets: Whose items have their indices, see :func:`numbered`.
        metainfo: Its own.
        order: Which images, int64 [N], counted over all data sets; None: all.
        first_labels: What is added to the labels of each; by default nothing.
    """

    def __init__(
        self,
        datasets: list[Any],
        metainfo: dict,
        order: np.ndarray | None = None,
        first_labels: Sequence[int] | None = None,
    ) -> None:
        self.datasets = datasets
        self._metainfo = metainfo
        self._first_labels = first_labels or [0] * len(datasets)
        self._starts = np.cumsum([0, *map(len, datasets)]).tolist()
        self._order = order

    @property
    def metainfo(self) -> dict:
        return self._metainfo

    def full_init(self) -> None:
        """All is done when it is built."""

    def get_subset(self, indices: Sequence[int]) -> 'Joined':
        """Some of the images, as ``KFoldDataset`` takes them."""
        return Joined([self], self.metainfo, np.asarray(indices, np.int64))

    @property
    def on_error(self) -> str:
        skips = any(getattr(d, 'on_error', '') == 'skip' for d in self.datasets)
        return 'skip' if skips else 'raise'

    def __len__(self) -> int:
        return self._starts[-1] if self._order is None else len(self._order)

    def _locate(self, idx: int) -> tuple[int, int]:
        """The number of the data set that holds an image, and its index there."""
        if not -len(self) <= idx < len(self):
            raise IndexError(f'image {idx} of {len(self)}')
        number = idx % len(self)
        if self._order is not None:
            number = int(self._order[number])
        which = bisect.bisect_right(self._starts, number) - 1
        return which, number - self._starts[which]

    def _index_of(self, which: int, local: int) -> int:
        """The first index of an image of a data set; -1 if it has none here."""
        number = self._starts[which] + local
        if local < 0:
            return -1
        if self._order is None:
            return number
        return next(iter(np.flatnonzero(self._order == number).tolist()), -1)

    def labels(self) -> np.ndarray:
        """Labels of all images, int64 [N]; -1 for what is damaged."""
        once = {id(dataset): dataset for dataset in self.datasets}
        labels_by_id = {key: labels_of(dataset) for key, dataset in once.items()}
        parts = []
        for first, dataset in zip(self._first_labels, self.datasets, strict=False):
            labels = labels_by_id[id(dataset)]
            parts.append(np.where(labels < 0, labels, labels + first))
        joined = np.concatenate(parts)
        return joined if self._order is None else joined[self._order]

    def wrong_labels(self) -> np.ndarray | None:
        """Which images a :class:`LabelNoise` has given a wrong label, bool [N].

        None if there is no such data set among these.
        """
        parts = [getattr(d, 'wrong_labels', lambda: None)() for d in self.datasets]
        if all(part is None for part in parts):
            return None
        joined = np.concatenate(
            [
                np.zeros(len(dataset), bool) if part is None else part
                for dataset, part in zip(self.datasets, parts, strict=True)
            ]
        )
        return joined if self._order is None else joined[self._order]

    def get_cat_ids(self, idx: int) -> list[int]:
        which, local = self._locate(idx)
        (label,) = self.datasets[which].get_cat_ids(local)
        return [label + self._first_labels[which]]

    def get_data_info(self, idx: int) -> dict:
        which, local = self._locate(idx)
        info = {**self.datasets[which].get_data_info(local)}
        if self._first_labels[which]:
            info['gt_label'] += self._first_labels[which]
        return {**info, 'sample_idx': idx % len(self)}

    def __getitem__(self, idx: int) -> Any:
        which, local = self._locate(idx)
        item = self.datasets[which][local]
        number = _sample_idx(item)
        if number == local:
            _mark(item, sample_idx=idx % len(self))
        elif number is not None:
            # What is damaged has been replaced by another image.
            _mark(item, sample_idx=self._index_of(which, number))
        first = self._first_labels[which]
        if first:
            _mark(item, gt_label=item.get('data_samples', item).get('gt_label') + first)
        return item

    def skipped(self) -> dict[int, str]:
        """See :meth:`FaceDataset.skipped`."""
        reasons = {}
        known: set[int] = set()
        for which, dataset in enumerate(self.datasets):
            skips = getattr(dataset, 'on_error', 'raise') == 'skip'
            if not skips or id(dataset) in known:
                continue
            known.add(id(dataset))
            for number, why in dataset.skipped().items():
                index = self._index_of(which, number)
                if index >= 0:
                    reasons[index] = why
        return reasons


def _training_set(dataset: dict | Dataset, entry: str) -> Any:
    """See :func:`numbered`; one that tells its number of identities."""
    built = numbered(dataset, entry)
    if not getattr(built, 'metainfo', {}).get('num_classes'):
        raise UserError(
            f'{type(built).__name__} does not tell its number of identities '
            "(metainfo['num_classes'])"
        )
    return built


@DATASETS.register_module()
class LabelNoise(Joined):
    """Gives some images the label of another person.

    Which ones and whose depends on `seed` alone, so that it is the same in every
    process, epoch and run.

    Args:
        dataset: a training set or its config.
        share: of the images, in [0, 1].
        seed: another number draws others.
        to: 'any' other person with equal chance (symmetric noise), the most
            'similar' person by `centres`, or as 'opensphere' draws it: each image has
            the chance `share` to get the label of anyone, perhaps its own. That is
            OpenSphere's own noise if the images come in the order of its list.
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
        to: Literal['any', 'similar', 'opensphere'] = 'any',
        centres: str | None = None,
    ) -> None:
        self.dataset = _training_set(dataset, 'dataset')
        super().__init__([self.dataset], self.dataset.metainfo)
        count = self.metainfo['num_classes']
        if not 0 <= share <= 1 or count < 2:
            raise UserError(
                'LabelNoise: share is in [0, 1], and there are two people at least; '
                f'got {share} and {count}. Set {option("share", "train_dataloader")}'
            )
        if to not in ('any', 'similar', 'opensphere'):
            raise UserError(
                f"LabelNoise: to is 'any', 'similar' or 'opensphere', got {to!r}; set "
                + option('to', 'train_dataloader')
            )
        if (to == 'similar') != (centres is not None):
            raise UserError(
                "LabelNoise: to='similar' and centres go together; set "
                + option('centres', 'train_dataloader')
            )
        self.clean = labels_of(self.dataset)
        self.noisy = self.clean.copy()
        chance = np.random.default_rng(seed)
        people = np.flatnonzero(self.clean >= 0)  # damaged images are nobody's
        chosen = chance.permutation(people)[: round(share * len(people))]
        true = self.clean[chosen]
        if to == 'any':
            # Each of the others, with equal chance.
            self.noisy[chosen] = (true + chance.integers(1, count, len(true))) % count
        elif to == 'similar':
            self.noisy[chosen] = _nearest(str(centres), count)[true]
        else:
            # Its generator, asked in its order: for the same list the same labels.
            theirs = random.Random(seed)
            for number in people:
                if theirs.random() <= share:
                    self.noisy[number] = theirs.choice(range(count))

    def labels(self) -> np.ndarray:
        """The labels that are given, int64 [N]."""
        return self.noisy

    def wrong_labels(self) -> np.ndarray:
        return self.noisy != self.clean

    def get_cat_ids(self, idx: int) -> list[int]:
        return [int(self.noisy[idx])]

    def get_data_info(self, idx: int) -> dict:
        return {**super().get_data_info(idx), 'gt_label': int(self.noisy[idx])}

    def __getitem__(self, idx: int) -> Any:
        item = super().__getitem__(idx)
        # What is damaged may have been replaced by another image.
        number = _sample_idx(item)
        if number is None:
            raise UserError(
                'LabelNoise: the pipeline must leave sample_idx, as PackFace does, and '
                "PackInputs with 'sample_idx' among its meta_keys"
            )
        if number >= 0:
            _mark(item, gt_label=int(self.noisy[number]))
        return item


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
    print_log(
        f'LabelNoise: {path} has no names: row i is taken for the person with label i, '
        "classes[i] of the training set's metainfo",
        logger='current',
        level=logging.WARNING,
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
class FaceSets(Joined):
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
            raise UserError(
                'FaceSets: datasets is empty; list at least one in '
                + option('datasets', 'train_dataloader')
            )
        built = [_training_set(x, f'datasets.{i}') for i, x in enumerate(datasets)]
        sizes = [dataset.metainfo['num_classes'] for dataset in built]
        metainfo: dict[str, Any] = {
            'num_classes': sum(sizes),
            'set_sizes': tuple(sizes),
        }
        names = [dataset.metainfo.get('classes') for dataset in built]
        if all(of_one is not None for of_one in names):
            metainfo['classes'] = tuple(
                f'{number}/{name}' for number, n in enumerate(names) for name in n
            )
        first_labels = np.cumsum([0, *sizes[:-1]]).tolist()
        super().__init__(built, metainfo, first_labels=first_labels)
