"""State dicts as peers save them: prefixes, other types, other first layers."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from mmhyperface.utils.errors import UserError, some

State = dict[str, Tensor]

#: The advice of converters that have the option.
DROP_HEAD = ' with --drop-head'

#: The convolution that sees the pixels.
FIRST_LAYERS = {
    'IResNet': 'conv1.weight',
    'IR': 'input_layer.0.weight',
    'SFNet': 'layer1.0.conv1.weight',
    'MobileFaceNet': 'conv_1.conv2d.weight',
}


def as_state(value: Any, what: str) -> State:
    """The same, if it is a state dict.

    Raises:
        UserError: If it is none.
    """
    if not isinstance(value, Mapping) or not value:
        raise UserError(f'{what} is no state dict, but a {type(value).__name__}')
    others = [key for key, entry in value.items() if not isinstance(entry, Tensor)]
    if others:
        raise UserError(
            f'{what} is no state dict: no tensors are under {some(others)}; it is a '
            'checkpoint of another program'
        )
    return dict(value)


def unwrapped(state: State, prefixes: Iterable[str] = ('module.',)) -> State:
    """The entries without what wrappers put before all names, once or repeatedly."""
    prefixes = tuple(prefixes)
    for prefix in prefixes:
        if state and all(key.startswith(prefix) for key in state):
            return unwrapped(below(state, prefix), prefixes)
    return state


def below(state: State, prefix: str) -> State:
    """The entries whose names begin with the prefix, without it."""
    return {
        key.removeprefix(prefix): value
        for key, value in state.items()
        if key.startswith(prefix)
    }


def without_head(state: State) -> State:
    """The entries of a model of ours without those of its head."""
    return {key: value for key, value in state.items() if not key.startswith('head.')}


def centres_in(
    head: State, names: Sequence[str], others: Iterable[str] = (), advice: str = ''
) -> Tensor:
    """The class centres of a head, a matrix under one of some names.

    Args:
        head: The head's entries.
        names: What they may be called.
        others: What may be beside them.
        advice: What to do if there are none, for the message.

    Raises:
        UserError: If there are none, or other entries.
    """
    for name in names:
        if head.keys() - {*others} == {name} and head[name].ndim == 2:
            return head[name]
    wanted = ' or '.join(f'`{name}`' for name in names)
    wanted += '' if others else ' alone'
    raise UserError(
        f'the head has {some(list(head))}, where class centres {wanted} belong; '
        f'convert the backbone alone{advice}'
    )


def as_float32(tensor: Tensor) -> Tensor:
    """fp16, bf16 and fp64 as fp32; whole numbers as they are."""
    return tensor.float() if tensor.is_floating_point() else tensor


def own(tensor: Tensor) -> Tensor:
    """A tensor that shares no larger memory, which ``torch.save`` would write whole."""
    tensor = tensor.detach().contiguous()
    needed = tensor.numel() * tensor.element_size()
    return tensor if tensor.untyped_storage().nbytes() == needed else tensor.clone()


def scaled_input(state: State, config: dict, factor: float) -> State:
    """The weights of a network that is fed x instead of x · factor.

    Exact but for one rounding to fp32, about 6e-8 of a weight.
    """
    key = FIRST_LAYERS[config['type']]
    weight = state[key]
    return {**state, key: (weight.double() * factor).to(weight.dtype)}


def swapped_channels(state: State, config: dict) -> State:
    """The weights of a network that is fed RGB instead of BGR, or BGR instead of RGB.

    Exact.
    """
    key = FIRST_LAYERS[config['type']]
    return {**state, key: torch.flip(state[key], (1,))}


def replace_tensors(node: Any, function: Callable[[Tensor], Any]) -> Any:
    """Apply a function to all tensors of nested dicts and lists, in place."""
    if isinstance(node, Tensor):
        return function(node)
    if isinstance(node, dict):
        for key, value in node.items():
            node[key] = replace_tensors(value, function)
    elif isinstance(node, list):
        node[:] = [replace_tensors(value, function) for value in node]
    return node
