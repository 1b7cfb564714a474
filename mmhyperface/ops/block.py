"""A block of classes on the walk of the blocked engine, and the memory for it.

Walks are long rows of small operations, so what can be prepared for all blocks of the
same size is: memory, views of it, and what differs between samples only.
"""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from .elementwise import Bindable, Buffers


@dataclass(slots=True)
class Block:
    """The n = stop - start rows from ``start`` on.

    Attributes:
        start, stop: The rows.
        raw: The rows as they are stored, [n, D].
        own: Pairs of an own class and its sample, as indices into the flattened
            [n, B]; None if there are none.
        spared: Rows that do not count, as indices into [n]; None if there are none.
        rows: The rows to multiply by, [n, D], in the features' type.
        to_cosine: Factors [n, 1] that make the products of ``rows`` and features
            cosines; None where these are unit vectors.
        to_gradient: 1 / n_j, [n, 1]; None where the rows are free.
    """

    start: int
    stop: int
    raw: Tensor
    own: Tensor | None = None
    spared: Tensor | None = None
    rows: Tensor = field(init=False)
    to_cosine: Tensor | None = None
    to_gradient: Tensor | None = None


class Frame:
    """Memory for blocks of n rows, and a loss bound to it.

    Args:
        size: Number of rows, n.
        program: The loss.
        inputs: What it takes besides ``cos``; its outputs are gradients if there is
            ``upstream`` among them. As long as the frame is used, they are the same.
        buffers: Where to compute.

    Attributes:
        products: Products of rows and features, [n, B], to be filled in.
    """

    def __init__(
        self, size: int, program: Bindable, inputs: dict[str, Tensor], buffers: Buffers
    ) -> None:
        self.products = buffers.cosines[:size]
        self.cos = self.products.T
        self.bound = program.bind({'cos': self.cos, **inputs}, buffers)
        self.outputs = {name: out.T for name, out in self.bound.outputs.items()}

    def evaluate(self, block: Block) -> None:
        """Compute the outputs, [n, B], from the products, which become cosines."""
        cos = self.products
        if block.to_cosine is not None:
            cos.mul_(block.to_cosine)
        cos.clamp_(-1, 1)
        self._hide(cos, block, -1)
        self.bound.run()

    def hardest(self, so_far: Tensor) -> None:
        """Raise ``so_far`` [B, 1] to the largest cosine of each sample."""
        torch.maximum(so_far, self.cos.amax(1, keepdim=True), out=so_far)

    def add_sum(self, total: Tensor, name: str, block: Block) -> None:
        """total [B, 1] += the sum of an output."""
        total += self._counted(name, block, 0).sum(0).unsqueeze(1)

    def add_logsumexp(self, total: Tensor, name: str, block: Block) -> None:
        """total [B, 1] = log(e^total + sum e^output); the output is lost."""
        terms = self._counted(name, block, float('-inf')).T
        top = torch.maximum(terms.amax(1, keepdim=True), total)
        # Where every term is -inf so far, any number will do.
        top = top.clamp_min(torch.finfo(top.dtype).min)
        sums = terms.sub_(top).exp_().sum(1, keepdim=True)
        sums += (total - top).exp_()
        total.copy_(sums.log_().add_(top))

    def slopes(self, block: Block) -> tuple[Tensor, Tensor | None]:
        """The gradient by the products, and what of it is along the rows.

        Returns:
            The gradient by the products, [n, B], and the sums over the samples of
            cosine times gradient by the cosine, [n, 1]; None for rows on the sphere.
            Cosines and gradient are lost.
        """
        slopes = self._counted('cos', block, 0)
        if block.to_gradient is None:
            return slopes, None
        radial = self.products.mul_(slopes).sum(1, keepdim=True)
        if block.to_cosine is not None:
            slopes.mul_(block.to_cosine)
        return slopes, radial

    def _counted(self, name: str, block: Block, neutral: float) -> Tensor:
        values = self.outputs[name]
        self._hide(values, block, neutral)
        return values

    @staticmethod
    def _hide(values: Tensor, block: Block, value: float) -> None:
        """Set the entries of values [n, B] that do not count."""
        if block.own is not None:
            values.view(-1).index_fill_(0, block.own, value)
        if block.spared is not None:
            values.index_fill_(0, block.spared, value)
