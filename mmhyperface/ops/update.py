"""Rows that take their SGD step while a walk passes by."""

from collections.abc import Callable

import torch
from torch import Tensor


class Update:
    """SGD with momentum and weight decay on the rows that a walk visits.

        v <- momentum * v + dL/dW + weight_decay * W,   W <- W - lr * v

    as torch's ``SGD`` has it, without a buffer for dL/dW.

    Args:
        weight: All rows, [C, D], changed in place.
        velocity: Momentum buffer [C, D], changed in place; None without momentum.
        lr, momentum, weight_decay: As in ``torch.optim.SGD``.
        index: Rows to visit, int64 [c], each at most once; all by default.
        spared: Rows that neither count nor step, since another part of the
            classifier sees to them: sorted int64 [K]; not together with ``index``.
        make_up: Called with the indices of rows, copies of them and of their
            velocity, to change these before the step.
    """

    def __init__(
        self,
        weight: Tensor,
        velocity: Tensor | None,
        lr: float,
        momentum: float,
        weight_decay: float,
        index: Tensor | None = None,
        spared: Tensor | None = None,
        make_up: Callable[[Tensor, Tensor, Tensor | None], None] | None = None,
    ) -> None:
        self.make_up = make_up
        self.weight = weight
        self.velocity = velocity
        self.lr = lr
        self.momentum = momentum
        self.weight_decay = weight_decay
        self.index = index
        self.spared = spared
        self._scratch: Tensor | None = None

    def __len__(self) -> int:
        """Number of rows on the walk."""
        return len(self.weight) if self.index is None else len(self.index)

    def rows(self, start: int, stop: int) -> Tensor:
        """Rows ``start`` to ``stop`` of the walk; a copy if there is an index."""
        where = slice(start, stop) if self.index is None else self.index[start:stop]
        rows = self.weight[where]
        if self.velocity is not None:
            self._velocity = self.velocity[where]
        if self.make_up is not None and self.index is not None:
            velocity = None if self.velocity is None else self._velocity
            self.make_up(self.index[start:stop], rows, velocity)
        return rows

    def step(
        self,
        start: int,
        stop: int,
        rows: Tensor,
        by_row: Tensor,
        features: Tensor,
        radial: Tensor | None,
        spared: Tensor | None,
    ) -> None:
        """One step of rows ``start`` to ``stop`` of the walk, n of them.

        Args:
            start, stop: The rows.
            rows: What :meth:`rows` gave, perhaps projected since, [n, D].
            by_row: The rows' gradient is by_row @ features - radial * rows, [n, B];
                changed.
            features: Unit features, [B, D].
            radial: See ``by_row``, [n]; None for 0.
            spared: Rows that stay as they are, as indices into the block; their
                ``by_row`` is 0.
        """
        by_row, features = by_row.to(rows.dtype), features.to(rows.dtype)
        decay = by_row.new_full((stop - start,), self.weight_decay)
        if radial is not None:
            decay -= radial
        if self._scratch is None:
            self._scratch = torch.empty_like(rows)
        # A product of its own and a pass over rows in cache take less time than a
        # product that adds to the rows.
        change = self._scratch[: stop - start]
        if self.velocity is None:
            factors = 1 - self.lr * decay
            if spared is not None:
                factors[spared] = 1
            torch.mm(by_row.mul_(-self.lr), features, out=change)
            torch.addcmul(change, factors[:, None], rows, out=rows)
        else:
            velocity = self._velocity
            if spared is not None:
                kept = rows[spared], velocity[spared]
            torch.mm(by_row, features, out=change)
            change.addcmul_(decay[:, None], rows)
            torch.add(change, velocity, alpha=self.momentum, out=velocity)
            rows.add_(velocity, alpha=-self.lr)
            if spared is not None:
                rows[spared], velocity[spared] = kept
            if self.index is not None:
                self.velocity.index_copy_(0, self.index[start:stop], velocity)
        if self.index is not None:
            self.weight.index_copy_(0, self.index[start:stop], rows)


def split(weight: Tensor, classes: Tensor) -> tuple[Tensor, Tensor]:
    """Some rows [K, D] of the weight [C, D], and all of it, for separate use.

    Indexing alone would cost a gradient of the weight's size, of zeros but for K
    rows. Here those K are added to the gradient that the rest of the use brings.

    Args:
        weight: The rows, [C, D].
        classes: Distinct rows, int64 [K].
    """
    return _Split.apply(weight, classes)


class _Split(torch.autograd.Function):
    @staticmethod
    def forward(ctx, weight, classes):  # type: ignore[no-untyped-def]
        ctx.save_for_backward(classes)
        ctx.shape = weight.shape
        ctx.set_materialize_grads(False)
        return weight[classes], weight.view_as(weight)

    @staticmethod
    def backward(ctx, by_rows, by_weight):  # type: ignore[no-untyped-def]
        (classes,) = ctx.saved_tensors
        if by_weight is None:
            if by_rows is None:
                return None, None
            by_weight = by_rows.new_zeros(ctx.shape)
        if by_rows is not None:
            by_weight.index_add_(0, classes, by_rows.to(by_weight.dtype))
        return by_weight, None
