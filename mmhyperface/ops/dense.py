"""The dense engine: all cosines at once. The readable reference."""

from typing import TYPE_CHECKING

from torch import Tensor

from .sphere import unit

if TYPE_CHECKING:
    from mmhyperface.models.losses.base import Context, HypersphereLoss


def dense(
    features: Tensor,
    weight: Tensor,
    on_sphere: bool,
    target: Tensor,
    context: 'Context',
    loss: 'HypersphereLoss',
) -> tuple[Tensor, Tensor]:
    """Fold the loss terms of all classes but each sample's own.

    Args:
        features: Unit features, [B, D].
        weight: Class centres, [C, D].
        on_sphere: Whether the centres are unit vectors already, to be used as they
            are; else they are normalised in the graph.
        target: Own class of each sample, int64 [B].
        context: What the loss needs besides the cosine.
        loss: The loss, called on cosines [B, C].

    Returns:
        ``loss.fold`` over the other classes, [B, 1], and the largest cosine to
        another centre, [B, 1], detached.
    """
    centres = weight.to(features.dtype)
    if not on_sphere:
        centres, _ = unit(centres)
    cos = (features @ centres.T).clamp(-1, 1)
    hardest = cos.detach().scatter(1, target[:, None], -1).amax(1, keepdim=True)
    return loss.fold_others(cos, target, context), hardest
