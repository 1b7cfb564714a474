"""What a loss sees of a batch before it meets the classes."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch
from mmengine.dist import broadcast, get_rank
from torch import Tensor

from mmhyperface.utils.errors import UserError
from mmhyperface.utils.global_batch import gather_batch


def _no_centres() -> Tensor:
    raise UserError(
        'this loss has a term of the class centres: use it in HypersphereHead'
    )


@dataclass(frozen=True)
class Batch:
    """The samples whose loss a rank computes, and their place in the global batch.

    Where the centres are split, each rank computes the loss of the samples of all
    ranks; else of its own. What depends on other samples should be the same either
    way: it is a function of the *global* batch.

    Attributes:
        own: Cosines to the own centres, [B, 1].
        norm: Norms of the raw features, [B, 1].
        sizes: How many samples each rank has; None on one process.
        is_global: Whether the B samples are those of all ranks.
        centres: Gives the unit centres [K, D] of the K distinct classes of the global
            batch.
    """

    own: Tensor
    norm: Tensor
    sizes: Sequence[int] | None = None
    is_global: bool = True
    centres: Callable[[], Tensor] = _no_centres

    def constants(self, owner: object, names: Iterable[str]) -> dict[str, Tensor]:
        """Attributes that are numbers, as tensors [1, 1] by name.

        Gradients flow to those that are learned.
        """
        one = self.own.new_ones(1, 1)
        return {name: (one * getattr(owner, name)).to(one.dtype) for name in names}

    def gather(self, values: Tensor) -> Tensor:
        """Values of these samples [B, ...] to those of the global batch [G, ...].

        Without gradient, and in the order of the ranks.
        """
        values = values.detach()
        if self.is_global or self.sizes is None:
            return values
        # A rank without samples computes with a placeholder.
        return gather_batch(values[: self.sizes[get_rank()]], self.sizes)

    def part(self, values: Tensor) -> Tensor:
        """Values of the global batch [G, ...] to those of these samples [B, ...]."""
        if self.is_global or self.sizes is None:
            return values
        own = values.split(list(self.sizes))[get_rank()]
        return own if len(own) else values[:1]

    def normal(self) -> Tensor:
        """Standard normal numbers for the global batch, [G, 1], equal on all ranks.

        They come from the generator of the first rank, so that they are those of one
        process with all samples.
        """
        count = len(self.own) if self.sizes is None else sum(self.sizes)
        # Numbers of one type, whatever that of the cosines is.
        numbers = torch.randn(count, 1, device=self.own.device)
        if self.sizes is not None and len(self.sizes) > 1:
            broadcast(numbers)
        return numbers.to(self.own.dtype)
