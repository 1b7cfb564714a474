"""ArcFace: additive angular margin loss (arXiv 1801.07698).

psi(theta) = cos(theta + m), eta(theta) = cos(theta), scale s (eq. 3).
"""

from torch import Tensor

from mmhyperface.registry import MODELS
from mmhyperface.utils.errors import require_one_of

from .base import Context, SoftmaxLoss
from .characteristic import BEYOND, added_angle


@MODELS.register_module()
class ArcFaceLoss(SoftmaxLoss):
    """Softmax with an additive angular margin.

    Args:
        s: Scale of the logits, > 0.
        m: Margin in radians.
        beyond: What stands where theta + m > pi: ``none``, ``clip``, ``linear``,
            ``shift`` or ``easy``; see :func:`~.characteristic.added_angle`.
        detach: Characteristic gradient detachment, as in insightface's and
            OpenSphere's code. Without it the gradient is unbounded at theta = 0.
        loss_weight: Factor of L.
    """

    margins = ('m',)

    def __init__(
        self,
        s: float = 64.0,
        m: float = 0.5,
        beyond: str = 'none',
        detach: bool = True,
        loss_weight: float = 1.0,
    ) -> None:
        super().__init__(loss_weight, s, detach)
        require_one_of(self, 'beyond', beyond, BEYOND)
        self.m = m
        self.beyond = beyond

    def psi(self, own: Tensor, context: Context) -> Tensor:
        return added_angle(own, context['m'], self.beyond)
