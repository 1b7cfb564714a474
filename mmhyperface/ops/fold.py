"""What an engine makes of the classes, and how parts of it become the whole."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

if TYPE_CHECKING:
    from mmhyperface.centres import Shard
    from mmhyperface.models.losses.base import HypersphereLoss


class Fold(NamedTuple):
    """The loss terms of some classes, without each sample's own.

    Attributes:
        folded: ``loss.fold`` of the terms, [B, 1].
        hardest: Largest cosine to one of the centres, [B, 1], detached; -1 where
            there is none.
    """

    folded: Tensor
    hardest: Tensor


def merge(folds: Sequence[Fold], loss: 'HypersphereLoss', shard: 'Shard') -> Fold:
    """The fold of all classes from those of parts of them, here and on other ranks.

    A sum takes one exchange of B numbers, a log-sum-exp two (a maximum and a sum).
    The largest cosine, which is for the log, comes with that maximum or takes an
    exchange of its own.
    """
    parts = torch.cat([part.folded for part in folds], dim=1)
    hardest = torch.cat([part.hardest for part in folds], dim=1)
    hardest = hardest.amax(1, keepdim=True)
    if loss.additive:
        return Fold(shard.sum(parts.sum(1, keepdim=True)), shard.max(hardest))
    top = parts.detach().amax(1, keepdim=True)
    top, hardest = shard.max(torch.cat([top, hardest], dim=1)).split(1, dim=1)
    # If there is no other class at all, any number will do.
    top = top.clamp_min(torch.finfo(top.dtype).min)
    sums = shard.sum((parts - top).exp().sum(1, keepdim=True))
    return Fold(top + sums.log(), hardest)
