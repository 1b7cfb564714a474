"""CurricularFace: adaptive curriculum learning loss (arXiv 2004.00288).

psi(theta_y) = cos(theta_y + m); another class is hard when cos(theta_j) >
cos(theta_y + m), and then eta = cos(theta_j) (t + cos(theta_j)), else cos(theta_j);
t is a running mean of cos(theta_y).
"""

import torch
from torch import Tensor

from mmhyperface.registry import MODELS
from mmhyperface.utils.errors import require_one_of

from .base import Context, SoftmaxLoss, require
from .batch import Batch
from .characteristic import BEYOND, added_angle


@MODELS.register_module()
class CurricularFaceLoss(SoftmaxLoss):
    """ArcFace whose hard negatives gain weight as training proceeds.

    The running mean is over the global batch and starts at 0.

    Args:
        s: Scale of the logits, > 0.
        m: Margin in radians.
        momentum: Momentum of t, in (0, 1].
        beyond: As in :class:`ArcFaceLoss`; the official code uses ``linear``.
        detach: Detach the target's characteristic; the official code does not.
        loss_weight: Factor of L.
    """

    keeps_statistics = True
    margins = ('m',)
    t: Tensor

    def __init__(
        self,
        s: float = 64.0,
        m: float = 0.5,
        momentum: float = 0.01,
        beyond: str = 'linear',
        detach: bool = False,
        loss_weight: float = 1.0,
    ) -> None:
        super().__init__(loss_weight, s, detach)
        require(
            0 < momentum <= 1,
            f'CurricularFaceLoss: momentum must be in (0, 1], got {momentum}',
        )
        require_one_of(self, 'beyond', beyond, BEYOND)
        self.m = m
        self.momentum = momentum
        self.beyond = beyond
        self.register_buffer('t', torch.tensor(0.0))

    @torch.no_grad()
    def observe(self, batch: Batch) -> None:
        self.t.lerp_(batch.own.mean().to(self.t), self.momentum)

    def context(self, batch: Batch) -> Context:
        context = super().context(batch)
        own = batch.own.detach()
        threshold = added_angle(own, context['m'], 'none')
        t = self.t.to(own.dtype, copy=True).view(1, 1)
        return {**context, 'threshold': threshold, 't': t}

    def psi(self, own: Tensor, context: Context) -> Tensor:
        return added_angle(own, context['m'], self.beyond)

    def eta(self, cos: Tensor, context: Context) -> Tensor:
        hard = cos > context['threshold']
        return torch.where(hard, cos * (context['t'] + cos), cos)
