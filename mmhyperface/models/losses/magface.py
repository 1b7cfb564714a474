"""MagFace: a universal representation for recognition and quality (arXiv 2103.06627).

With a = clip(||x||, l_a, u_a): psi(theta) = cos(theta + m(a)), eta(theta) =
cos(theta), scale s, m(a) linear from l_m at l_a to u_m at u_a, and the
regulariser lam_g * (1/a + a/u_a^2).
"""

from torch import Tensor

from mmhyperface.registry import MODELS
from mmhyperface.utils.errors import require_one_of

from .base import Context, SoftmaxLoss, require
from .batch import Batch
from .characteristic import BEYOND, added_angle


@MODELS.register_module()
class MagFaceLoss(SoftmaxLoss):
    """ArcFace whose margin grows with the feature norm, which is drawn upwards.

    Args:
        s: Scale of the logits, > 0.
        l_a, u_a: Bounds of the feature norm, 0 < l_a < u_a.
        l_m, u_m: Margins in radians at those bounds.
        lam_g: Weight of the regulariser (lambda_g).
        beyond: As in :class:`ArcFaceLoss`; the official code uses ``easy``.
        detach: Detach the margin's gradient; MagFace learns the norm through the
            margin, so the paper's loss does not.
        loss_weight: Factor of L, regulariser included.
    """

    def __init__(
        self,
        s: float = 64.0,
        l_a: float = 10.0,
        u_a: float = 110.0,
        l_m: float = 0.45,
        u_m: float = 0.8,
        lam_g: float = 35.0,
        beyond: str = 'none',
        detach: bool = False,
        loss_weight: float = 1.0,
    ) -> None:
        super().__init__(loss_weight, s, detach)
        require(0 < l_a < u_a, f'MagFaceLoss: need 0 < l_a < u_a, got {l_a}, {u_a}')
        require_one_of(self, 'beyond', beyond, BEYOND)
        self.l_a, self.u_a = l_a, u_a
        self.l_m, self.u_m = l_m, u_m
        self.lam_g = lam_g
        self.beyond = beyond

    def context(self, batch: Batch) -> Context:
        a = batch.norm.clamp(self.l_a, self.u_a)
        slope = (self.u_m - self.l_m) / (self.u_a - self.l_a)
        return {'margin': self.l_m + slope * (a - self.l_a)}

    def psi(self, own: Tensor, context: Context) -> Tensor:
        return added_angle(own, context['margin'], self.beyond)

    def objective(self, data_term: Tensor, batch: Batch) -> Tensor:
        a = batch.norm.clamp(self.l_a, self.u_a)
        regulariser = (1 / a + a / self.u_a**2).mean()
        return self.loss_weight * (data_term + self.lam_g * regulariser)
