"""Projection onto the unit sphere, and cosines on it."""

from typing import Any

import torch
from torch import Tensor


def unit(x: Tensor) -> tuple[Tensor, Tensor]:
    """Directions [N, D] and norms [N, 1] of the rows of ``x`` [N, D].

    Rows are scaled by their largest entry first, so that neither tiny nor huge
    ones under- or overflow when squared. The direction of a zero row is zero.
    """
    largest = x.detach().abs().amax(1, keepdim=True)
    largest = largest.masked_fill(largest == 0, 1)
    scaled = x / largest
    norm = scaled.norm(dim=1, keepdim=True)
    return scaled / norm.masked_fill(norm == 0, 1), norm * largest


class _Clamp(torch.autograd.Function):
    """Clamps to [-1, 1] and lets the gradient pass.

    Beyond 1 there is rounding only, which should not decide about a gradient.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.clamp(-1, 1)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        return grads[0]


def clamp_cosine(x: Tensor) -> Tensor:
    """The cosine that a product of unit vectors is up to rounding."""
    return _Clamp.apply(x)


# Norms in this range can be squared and divided by in any floating point type.
SAFE_NORMS = (1e-15, 1e15)


def row_norms(rows: Tensor) -> Tensor | None:
    """Norms [N] of the rows [N, D] in one pass; None if that could be inexact."""
    if rows.is_cuda:
        # A second look at the norms would wait for the device.
        return torch.linalg.vector_norm(rows, dim=1, dtype=torch.float64).to(rows.dtype)
    norms = torch.linalg.vector_norm(rows, dim=1)
    low, high = norms.aminmax()
    safe = SAFE_NORMS[0] < low and high < SAFE_NORMS[1]
    return norms if safe else None
