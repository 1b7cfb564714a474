"""What the ranks must know of one another's batch."""

from collections.abc import Sequence

import torch
from mmengine.dist import all_gather, all_reduce, get_dist_info, get_world_size
from torch import Tensor


def batch_sizes(local: Tensor) -> list[int]:
    """How many samples each rank has; ``local`` [B, ...] are those of this one."""
    if get_world_size() == 1:
        return [len(local)]
    # Filled on the device, which nobody waits for.
    count = local.new_full((1,), len(local), dtype=torch.int64)
    return torch.cat(all_gather(count)).tolist()


def share_of_batch(sizes: Sequence[int]) -> float:
    """The weight of this rank's mean in a mean over the ranks.

    Weighted like this, it is the mean over the samples of all ranks. The weight is 1
    for batches of one size, as OpenMMLab's samplers give them, and 0 for a rank
    without samples.

    Args:
        sizes: How many samples each rank has.
    """
    rank, world = get_dist_info()
    return sizes[rank] * world / max(sum(sizes), 1)


def gather_batch(local: Tensor, sizes: Sequence[int] | None = None) -> Tensor:
    """The global batch [sum of B, ...] of ``local`` [B, ...], without gradient.

    The identity on one process.

    Args:
        local: The samples of this rank, maybe none.
        sizes: How many samples each rank has; by default the ranks ask one another.
    """
    local = local.detach()
    if get_world_size() == 1:
        return local
    sizes = batch_sizes(local) if sizes is None else sizes
    largest = max(sizes)
    if not largest:
        return local
    if len(local) < largest:
        # Backends exchange tensors of one shape.
        padding = local.new_zeros(largest - len(local), *local.shape[1:])
        local = torch.cat([local, padding])
    parts = all_gather(local.contiguous())
    return torch.cat([part[:size] for part, size in zip(parts, sizes, strict=True)])


def mean_over_ranks(scalars: dict[str, Tensor]) -> dict[str, Tensor]:
    """The mean of each scalar over the ranks, in one small exchange."""
    values = torch.stack([value.detach().float() for value in scalars.values()])
    all_reduce(values, op='mean')
    return dict(zip(scalars, values, strict=True))
