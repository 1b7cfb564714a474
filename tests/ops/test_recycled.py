"""Memory that is used again: only when nobody can see it any more."""

import pytest
import torch
from test_blocked import LOSSES

from mmhyperface.models import HypersphereHead
from mmhyperface.ops import Blocked, recycled

ROWS = torch.empty(7, 4)


@pytest.fixture(autouse=True)
def _small_memory_too(monkeypatch):
    monkeypatch.setattr(recycled, 'LARGE', 1)
    monkeypatch.setattr(recycled, '_free', {})


def test_dropped_memory_is_used_again():
    first = recycled.empty(5, ROWS)
    assert first.shape == (5, 4)
    assert first.dtype == ROWS.dtype
    pointer = first.data_ptr()
    second = recycled.empty(5, ROWS)
    assert second.data_ptr() != pointer
    del first
    assert recycled.empty(5, ROWS).data_ptr() == pointer


@pytest.mark.parametrize(
    'keep',
    [
        lambda x: x,
        lambda x: x.detach(),
        lambda x: x[2:3],
        lambda x: x.T,
        lambda x: x.view(torch.int32),
        lambda x: x.flatten()[::2],
        lambda x: x.numpy(),
        lambda x: torch.nn.Parameter(x),
        lambda x: x.untyped_storage(),
    ],
)
def test_whatever_refers_to_memory_keeps_it(keep):
    tensor = recycled.empty(5, ROWS)
    pointer = tensor.data_ptr()
    kept = keep(tensor)
    del tensor
    others = [recycled.empty(5, ROWS) for _ in range(3)]
    assert all(other.data_ptr() != pointer for other in others)
    del kept
    assert recycled.empty(5, ROWS).data_ptr() == pointer


def test_other_shapes_and_types_of_the_same_size():
    pointer = recycled.empty(6, ROWS).data_ptr()
    assert recycled.empty(3, ROWS.double()).data_ptr() == pointer
    assert recycled.empty(8, ROWS[:, :3]).data_ptr() == pointer
    assert recycled.empty(0, ROWS).shape == (0, 4)


def test_memory_of_sizes_that_are_gone_is_given_up():
    for count in (5, 6, 7):
        recycled.empty(count, ROWS)
    assert set(recycled._free) == {7 * 16}


def test_small_memory_is_left_to_torch(monkeypatch):
    monkeypatch.setattr(recycled, 'LARGE', 1000)
    recycled.empty(5, ROWS)
    assert not recycled._free


@pytest.mark.parametrize('name', LOSSES)
def test_gradients_that_are_kept_are_not_overwritten(name):
    """By later steps, while those that are dropped leave their memory behind."""
    head = HypersphereHead(300, 8, LOSSES[name](), sharded=False)
    head.engine = Blocked(block=100)
    optimizer = torch.optim.SGD([head.weight], lr=0.1, momentum=0.9)
    kept, copies, pointers = [], [], []
    for seed in range(9):
        x = torch.randn(6, 8, generator=torch.Generator().manual_seed(seed))
        y = torch.randint(300, (6,), generator=torch.Generator().manual_seed(seed))
        head.loss(x.requires_grad_(), y)['loss'].backward()
        grad = head.weight.grad
        if seed < 3:
            kept.append([grad, grad[5:9].detach(), grad.T][seed])
            copies.append(kept[-1].clone())
        pointers.append(grad.data_ptr())
        del grad
        optimizer.step()
        optimizer.zero_grad()
    for value, copy in zip(kept, copies, strict=True):
        assert torch.equal(value, copy)
    assert len({*pointers[:4]}) == 4
    assert len({*pointers[3:]}) == 1
