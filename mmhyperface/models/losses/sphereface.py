"""SphereFace: deep hypersphere embedding (arXiv 1704.08063).

psi(theta) = (-1)^k cos(m theta) - 2k with k = floor(m theta / pi) (eq. 7),
eta(theta) = cos(theta), with the constant scale s that SphereFace-R and
OpenSphere give it. The 2017 code scaled by the feature norm instead: that is
``SphereFaceRLoss(version='v0', feature_norm='none')``.
"""

from torch import Tensor

from mmhyperface.registry import MODELS

from .base import Context, SoftmaxLoss, require
from .characteristic import unrolled_angle


@MODELS.register_module()
class SphereFaceLoss(SoftmaxLoss):
    """Softmax with the multiplicative angular margin of SphereFace.

    Args:
        s: Scale of the logits, > 0.
        m: Margin, a real number >= 1.
        detach: Characteristic gradient detachment.
        loss_weight: Factor of L.
    """

    margins = ('m',)

    def __init__(
        self,
        s: float = 30.0,
        m: float = 1.5,
        detach: bool = True,
        loss_weight: float = 1.0,
    ) -> None:
        super().__init__(loss_weight, s, detach)
        name = type(self).__name__
        require(m >= 1, f'{name}: m must be a real number >= 1, got {m}')
        self.m = m

    def psi(self, own: Tensor, context: Context) -> Tensor:
        return unrolled_angle(own, context['m'])
