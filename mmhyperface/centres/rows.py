"""Which rows of the centres a training step touches, and who lets them step.

Each class here answers one question of the head: given the classes of the batch that
this rank keeps, which rows are theirs, and over which subsets of the classes does the
engine loop. Legend of shapes: C rows of this rank, K of them own rows of the batch,
D dimensions.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from mmhyperface.ops import Update, split, unit
from mmhyperface.utils.errors import UserError
from mmhyperface.utils.global_batch import send

from .borrowed_rows import BorrowedRows, require_plain_sgd


class ClassSubset(NamedTuple):
    """Classes for an engine to loop over.

    Attributes:
        rows: Their rows, [c, D].
        own: Position among ``StepRows.classes`` -> row of ``rows``, int64 [K] on the
            host; None if no class of the batch is among them.
        centres: See :func:`~mmhyperface.ops.dense.dense`.
        weight: How many classes each of them counts for.
        update: Who updates the rows if not the optimizer.
    """

    rows: Tensor
    own: Tensor | None
    centres: str
    weight: float = 1.0
    update: Update | None = None


class StepRows(NamedTuple):
    """What a step needs of the centres.

    Attributes:
        classes: Own classes of the batch, maybe more, sorted int64 [K] on the host.
        own: Their rows, [K, D], to be differentiated.
        subsets: All classes that the loss sees, each once.
    """

    classes: Tensor
    own: Tensor
    subsets: list[ClassSubset]


class AllRows:
    """Every row, with a gradient of all of them: the ordinary parameter."""

    def take(self, weight: nn.Parameter, classes: Tensor, centres: str) -> StepRows:
        """The rows of a step.

        Args:
            weight: All rows, [C, D].
            classes: Distinct classes of the batch, sorted int64 [K] on the host.
            centres: ``normalize`` or ``project``.
        """
        (index,) = send([classes], weight.device)
        own, everyone = _split(weight, index, centres)
        return StepRows(classes, own, [ClassSubset(everyone, classes, centres)])


def _split(weight: nn.Parameter, index: Tensor, centres: str) -> tuple[Tensor, Tensor]:
    """The own rows, which are projected now since they are used first, and all."""
    if centres == 'project':
        weight.data[index] = unit(weight.data[index])[0]
    return split(weight, index)


class Sampling:
    """A random sample of the classes that are not in the batch (arXiv 2203.15565).

    Every class of the batch is there; of the others as many, each with the same
    probability, as make the given share of all, but no less than half that share of
    the others, lest a few count for very many. A sum over the classes counts the
    random ones as often as makes it unbiased; a softmax takes them as they are, as
    in Partial FC.

    Args:
        rate: Share of the rows, in (0, 1).
        reweights: Whether the random rows count for all that were not drawn.
    """

    def __init__(self, rate: float, reweights: bool) -> None:
        self.rate = rate
        self.reweights = reweights

    def draw(self, weight: Tensor, classes: Tensor) -> tuple[Tensor, float]:
        """Other rows of the weight [C, D], sorted, and how many each counts for."""
        others = len(weight) - len(classes)
        size = max(
            math.ceil(self.rate * len(weight)) - len(classes),
            math.ceil(self.rate * others / 2),
        )
        self.order = torch.randperm(others, device=weight.device)
        self.first, self.size = classes, size
        drawn = self._rows(self.order[:size].sort().values)
        return drawn, self.weight(weight, classes, drawn)

    def _rows(self, places: Tensor) -> Tensor:
        """From places among the others to rows: step over the batch's classes."""
        before = self.first - torch.arange(len(self.first), device=places.device)
        return places + torch.searchsorted(before, places, right=True)

    def draw_again(self, weight: Tensor, classes: Tensor) -> tuple[Tensor, float]:
        """The same rows, and the next ones for those that are among more classes."""
        rows = self._rows(self.order[: self.size + len(classes) - len(self.first)])
        own = rows.new_zeros(len(weight), dtype=torch.bool)
        own.index_fill_(0, classes, True)
        # How many there are the device alone knows; that they suffice, the host.
        size = min(self.size, len(weight) - len(classes))
        kept = own[rows].sort(stable=True).indices[:size]
        drawn = rows[kept].sort().values
        return drawn, self.weight(weight, classes, drawn)

    def weight(self, weight: Tensor, classes: Tensor, drawn: Tensor) -> float:
        """How many of the other classes each of the drawn ones counts for."""
        if not self.reweights or not len(drawn):
            return 1.0
        return (len(weight) - len(classes)) / len(drawn)


class SampledRows:
    """The batch's own rows and a random sample of the others, in the optimizer.

    Args:
        weight: All rows, [C, D].
        optimizer: The optimizer that steps them.
        sampling: How they are drawn.
    """

    def __init__(
        self, weight: nn.Parameter, optimizer: Optimizer, sampling: Sampling
    ) -> None:
        self.borrowed = BorrowedRows(weight, optimizer)
        self.sampling = sampling
        self._classes: Tensor

    def take(self, weight: nn.Parameter, classes: Tensor, centres: str) -> StepRows:
        """See :meth:`AllRows.take`."""
        draw = self.sampling.draw
        if self.borrowed.accumulates:
            # The own rows of all batches of a step, which share their sample.
            classes = torch.cat([classes, self._classes]).unique()
            draw = self.sampling.draw_again
        self._classes = classes
        (index,) = send([classes], weight.device)
        drawn, each = draw(weight, index)
        rows = self.borrowed.borrow(torch.cat([index, drawn]))
        first = torch.arange(len(index), device=rows.device)
        own, everyone = _split(rows, first, centres)
        places = torch.arange(len(classes), device='cpu')
        subsets = [ClassSubset(everyone, places, centres, each)]
        if each != 1:
            # The own rows count once.
            subsets.append(_own(own, places, centres, 1 - each))
        return StepRows(classes, own, subsets)


def _own(own: Tensor, places: Tensor, centres: str, weight: float = 1.0) -> ClassSubset:
    """The own rows as classes."""
    return ClassSubset(own, places, 'unit' if centres == 'project' else centres, weight)


class SteppedRows:
    """Rows that step within the block loop, without a gradient buffer.

    The own rows of the batch, whose gradient is complete in backward only, step in
    the optimizer.

    Args:
        weight: All rows, [C, D].
        optimizer: ``torch.optim.SGD`` without dampening, Nesterov or maximize.
        sampling: How the rows that step are drawn; by default all do.

    Raises:
        UserError: For any other optimizer.
    """

    def __init__(
        self,
        weight: nn.Parameter,
        optimizer: Optimizer,
        sampling: Sampling | None = None,
    ) -> None:
        self.borrowed = BorrowedRows(weight, optimizer)
        require_plain_sgd(optimizer, self.borrowed.group, 'fused_update')
        self.sampling = sampling

    def take(self, weight: nn.Parameter, classes: Tensor, centres: str) -> StepRows:
        """See :meth:`AllRows.take`."""
        borrowed = self.borrowed
        if borrowed.accumulates:
            raise UserError(
                'fused_update: the centres of an earlier batch have not stepped yet; '
                'gradient accumulation (optim_wrapper.accumulative_counts) needs '
                'model.head.fused_update=False'
            )
        group = borrowed.group
        velocity = None
        if group['momentum']:
            state = borrowed.optimizer.state[weight]
            if state.get('momentum_buffer') is None:
                state['momentum_buffer'] = torch.zeros_like(weight)
            velocity = state['momentum_buffer']
        (index,) = send([classes], weight.device)
        drawn, each = None, 1.0
        if self.sampling is not None:
            drawn, each = self.sampling.draw(weight, index)
            vars(self.sampling).pop('order', None)  # each step has one batch
        own = borrowed.borrow(index)
        if centres == 'project':
            own.data.copy_(unit(own.data)[0])
        update = Update(
            weight.detach(),
            velocity,
            group['lr'],
            group['momentum'],
            group['weight_decay'],
            index=drawn,
            excluded=index if drawn is None else None,
            skipped=borrowed.skipped,
        )
        others = ClassSubset(weight.detach(), None, centres, each, update)
        places = torch.arange(len(classes), device='cpu')
        return StepRows(classes, own, [_own(own, places, centres), others])
