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


# Rows of which a GPU has copies in float64 at once.
CHUNK = 2**14
# Norms in this range can be squared and divided by in any floating point type.
SAFE_NORMS = (1e-15, 1e15)


def row_norms(rows: Tensor) -> Tensor:
    """Norms [N] of the rows [N, D] in one pass; see :func:`are_exact`."""
    if not rows.is_cuda:
        return torch.linalg.vector_norm(rows, dim=1)
    norms = rows.new_empty(len(rows), dtype=torch.float64)
    for some, out in zip(rows.split(CHUNK), norms.split(CHUNK), strict=True):
        torch.linalg.vector_norm(some, dim=1, dtype=torch.float64, out=out)
    return norms.masked_fill_(norms == 0, 1).to(rows.dtype)


def are_exact(norms: Tensor) -> bool:
    """Whether :func:`row_norms` can be relied on to make the rows unit vectors."""
    if norms.is_cuda:
        # They are, in float64; a look at them would wait for the device.
        return True
    low, high = norms.aminmax()
    return SAFE_NORMS[0] < low.item() and high.item() < SAFE_NORMS[1]


def project(rows: Tensor) -> None:
    """Put rows [N, D] onto the sphere, in place."""
    norms = row_norms(rows)
    if are_exact(norms):
        rows.div_(norms[:, None])
    else:
        rows.copy_(unit(rows)[0])
