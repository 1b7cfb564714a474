"""Batches whose random numbers depend on their place in the training alone.

No batch then needs those before it: a resumed training decodes none of what it has
trained on, and any number of workers augments an image alike.
"""

import random
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from mmengine.dist import get_rank
from torch.utils.data import BatchSampler, DataLoader, IterableDataset, Sampler

from .samplers import InfiniteFaceSampler


class _Batch(list):
    """Indices of images, and the number of batches before them in the training."""

    number: int


class NumberedBatches(Sampler):
    """The batches of a sampler with their numbers, some of them skipped.

    Args:
        batches: yields lists of indices.
    """

    def __init__(self, batches: Any) -> None:
        self.batches = batches
        self.sampler: Any = getattr(batches, 'sampler', None)
        #: Of the next batch.
        self.number = 0
        #: How many batches are not wanted.
        self.skipped = 0

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[_Batch]:
        kinds = type(self.batches), type(self.sampler)
        if kinds == (BatchSampler, InfiniteFaceSampler):
            self.sampler.skipped += self.skipped * self.batches.batch_size
            self.skipped = 0
        for indices in self.batches:
            if self.skipped:
                self.skipped -= 1
                continue
            batch = _Batch(indices)
            batch.number = self.number
            self.number += 1
            yield batch


class _SeededItems:
    """A data set's ``__getitems__``, which torch asks for the items of a batch.

    Images are augmented by the seed, the iteration and the rank. The random streams of
    the process are left as they were.
    """

    def __init__(self, dataset: Any, seed: int) -> None:
        self.dataset = dataset
        self.seed = seed
        self.rank = get_rank()

    def __call__(self, batch: list[int]) -> list:
        if not isinstance(batch, _Batch):  # of another loader
            return self._items(batch)
        state = random.getstate(), np.random.get_state()  # noqa: NPY002
        with torch.random.fork_rng(devices=[]):
            # One seed for all, which takes microseconds; for each image it would take
            # as long as a tenth of its decoding.
            random.seed(self.seed << 96 | batch.number << 32 | self.rank)
            np.random.seed(random.getrandbits(32))  # noqa: NPY002
            torch.default_generator.manual_seed(random.getrandbits(63))
            items = self._items(batch)
        random.setstate(state[0])
        np.random.set_state(state[1])  # noqa: NPY002
        return items

    def _items(self, batch: list[int]) -> list:
        own = getattr(type(self.dataset), '__getitems__', None)
        return own(self.dataset, batch) if own else [self.dataset[i] for i in batch]


class ResumableLoader(DataLoader):
    """torch's, which begins to decode when its first batch is asked for."""

    batch_sampler: NumberedBatches
    dataset: Any

    def __iter__(self) -> Iterator:  # type: ignore[override]
        # As torch does, and before a loop's network is initialised: what a seed makes
        # of it stays the same.
        torch.empty((), dtype=torch.int64).random_()
        return self._batches()

    def _batches(self) -> Iterator:
        yield from super().__iter__()

    def resume(self, number: int, seed: int) -> None:
        """Go on with a batch by number, and with a checkpoint's seed."""
        items, sampler = self.dataset.__getitems__, self.batch_sampler.sampler
        # One's own may have a seed of its own, or none.
        if getattr(sampler, 'seed', None) == items.seed:
            sampler.seed = seed
        items.seed = seed
        self.batch_sampler.number = number


def resumable(loader: DataLoader, seed: int) -> DataLoader:
    """Make a loader resumable that has just been built, if it has images by number."""
    if loader.batch_sampler is None or isinstance(loader.dataset, IterableDataset):
        return loader
    dataset: Any = loader.dataset
    try:
        dataset.__getitems__ = _SeededItems(dataset, seed)
    except AttributeError:  # of a list, say, that draws nothing
        return loader
    # torch lets nobody else replace it, and mmengine builds no other class.
    loader.__dict__['batch_sampler'] = NumberedBatches(loader.batch_sampler)
    loader.__class__ = ResumableLoader
    return loader
