"""Rows of the centres that an optimizer holds in the place of all, for one step.

Legend of shapes: C rows of this rank, D dimensions.
"""

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
    a small parameter of some rows, and the state that belongs to them, in the place
    of the whole: whatever it is, and whoever clips or scales gradients, sees these
    rows alone, and the others cost nothing.

    Args:
        weight: The whole parameter, [C, D].
        optimizer: The optimizer that steps it.

    Attributes:
        held: What the optimizer holds now: the rows, int64, and their parameter;
            None for the whole.

    Raises:
        UserError: If the optimizer does not hold the parameter.
    """

    def __init__(self, weight: nn.Parameter, optimizer: Optimizer) -> None:
        self.weight = weight
        self.optimizer = optimizer
        self._position = _group_of(weight, optimizer)
        self.held: tuple[Tensor, nn.Parameter] | None = None
        self.skipped: SkippedSteps | None = None
        # The optimizer's state of the borrowed rows while it holds the whole.
        self._hidden: Any = None
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
        return self.held is not None and self.held[1].grad is not None

    def catch_up(self) -> SkippedSteps:
        """From now on rows make up for the steps in which they were not borrowed.

        Raises:
            UserError: If the optimizer is not plain SGD.
        """
        require_plain_sgd(self.optimizer, self.group, 'catch_up')
        self.skipped = SkippedSteps(self.weight, self.optimizer, lambda: self.group)
        return self.skipped

    @torch.no_grad()
    def borrow(self, index: Tensor) -> nn.Parameter:
        """A parameter of some rows, in the place of the whole.

        Args:
            index: The rows, int64, none twice. Those that were borrowed before and
                have a gradient that waits for its step must be among them.
        """
        earlier, grad = (self.held[0], self.held[1].grad) if self.held else (None, None)
        self._give_back()
        rows = recycled.empty(len(index), self.weight)
        torch.index_select(self.weight, 0, index, out=rows)
        whole = self.optimizer.state.get(self.weight, {})
        state = {name: self._rows_of(value, index) for name, value in whole.items()}
        if self.skipped is not None:
            # The step that was to come did not.
            self.skipped.touched.clear()
            self.skipped.make_up(index, rows, state.get('momentum_buffer'))
        parameter = nn.Parameter(rows)
        if hasattr(self.weight, 'shard'):
            parameter.shard = self.weight.shard  # type: ignore[attr-defined]
        if earlier is not None and grad is not None:
            place = index.new_empty(len(self.weight))
            place[index] = torch.arange(len(index), device=index.device)
            parameter.grad = torch.zeros_like(rows)
            parameter.grad.index_copy_(0, place[earlier], grad)
        self._exchange(self.weight, parameter)
        if state:
            self.optimizer.state[parameter] = state
        self.held = index, parameter
        return parameter

    def _rows_of(self, value: Any, index: Tensor) -> Any:
        if not isinstance(value, Tensor):
            return value
        if value.shape == self.weight.shape:
            return value.index_select(0, index)
        return value.clone()

    @torch.no_grad()
    def _after_step(self, optimizer: Optimizer, *_: object) -> None:
        if self.held is not None and self.accumulates:
            index, parameter = self.held
            self.weight.index_copy_(0, index, parameter)
            whole = optimizer.state[self.weight]
            for name, value in optimizer.state.get(parameter, {}).items():
                if isinstance(value, Tensor) and value.shape == parameter.shape:
                    if name not in whole:
                        whole[name] = torch.zeros_like(self.weight)
                    whole[name].index_copy_(0, index, value)
                else:
                    whole[name] = value
            if self.skipped is not None:
                self.skipped.touched.append(index)
        self._give_back()
        if self.skipped is not None:
            self.skipped.step()

    def _give_back(self) -> None:
        """Put the whole parameter back, as if no row had been borrowed."""
        if self.held is None:
            return
        self._hide()
        self._hidden = None
        # A gradient that comes now would reach nobody.
        self.held[1].register_hook(_refuse)
        self.held = None

    def _before_load(self) -> None:
        self._give_back()
        if self.skipped is not None:
            self.skipped.touched.clear()
            self.skipped.reset()

    def _hide(self) -> None:
        if self.held is not None:
            self._exchange(self.held[1], self.weight)
            self._hidden = self.optimizer.state.pop(self.held[1], None)

    def _show(self) -> None:
        if self.held is not None:
            self._exchange(self.weight, self.held[1])
            if self._hidden is not None:
                self.optimizer.state[self.held[1]] = self._hidden
            self._hidden = None

    def _exchange(self, old: nn.Parameter, new: nn.Parameter) -> None:
        """Put a parameter in the place of another in the optimizer."""
        params = self.group['params']
        params[next(i for i, p in enumerate(params) if p is old)] = new


def _refuse(_: Tensor) -> None:
    raise UserError(
        'HypersphereHead: with model.head.sample_rate < 1 or model.head.fused_update, '
        'backward must come before the next forward pass in training; call it for '
        'each loss'
    )


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
