"""The dense engine: all cosines at once. The readable reference."""

import torch
from torch import Tensor

from .contract import Context, Loss
from .fold import Fold, fold, neutral
from .sphere import clamp_cosine, unit


def dense(
    features: Tensor,
    weight: Tensor,
    target: Tensor,
    context: Context,
    loss: Loss,
    centres: str = 'normalize',
    expected: float | None = None,
) -> Fold:
    """Fold the loss terms of some classes, without each sample's own.

    Args:
        features: Unit features, [B, D].
        weight: Centres of the classes, [c, D], c >= 0.
        target: Row of each sample's own class, int64 [B]; -1 if it is not among
            these classes.
        context: What the loss needs besides the cosine.
        loss: The loss, called on cosines [B, any number of classes].
        centres: ``normalize`` divides the rows by their norms in the graph,
            ``project`` first puts the rows themselves on the sphere, in place, and
            takes their gradient as if they were free, ``unit`` does the latter with
            rows that lie on the sphere.
        expected: Gradient by the fold, but for one factor of the whole loss, if it is
            the same for each sample; some engines are faster then.

    Returns:
        The fold of the classes.
    """
    if centres == 'project':
        # Through .data, since an earlier forward of the same step (gradient
        # accumulation) may have saved the weight: its values hardly change.
        weight.data.copy_(unit(weight.data)[0])
    rows = weight.to(features.dtype)
    if centres == 'normalize':
        rows, _ = unit(rows)
    cos = clamp_cosine(features @ rows.T)
    own = target[:, None] == torch.arange(len(weight), device=target.device)
    hardest = features.new_full((len(features), 1), -1)
    if len(weight):
        hardest = cos.detach().masked_fill(own, -1).amax(1, keepdim=True)
    # Without classes too, since backward is an exchange between ranks.
    others = loss.others(cos, context).masked_fill(own, neutral(loss))
    return Fold(fold(others, loss), hardest)
