"""Collectives between local, replicated and partial values, against one process."""

import itertools

import pytest
import torch
from mmengine.dist import get_dist_info
from runs import spawn

from mmhyperface.centres import Shard
from mmhyperface.engine.distributed import init_process_group


@pytest.mark.parametrize('world', [1, 2, 3, 4, 7, 64])
@pytest.mark.parametrize('classes', [1, 2, 3, 11, 252, 507, 1_000_003])
def test_ranges_are_even_and_complete(classes, world):
    shards = [Shard(classes, rank, world) for rank in range(world)]
    assert shards[0].start == 0
    assert shards[-1].stop == classes
    for earlier, later in itertools.pairwise(shards):
        assert earlier.stop == later.start
    sizes = [len(shard) for shard in shards]
    # Larger ones first, by one at most.
    assert sizes == sorted(sizes, reverse=True)
    assert max(sizes) - min(sizes) <= 1
    for shard in shards:
        ranges = [(other.start, other.stop) for other in shards]
        assert [shard.range_of(rank) for rank in range(world)] == ranges


def test_one_process_exchanges_nothing():
    shard = Shard(11)
    x = torch.randn(3, 2, requires_grad=True)
    assert shard.gather(x, [3]) is shard.replicate(x, [3]) is x
    assert shard.enter(x) is shard.sum(x) is x
    assert torch.equal(shard.max(x), x)
    assert not shard.max(x).requires_grad
    assert repr(shard) == 'Shard(classes 0 to 11 of 11, rank 0 of 1)'


BATCH = 4
CLASSES = 11


def tensors(world: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The global batch, the centres, and a parameter of all ranks."""
    generator = torch.Generator().manual_seed(world)
    return (
        torch.randn(BATCH * world, 3, generator=generator, dtype=torch.float64),
        torch.randn(CLASSES, 3, generator=generator, dtype=torch.float64),
        torch.randn(1, generator=generator, dtype=torch.float64),
    )


def network(local: torch.Tensor, slope: torch.Tensor) -> torch.Tensor:
    """What each rank does to its samples, with a parameter that DDP knows."""
    return (local * slope).sin()


def objective(shard: Shard, local, rows, slope, bias) -> torch.Tensor:
    """Something that crosses every border; the bias is used on both sides of one."""
    features = network(local, slope)
    sizes = [BATCH] * shard.world_size
    norms = shard.replicate(features.norm(dim=1, keepdim=True), sizes)
    everything = shard.gather(features, sizes)
    logits = everything @ rows.T * shard.enter(bias * norms)
    top = shard.max(logits.detach().amax(1, keepdim=True) if len(rows) else norms * 0)
    total = shard.sum((logits - top).exp().sum(1, keepdim=True))
    return ((total.log() + top) * norms + bias).mean()


def cross(world: int) -> None:
    init_process_group('pytorch')
    rank, _ = get_dist_info()
    for classes in (CLASSES, 2):
        x, w, bias = tensors(world)
        w, slope = w[:classes], bias + 1
        leaves = [leaf.clone().requires_grad_() for leaf in (x, w, slope, bias)]
        whole = objective(Shard(classes), *leaves)
        expected = torch.autograd.grad(whole, leaves)

        shard = Shard(classes, rank, world)
        mine = slice(rank * BATCH, (rank + 1) * BATCH)
        rows = slice(shard.start, shard.stop)
        local = [x[mine], w[rows], slope, bias]
        local = [leaf.clone().requires_grad_() for leaf in local]
        value = objective(shard, *local)
        by_x, by_rows, by_slope, by_bias = torch.autograd.grad(value, local)
        torch.testing.assert_close(value, whole.detach())
        # As DDP is about to average it over the ranks.
        torch.testing.assert_close(by_x / world, expected[0][mine])
        torch.testing.assert_close(by_rows, expected[1][rows])
        torch.distributed.all_reduce(by_slope)
        torch.testing.assert_close(by_slope / world, expected[2])
        # Of replicated values each rank has the complete gradient.
        torch.testing.assert_close(by_bias, expected[3])

    shard = Shard(2, rank, world)
    value = torch.tensor([[float(rank)]])
    gathered = torch.arange(float(world))[:, None]
    assert torch.equal(shard.gather(value, [1] * world), gathered)
    assert torch.equal(shard.replicate(value, [1] * world), gathered)
    assert torch.equal(shard.sum(value), gathered.sum(0, keepdim=True))
    assert torch.equal(shard.max(value), gathered[-1:])
    # The arguments stay as they are.
    assert value.item() == rank


def test_values_and_gradients_are_those_of_one_process():
    spawn(3, cross, 3)
