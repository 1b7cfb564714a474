"""What ranks exchange to save tensors with a row per class: centres, momentum, average.

Legend of shapes: C classes of all ranks.
"""

import math
from collections.abc import Generator, Iterable, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple

import torch
from mmengine.dist import (
    all_gather_object,
    broadcast,
    broadcast_object_list,
    get_comm_device,
    is_main_process,
)
from torch import Tensor, nn
from torch.optim import Optimizer

from mmhyperface.utils.errors import UserError

from .shard import Shard
from .state import CentreState, centres_saved_as, chunks, heads_of
from .storage import Key


class ClassTensor(NamedTuple):
    """A tensor with one row per class, [C, ...].

    Attributes:
        shard: The classes of this rank.
        local: Its rows; None if it has none.
        shape: Of all ranks together.
        dtype: Of all ranks.
        state: The optimizer's state, where the tensor is an entry of it.
        entry: Its name there.
    """

    shard: Shard
    local: Tensor | None
    shape: torch.Size
    dtype: torch.dtype
    state: dict | None = None
    entry: str = ''

    @classmethod
    def of(cls, shard: Shard, local: Tensor, *entry: Any) -> 'ClassTensor':
        """That of which a rank has some rows."""
        shape = torch.Size([shard.num_classes, *local.shape[1:]])
        return cls(shard, local, shape, local.dtype, *entry)

    @property
    def bytes(self) -> int:
        """Size of all rows."""
        return math.prod(self.shape) * torch.empty((), dtype=self.dtype).element_size()


def has_rows(value: Any, count: int) -> bool:
    """Whether an entry of an optimizer's state has that many rows."""
    return isinstance(value, Tensor) and value.ndim > 0 and len(value) == count


def class_tensors(
    models: Mapping[str, nn.Module],
    optimizers: Iterable[tuple[str, Optimizer]],
    shared: bool,
) -> dict[str, ClassTensor]:
    """All that a checkpoint will hold, by names that are the same on all ranks.

    Args:
        models: The trained one under '', and its averages.
        optimizers: With their names; those whose state is saved.
        shared: Whether the centres are split over the ranks.
    """
    heads = heads_of(models[''])
    tensors = {
        f'{prefix}{name}.weight': ClassTensor.of(heads[name].shard, head.weight)
        for prefix, model in models.items()
        for name, head in heads_of(model).items()
    }
    for wrapper, optimizer in optimizers:
        for name, head in heads.items():
            state = optimizer.state.get(head.weight, {})
            for entry, value in state.items():
                if has_rows(value, len(head.weight)):
                    tensors[f'{wrapper} {name} {entry}'] = ClassTensor.of(
                        head.shard, value, state, entry
                    )
    if not shared:
        return tensors
    # A rank without classes has no momentum; with one class it may take a number for
    # a row. The first rank, which has most of them, says what there is.
    described = from_main(
        [(name, t.shape, t.dtype, t.shard.world_size) for name, t in tensors.items()],
        shared,
    )
    split = next(head.shard for head in heads.values() if head.shard.world_size > 1)
    return {
        name: tensors.get(name)
        or ClassTensor(split if world > 1 else Shard(shape[0]), None, shape, dtype)
        for name, shape, dtype, world in described
    }


@contextmanager
def saved_as(
    tensors: Mapping[str, ClassTensor], replacements: Mapping[str, Any]
) -> Generator[None, None, None]:
    """Let state dicts of model and optimizer hold something else for the tensors."""
    names = {id(tensor.local): name for name, tensor in tensors.items()}

    def replacement(head: CentreState) -> Any:
        if id(head.weight) in names:
            return replacements[names[id(head.weight)]]
        if head.shard.world_size == 1:
            return head.weight.detach()
        raise UserError(
            'a hook saves a copy of the model, whose sharded centres cannot be '
            "collected; only EMAHook's can"
        )

    with ExitStack() as stack:
        stack.enter_context(centres_saved_as(replacement))
        for name, tensor in tensors.items():
            if tensor.state is not None:
                stack.callback(tensor.state.__setitem__, tensor.entry, tensor.local)
                tensor.state[tensor.entry] = replacements[name]
        yield


@contextmanager
def collected(tensors: Mapping[str, ClassTensor]) -> Generator[None, None, None]:
    """Let the first process have all rows, in its state dicts, for a while."""
    if all(tensor.shard.world_size == 1 for tensor in tensors.values()):
        yield
        return
    with saved_as(tensors, {name: _collect(t) for name, t in tensors.items()}):
        yield


def _collect(tensor: ClassTensor) -> Tensor | None:
    """All rows [C, ...] on the CPU of the first process, sent in pieces."""
    shard, local = tensor.shard, tensor.local
    if shard.world_size == 1:
        return local
    shape = tensor.shape
    whole = torch.empty(shape, dtype=tensor.dtype) if is_main_process() else None
    for rank in range(shard.world_size):
        for a, b in chunks(*shard.range_of(rank), tensor.bytes // shape[0]):
            piece = torch.empty(
                (b - a, *shape[1:]), dtype=tensor.dtype, device=get_comm_device()
            )
            if rank == shard.rank and local is not None:
                piece.copy_(local.detach()[a - shard.start : b - shard.start])
            broadcast(piece, src=rank)
            if whole is not None:
                whole[a:b] = piece
    return whole


class Placeholder:
    """Marks the place of a tensor in a checkpoint that is about to be written."""

    def __init__(self, name: str) -> None:
        self.name = name


def take_placeholders(
    node: Any, path: Key | None = None
) -> Generator[tuple[Key, str], None, None]:
    """Remove placeholders from nested dicts; their places and names."""
    path = path or []
    for key, value in list(node.items()):
        if isinstance(value, Placeholder):
            del node[key]
            yield [*path, key], value.name
        elif isinstance(value, dict):
            yield from take_placeholders(value, [*path, key])


def from_main(value: Any, shared: bool) -> Any:
    """The first process's value."""
    values = [value]
    if shared:
        broadcast_object_list(values)
    return values[0]


@contextmanager
def all_or_none(shared: bool) -> Generator[None, None, None]:
    """A step that all processes finish, or none: an error on one is raised on all."""
    error = None
    try:
        yield
    except Exception as caught:
        error = caught
    messages = []
    if shared:
        messages = all_gather_object(error and f'{type(error).__name__}: {error}')
    if error is not None:
        raise error
    for rank, message in enumerate(messages):
        if message:
            raise UserError(f'process {rank} could not save its part: {message}')
