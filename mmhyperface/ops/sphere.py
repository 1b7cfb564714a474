"""Projection onto the unit sphere."""

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
