"""Rows that take their SGD step in the loop over blocks of classes."""

from collections.abc import Callable

import torch
from torch import Tensor

from .contract import SkippedSteps
from .products import add_product


class Update:
    """SGD with momentum and weight decay on the rows of a block loop.

        v <- momentum * v + dL/dW + weight_decay * W,   W <- W - lr * v

    as torch's ``SGD`` has it, without a buffer for dL/dW.

    Args:
        weight: All rows, [C, D], changed in place.
        velocity: Momentum buffer [C, D], changed in place; None without momentum.
        lr, momentum, weight_decay: As in ``torch.optim.SGD``.
        index: Rows to go over, int64 [c], each at most once; all by default.
        excluded: Rows that neither count nor step, since another part of the
            classifier sees to them: int64 [K]; not together with ``index``.
        skipped: What rows of ``index`` make up for before the step, and what is told
            when they have stepped.
    """

    def __init__(
        self,
        weight: Tensor,
        velocity: Tensor | None,
        lr: float,
        momentum: float,
        weight_decay: float,
        index: Tensor | None = None,
        excluded: Tensor | None = None,
        skipped: SkippedSteps | None = None,
    ) -> None:
        self.skipped = skipped
        self.weight = weight
        self.velocity = velocity
        self.lr = lr
        self.momentum = momentum
        self.weight_decay = weight_decay
        self.index = index
        # As a mask [C, 1].
        self.excluded: Tensor | None = None
        if excluded is not None:
            self.excluded = excluded.new_zeros((len(weight), 1), dtype=torch.bool)
            self.excluded.index_fill_(0, excluded, True)

    def __len__(self) -> int:
        """Number of rows in the loop."""
        return len(self.weight) if self.index is None else len(self.index)

    def rows(self, start: int, stop: int) -> Tensor:
        """Rows ``start`` to ``stop`` of the loop; a copy if there is an index."""
        if self.index is None:
            if self.velocity is not None:
                self._velocity = self.velocity[start:stop]
            return self.weight[start:stop]
        where = self.index[start:stop]
        # On a CPU much faster than indexing is.
        rows = self.weight.index_select(0, where)
        velocity = None
        if self.velocity is not None:
            self._velocity = velocity = self.velocity.index_select(0, where)
        if self.skipped is not None:
            self.skipped.make_up(where, rows, velocity)
        return rows

    def step(
        self,
        start: int,
        rows: Tensor,
        by_row: Tensor,
        features: Tensor,
        radial: Tensor | None,
    ) -> Callable[[slice], None]:
        """One step of the n rows from ``start`` on.

        Args:
            start: The first row.
            rows: What :meth:`rows` gave, perhaps projected since, [n, D].
            by_row: The rows' gradient is by_row @ features - radial * rows, [n, B];
                0 for excluded rows.
            features: Unit features, [B, D], of the type to multiply in.
            radial: See ``by_row``, [n, 1]; None for 0.

        Returns:
            What lets some of these rows step.
        """
        ones = rows.new_ones((len(rows), 1))
        decay = self.weight_decay * ones
        if radial is not None:
            decay -= radial
        momentum, lr = self.momentum * ones, self.lr * ones
        if self.excluded is not None:
            excluded = self.excluded[start : start + len(rows)]
            decay.masked_fill_(excluded, 0)
            lr.masked_fill_(excluded, 0)
            momentum.masked_fill_(excluded, 1)

        def step(part: slice) -> None:
            here, slopes = rows[part], by_row[part].to(features.dtype)
            index = None
            if self.index is not None:
                index = self.index[start : start + len(rows)][part]
            if self.velocity is None:
                here.mul_(1 - lr[part] * decay[part])
                add_product(here, slopes, features, -self.lr)
            else:
                velocity = self._velocity[part].mul_(momentum[part])
                velocity.addcmul_(decay[part], here)
                add_product(velocity, slopes, features)
                here.addcmul_(lr[part], velocity, value=-1)
                if index is not None:
                    self.velocity.index_copy_(0, index, velocity)
            if index is not None:
                self.weight.index_copy_(0, index, here)
                if self.skipped is not None:
                    self.skipped.stepped(index)

        return step


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
