"""The dense engine: all cosines at once. The readable reference."""

from typing import TYPE_CHECKING

from torch import Tensor

if TYPE_CHECKING:
    from mmhyperface.models.losses.base import Context, HypersphereLoss


def dense(
    features: Tensor,
    centres: Tensor,
    target: Tensor,
    context: 'Context',
    loss: 'HypersphereLoss',
) -> tuple[Tensor, Tensor]:
    """Fold the loss terms of all classes but each sample's own.

    Args:
        features: Unit features, [B, D].
        centres: Unit class centres, [C, D].
        target: Own class of each sample, int64 [B].
        context: What the loss needs besides the cosine.
        loss: The loss, called on cosines [B, C].

    Returns:
        ``loss.fold`` over the other classes, [B, 1], and the largest cosine to
        another centre, [B, 1], detached.
    """
    own = target[:, None]
    cos = (features @ centres.T).clamp(-1, 1)
    others = loss.others(cos, context).scatter(1, own, loss.neutral)
    hardest = cos.detach().scatter(1, own, -1).amax(1, keepdim=True)
    return loss.fold(others), hardest
