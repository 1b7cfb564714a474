"""Orders in which training images come: lean ones, and balanced by identity."""

import logging
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from mmengine.dataset.sampler import InfiniteSampler
from mmengine.logging import print_log

from mmhyperface.registry import DATA_SAMPLERS
from mmhyperface.utils.errors import UserError

from .wrappers import labels_of

# Numbers that are Python's own at a time.
_AT_ONCE = 2**14


@DATA_SAMPLERS.register_module()
class InfiniteFaceSampler(InfiniteSampler):
    """mmengine's ``InfiniteSampler``, the very same order, in 8 bytes an image.

    mmengine makes a list of an epoch: a pointer and a Python number for each image.

    Args:
        dataset, shuffle, seed: as in mmengine.
    """

    #: How many of this process's first indices are left out, in no time.
    skipped = 0

    def _indices_of_rank(self) -> Iterator[int]:
        generator = torch.Generator()
        generator.manual_seed(self.seed)
        first = self.rank + self.skipped * self.world_size
        epochs, first = divmod(first, self.size)
        for _ in range(epochs if self.shuffle else 0):
            torch.randperm(self.size, generator=generator)
        while True:
            yield from self._epoch(generator, first)
            first = (first - self.size) % self.world_size

    def _epoch(self, generator: torch.Generator, first: int) -> Iterator[int]:
        """In a function of its own, whose order is gone before there is another."""
        if not self.shuffle:
            yield from range(first, self.size, self.world_size)
            return
        order = torch.randperm(self.size, generator=generator)
        for part in order[first :: self.world_size].split(_AT_ONCE):
            yield from part.tolist()


@DATA_SAMPLERS.register_module()
class IdentityBalancedSampler(InfiniteSampler):
    """Identities one after the other, each as often as any, some images of each.

    Each pass over the identities is in a new random order. An identity gives
    `images` of its images, other ones each time until all have come; one that has
    fewer gives some of them twice. A batch of B images has B / `images` identities.

    Args:
        dataset: the training set.
        images: of an identity in a row.
        seed: as in mmengine.

    Raises:
        UserError: if no image has a label.
    """

    def __init__(self, dataset: Any, images: int = 4, seed: int | None = None) -> None:
        if images < 1:
            raise UserError(
                'IdentityBalancedSampler: images of each identity: 1 or more, got '
                f'{images}; set train_dataloader.sampler.images'
            )
        labels = labels_of(dataset)
        # Images by identity, and where those of each begin.
        self.by_identity = np.argsort(labels, kind='stable')
        in_order = labels[self.by_identity]
        starts = np.flatnonzero(np.diff(in_order, prepend=-2))
        self.counts = np.diff(starts, append=len(labels))
        if len(in_order) and in_order[0] < 0:
            # Damaged images are nobody's.
            starts, self.counts = starts[1:], self.counts[1:]
        self.starts = starts
        self.images = images
        if not len(starts):
            raise UserError(
                'IdentityBalancedSampler: the data set, train_dataloader.dataset, has '
                'no image with a label'
            )
        if (self.counts < images).any():
            few = int((self.counts < images).sum())
            print_log(
                f'IdentityBalancedSampler: {few} of {len(starts)} identities have '
                f'fewer than {images} images (train_dataloader.sampler.images), which '
                'come several times in a batch',
                'current',
                logging.WARNING,
            )
        super().__init__(dataset, shuffle=True, seed=seed)

    def _infinite_indices(self) -> Iterator[int]:
        chance = np.random.default_rng(self.seed)
        # How many images an identity has given since they were last shuffled.
        given = np.zeros(len(self.starts), np.int64)
        while True:
            for identity in chance.permutation(len(self.starts)).tolist():
                start, count = self.starts[identity], self.counts[identity]
                own = self.by_identity[start : start + count]
                for _ in range(self.images):
                    if not given[identity]:
                        chance.shuffle(own)
                    yield int(own[given[identity]])
                    given[identity] = (given[identity] + 1) % count

    def _indices_of_rank(self) -> Iterator[int]:
        """Each rank takes whole identities."""
        everything = self._infinite_indices()
        while True:
            for rank in range(self.world_size):
                of_one = [next(everything) for _ in range(self.images)]
                if rank == self.rank:
                    yield from of_one
