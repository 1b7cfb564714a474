"""Numbers too small for a full mantissa, which processors are slow with."""

from collections.abc import Generator
from contextlib import contextmanager
from functools import cache

import torch


@cache
def _start_threads() -> None:
    """Let torch's threads begin now: each keeps the setting it is born with."""
    torch.zeros(2**20, dtype=torch.float32, device='cpu').add_(1)


@contextmanager
def denormals_flushed() -> Generator[None, None, None]:
    """Let the CPU take denormal operands and results for zero, in this thread.

    The term of a negative that is far away is tiny, and what it is computed from is
    denormal (below 1e-38 in fp32), with which exponentials and logarithms are slow.
    Threads that torch computes with beside this one do not follow: where there are
    several, part of the work remains slow.
    """
    _start_threads()
    smallest = torch.finfo(torch.float32).tiny
    probe = torch.full((), smallest, dtype=torch.float32, device='cpu')
    flushed = (probe / 2).item() == 0
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(flushed)
