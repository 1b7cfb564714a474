"""Batches of packed images, in one process and from workers."""

import gc
import os

import mmengine
import numpy as np
import pytest
import torch
from mmengine.dataset import default_collate, pseudo_collate
from mmpretrain.datasets import PackInputs
from torch.utils.data import DataLoader, Dataset

from mmhyperface.datasets import PackFace, collate, collate_faces
from mmhyperface.models import FaceDataPreprocessor
from mmhyperface.registry import FUNCTIONS, TRANSFORMS
from mmhyperface.utils.errors import UserError

SHAPE = (4, 5, 3)


def pixels(number: int) -> np.ndarray:
    return np.random.default_rng(number).integers(0, 256, SHAPE, np.uint8)


class Faces(Dataset):
    def __init__(self, count: int, labels: bool = True) -> None:
        self.count = count
        self.labels = labels

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, number: int) -> dict:
        results = dict(img=pixels(number), sample_idx=number, other='left out')
        if self.labels:
            results['gt_label'] = number % 3
        return PackFace()(results)


def check(batch: dict, first: int, count: int, labels: bool = True) -> None:
    numbers = np.arange(first, first + count)
    assert set(batch) == {'inputs', 'sample_idx'} | ({'gt_label'} if labels else set())
    assert batch['inputs'].dtype == torch.uint8
    expected = np.stack([pixels(n) for n in numbers]).transpose(0, 3, 1, 2)
    np.testing.assert_array_equal(batch['inputs'], expected)
    np.testing.assert_array_equal(batch['sample_idx'], numbers)
    if labels:
        np.testing.assert_array_equal(batch['gt_label'], numbers % 3)


@pytest.mark.parametrize('labels', [True, False])
def test_in_this_process(labels):
    data = Faces(4, labels)
    check(collate_faces([data[i] for i in range(4)]), 0, 4, labels)
    assert collate_faces([data[0]])['inputs'].shape == (1, 3, 4, 5)


def loader(count: int, **options) -> DataLoader:
    return DataLoader(Faces(count), 4, collate_fn=collate_faces, **options)


@pytest.mark.parametrize('start', ['fork', 'forkserver'])
def test_workers(start):
    """Batches of a worker are right, also a smaller one at the end, in each epoch."""
    batches = loader(
        90, num_workers=2, multiprocessing_context=start, persistent_workers=True
    )
    for _ in range(2):
        for number, batch in enumerate(batches):
            check(batch, 4 * number, min(4, 90 - 4 * number))


def test_what_is_held_is_not_written_to():
    """Batches, and views of some of their pixels, outlive all later ones."""
    held, views = [], []
    for number, batch in enumerate(loader(120, num_workers=1)):
        if number % 3 == 0:
            held.append((number, batch))
        elif number % 3 == 1:
            views.append((4 * number + 2, batch['inputs'][2, 1:]))
        del batch
    gc.collect()
    for number, batch in held:
        check(batch, 4 * number, 4)
    for number, view in views:
        np.testing.assert_array_equal(view, pixels(number).transpose(2, 0, 1)[1:])


def test_memory_is_taken_again(monkeypatch):
    """A worker has as many batches in memory as are on their way at once."""
    monkeypatch.setattr(collate, 'get_worker_info', lambda: 1)
    monkeypatch.setattr(collate._Shared, 'kept', [])
    data = Faces(8)

    def sent(first: int) -> torch.Tensor:
        shared = collate_faces([data[first + i] for i in range(4)])['inputs']
        arrive, arguments = shared.__reduce__()
        return arrive(*arguments)

    first = sent(0)
    second = sent(4)
    assert first.data_ptr() != second.data_ptr()
    place, view = first.data_ptr(), first[1:, :, 1]
    del first
    assert sent(4).data_ptr() != place, 'a view of it is left'
    del view
    assert sent(4).data_ptr() == place
    assert len(collate._Shared.kept) == 3
    monkeypatch.setattr(collate, 'get_worker_info', lambda: None)
    check(
        dict(inputs=second, sample_idx=np.arange(4, 8), gt_label=np.arange(4, 8) % 3),
        4,
        4,
    )


def test_a_copy_in_another_process_does_not_free_it():
    """The end of a tensor in a child of fork is not that in the main process."""
    batches = iter(loader(200, num_workers=1))
    held = next(batches)
    child = os.fork()
    if not child:
        del held
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    for _ in range(20):
        next(batches)
    check(held, 0, 4)


def test_other_shapes_do_not_mix(monkeypatch):
    monkeypatch.setattr(collate, 'get_worker_info', lambda: 1)
    monkeypatch.setattr(collate._Shared, 'kept', [])
    data = Faces(8)
    for count in (4, 3, 4):
        batch = collate_faces([data[i] for i in range(count)])['inputs']
        assert batch.images.shape == (count, *SHAPE)
        batch.memory[-1] = 0
    assert len(collate._Shared.kept) == 1, 'free ones of other shapes are gone'
    batches = [collate_faces([data[0]])['inputs'] for _ in range(20)]
    for batch in batches:
        batch.memory[-1] = 0
    collate_faces([data[0]])
    assert len(collate._Shared.kept) <= 5


def test_the_preprocessor_makes_samples_of_it():
    data = Faces(4)
    batch = collate_faces([data[i] for i in range(4)])
    out = FaceDataPreprocessor()(batch)
    expected = np.stack([pixels(n)[:, :, ::-1] for n in range(4)]).transpose(0, 3, 1, 2)
    np.testing.assert_allclose(out['inputs'], (expected - 127.5) / 127.5, atol=1e-6)
    assert out['inputs'].is_contiguous()
    samples = out['data_samples']
    assert len(samples) == 4
    assert samples.gt_label.tolist() == [0, 1, 2, 0]
    assert [s.sample_idx for s in samples] == [0, 1, 2, 3]
    assert [s.gt_label.item() for s in samples] == [0, 1, 2, 0]
    assert samples[-1] is list(samples)[3], 'what is set on a sample stays'
    batch = collate_faces([Faces(2, labels=False)[0]])
    (sample,) = FaceDataPreprocessor()(batch)['data_samples']
    assert 'gt_label' not in sample


def test_collated_by_others():
    """mmengine's pseudo_collate, its default, makes lists; ours takes PackInputs."""
    data = Faces(3)
    lists = FaceDataPreprocessor()(pseudo_collate([data[i] for i in range(3)]))
    ours = FaceDataPreprocessor()(collate_faces([data[i] for i in range(3)]))
    assert torch.equal(lists['inputs'], ours['inputs'])
    assert torch.equal(lists['data_samples'].gt_label, ours['data_samples'].gt_label)
    with pytest.raises(UserError, match='collate_faces brings'):
        FaceDataPreprocessor()(default_collate([data[0]]))

    items = [PackInputs()(dict(img=pixels(n), gt_label=n)) for n in range(2)]
    out = FaceDataPreprocessor()(collate_faces(items))
    assert [s.gt_label.item() for s in out['data_samples']] == [0, 1]
    assert out['inputs'].shape == (2, 3, 4, 5)


def test_what_does_not_fit_is_refused():
    items = [dict(inputs=np.zeros((h, 4, 3), np.uint8), sample_idx=h) for h in (4, 5)]
    with pytest.raises(UserError, match=r'differ in size.*\(4, 4\), \(5, 4\)'):
        collate_faces(items)
    for image in (np.zeros((4, 4, 3), np.float32), np.zeros((4, 4), np.uint8)):
        with pytest.raises(UserError, match='PackFace: expected uint8'):
            PackFace()(dict(img=image, sample_idx=0))


def test_registered():
    assert FUNCTIONS.get('collate_faces') is collate_faces
    assert mmengine.registry.FUNCTIONS.get('collate_faces') is collate_faces
    assert isinstance(TRANSFORMS.build(dict(type='PackFace')), PackFace)
