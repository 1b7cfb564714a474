"""Large tensors on the CPU whose memory is used again.

A large tensor is a fresh mapping of memory, and touching its pages for the first time
costs a quarter of a classifier's step. A gradient of the centres has the same size in
every step, so its memory is kept. CUDA's allocator does this by itself.
"""

import math
import weakref

import numpy as np
import torch
from torch import Tensor
from torch.nn import Parameter

# Bytes from which on glibc's allocator maps memory anew at the latest.
LARGE = 2**25
_free: dict[int, list[np.ndarray]] = {}


def empty(count: int, like: Tensor) -> Tensor:
    """Rows [count, ...] like those of ``like``, on memory of an earlier such tensor."""
    shape = count, *like.shape[1:]
    size = math.prod(shape) * like.element_size()
    plain = type(like) in (Tensor, Parameter) and like.device.type == 'cpu'
    if not plain or size < LARGE:
        return like.new_empty(shape)
    try:
        memory = _free[size].pop()
    except (KeyError, IndexError):
        memory = np.empty(size, np.uint8)
    # The tensor keeps this view alive, and the end of the view gives the memory back.
    view = memory.view()
    weakref.finalize(view, _give_back, size, memory)
    return torch.from_numpy(view).view(like.dtype).view(shape)


def _give_back(size: int, memory: np.ndarray) -> None:
    # What is not asked for again goes as soon as something else comes back.
    # (Several threads may be here.)
    for other in list(_free):
        if other != size:
            _free.pop(other, None)
    _free.setdefault(size, []).append(memory)
