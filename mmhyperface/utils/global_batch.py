"""What the ranks must know of one another's batch."""

from collections.abc import Sequence
from datetime import timedelta
from functools import cache
from typing import Any

import torch
import torch.distributed
from mmengine.dist import all_gather, all_reduce, get_dist_info, get_world_size
from torch import Tensor


def send(numbers: Sequence[Tensor], device: torch.device) -> Sequence[Tensor]:
    """Tensors [n] of one type from the host to a device, in one copy.

    Nobody waits for it.
    """
    if device.type == 'cpu':
        return numbers
    packed = torch.cat(list(numbers))
    if device.type == 'cuda':
        packed = packed.pin_memory()
    packed = packed.to(device, non_blocking=True)
    return packed.split([len(part) for part in numbers])


def batch_sizes(local: Tensor) -> list[int]:
    """How many samples each rank has; ``local`` [B, ...] are those of this one."""
    if get_world_size() == 1:
        return [len(local)]
    return _all_gather(torch.tensor([len(local)], device='cpu')).tolist()


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

    The identity on one process. What is on the host is exchanged there.

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
    whole = _all_gather(local.contiguous())
    if min(sizes) == largest:
        return whole
    parts = zip(whole.split(largest), sizes, strict=True)
    return torch.cat([part[:size] for part, size in parts])


def _all_gather(local: Tensor) -> Tensor:
    """Tensors of one shape of all ranks, one after the other."""
    backend, group = torch.distributed.get_backend(), None
    if local.device.type == 'cpu' and backend != 'gloo':
        # NCCL knows the device only, for which the host would have to wait.
        group = _group_of_hosts(torch.distributed.group.WORLD)
    elif backend == 'nccl':
        # A list of tensors would be copied out of one like this.
        whole = local.new_empty(get_world_size() * len(local), *local.shape[1:])
        collective('all_gather_single', 'all_gather_into_tensor')(whole, local)
        return whole
    return torch.cat(all_gather(local, group))


@cache
def _group_of_hosts(world: Any) -> Any:
    # A rank that works alone, or hangs, is waited for as long as the other backend
    # would. (Old versions of torch do not tell how long that is.)
    store = torch.distributed.distributed_c10d._get_default_store()
    timeout = getattr(store, 'timeout', timedelta(days=1))
    return torch.distributed.new_group(backend='gloo', timeout=timeout)


def collective(*names: str) -> Any:
    """The first of torch's functions that there is: torch 2.14 renames some."""
    return next(filter(None, (getattr(torch.distributed, n, None) for n in names)))


def mean_over_ranks(scalars: dict[str, Tensor]) -> dict[str, Tensor]:
    """The mean of each scalar over the ranks, in one small exchange."""
    values = torch.stack([value.detach().float() for value in scalars.values()])
    all_reduce(values, op='mean')
    return dict(zip(scalars, values, strict=True))
