"""What an engine makes of the classes, and how parts of it become the whole."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from .contract import Loss, Reduction


class Fold(NamedTuple):
    """The loss terms of some classes, without each sample's own.

    Attributes:
        folded: Sum or log-sum-exp of the terms, [B, 1].
        hardest: Largest cosine to one of the centres, [B, 1], detached; -1 where
            there is none.
    """

    folded: Tensor
    hardest: Tensor


def neutral(loss: Loss) -> float:
    """The term that leaves the fold as it is."""
    return 0.0 if loss.additive else float('-inf')


def fold(terms: Tensor, loss: Loss) -> Tensor:
    """Sum or log-sum-exp, [B, 1], of terms [B, c]."""
    if loss.additive:
        return terms.sum(1, keepdim=True)
    return terms.logsumexp(1, keepdim=True)


def merge(folds: Sequence[Fold], loss: Loss, ranks: Reduction) -> Fold:
    """The fold of all classes from those of parts of them, here and on other ranks.

    A sum takes one exchange of B numbers, a log-sum-exp two (a maximum and a sum).
    The largest cosine, which is for the log, comes with that maximum or takes an
    exchange of its own.
    """
    parts = torch.cat([part.folded for part in folds], dim=1)
    hardest = torch.cat([part.hardest for part in folds], dim=1)
    hardest = hardest.amax(1, keepdim=True)
    if loss.additive:
        return Fold(ranks.sum(parts.sum(1, keepdim=True)), ranks.max(hardest))
    top = parts.detach().amax(1, keepdim=True)
    top, hardest = ranks.max(torch.cat([top, hardest], dim=1)).split(1, dim=1)
    # If there is no other class at all, any number will do.
    top = top.clamp_min(torch.finfo(top.dtype).min)
    sums = ranks.sum((parts - top).exp().sum(1, keepdim=True))
    return Fold(top + sums.log(), hardest)
