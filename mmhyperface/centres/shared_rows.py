"""What ranks exchange to save tensors with a row per class: centres, momentum, average.

Legend of shapes: C classes of all ranks.
"""

import math
from collections.abc import Generator, Iterable, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

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

from . import storage
from .shard import Shard
from .state import CentreState, centres_saved_as, chunks, heads_of


@dataclass(eq=False)
class ClassTensor:
    """A tensor with one row per class, [C, ...].

    Attributes:
        name: The same on all ranks.
        shard: The classes of this rank.
        local: Its rows; None if it has none.
        shape: Of all ranks together.
        dtype: Of all ranks.
        state: The optimizer's state, where the tensor is an entry of it.
        entry: Its name there.
    """

    name: str
    shard: Shard
    local: Tensor | None
    shape: torch.Size
    dtype: torch.dtype
    state: dict | None = None
    entry: str = ''

    @classmethod
    def of(cls, name: str, shard: Shard, local: Tensor, *entry: Any) -> 'ClassTensor':
        """That of which a rank has some rows."""
        shape = torch.Size([shard.num_classes, *local.shape[1:]])
        return cls(name, shard, local, shape, local.dtype, *entry)

    @property
    def bytes(self) -> int:
        """Size of all rows."""
        return math.prod(self.shape) * torch.empty((), dtype=self.dtype).element_size()

    def write(self, folder: Path, key: storage.Key) -> dict:
        """Write this rank's rows into a folder; what its index says of them.

        Args:
            folder: Of the parts.
            key: Where the tensor belongs in the checkpoint.
        """
        parts = []
        if self.local is not None and (self.shard.world_size > 1 or is_main_process()):
            parts = storage.write_rows(folder, key, self.local, self.shard.start)
        return {
            'key': key,
            'dtype': str(self.dtype).removeprefix('torch.'),
            'shape': list(self.shape),
            'parts': parts,
        }


def has_rows(value: Any, count: int) -> bool:
    """Whether an entry of an optimizer's state has that many rows."""
    return isinstance(value, Tensor) and value.ndim > 0 and len(value) == count


def class_tensors(
    models: Mapping[str, nn.Module],
    optimizers: Iterable[tuple[str, Optimizer]],
    shared: bool,
) -> list[ClassTensor]:
    """All that a checkpoint will hold, the same on all ranks.

    Args:
        models: The trained one under '', and its averages.
        optimizers: With their names; those whose state is saved.
        shared: Whether the centres are split over the ranks.
    """
    heads = heads_of(models[''])
    tensors = [
        ClassTensor.of(f'{prefix}{name}.weight', heads[name].shard, head.weight)
        for prefix, model in models.items()
        for name, head in heads_of(model).items()
    ]
    for wrapper, optimizer in optimizers:
        for name, head in heads.items():
            state = optimizer.state.get(head.weight, {})
            for entry, value in state.items():
                if has_rows(value, len(head.weight)):
                    full = f'{wrapper} {name} {entry}'
                    tensors.append(
                        ClassTensor.of(full, head.shard, value, state, entry)
                    )
    if not shared:
        return tensors
    # A rank without classes has no momentum; with one class it may take a number for
    # a row. The first rank, which has most of them, says what there is.
    described = from_main(
        [(t.name, t.shape, t.dtype, t.shard.world_size) for t in tensors], shared
    )
    split = next(head.shard for head in heads.values() if head.shard.world_size > 1)
    own = {tensor.name: tensor for tensor in tensors}
    return [
        own.get(name)
        or ClassTensor(
            name, split if world > 1 else Shard(shape[0]), None, shape, dtype
        )
        for name, shape, dtype, world in described
    ]


@contextmanager
def saved_as(
    tensors: Sequence[ClassTensor], replacements: Sequence[Any]
) -> Generator[None, None, None]:
    """Let state dicts of model and optimizer hold something else for the tensors."""
    by_tensor = {
        id(tensor.local): other
        for tensor, other in zip(tensors, replacements, strict=True)
    }

    def replacement(head: CentreState) -> Any:
        if id(head.weight) in by_tensor:
            return by_tensor[id(head.weight)]
        if head.shard.world_size == 1:
            return head.weight.detach()
        raise UserError(
            'a hook saves a copy of the model, whose sharded centres cannot be '
            "collected; only EMAHook's can"
        )

    with ExitStack() as stack:
        stack.enter_context(centres_saved_as(replacement))
        for tensor, other in zip(tensors, replacements, strict=True):
            if tensor.state is not None:
                stack.callback(tensor.state.__setitem__, tensor.entry, tensor.local)
                tensor.state[tensor.entry] = other
        yield


@contextmanager
def collected(tensors: Sequence[ClassTensor]) -> Generator[None, None, None]:
    """Let the first process have all rows, in its state dicts, for a while."""
    with saved_as(tensors, [_collect(tensor) for tensor in tensors]):
        yield


def _collect(tensor: ClassTensor) -> Tensor | None:
    """All rows [C, ...] on the CPU of the first process, sent in pieces."""
    shard, local = tensor.shard, tensor.local
    if local is not None:
        local = local.detach()
    if shard.world_size == 1:
        return local
    shape = tensor.shape
    whole = torch.empty(shape, dtype=tensor.dtype) if is_main_process() else None
    row = torch.empty((1, *shape[1:]), dtype=tensor.dtype, device=get_comm_device())
    for rank in range(shard.world_size):
        for a, b in chunks(row, *shard.range_of(rank)):
            piece = row.new_empty((b - a, *shape[1:]))
            if rank == shard.rank and local is not None:
                piece.copy_(local[a - shard.start : b - shard.start])
            broadcast(piece, src=rank)
            if whole is not None:
                whole[a:b] = piece
    return whole


def take_placeholders(
    node: Any, path: storage.Key | None = None
) -> Generator[tuple[storage.Key, str], None, None]:
    """Remove those that stand for tensors in nested dicts; their places and names."""
    path = path or []
    for key, value in list(node.items()):
        if isinstance(value, ClassTensor):
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
