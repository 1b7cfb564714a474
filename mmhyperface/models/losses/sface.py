"""SFace: sigmoid-constrained hypersphere loss (TIP 2021, arXiv 2205.12010).

    L = -[w_y(theta_y)] s cos(theta_y) + sum_{j != y} [w_j(theta_j)] s cos(theta_j)
    w_y(theta) = 1 / (1 + exp(-k (theta - a)))     pull, fades once theta < a
    w_j(theta) = 1 / (1 + exp( k (theta - b)))     push, fades once theta > b

The official MXNet code has a k of its own for the push.

[.] is detached: it rescales the gradient along the sphere and has none itself.
"""

from torch import Tensor

from mmhyperface.registry import MODELS

from .base import Context, DecoupledLoss, require
from .characteristic import angle


@MODELS.register_module()
class SFaceLoss(DecoupledLoss):
    """Pull and push whose strength two sigmoids of the angle control.

    The value of this loss may be negative, and goes down as it should: it is the
    gradient that is designed. The two terms are logged as ``intra`` and ``inter``.

    Args:
        s: Scale, > 0.
        k: Slope of the sigmoids, > 0; ``--param-a`` of the MXNet code.
        a: Angle in radians below which the own centre stops pulling.
        b: Angle in radians above which other centres stop pushing.
        loss_weight: Factor of L.
        k_inter: Slope of the push's sigmoid, > 0, ``--param-c``; by default ``k``.
    """

    margins = ('a', 'b')

    def __init__(
        self,
        s: float = 64.0,
        k: float = 80.0,
        a: float = 0.87,
        b: float = 1.2,
        loss_weight: float = 1.0,
        k_inter: float | None = None,
    ) -> None:
        super().__init__(loss_weight)
        require(s > 0, f'SFaceLoss: s must be positive, got {s}')
        k_inter = k if k_inter is None else k_inter
        require(k > 0, f'SFaceLoss: k must be positive, got {k}')
        require(k_inter > 0, f'SFaceLoss: k_inter must be positive, got {k_inter}')
        self.s = s
        self.k = k
        self.k_inter = k_inter
        self.a = a
        self.b = b

    def target(self, own: Tensor, context: Context) -> Tensor:
        weight = (self.k * (angle(own.detach()) - context['a'])).sigmoid()
        return -self.s * weight * own

    def others(self, cos: Tensor, context: Context) -> Tensor:
        weight = (self.k_inter * (context['b'] - angle(cos.detach()))).sigmoid()
        return self.s * weight * cos

    def violates_margin(self, own: Tensor, hardest: Tensor, context: Context) -> Tensor:
        """Whether theta_y > a or theta_j < b, where pull or push is at least half."""
        return (angle(own) > context['a']) | (angle(hardest) < context['b'])

    def monitor(self, target: Tensor, folded: Tensor) -> dict[str, Tensor]:
        return {'intra': target.mean(), 'inter': folded.mean()}
