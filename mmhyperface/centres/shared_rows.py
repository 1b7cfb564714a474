"""Tensors with a row per class, on their way from many processes to a checkpoint."""

import math
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from mmengine.dist import (
    all_gather_object,
    broadcast,
    broadcast_object_list,
    get_comm_device,
    is_main_process,
)
from torch import Tensor

from mmhyperface.centres.checkpoint import Key
from mmhyperface.centres.shard import Shard
from mmhyperface.centres.state import chunks
from mmhyperface.utils.errors import UserError


class Rows(NamedTuple):
    """A tensor with one row per class: centres, their average, their momentum."""

    shard: Shard
    local: Tensor | None  # this rank's rows; None if it has none
    shape: torch.Size  # of all ranks together
    dtype: torch.dtype
    state: dict | None = None  # the optimizer's, where the tensor is the entry
    entry: str = ''

    @property
    def bytes(self) -> int:
        return math.prod(self.shape) * torch.empty((), dtype=self.dtype).element_size()


class StandIn:
    """Marks the place of rows in a checkpoint that is about to be written."""

    def __init__(self, name: str) -> None:
        self.name = name


def take_stand_ins(
    node: Any, path: Key | None = None
) -> Generator[tuple[Key, str], None, None]:
    """Remove stand-ins from nested dicts, and tell where and what they were."""
    path = path or []
    for key, value in list(node.items()):
        if isinstance(value, StandIn):
            del node[key]
            yield [*path, key], value.name
        elif isinstance(value, dict):
            yield from take_stand_ins(value, [*path, key])


def collect(rows: Rows) -> Tensor | None:
    """All rows [C, ...] on the CPU of the first process, sent in pieces."""
    if rows.shard.world_size == 1:
        return rows.local
    whole = torch.empty(rows.shape, dtype=rows.dtype) if is_main_process() else None
    each = rows.bytes // rows.shape[0]
    for rank in range(rows.shard.world_size):
        for a, b in chunks(*rows.shard.range_of(rank), each):
            shape = (b - a, *rows.shape[1:])
            piece = torch.empty(shape, dtype=rows.dtype, device=get_comm_device())
            if rank == rows.shard.rank and rows.local is not None:
                start = rows.shard.start
                piece.copy_(rows.local.detach()[a - start : b - start])
            broadcast(piece, src=rank)
            if whole is not None:
                whole[a:b] = piece
    return whole


def from_main(value: Any, shared: bool) -> Any:
    """The first process's value."""
    values = [value]
    if shared:
        broadcast_object_list(values)
    return values[0]


@contextmanager
def together(shared: bool) -> Generator[None, None, None]:
    """A step that all processes finish, or none: an error on one is raised on all."""
    error = None
    try:
        yield
    except Exception as caught:
        error = caught
    told = []
    if shared:
        told = all_gather_object(error and f'{type(error).__name__}: {error}')
    if error is not None:
        raise error
    for rank, message in enumerate(told):
        if message:
            raise UserError(f'process {rank} could not save its part: {message}')
