"""SphereFace2: binary classification is all you need (arXiv 2108.01513).

C one-vs-all problems that share the centres' sphere:

    L = (lam/r)     log(1 + exp(-r (g(cos theta_y) - m) - b))
      + ((1-lam)/r) sum_{j != y} log(1 + exp(r (g(cos theta_j) + m) + b))

    g(z) = 2 ((z + 1) / 2)^t - 1,

written here for margin type C. Types A and M (appendix) move the target's angle
to min(pi, theta + m) or min(pi, m theta) before g, and leave the others alone.

For speaker verification (Han et al., Exploring binary classification loss for speaker
verification, ICASSP 2023) wespeaker trains a variant, ``SphereFace2Loss('A', r=32,
symmetric=True, beyond='shift', detach=False, bias_init=0, loss_weight=32)`` here, with
a margin that grows from 0. It moves the others' angles too, to theta - m, and beyond
pi cos(theta_y) + cos(m) - 1 stands for cos(theta_y + m).
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmhyperface.registry import MODELS
from mmhyperface.utils.errors import require_one_of

from .base import Context, DecoupledLoss, require
from .batch import Batch
from .characteristic import BEYOND, added_angle, characteristic, multiplied_angle

MARGIN_TYPES = ('C', 'A', 'M')


def balanced_bias(num_classes: int, lam: float, a_y: float, a_j: float) -> float:
    """The bias at which pull and push of a new network balance at cos = 0.

    Solves lam * sigmoid(-(a_y + b)) = (1 - lam) (C - 1) * sigmoid(a_j + b) for b,
    where ``a_y`` and ``a_j`` are the logits of the own and of another class without
    the bias.
    """
    z = lam / ((1 - lam) * (num_classes - 1))
    # With q = exp(a_j + b): q^2 e^(a_y - a_j) + (1 - z) q - z = 0. Of the two
    # forms of its positive root, each is free of cancellation on one side of z = 1.
    # Half the exponent, so that a large scale does not underflow when squared.
    root = math.hypot(1 - z, 2 * math.sqrt(z) * math.exp((a_y - a_j) / 2))
    if z <= 1:
        return math.log(2 * z) - a_j - math.log(1 - z + root)
    return math.log((z - 1 + root) / 2) - a_y


@MODELS.register_module()
class SphereFace2Loss(DecoupledLoss):
    """One-vs-all binary losses over the hypersphere.

    The published ``lw`` is ``loss_weight``; its ``alpha`` is ``lam``.

    Args:
        margin_type: ``C`` (cosine), ``A`` (additive angle) or ``M``
            (multiplicative angle).
        lam: Weight of the positive against the negatives, in (0, 1).
        r: Scale of the logits, > 0.
        m: Margin: of the cosine (C), in radians (A), or a factor >= 1 (M).
        t: Exponent of the similarity adjustment g, > 0.
        detach: Characteristic gradient detachment: d logit / d cos = r.
        loss_weight: Factor of L.
        symmetric: For type A, whether the margin is on the other classes too.
        beyond: For type A, what stands where theta_y + m exceeds pi; see
            :func:`~.characteristic.added_angle`.
        bias_init: First value of the bias b; by default :func:`balanced_bias`.
    """

    margins = ('m',)

    def __init__(
        self,
        margin_type: str = 'C',
        lam: float = 0.7,
        r: float = 40.0,
        m: float = 0.4,
        t: float = 3.0,
        detach: bool = True,
        loss_weight: float = 1.0,
        symmetric: bool = False,
        beyond: str = 'clip',
        bias_init: float | None = None,
    ) -> None:
        super().__init__(loss_weight)
        require_one_of(self, 'margin_type', margin_type, MARGIN_TYPES)
        require_one_of(self, 'beyond', beyond, BEYOND)
        require(
            margin_type == 'A' or (not symmetric and beyond == 'clip'),
            'SphereFace2Loss: symmetric and beyond are options of margin type A; '
            "leave them out, or set model.head.loss.margin_type='A'",
        )
        require(0 < lam < 1, f'SphereFace2Loss: lam must be in (0, 1), got {lam}')
        require(r > 0, f'SphereFace2Loss: r must be positive, got {r}')
        require(t > 0, f'SphereFace2Loss: t must be positive, got {t}')
        least = 1 if margin_type == 'M' else 0
        require(
            m >= least,
            f'SphereFace2Loss: m of margin type {margin_type} must be >= {least}, '
            f'got {m}',
        )
        self.margin_type = margin_type
        self.lam = lam
        self.r = r
        self.m = m
        self.t = t
        self.detach = detach
        self.symmetric = symmetric
        self.beyond = beyond
        self.bias_init = bias_init
        self.bias = nn.Parameter(torch.zeros(1))

    def reset_parameters(self, num_classes: int) -> None:
        bias = self.bias_init
        if bias is None:
            # Numbers also where the loss itself is built on the meta device.
            zero = torch.zeros(1, 1, dtype=torch.float64, device='cpu')
            context = Batch(zero, zero).constants(self, self.margins)
            psi, eta = self.psi(zero, context), self.eta(zero, context)
            a_y, a_j = self.r * psi.item(), self.r * eta.item()
            bias = balanced_bias(num_classes, self.lam, a_y, a_j)
        nn.init.constant_(self.bias, bias)

    def context(self, batch: Batch) -> Context:
        return batch.constants(self, (*self.margins, 'bias'))

    def _g(self, z: Tensor) -> Tensor:
        return 2 * ((z + 1) / 2).pow(self.t) - 1

    def psi(self, own: Tensor, context: Context) -> Tensor:
        m = context['m']
        if self.margin_type == 'A':
            return self._g(added_angle(own, m, self.beyond))
        if self.margin_type == 'M':
            return self._g(multiplied_angle(own, m))
        return self._g(own) - m

    def eta(self, cos: Tensor, context: Context) -> Tensor:
        m = context['m']
        if self.symmetric:
            return self._g(added_angle(cos, -m, 'none'))
        return self._g(cos) + m if self.margin_type == 'C' else self._g(cos)

    def target(self, own: Tensor, context: Context) -> Tensor:
        psi = characteristic(own, lambda own: self.psi(own, context), self.detach)
        logit = self.r * psi + context['bias']
        return -self.lam / self.r * F.logsigmoid(logit)

    def others(self, cos: Tensor, context: Context) -> Tensor:
        eta = characteristic(cos, lambda cos: self.eta(cos, context), self.detach)
        logit = self.r * eta + context['bias']
        return (self.lam - 1) / self.r * F.logsigmoid(-logit)

    def violates_margin(self, own: Tensor, hardest: Tensor, context: Context) -> Tensor:
        """Whether one of the classifiers errs: the own, or that of the nearest other.

        The own errs where its logit r psi(theta_y) + b is not positive, another where
        r eta(theta_j) + b is not negative.
        """
        positive = self.r * self.psi(own, context) + context['bias']
        negative = self.r * self.eta(hardest, context) + context['bias']
        return (positive <= 0) | (negative >= 0)

    def monitor(self, target: Tensor, folded: Tensor) -> dict[str, Tensor]:
        return {
            'bias': self.bias.detach().squeeze(),
            'positive': target.mean(),
            'negative': folded.mean(),
        }
