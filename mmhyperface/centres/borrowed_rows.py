"""Rows of the centres that an optimizer holds in the place of all, for one step.

Legend of shapes: C rows of this rank, D dimensions.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from mmhyperface.ops import recycled
from mmhyperface.utils.errors import UserError

from .skipped_steps import SkippedSteps


class BorrowedRows:
    """Lets the optimizer of a parameter hold some of its rows instead.

    Between the forward pass and the end of ``optimizer.step`` the optimizer holds
    small parameters of some rows, and the state that belongs to them, in the place
    of the whole: whatever it is, and whoever clips or scales gradients, sees these
    rows alone, and the others cost nothing.

    Args:
        weight: The whole parameter, [C, D].
        optimizer: The optimizer that steps it.

    Attributes:
        held: What the optimizer holds now: of each parameter its rows, int64, and
            itself.

    Raises:
        UserError: If the optimizer does not hold the parameter.
    """

    def __init__(self, weight: nn.Parameter, optimizer: Optimizer) -> None:
        self.weight = weight
        self.optimizer = optimizer
        self._position = _group_of(weight, optimizer)
        self.held: list[tuple[Tensor, nn.Parameter]] = []
        self.skipped: SkippedSteps | None = None
        # The optimizer's state of the borrowed rows while it holds the whole.
        self._hidden: dict[Tensor, Any] = {}
        optimizer.register_step_post_hook(self._after_step)
        # A state dict is always that of the whole parameter.
        optimizer.register_state_dict_pre_hook(lambda *_: self._hide())
        optimizer.register_state_dict_post_hook(lambda *_: self._show())
        optimizer.register_load_state_dict_pre_hook(lambda *_: self._before_load())

    @property
    def group(self) -> dict[str, Any]:
        """The optimizer's group of the weight, which a loaded state replaces."""
        return self.optimizer.param_groups[self._position]

    @property
    def accumulates(self) -> bool:
        """Whether borrowed rows have a gradient that waits for its step."""
        return any(rows.grad is not None for _, rows in self.held)

    def catch_up(self) -> SkippedSteps:
        """From now on rows make up for the steps in which they were not borrowed.

        Raises:
            UserError: If the optimizer is not plain SGD.
        """
        require_plain_sgd(self.optimizer, self.group, 'catch_up')
        self.skipped = SkippedSteps(self.weight, self.optimizer, lambda: self.group)
        return self.skipped

    @torch.no_grad()
    def borrow(self, indices: Sequence[Tensor]) -> list[nn.Parameter]:
        """Parameters of the rows of each index, in the place of the whole.

        Gradients of rows that were borrowed before and have not stepped stay with
        them.

        Args:
            indices: Rows, int64, no row twice.
        """
        waiting = [(index, p.grad) for index, p in self.held if p.grad is not None]
        self._give_back()
        borrowed = []
        for index in indices:
            rows = recycled.empty(len(index), self.weight)
            torch.index_select(self.weight, 0, index, out=rows)
            parameter = nn.Parameter(rows)
            if hasattr(self.weight, 'shard'):
                parameter.shard = self.weight.shard  # type: ignore[attr-defined]
            for earlier, grad in waiting:
                _move_gradient(earlier, grad, index, parameter, len(self.weight))
            borrowed.append((index, parameter))
        self._exchange([self.weight], [parameter for _, parameter in borrowed])
        self.held = borrowed
        state = self.optimizer.state
        whole = state.get(self.weight, {})
        if self.skipped is not None:
            self.skipped.forget()
        for index, parameter in borrowed:
            if whole:
                state[parameter] = {
                    name: self._rows_of(value, index) for name, value in whole.items()
                }
            if self.skipped is not None:
                velocity = state[parameter].get('momentum_buffer')
                self.skipped.make_up(index, parameter.data, velocity)
                self.skipped.touch(index)
        return [parameter for _, parameter in borrowed]

    def _rows_of(self, value: Any, index: Tensor) -> Any:
        if not isinstance(value, Tensor):
            return value
        if value.shape == self.weight.shape:
            return value.index_select(0, index)
        return value.clone()

    @torch.no_grad()
    def _after_step(self, optimizer: Optimizer, *_: object) -> None:
        for index, parameter in self.held:
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
        self._give_back()

    def _give_back(self) -> None:
        """Put the whole parameter back, as if no row had been borrowed."""
        if not self.held:
            return
        self._hide()
        self._hidden = {}
        for _, parameter in self.held:
            # A gradient that comes now would reach nobody.
            parameter.register_hook(_refuse)
        self.held = []

    def _before_load(self) -> None:
        self._give_back()
        if self.skipped is not None:
            self.skipped.forget()
            self.skipped.reset()

    def _hide(self) -> None:
        if self.held:
            parameters = [parameter for _, parameter in self.held]
            self._exchange(parameters, [self.weight])
            state = self.optimizer.state
            self._hidden = {p: state.pop(p) for p in parameters if p in state}

    def _show(self) -> None:
        if self.held:
            self._exchange([self.weight], [p for _, p in self.held])
            self.optimizer.state.update(self._hidden)
            self._hidden = {}

    def _exchange(self, old: list[nn.Parameter], new: list[nn.Parameter]) -> None:
        """Put parameters in the place of others in the optimizer."""
        params = self.group['params']
        at = next(i for i, parameter in enumerate(params) if parameter is old[0])
        params[at : at + len(old)] = new


def _refuse(_: Tensor) -> None:
    raise UserError(
        'HypersphereHead: with model.head.sample_rate < 1 or model.head.fused_update, '
        'backward must come before the next forward pass in training; call it for '
        'each loss'
    )


def _move_gradient(
    earlier: Tensor, grad: Tensor, index: Tensor, parameter: nn.Parameter, count: int
) -> None:
    """Add the gradient of rows ``earlier`` to those of them that are in ``index``."""
    if parameter.grad is None:
        parameter.grad = torch.zeros_like(parameter)
    place = index.new_full((count,), -1)
    place[index] = torch.arange(len(index), device=index.device)
    place = place[earlier]
    parameter.grad.index_add_(0, place[place >= 0], grad[place >= 0])


def _group_of(weight: nn.Parameter, optimizer: Optimizer) -> int:
    """The number of the optimizer's group that holds a parameter."""
    for number, group in enumerate(optimizer.param_groups):
        if any(parameter is weight for parameter in group['params']):
            return number
    raise UserError(
        "HypersphereHead.attach: the optimizer does not hold the head's weight; "
        'build it from all parameters of the model'
    )


def require_plain_sgd(optimizer: Optimizer, group: dict, option: str) -> None:
    """See that a group is stepped by SGD as in its textbook form.

    Args:
        optimizer: Any.
        group: One of its ``param_groups``.
        option: Of the head, that needs it.

    Raises:
        UserError: If it is not.
    """
    plain = type(optimizer) is torch.optim.SGD and not any(
        group.get(name) for name in ('dampening', 'nesterov', 'maximize')
    )
    if not plain:
        raise UserError(
            f'{option} is exact for torch.optim.SGD with momentum and weight decay '
            f'only, without dampening, nesterov or maximize; got {optimizer}. Set '
            f'optim_wrapper.optimizer to that one or leave model.head.{option} out'
        )
