"""UniFace: unified cross-entropy loss (Zhou et al., ICCV 2023).

One threshold t parts own and other centres of all samples (eq. 31 and 32):

    L = log(1 + exp(-s (cos theta_y - m) + b))
      + lam sum_{j != y} log(1 + exp(s cos theta_j - b)),

b = s t + log(C - 1) being learned.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmhyperface.registry import MODELS

from .base import Context, DecoupledLoss, require
from .batch import Batch


@MODELS.register_module()
class UniFaceLoss(DecoupledLoss):
    """Binary losses that share one learned threshold.

    Published settings, all with s 64: m 0.4, lam 0.7 (WebFace4M, WebFace42M,
    Glint360K); m 0.45, lam 0.6 (CASIA-WebFace). The authors' code also clamps logits to
    [-s, s], beyond which it has no gradient; here nothing can overflow.

    Where the paper samples a share r of the other classes, set
    ``model.head.sample_rate=r``: the head lets each of those drawn stand for several,
    so that ``lam=r`` gives the paper's loss.

    Args:
        s: Scale of the logits, > 0.
        m: Margin of the cosine.
        lam: Weight of the negatives, > 0.
        r: Share of the negatives for which b starts, at log(10 r C) as in the
            authors' code; > 0.
        loss_weight: Factor of L.
    """

    margins = ('m',)

    def __init__(
        self,
        s: float = 64.0,
        m: float = 0.4,
        lam: float = 0.7,
        r: float = 1.0,
        loss_weight: float = 1.0,
    ) -> None:
        super().__init__(loss_weight)
        for name, value in (('s', s), ('lam', lam), ('r', r)):
            require(value > 0, f'UniFaceLoss: {name} must be positive, got {value}')
        self.s = s
        self.m = m
        self.lam = lam
        self.r = r
        self.bias = nn.Parameter(torch.zeros(1))

    def reset_parameters(self, num_classes: int) -> None:
        nn.init.constant_(self.bias, math.log(10 * self.r * num_classes))

    def context(self, batch: Batch) -> Context:
        return batch.constants(self, (*self.margins, 'bias'))

    def psi(self, own: Tensor, context: Context) -> Tensor:
        return own - context['m']

    def eta(self, cos: Tensor, context: Context) -> Tensor:
        return cos

    def target(self, own: Tensor, context: Context) -> Tensor:
        return -F.logsigmoid(self.s * self.psi(own, context) - context['bias'])

    def others(self, cos: Tensor, context: Context) -> Tensor:
        return -self.lam * F.logsigmoid(context['bias'] - self.s * cos)

    def violates_margin(self, own: Tensor, hardest: Tensor, context: Context) -> Tensor:
        """Whether s (cos theta_y - m) <= b, or s cos theta_j >= b."""
        positive = self.s * (own - context['m']) <= context['bias']
        return positive | (self.s * hardest >= context['bias'])

    def monitor(self, target: Tensor, folded: Tensor) -> dict[str, Tensor]:
        return {
            'bias': self.bias.detach().squeeze(),
            'positive': target.mean(),
            'negative': folded.mean(),
        }
