"""What the ranks must know of one another's batch."""

import torch
from mmengine.dist import all_gather, all_reduce
from torch import Tensor


def gather_batch(local: Tensor) -> Tensor:
    """The global batch [sum of B, ...] of ``local`` [B, ...], without gradient.

    Every rank contributes as many samples, as OpenMMLab's samplers give them; the
    identity on one process.
    """
    return torch.cat(all_gather(local.detach().contiguous()))


def mean_over_ranks(scalars: dict[str, Tensor]) -> dict[str, Tensor]:
    """The mean of each scalar over the ranks, in one small exchange."""
    values = torch.stack([value.detach().float() for value in scalars.values()])
    all_reduce(values, op='mean')
    return dict(zip(scalars, values, strict=True))
