"""AdaFace: quality adaptive margin (arXiv 2204.00964).

With z = clip(h (||x|| - mu) / (sigma + 1e-3), -1, 1), mu and sigma running means of
the batch's mean and standard deviation of the clipped norms:
psi(theta) = cos(theta - m z) - (m + m z), eta(theta) = cos(theta), scale s.
"""

import math

import torch
from torch import Tensor

from mmhyperface.registry import MODELS

from .base import Context, SoftmaxLoss, require
from .batch import Batch
from .characteristic import angle

# The official code keeps angles this far from 0 and pi, and divides by sigma plus
# the same.
EPS = 1e-3
NORM_RANGE = (1e-3, 100.0)


@MODELS.register_module()
class AdaFaceLoss(SoftmaxLoss):
    """Margins that stress hard samples of good images and spare bad images.

    The statistics are those of the global batch and start as in the official
    code at mean 20 and standard deviation 100.

    Args:
        s: Scale of the logits, > 0.
        m: Margin.
        h: Concentration of the image quality indicator.
        t_alpha: Momentum of the running statistics, in (0, 1].
        detach: Detach the margin's gradient; the official code does not.
        loss_weight: Factor of L.
    """

    keeps_statistics = True
    margins = ('m',)
    norm_mean: Tensor
    norm_std: Tensor

    def __init__(
        self,
        s: float = 64.0,
        m: float = 0.4,
        h: float = 0.333,
        t_alpha: float = 0.01,
        detach: bool = False,
        loss_weight: float = 1.0,
    ) -> None:
        super().__init__(loss_weight, s, detach)
        require(
            0 < t_alpha <= 1, f'AdaFaceLoss: t_alpha must be in (0, 1], got {t_alpha}'
        )
        self.m = m
        self.h = h
        self.t_alpha = t_alpha
        self.register_buffer('norm_mean', torch.tensor(20.0))
        self.register_buffer('norm_std', torch.tensor(100.0))

    @torch.no_grad()
    def observe(self, batch: Batch) -> None:
        norm = batch.norm.clamp(*NORM_RANGE)
        self.norm_mean.lerp_(norm.mean().to(self.norm_mean), self.t_alpha)
        if len(norm) > 1:  # one sample has no deviation
            self.norm_std.lerp_(norm.std().to(self.norm_std), self.t_alpha)

    def context(self, batch: Batch) -> Context:
        norm = batch.norm.detach().clamp(*NORM_RANGE)
        z = self.h * (norm - self.norm_mean) / (self.norm_std + EPS)
        return {**super().context(batch), 'quality': z.clamp(-1, 1)}

    def psi(self, own: Tensor, context: Context) -> Tensor:
        m = context['m']
        m_z = m * context['quality']
        moved = (angle(own) - m_z).clamp(EPS, math.pi - EPS)
        return moved.cos() - (m + m_z)
