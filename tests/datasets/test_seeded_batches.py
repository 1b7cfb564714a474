import itertools
import random

import numpy as np
import pytest
import torch
from mmengine.dataset import DefaultSampler, InfiniteSampler
from torch.utils.data import BatchSampler, DataLoader, Dataset

from mmhyperface.datasets import InfiniteFaceSampler, seeded_batches
from mmhyperface.datasets.seeded_batches import resumable


class Drawn(Dataset):
    """Items are their index and a random number of each stream."""

    def __len__(self) -> int:
        return 50

    def __getitem__(self, index: int) -> tuple:
        return index, random.random(), np.random.rand(), torch.rand(()).item()  # noqa: NPY002


def loader(batch_size: int, sampler=InfiniteFaceSampler, seed=3, **options):
    data = Drawn()
    return resumable(
        DataLoader(
            data,
            batch_size,
            sampler=sampler(data, seed=7),
            collate_fn=list,
            **options,
        ),
        seed,
    )


def first(batches, count: int) -> list:
    return list(itertools.islice(batches, count))


WHOLE = first(loader(4), 40)


def test_items_have_random_numbers_of_their_own():
    numbers = np.array(list(itertools.chain(*WHOLE)))[:, 1:]
    assert len(np.unique(numbers)) == numbers.size == 40 * 4 * 3
    assert first(loader(4), 3) == WHOLE[:3]
    assert first(loader(4, seed=4), 1) != WHOLE[:1]


@pytest.mark.parametrize(
    'options',
    [
        {},
        dict(num_workers=2),
        dict(num_workers=3, prefetch_factor=4, persistent_workers=True),
    ],
)
@pytest.mark.parametrize('sampler', [InfiniteFaceSampler, InfiniteSampler])
def test_a_resumed_loader_goes_on_as_the_whole_one(sampler, options):
    for start in (1, 13, 37):
        resumed = loader(4, sampler, **options)
        resumed.batch_sampler.number = resumed.batch_sampler.skipped = start
        assert first(resumed, 3) == WHOLE[start : start + 3]


@pytest.mark.parametrize('options', [{}, dict(num_workers=2, persistent_workers=True)])
def test_epochs_have_other_numbers(options):
    whole = loader(4, DefaultSampler)
    epochs = [list(whole) for _ in range(3)]
    assert [len(each) for each in epochs] == [13] * 3
    assert epochs[0] != epochs[1]
    resumed = loader(4, DefaultSampler, **options)
    resumed.batch_sampler.number = 13
    assert [list(resumed), list(resumed)] == epochs[1:]


def test_ranks_have_other_numbers(monkeypatch):
    monkeypatch.setattr(seeded_batches, 'get_rank', lambda: 1)
    numbers = np.array(list(itertools.chain(*WHOLE, *first(loader(4), 40))))[:, 1:]
    assert len(np.unique(numbers)) == numbers.size


def test_streams_of_the_process_are_left_alone():
    def drawn() -> tuple:
        return random.random(), np.random.rand(), torch.rand(()).item()  # noqa: NPY002

    batches = iter(loader(4))
    next(batches)
    streams = random.getstate(), np.random.get_state(), torch.get_rng_state()  # noqa: NPY002
    expected = drawn()
    random.setstate(streams[0])
    np.random.set_state(streams[1])  # noqa: NPY002
    torch.set_rng_state(streams[2])
    next(batches)
    assert drawn() == expected


def test_batches_of_ones_own():
    class Pairs(BatchSampler):
        def __init__(self) -> None:
            self.sampler = range(50)

        def __iter__(self):
            yield from ([i, 49 - i] for i in range(25))

        def __len__(self) -> int:
            return 25

    def own() -> DataLoader:
        data = Drawn()
        batches = DataLoader(data, batch_sampler=Pairs(), collate_fn=list)
        return resumable(batches, 0)

    whole, resumed = own(), own()
    assert len(whole) == 25
    resumed.batch_sampler.number = resumed.batch_sampler.skipped = 20
    assert list(resumed) == list(whole)[20:]


class AtOnce(Drawn):
    def __getitems__(self, indices: list[int]) -> list:
        return [(self[index], len(indices)) for index in indices]


@pytest.mark.parametrize('options', [{}, dict(num_workers=2)])
def test_a_data_set_that_reads_batches_at_once(options):
    data = AtOnce()
    for _ in range(2):  # as in two trainings
        batches = DataLoader(
            *(data, 4),
            sampler=InfiniteFaceSampler(data, seed=7),
            collate_fn=list,
            **options,
        )
        assert first(resumable(batches, 3), 2) == [
            [(item, 4) for item in batch] for batch in WHOLE[:2]
        ]


@pytest.mark.parametrize(
    'loader', [DataLoader(Drawn(), batch_size=None), DataLoader([0.5] * 50, 1)]
)
def test_what_has_no_batches_of_images_is_left_alone(loader):
    assert resumable(loader, 0) is loader
    assert type(loader) is DataLoader
    assert len(list(loader)) == 50
