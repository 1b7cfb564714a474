"""Which rows of the centres a training step touches, and who lets them step.

Each class here answers one question of the head: given the classes of the batch that
this rank keeps, which rows are theirs, and which parts of the classes does the engine
walk. Legend of shapes: C rows of this rank, K of them own rows of the batch, D
dimensions.
"""

import math
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from mmhyperface.ops import Update, recycled, split, unit
from mmhyperface.utils.errors import UserError

from .skipped_steps import SkippedSteps


class Part(NamedTuple):
    """Classes for an engine to walk.

    Attributes:
        weight: Their rows, [c, D].
        rows: Position among ``Rows.classes`` -> row of ``weight``, int64 [K]; None
            if no class of the batch is among them.
        centres: See :func:`~mmhyperface.ops.dense.dense`.
        stands_for: How many classes each of them stands for.
        update: Who updates the rows if not the optimizer.
    """

    weight: Tensor
    rows: Tensor | None
    centres: str
    stands_for: float = 1.0
    update: Update | None = None


class Rows(NamedTuple):
    """What a step needs of the centres.

    Attributes:
        classes: Own classes of the batch, maybe more, sorted int64 [K].
        own: Their rows, [K, D], to be differentiated.
        parts: All classes that the loss sees, each once.
    """

    classes: Tensor
    own: Tensor
    parts: list[Part]


@torch.no_grad()
def project_rows(weight: Tensor, classes: Tensor) -> None:
    """Put some rows back on the sphere, in place."""
    weight.data[classes] = unit(weight.data[classes])[0]


class AllRows:
    """Every row, with a gradient of all of them: the ordinary parameter."""

    def take(self, weight: nn.Parameter, classes: Tensor, centres: str) -> Rows:
        """The rows of a step.

        Args:
            weight: All rows, [C, D].
            classes: Distinct classes of the batch, sorted int64 [K].
            centres: ``normalize`` or ``project``.
        """
        if centres == 'project':
            project_rows(weight, classes)
        own, rest = split(weight, classes)
        return Rows(classes, own, [Part(rest, classes, centres)])


class LentRows:
    """Rows that stand in for a parameter in its optimizer for one step.

    Between the forward pass and the end of ``optimizer.step`` the optimizer holds
    small parameters of some rows, and the state that belongs to them, in the place
    of the whole: whatever it is, and whoever clips or scales gradients, sees these
    rows alone, and the others cost nothing.

    Args:
        weight: The whole parameter, [C, D].
        optimizer: The optimizer that steps it.

    Raises:
        UserError: If the optimizer does not.
    """

    def __init__(self, weight: nn.Parameter, optimizer: Optimizer) -> None:
        self.weight = weight
        self.optimizer = optimizer
        group = group_of(weight, optimizer)
        self.position = next(
            i for i, other in enumerate(optimizer.param_groups) if other is group
        )
        self.lent: list[tuple[Tensor, nn.Parameter]] = []
        self.skipped: SkippedSteps | None = None
        optimizer.register_step_post_hook(self._after_step)
        # A state dict is always that of the whole parameter.
        hidden: list[tuple[nn.Parameter, Any]] = []
        optimizer.register_state_dict_pre_hook(lambda *_: self._hide(hidden))
        optimizer.register_state_dict_post_hook(lambda *_: self._show(hidden))
        optimizer.register_load_state_dict_pre_hook(lambda *_: self._before_load())

    @property
    def group(self) -> dict[str, Any]:
        """The optimizer's group of the weight, which a loaded state replaces."""
        return self.optimizer.param_groups[self.position]

    def catch_up(self) -> SkippedSteps:
        """From now on let rows make up for the steps that they were not lent in."""
        require_plain_sgd(self.optimizer, self.group, 'catch_up')
        self.skipped = SkippedSteps(self)
        return self.skipped

    @contextmanager
    def returned(self) -> Generator[None, None, None]:
        """The whole parameter in the optimizer for a while, to be saved."""
        hidden: list[tuple[nn.Parameter, Any]] = []
        self._hide(hidden)
        lent, self.lent = self.lent, []
        try:
            yield
        finally:
            self.lent = lent
            self._show(hidden)

    @property
    def accumulates(self) -> bool:
        """Whether lent rows have a gradient that waits for its step."""
        return any(rows.grad is not None for _, rows in self.lent)

    @torch.no_grad()
    def lend(self, indices: Sequence[Tensor]) -> list[nn.Parameter]:
        """Parameters of the rows of each index, in the place of the whole.

        Gradients of rows that were lent before and have not stepped stay with them.

        Args:
            indices: Rows, int64, no row twice.
        """
        waiting = [(index, p.grad) for index, p in self.lent if p.grad is not None]
        self._take_back()
        lent = []
        for index in indices:
            rows = recycled.empty(len(index), self.weight)
            torch.index_select(self.weight, 0, index, out=rows)
            parameter = nn.Parameter(rows)
            if hasattr(self.weight, 'shard'):
                parameter.shard = self.weight.shard  # type: ignore[attr-defined]
            for earlier, grad in waiting:
                _move_gradient(earlier, grad, index, parameter)
            lent.append((index, parameter))
        self._exchange([self.weight], [parameter for _, parameter in lent])
        for index, parameter in lent:
            self._lend_state(index, parameter)
        self.lent = lent
        if self.skipped is not None:
            self.skipped.forget()
            for index, parameter in lent:
                velocity = self.optimizer.state[parameter].get('momentum_buffer')
                self.skipped.make_up(index, parameter.data, velocity)
                self.skipped.touch(index)
        return [parameter for _, parameter in lent]

    def _lend_state(self, index: Tensor, parameter: nn.Parameter) -> None:
        whole = self.optimizer.state.get(self.weight)
        if whole:
            self.optimizer.state[parameter] = {
                name: value.index_select(0, index)
                if self._is_rows(value)
                else _copied(value)
                for name, value in whole.items()
            }

    def _is_rows(self, value: Any) -> bool:
        return isinstance(value, Tensor) and value.shape == self.weight.shape

    def _take_back(self) -> None:
        """Put the whole parameter back, as if the rows had never been lent."""
        if not self.lent:
            return
        lent = [parameter for _, parameter in self.lent]
        self._exchange(lent, [self.weight])
        for parameter in lent:
            self.optimizer.state.pop(parameter, None)
            # A gradient that comes now would reach nobody.
            parameter.register_hook(_refuse)
        self.lent = []

    def _before_load(self) -> None:
        self._take_back()
        if self.skipped is not None:
            self.skipped.reset()

    def _exchange(self, old: list[nn.Parameter], new: list[nn.Parameter]) -> None:
        """Put parameters in the place of others in the optimizer."""
        params = self.group['params']
        at = next(i for i, parameter in enumerate(params) if parameter is old[0])
        params[at : at + len(old)] = new

    def _hide(self, hidden: list[tuple[nn.Parameter, Any]]) -> None:
        if self.lent:
            lent = [parameter for _, parameter in self.lent]
            self._exchange(lent, [self.weight])
            state = self.optimizer.state
            hidden[:] = [(p, state.pop(p)) for p in lent if p in state]

    def _show(self, hidden: list[tuple[nn.Parameter, Any]]) -> None:
        if self.lent:
            self._exchange([self.weight], [parameter for _, parameter in self.lent])
            self.optimizer.state.update(hidden)
            hidden.clear()

    @torch.no_grad()
    def _after_step(self, optimizer: Optimizer, *_: object) -> None:
        for index, parameter in self.lent:
            if parameter.grad is None:
                continue
            self.weight.index_copy_(0, index, parameter)
            whole = optimizer.state[self.weight]
            for name, value in optimizer.state.get(parameter, {}).items():
                if isinstance(value, Tensor) and value.shape == parameter.shape:
                    if name not in whole:
                        whole[name] = torch.zeros_like(self.weight)
                    whole[name].index_copy_(0, index, value)
                else:
                    whole[name] = value
        self._take_back()


def _refuse(_: Tensor) -> None:
    raise UserError(
        'HypersphereHead: with model.head.sample_rate < 1 or model.head.fused_update, '
        'backward must come before the next forward pass in training; call it for '
        'each loss'
    )


def _copied(value: Any) -> Any:
    return value.clone() if isinstance(value, Tensor) else value


def _move_gradient(
    earlier: Tensor, grad: Tensor, index: Tensor, parameter: nn.Parameter
) -> None:
    """Add the gradient of rows ``earlier`` to those of them that are in ``index``."""
    order = index.argsort()
    at = torch.searchsorted(index[order], earlier).clamp_max(len(index) - 1)
    place = order[at] if len(index) else at
    held = index[place] == earlier if len(index) else torch.zeros_like(earlier).bool()
    if parameter.grad is None:
        parameter.grad = torch.zeros_like(parameter)
    parameter.grad.index_add_(0, place[held], grad[held])


def group_of(weight: nn.Parameter, optimizer: Optimizer) -> dict[str, Any]:
    """The optimizer's group that holds a parameter."""
    for group in optimizer.param_groups:
        if any(parameter is weight for parameter in group['params']):
            return group
    raise UserError(
        "HypersphereHead.attach: the optimizer does not hold the head's weight; "
        'build it from all parameters of the model'
    )


class Sampling:
    """A random sample of the classes that are not in the batch (arXiv 2203.15565).

    Every class of the batch is there; of the others as many, each with the same
    probability, as make the given share of all, but no less than half that share of
    the others, lest a few stand for very many. A sum over the classes counts the
    random ones as often as makes it unbiased; a softmax takes them as they are, as
    in Partial FC.

    Args:
        rate: Share of the rows, in (0, 1).
        reweights: Whether the random rows stand for all that were not drawn.
    """

    def __init__(self, rate: float, reweights: bool) -> None:
        self.rate = rate
        self.reweights = reweights

    def draw(self, weight: Tensor, classes: Tensor) -> tuple[Tensor, float]:
        """Rows of the weight [C, D] without some, sorted, and what each stands for."""
        others = len(weight) - len(classes)
        size = max(
            math.ceil(self.rate * len(weight)) - len(classes),
            math.ceil(self.rate * others / 2),
        )
        drawn = torch.randperm(others, device=weight.device)[:size].sort().values
        # From places among the others to rows: step over the batch's classes.
        before = classes - torch.arange(len(classes), device=weight.device)
        drawn += torch.searchsorted(before, drawn, right=True)
        return drawn, self.weight(weight, classes, drawn)

    def weight(self, weight: Tensor, classes: Tensor, drawn: Tensor) -> float:
        """How many classes each of the drawn ones stands for."""
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
        self.lent = LentRows(weight, optimizer)
        self.sampling = sampling

    def take(self, weight: nn.Parameter, classes: Tensor, centres: str) -> Rows:
        """See :meth:`AllRows.take`."""
        if self.lent.accumulates:
            # The same sample for all batches of a step; given how many of its rows
            # turn out to be own rows of a later batch, the rest is random still.
            (earlier, _), (drawn, _) = self.lent.lent
            classes = torch.cat([classes, earlier]).unique()
            drawn = drawn[~torch.isin(drawn, classes)]
            stands_for = self.sampling.weight(weight, classes, drawn)
        else:
            drawn, stands_for = self.sampling.draw(weight, classes)
        own, others = self.lent.lend([classes, drawn])
        return Rows(
            classes,
            own,
            [_own_part(own, centres), Part(others, None, centres, stands_for)],
        )


def _own_part(own: nn.Parameter, centres: str) -> Part:
    """The own rows as classes to walk; projected now, since they are used first."""
    everyone = torch.arange(len(own), device=own.device)
    if centres != 'project':
        return Part(own, everyone, centres)
    own.data.copy_(unit(own.data)[0])
    return Part(own, everyone, 'unit')


class SteppedRows:
    """Rows that step while the engine walks them, without a gradient buffer.

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
        self.lent = LentRows(weight, optimizer)
        require_plain_sgd(optimizer, self.lent.group, 'fused_update')
        self.sampling = sampling

    def take(self, weight: nn.Parameter, classes: Tensor, centres: str) -> Rows:
        """See :meth:`AllRows.take`."""
        if self.lent.accumulates:
            raise UserError(
                'fused_update: the centres of an earlier batch have not stepped yet; '
                'gradient accumulation (optim_wrapper.accumulative_counts) needs '
                'model.head.fused_update=False'
            )
        group = self.lent.group
        velocity = None
        if group['momentum']:
            state = self.lent.optimizer.state[weight]
            if state.get('momentum_buffer') is None:
                state['momentum_buffer'] = torch.zeros_like(weight)
            velocity = state['momentum_buffer']
        drawn, stands_for = None, 1.0
        if self.sampling is not None:
            drawn, stands_for = self.sampling.draw(weight, classes)
        (own,) = self.lent.lend([classes])
        update = Update(
            weight.detach(),
            velocity,
            group['lr'],
            group['momentum'],
            group['weight_decay'],
            index=drawn,
            excluded=classes if drawn is None else None,
            skipped=self.lent.skipped,
        )
        others = Part(weight.detach(), None, centres, stands_for, update)
        return Rows(classes, own, [_own_part(own, centres), others])


def require_plain_sgd(optimizer: Optimizer, group: dict, option: str) -> None:
    """Raise ``UserError`` unless a group is stepped by SGD as in its textbook form."""
    plain = type(optimizer) is torch.optim.SGD and not any(
        group.get(name) for name in ('dampening', 'nesterov', 'maximize')
    )
    if not plain:
        raise UserError(
            f'{option} is exact for torch.optim.SGD with momentum and weight decay '
            f'only, without dampening, nesterov or maximize; got {optimizer}. Set '
            f'optim_wrapper.optimizer to that one or leave model.head.{option} out'
        )
