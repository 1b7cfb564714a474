"""Which classes a rank keeps, and what the ranks must tell one another about them.

Three regions follow from splitting the centres. Each rank computes its *local*
part of the network on its share of the batch. Between ranks the global batch is
*replicated*: every rank computes the same numbers and the same gradients. On its
rows of the centres a rank computes *partial* results, which sum to the whole. Each
collective between two regions is one method here, together with its gradient.

DDP averages the gradients of the network over the ranks, where the sum is wanted:
what leaves the local region counts ``world_size`` times on the way back.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.distributed
from torch import Tensor

from mmhyperface.utils.global_batch import collective, gather_batch


class _Collective(torch.autograd.Function):
    """A value computed one way, its gradient another."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        forward: Callable[[Tensor], Tensor],
        backward: Callable[[Tensor], Tensor],
    ) -> Tensor:
        ctx.gradient = backward
        return forward(x)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        return ctx.gradient(grads[0]), None, None


def _reduced(x: Tensor, op: str = 'SUM') -> Tensor:
    x = x.clone()
    torch.distributed.all_reduce(x, getattr(torch.distributed.ReduceOp, op))
    return x


def _same(x: Tensor) -> Tensor:
    return x.view_as(x)


class Shard:
    """The range of classes [start, stop) of one rank, and its reductions.

    On one process (``world_size`` 1) every method is the identity, whatever process
    group there may be.

    Args:
        num_classes: Number of classes C of all ranks.
        rank: This rank.
        world_size: Number of ranks that the classes are split over: C // world_size
            each, and one more on the first C % world_size ranks.
    """

    def __init__(self, num_classes: int, rank: int = 0, world_size: int = 1) -> None:
        self.num_classes = num_classes
        self.rank = rank
        self.world_size = world_size
        self.start, self.stop = self.range_of(rank)

    def __len__(self) -> int:
        return self.stop - self.start

    def __repr__(self) -> str:
        return (
            f'Shard(classes {self.start} to {self.stop} of {self.num_classes}, '
            f'rank {self.rank} of {self.world_size})'
        )

    def range_of(self, rank: int) -> tuple[int, int]:
        """The classes [start, stop) of a rank."""
        size, rest = divmod(self.num_classes, self.world_size)
        start = rank * size + min(rank, rest)
        return start, start + size + (rank < rest)

    def gather(self, x: Tensor, sizes: Sequence[int]) -> Tensor:
        """The global batch of local rows [b, ...], for partial results.

        Its gradient is partial on each rank, and is summed over them.

        Args:
            x: The rows of this rank, maybe none.
            sizes: How many each rank has.
        """
        return self._global_batch(x, sizes, self._scatter_sum)

    def replicate(self, x: Tensor, sizes: Sequence[int]) -> Tensor:
        """The global batch of local rows [b, ...], for replicated results.

        Args:
            x, sizes: As in :meth:`gather`.
        """
        return self._global_batch(x, sizes, self._own_part)

    def _global_batch(
        self, x: Tensor, sizes: Sequence[int], backward: Callable[..., Tensor]
    ) -> Tensor:
        if self.world_size == 1:
            return x
        return _Collective.apply(
            x, lambda x: gather_batch(x, sizes), lambda grad: backward(grad, sizes)
        )

    def enter(self, x: Tensor) -> Tensor:
        """A replicated value, to be used for partial results."""
        return x if self.world_size == 1 else _Collective.apply(x, _same, _reduced)

    def sum(self, x: Tensor) -> Tensor:
        """The replicated sum of partial results."""
        return x if self.world_size == 1 else _Collective.apply(x, _reduced, _same)

    def max(self, x: Tensor) -> Tensor:
        """The replicated maximum of partial results, without gradient."""
        return x.detach() if self.world_size == 1 else _reduced(x.detach(), 'MAX')

    def _own_part(self, grad: Tensor, sizes: Sequence[int]) -> Tensor:
        return grad.split(list(sizes))[self.rank] * self.world_size

    def _scatter_sum(self, grad: Tensor, sizes: Sequence[int]) -> Tensor:
        even = min(sizes) == max(sizes)
        if not even or torch.distributed.get_backend() != 'nccl':
            # gloo has no reduce_scatter in every version of torch.
            return self._own_part(_reduced(grad), sizes)
        part = torch.empty_like(grad[: len(grad) // self.world_size])
        reduce_scatter = collective('reduce_scatter_single', 'reduce_scatter_tensor')
        reduce_scatter(part, grad.contiguous())
        return part * self.world_size
