"""Building blocks of the characteristic functions psi and eta.

Source: SphereFace-R (arXiv 2109.05565), section 3.
"""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


class _ArcCos(torch.autograd.Function):
    """arccos whose gradient stays finite at +-1.

    The derivative -1/sqrt(1 - cos^2) is infinite there and 0 * inf would be NaN
    in products whose limit is finite, as for cos(m * arccos(cos)).
    """

    @staticmethod
    def forward(ctx: Any, cos: Tensor) -> Tensor:
        ctx.save_for_backward(cos)
        return cos.arccos()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        (cos,) = ctx.saved_tensors
        sin2 = (1 - cos) * (1 + cos)
        return -grads[0] * sin2.clamp_min(torch.finfo(cos.dtype).eps).rsqrt()


def angle(cos: Tensor) -> Tensor:
    """The angle in radians, in [0, pi], of a cosine in [-1, 1]."""
    return _ArcCos.apply(cos)


def detach_characteristic(cos: Tensor, value: Tensor) -> Tensor:
    """Characteristic gradient detachment (CGD): ``value`` with cos's gradient.

    psi(theta) = cos(theta) + d(theta) with d detached (SphereFace-R, section 3):
    the forward value is exactly ``value``, and d result / d cos = 1.
    """
    return value.detach() + (cos - cos.detach())


def characteristic(
    cos: Tensor, function: Callable[[Tensor], Tensor], detach: bool
) -> Tensor:
    """``function(cos)``, with CGD if ``detach``."""
    if detach:
        return detach_characteristic(cos, function(cos.detach()))
    return function(cos)


def multiplied_angle(cos: Tensor, m: float | Tensor) -> Tensor:
    """cos(min(m * theta, pi)): the multiplicative margin, clipped."""
    return (m * angle(cos)).clamp(max=math.pi).cos()


def unrolled_angle(cos: Tensor, m: float | Tensor) -> Tensor:
    """(-1)^k cos(m theta) - 2k with k = floor(m theta / pi): SphereFace, eq. 7.

    Continues cos(m * theta) monotonically beyond pi.
    """
    m_theta = m * angle(cos)
    k = (m_theta.detach() / math.pi).floor()
    sign = 1 - 2 * k.remainder(2)
    return sign * m_theta.cos() - 2 * k


BEYOND = ('none', 'clip', 'linear', 'shift', 'easy')


def added_angle(cos: Tensor, m: float | Tensor, beyond: str) -> Tensor:
    """cos(theta + m): the additive angular margin.

    Args:
        cos: Cosines, any shape.
        m: Margin in radians, broadcastable to ``cos``.
        beyond: What stands where theta + m exceeds pi and cos(theta + m) turns
            back: ``none`` leaves it (insightface), ``clip`` holds it at -1
            (OpenSphere), ``linear`` takes cos(theta) - m sin(m) (the ArcFace
            paper's code and CurricularFace), ``shift`` cos(theta) + cos(m) - 1,
            which is continuous (wespeaker). ``easy`` adds the margin only where
            cos(theta) > 0 (the easy margin of MagFace's code).
    """
    theta = angle(cos)
    if beyond == 'clip':
        return (theta + m).clamp(max=math.pi).cos()
    moved = (theta + m).cos()
    if beyond in ('linear', 'shift'):
        m = torch.as_tensor(m, dtype=cos.dtype)
        less = m * m.sin() if beyond == 'linear' else 1 - m.cos()
        return torch.where(theta < math.pi - m, moved, cos - less)
    if beyond == 'easy':
        return torch.where(cos > 0, moved, cos)
    return moved
