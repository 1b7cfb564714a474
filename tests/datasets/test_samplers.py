import itertools
import sys
from collections import Counter

import numpy as np
import pytest
import torch
from mmengine.dataset.sampler import InfiniteSampler

from mmhyperface.datasets import IdentityBalancedSampler, InfiniteFaceSampler
from mmhyperface.datasets import samplers as module
from mmhyperface.utils.errors import UserError


class Labelled:
    def __init__(self, labels) -> None:
        self.given = np.array(labels, np.int64)

    def __len__(self) -> int:
        return len(self.given)

    def labels(self) -> np.ndarray:
        return self.given


def first(sampler, count: int) -> list[int]:
    return list(itertools.islice(iter(sampler), count))


LABELS = [0] * 8 + [1] * 2 + [2] * 5 + [3]


@pytest.mark.parametrize('images', [1, 2, 3])
def test_each_identity_comes_equally_often(images):
    data = Labelled(np.random.default_rng(0).permutation(LABELS))
    order = np.array(first(IdentityBalancedSampler(data, images, seed=0), 480 * images))
    labels = data.labels()[order].reshape(-1, images)
    # In a row come images of one identity, in four rows all identities.
    assert (labels == labels[:, :1]).all()
    for rows in labels[:, 0].reshape(-1, 4):
        assert sorted(rows) == [0, 1, 2, 3]
    # Of each identity all images come before one comes again.
    for label in range(4):
        own = order[data.labels()[order] == label]
        count = LABELS.count(label)
        for start in range(0, len(own) - count + 1, count):
            assert len({*own[start : start + count]}) == count


def test_ranks_share_the_identities(monkeypatch):
    data = Labelled(LABELS)
    one = first(IdentityBalancedSampler(data, 2, seed=5), 240)
    parts = []
    for rank in range(3):
        monkeypatch.setattr(
            'mmengine.dataset.sampler.get_dist_info', lambda rank=rank: (rank, 3)
        )
        parts.append(first(IdentityBalancedSampler(data, 2, seed=5), 80))
    merged = np.array(parts).reshape(3, 40, 2).transpose(1, 0, 2).ravel()
    assert merged.tolist() == one


def test_damaged_images_are_not_drawn():
    data = Labelled([-1, 0, 1, -1, 0])
    counts = Counter(first(IdentityBalancedSampler(data, 2, seed=0), 400))
    assert counts == {1: 100, 4: 100, 2: 200}


def test_sets_that_are_none():
    with pytest.raises(UserError, match='has no image'):
        IdentityBalancedSampler(Labelled([-1, -1]), seed=0)
    with pytest.raises(UserError, match='1 or more, got 0'):
        IdentityBalancedSampler(Labelled([0]), 0, seed=0)


@pytest.mark.parametrize('shuffle', [True, False])
@pytest.mark.parametrize('size', [1, 7, 16, 50])
@pytest.mark.parametrize('skipped', [0, 1, 6, 7, 49, 110])
def test_the_order_is_that_of_mmengine(monkeypatch, shuffle, size, skipped):
    monkeypatch.setattr(module, '_AT_ONCE', 8)
    for rank, world in ((0, 1), (0, 3), (2, 3), (4, 8)):
        monkeypatch.setattr(
            'mmengine.dataset.sampler.get_dist_info',
            lambda rank=rank, world=world: (rank, world),
        )
        data = Labelled(range(size))
        whole = first(InfiniteSampler(data, shuffle=shuffle, seed=3), 200)
        sampler = InfiniteFaceSampler(data, shuffle=shuffle, seed=3)
        sampler.skipped = skipped
        assert first(sampler, 200 - skipped) == whole[skipped:]


def test_the_work_of_skipping_is_that_of_the_epochs(monkeypatch):
    """The flagship's iteration 200,000 of 8 x 64 images, of 5.8 million in an epoch."""
    monkeypatch.setattr('mmengine.dataset.sampler.get_dist_info', lambda: (5, 8))
    calls = Counter()

    def order(size, generator):
        calls['epochs'] += 1
        return in_order

    def count(frame, event, argument):
        calls[event] += 1

    size, skipped = 5_822_653, 200_000 * 64
    in_order = torch.arange(size)
    monkeypatch.setattr(torch, 'randperm', order)
    sampler = InfiniteFaceSampler(range(size), seed=0)
    sampler.skipped = skipped
    sys.setprofile(count)
    index = next(iter(sampler))
    sys.setprofile(None)
    assert index == (skipped * 8 + 5) % size
    assert calls.pop('epochs') == skipped * 8 // size + 1 == 18
    assert sum(calls.values()) < 200
