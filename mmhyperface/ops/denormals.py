"""Numbers too small for a full mantissa, which processors are slow with."""

from collections.abc import Generator
from contextlib import contextmanager

import torch


@contextmanager
def denormals_flushed() -> Generator[None, None, None]:
    """Let the CPU take denormal results for zero, in this thread.

    The term of a negative that is far away is tiny, and what it is computed from is
    denormal (below 1e-38 in fp32): with these, exponentials and logarithms take
    several times as long.
    """
    smallest = torch.finfo(torch.float32).tiny
    flushed = (torch.full((), smallest, device='cpu') / 2).item() == 0
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(flushed)
