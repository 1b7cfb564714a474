"""CosFace: large margin cosine loss (arXiv 1801.09414), also AM-Softmax.

psi(theta) = cos(theta) - m, eta(theta) = cos(theta), scale s (eq. 4).
"""

from torch import Tensor

from mmhyperface.registry import MODELS

from .base import Context, SoftmaxLoss


@MODELS.register_module()
class CosFaceLoss(SoftmaxLoss):
    """Softmax with an additive cosine margin.

    Its characteristic function has slope 1: detachment would change nothing.

    Args:
        s: Scale of the logits, > 0.
        m: Margin of the cosine.
        loss_weight: Factor of L.
    """

    margins = ('m',)

    def __init__(
        self, s: float = 64.0, m: float = 0.35, loss_weight: float = 1.0
    ) -> None:
        super().__init__(loss_weight, s)
        self.m = m

    def psi(self, own: Tensor, context: Context) -> Tensor:
        return own - context['m']
