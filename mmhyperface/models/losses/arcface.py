"""ArcFace: additive angular margin loss (arXiv 1801.07698).

psi(theta) = cos(theta + m), eta(theta) = cos(theta), scale s (eq. 3).
"""

from torch import Tensor

from mmhyperface.registry import MODELS

from .base import Context, SoftmaxLoss, require
from .characteristic import BEYOND, added_angle, characteristic


@MODELS.register_module()
class ArcFaceLoss(SoftmaxLoss):
    """Softmax with an additive angular margin.

    Args:
        s: Scale of the logits, > 0.
        m: Margin in radians.
        beyond: What stands where theta + m > pi: ``none``, ``clip``, ``linear``
            or ``easy``; see :func:`~.characteristic.added_angle`.
        detach: Characteristic gradient detachment, as in insightface's and
            OpenSphere's code. Without it the gradient is unbounded at theta = 0.
        loss_weight: Factor of L.
    """

    def __init__(
        self,
        s: float = 64.0,
        m: float = 0.5,
        beyond: str = 'none',
        detach: bool = True,
        loss_weight: float = 1.0,
    ) -> None:
        super().__init__(loss_weight)
        require(s > 0, f'ArcFaceLoss: s must be positive, got {s}')
        require(
            beyond in BEYOND,
            f'ArcFaceLoss: beyond must be one of {BEYOND}, got {beyond!r}',
        )
        self.s = s
        self.m = m
        self.beyond = beyond
        self.detach = detach

    def psi(self, own: Tensor) -> Tensor:
        return added_angle(own, self.m, self.beyond)

    def target(self, own: Tensor, context: Context) -> Tensor:
        return self.s * characteristic(own, self.psi, self.detach)

    def others(self, cos: Tensor, context: Context) -> Tensor:
        return self.s * cos
