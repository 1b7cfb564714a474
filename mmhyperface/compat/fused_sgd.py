"""torch's fused SGD: what it does not do as the other ways to step."""

import torch
from torch.optim import Optimizer


def begin_momentum(optimizer: Optimizer) -> None:
    """Let momentum begin with 0, which is the same as with the first gradient.

    torch's fused SGD leaves it unwritten where the first step overflows, and takes no
    parameters without it beside such as have it.
    """
    if _with_zeros not in optimizer._optimizer_step_pre_hooks.values():
        optimizer.register_step_pre_hook(_with_zeros)


@torch.no_grad()
def _with_zeros(optimizer: Optimizer, *_: object) -> None:
    for group in optimizer.param_groups:
        if group.get('fused') and group.get('momentum') and not group['dampening']:
            for parameter in group['params']:
                if not optimizer.state.get(parameter) and parameter.grad is not None:
                    zeros = torch.zeros_like(parameter)
                    optimizer.state[parameter]['momentum_buffer'] = zeros
