"""Process groups of many ranks on one: each rank has what this one has."""

import os
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor
from torch.utils._python_dispatch import _disable_current_modes

LOOPBACK = 'loopback'


class Exchange(NamedTuple):
    """One collective: its name, backend and dtype, and the bytes this rank gives."""

    name: str
    backend: str
    dtype: str
    bytes: int


class Loopback(dist.ProcessGroup):
    """A process group in which the other ranks send what this one does.

    Args:
        rank, size: As of any group.
        backend: What the others take it for; 'nccl' refuses what NCCL refuses.
        note: Is told each exchange.
    """

    def __init__(
        self, rank: int, size: int, backend: str, note: Callable[[Exchange], None]
    ) -> None:
        super().__init__(rank, size)
        self.backend = backend
        self.note = note

    def getBackendName(self) -> str:
        return LOOPBACK

    @property
    def _device_types(self) -> list[torch.device]:
        # Where torch puts objects that it sends.
        return [torch.device('cuda' if self.backend == 'nccl' else 'cpu')]

    def _exchange(
        self, name: str, given: list[Tensor], got: list[Tensor], copy: Callable
    ) -> Any:
        if self.backend == 'nccl':
            for x in (*given, *got):
                if not x.is_cuda:
                    raise RuntimeError(f'{name}: NCCL got a tensor of the CPU')
                if not x.is_contiguous() and not x.is_non_overlapping_and_dense():
                    raise RuntimeError(f'{name}: NCCL got a tensor with gaps')
        for x in given:
            dtype = str(x.dtype).removeprefix('torch.')
            self.note(Exchange(name, self.backend, dtype, x.nbytes))
        with torch.no_grad(), _disable_current_modes():
            copy()
        return _done(got)

    def allreduce(self, tensors: list[Tensor], opts: Any = None) -> Any:
        return self._exchange('all_reduce', tensors, tensors, lambda: None)

    def allreduce_coalesced(self, tensors: list[Tensor], opts: Any = None) -> Any:
        return self.allreduce(tensors)

    def broadcast(self, tensors: list[Tensor], opts: Any = None) -> Any:
        return self._exchange('broadcast', tensors, tensors, lambda: None)

    def allgather(
        self, outputs: list[list[Tensor]], inputs: list[Tensor], opts: Any = None
    ) -> Any:
        def copy() -> None:
            for x, copies in zip(inputs, outputs, strict=True):
                for each in copies:
                    each.copy_(x)

        return self._exchange('all_gather', inputs, sum(outputs, []), copy)

    def gather(
        self, outputs: list[list[Tensor]], inputs: list[Tensor], opts: Any = None
    ) -> Any:
        return self.allgather(outputs, inputs)

    def _allgather_base(self, output: Tensor, x: Tensor, opts: Any = None) -> Any:
        def copy() -> None:
            for part in output.view(self.size(), -1):
                part.copy_(x.reshape(-1))

        return self._exchange('all_gather', [x], [output], copy)

    def reduce_scatter(
        self, outputs: list[Tensor], inputs: list[list[Tensor]], opts: Any = None
    ) -> Any:
        def copy() -> None:
            for x, parts in zip(outputs, inputs, strict=True):
                x.copy_(parts[self.rank()])

        return self._exchange('reduce_scatter', sum(inputs, []), outputs, copy)

    def _reduce_scatter_base(self, output: Tensor, x: Tensor, opts: Any = None) -> Any:
        def copy() -> None:
            output.view(-1).copy_(x.view(self.size(), -1)[self.rank()])

        return self._exchange('reduce_scatter', [x], [output], copy)

    # Their names from torch 2.14 on.
    all_gather_single = _allgather_base
    reduce_scatter_single = _reduce_scatter_base

    def barrier(self, opts: Any = None) -> Any:
        return self._exchange('barrier', [], [], lambda: None)


def _done(result: Any) -> Any:
    future: torch.futures.Future = torch.futures.Future()
    future.set_result(result)
    return torch._C._distributed_c10d._create_work_from_future(future)


def stand_in(note: Callable[[Exchange], None]) -> None:
    """Let every process group from now on be a loop-back, under its own name."""
    asked = ['']

    def create(store: Any, rank: int, size: int, timeout: Any) -> Loopback:
        return Loopback(rank, size, asked[-1], note)

    dist.Backend.register_backend(LOOPBACK, create, devices=['cpu', 'cuda'])
    init, new_group = dist.init_process_group, dist.new_group

    def renamed(group: Any, backend: str) -> Any:
        # By which torch and mmengine choose the device of what they send.
        groups = dist.distributed_c10d._world.pg_map
        groups[group] = (backend, groups[group][1])
        return group

    def init_process_group(backend: str | None = None, **kwargs: Any) -> None:
        asked.append(backend or 'nccl')
        kwargs.pop('init_method', None)
        init(
            LOOPBACK,
            store=dist.HashStore(),
            rank=kwargs.pop('rank', int(os.environ['RANK'])),
            world_size=kwargs.pop('world_size', int(os.environ['WORLD_SIZE'])),
        )
        renamed(dist.group.WORLD, asked[-1])

    def group(ranks: Any = None, timeout: Any = None, backend: Any = None, **_: Any):
        asked.append(backend or dist.get_backend())
        return renamed(new_group(ranks, backend=LOOPBACK), asked[-1])

    dist.init_process_group = init_process_group
    dist.new_group = group
