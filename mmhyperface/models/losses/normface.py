"""NormFace: L2 hypersphere embedding for face verification (arXiv 1704.06369).

psi(theta) = eta(theta) = cos(theta), with a constant scale s; also known as
CocoLoss or normalised softmax.
"""

from mmhyperface.registry import MODELS

from .base import SoftmaxLoss


@MODELS.register_module()
class NormFaceLoss(SoftmaxLoss):
    """Softmax over s * cos(theta), without a margin.

    Args:
        s: Scale of the logits, > 0.
        loss_weight: Factor of L.
    """

    def __init__(self, s: float = 30.0, loss_weight: float = 1.0) -> None:
        super().__init__(loss_weight, s)
