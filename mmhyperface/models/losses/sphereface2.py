"""SphereFace2: binary classification is all you need (arXiv 2108.01513).

C one-vs-all problems that share the centres' sphere:

    L = (lam/r)     log(1 + exp(-r (g(cos theta_y) - m) - b))
      + ((1-lam)/r) sum_{j != y} log(1 + exp(r (g(cos theta_j) + m) + b))

    g(z) = 2 ((z + 1) / 2)^t - 1,

written here for margin type C. Types A and M (appendix) move the target's angle
to min(pi, theta + m) or min(pi, m theta) before g, and leave the others alone.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmhyperface.registry import MODELS

from .base import Context, DecoupledLoss, require
from .characteristic import added_angle, characteristic, multiplied_angle

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
    """

    def __init__(
        self,
        margin_type: str = 'C',
        lam: float = 0.7,
        r: float = 40.0,
        m: float = 0.4,
        t: float = 3.0,
        detach: bool = True,
        loss_weight: float = 1.0,
    ) -> None:
        super().__init__(loss_weight)
        require(
            margin_type in MARGIN_TYPES,
            f'SphereFace2Loss: margin_type must be one of {MARGIN_TYPES}, '
            f'got {margin_type!r}',
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
        self.bias = nn.Parameter(torch.zeros(1))

    def reset_parameters(self, num_classes: int) -> None:
        # A number also where the loss itself is built on the meta device.
        zero = torch.zeros((), dtype=torch.float64, device='cpu')
        a_y, a_j = self.r * self.psi(zero).item(), self.r * self.eta(zero).item()
        nn.init.constant_(self.bias, balanced_bias(num_classes, self.lam, a_y, a_j))

    def context(self, own: Tensor, norm: Tensor) -> Context:
        return {'bias': self.bias.to(own.dtype).view(1, 1)}

    def _g(self, z: Tensor) -> Tensor:
        return 2 * ((z + 1) / 2).pow(self.t) - 1

    def psi(self, own: Tensor) -> Tensor:
        if self.margin_type == 'A':
            return self._g(added_angle(own, self.m, 'clip'))
        if self.margin_type == 'M':
            return self._g(multiplied_angle(own, self.m))
        return self._g(own) - self.m

    def eta(self, cos: Tensor) -> Tensor:
        return self._g(cos) + self.m if self.margin_type == 'C' else self._g(cos)

    def target(self, own: Tensor, context: Context) -> Tensor:
        psi = characteristic(own, self.psi, self.detach)
        logit = self.r * psi + context['bias']
        return -self.lam / self.r * F.logsigmoid(logit)

    def others(self, cos: Tensor, context: Context) -> Tensor:
        eta = characteristic(cos, self.eta, self.detach)
        logit = self.r * eta + context['bias']
        return (self.lam - 1) / self.r * F.logsigmoid(-logit)

    def violates_margin(self, own: Tensor, hardest: Tensor, context: Context) -> Tensor:
        """Whether one of the classifiers errs: the own, or that of the nearest other.

        The own errs where its logit r psi(theta_y) + b is not positive, another where
        r eta(theta_j) + b is not negative.
        """
        positive = self.r * self.psi(own) + context['bias']
        negative = self.r * self.eta(hardest) + context['bias']
        return (positive <= 0) | (negative >= 0)

    def monitor(self, target: Tensor, folded: Tensor) -> dict[str, Tensor]:
        return {
            'bias': self.bias.detach().squeeze(),
            'positive': target.mean(),
            'negative': folded.mean(),
        }
