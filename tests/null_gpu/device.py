"""Torch's operations on a GPU that is not there: what kernels would have done.

Kernels do nothing (``cudart.c``). What must be right all the same is done here:

- Products, convolutions and batch norms, whose libraries refuse such a device, get
  sizes and strides from FakeTensor, and so does whatever else raises an error of CUDA.
- Integers and booleans are computed, on the host, in whose memory they lie, and so
  are a few floats: labels, positions, sizes, and flags of the gradient scaler are true.
- Floats that come to the host are finite, whatever lay there, and noise in validation.

Counted are operations, the layouts of convolutions, and where the host waits.
"""

import ctypes
import os
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn import Parameter
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_leaves, tree_map_only

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
# Frames of these folders only pass on what somebody else has asked for.
PASSING = (f'{Path(torch.__file__).parent}{os.sep}', f'{HERE}{os.sep}')
# Needs cuBLAS or cuDNN.
REFUSED = {
    *('mm', 'addmm', 'addmm_', 'bmm', 'baddbmm', 'baddbmm_', '_addmm_activation'),
    *('convolution', 'convolution_backward'),
    *('cudnn_batch_norm', 'cudnn_batch_norm_backward'),
}
# The size of the result, or of one within, is known when the kernel has ended: the
# host waits.
SIZED = {
    *('nonzero', 'masked_select', 'unique_dim', 'unique_consecutive', '_unique2'),
    *('bincount', 'isin', 'repeat_interleave'),
}
MADE = {'arange', 'full', 'ones', 'scalar_tensor', 'randint', 'randperm', 'linspace'}
INTEGRAL = {torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64}
# Pictures are integers, too.
MOST_INTEGERS = 2**23
MOST_FLOATS = 1 << 10


class NullDevice(TorchDispatchMode):
    """Counts, and answers, what is asked of GPUs that are not there.

    Attributes:
        operations: How often each operation was called on CUDA tensors.
        convolutions: How often an input of one had which layout.
        syncs: Where the host waited for the device: (phase, reason, place).
        unknown: Operations that got only sizes because CUDA raised an error.
        phase: What the training is at.
        replayed: Kernels of CUDA graphs that were launched, see `watch_graphs`.
    """

    def __init__(self) -> None:
        super().__init__()
        self._driver = ctypes.CDLL('libcuda.so.1')
        self.operations: Counter = Counter()
        self.convolutions: Counter = Counter()
        self.unknown: Counter = Counter()
        self.syncs: list[tuple[str, str, str]] = []
        self.phase = 'start'
        self.replayed = 0
        self._sizes: dict[Any, Any] = {}
        self._fake = FakeTensorMode(allow_non_fake_inputs=True)
        # To be kept, for C has only its address.
        self._listener = ctypes.CFUNCTYPE(None, ctypes.c_char_p)(
            lambda reason: self.waits(reason.decode())
        )
        ctypes.CDLL('libnullcudart.so').null_gpu_listen(self._listener)

    @classmethod
    def ignore_compile_internals(cls) -> bool:
        return True

    def waits(self, reason: str) -> None:
        """Note that the host waits here."""
        self.syncs.append((self.phase, reason, _place()))

    def queued(self) -> int:
        """Operations and kernels of Triton that the host has queued so far."""
        return self.operations.total() + self._driver.null_gpu_launches()

    def begin(self) -> None:
        """An iteration begins."""
        self.syncs, self.phase = [], 'forward'
        torch.cuda.reset_peak_memory_stats()
        self._before = self.queued(), self.replayed, time.perf_counter()

    def end(self) -> dict[str, Any]:
        """It is over: what it did, see ``dry_run``; peaks are in bytes."""
        queued, replayed, begun = self._before
        syncs, self.syncs, self.phase = self.syncs, [], 'between'
        return dict(
            syncs=syncs,
            operations=self.queued() - queued,
            replayed=self.replayed - replayed,
            seconds=round(time.perf_counter() - begun, 3),
            allocated=torch.cuda.max_memory_allocated(),
            reserved=torch.cuda.max_memory_reserved(),
        )

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        kwargs = kwargs or {}
        name = func._schema.name.split('::')[-1]
        tensors = [x for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)]
        compiling = torch._C._get_dispatch_mode(torch._C._TorchDispatchModeKey.FAKE)
        if compiling or any(type(x) not in (Tensor, Parameter) for x in tensors):
            # Torch's compiler looks at what it compiles.
            return func(*args, **kwargs)
        if not any(x.is_cuda for x in tensors):
            made_there = torch.device(kwargs.get('device') or 'cpu').type == 'cuda'
            if made_there and name in MADE:
                self.operations[name] += 1
                return self._computed(func, args, kwargs)
            return func(*args, **kwargs)
        if not func.is_view and 'empty' not in name:
            self.operations[name] += 1
        if name in ('convolution', 'convolution_backward'):
            self._note_layouts(name, args)
        if name in ('index', 'index_put_', 'index_put', '_index_put_impl_'):
            args = self._without_masks(args)
        if name in SIZED:
            self.waits(name)
            return self._computed(func, args, kwargs)
        if name in REFUSED or name in self.unknown:
            return self._sized(func, args, kwargs)
        if _is_computed(func, name, tensors, kwargs):
            return self._computed(func, args, kwargs)
        try:
            result = func(*args, **kwargs)
        except RuntimeError as error:
            if not any(x in str(error) for x in ('CUDA', 'CUBLAS', 'CUDNN', 'cub')):
                raise
            self.unknown[name] += 1
            return self._sized(func, args, kwargs)
        return self._finite(name, result)

    def _finite(self, name: str, result: Any) -> Any:
        """What comes to the host, without the NaN that lay on the device."""
        if name == '_local_scalar_dense':
            finite = not isinstance(result, float) or abs(result) < 1e30
            return result if finite else 0.0
        moved = name in ('_to_copy', 'copy_') and not result.is_cuda
        if moved and result.is_floating_point():
            if self.phase == 'validation':
                # Embeddings, which must not be all alike.
                return result.normal_()
            torch.nan_to_num_(result, 0, 0, 0)
        return result

    def _note_layouts(self, name: str, args: tuple) -> None:
        # Weights of 1 x 1 are of both layouts, as far as torch can tell.
        inputs = args[:3] if name.endswith('backward') else args[:2]
        for x in inputs:
            last = x.is_contiguous(memory_format=torch.channels_last)
            self.convolutions['channels_last' if last else f'other: {_place()}'] += 1

    def _without_masks(self, args: tuple) -> tuple:
        """Arguments of an index, with numbers in place of boolean masks."""
        indices: list[Tensor | None] = []
        for index in args[1]:
            if index is None or index.dtype not in (torch.bool, torch.uint8):
                indices.append(index)
                continue
            # A mask with one value to put there is a fill, which nobody waits for.
            if index.is_cuda and (len(args) < 3 or args[2].numel() > 1):
                self.waits('boolean index')
            numbers = _on_host(index).nonzero().unbind(1)
            indices += [_on_device(number, args[0].device) for number in numbers]
        return (args[0], indices, *args[2:])

    def _computed(self, func: Any, args: tuple, kwargs: dict) -> Any:
        """What a function gives, computed on the host."""
        device, here = None, {}

        def on_host(x: Tensor) -> Tensor:
            nonlocal device
            if not x.is_cuda:
                return x
            device = x.device
            alias = _on_host(x)
            if x.is_floating_point():
                once = [slice(0, None if step else 1) for step in alias.stride()]
                torch.nan_to_num_(alias[tuple(once)], 0, 0, 0)
            here[id(alias)] = (x, alias)
            return alias

        args, kwargs = tree_map_only(Tensor, on_host, (args, kwargs))
        if kwargs.get('device') is not None:
            device, kwargs = torch.device(kwargs['device']), kwargs | {'device': 'cpu'}

        def there(x: Tensor) -> Tensor:
            if id(x) in here:
                return here[id(x)][0]
            return _on_device(x, device)

        result = func(*args, **kwargs)
        if isinstance(result, bool):
            # As of `equal` and `allclose`.
            self.waits(func._schema.name)
        return tree_map_only(Tensor, there, result)

    def _sized(self, func: Any, args: tuple, kwargs: dict) -> Any:
        """Results of the right size, type and layout."""
        if func._schema.name.endswith('_'):
            return args[0]
        if 'out' in kwargs:
            return kwargs['out']
        leaves, form = tree_flatten((args, kwargs))
        key = (func, str(form), *map(_kind, leaves))
        if key not in self._sizes:
            fake = tree_map_only(
                Tensor,
                lambda x: self._fake.from_tensor(x, static_shapes=True),
                (args, kwargs),
            )
            with self._fake:
                result = func(*fake[0], **fake[1])
            self._sizes[key] = tree_map_only(Tensor, _Size, result)
        return tree_map_only(_Size, lambda size: size.empty(), self._sizes[key])


class _Size:
    def __init__(self, x: Tensor) -> None:
        self.size, self.stride = tuple(x.shape), x.stride()
        self.options = dict(dtype=x.dtype, device=x.device)

    def empty(self) -> Tensor:
        return torch.empty_strided(self.size, self.stride, **self.options)


def _kind(leaf: Any) -> Any:
    if isinstance(leaf, Tensor):
        return tuple(leaf.shape), leaf.stride(), leaf.dtype, leaf.device
    return leaf if leaf.__hash__ else repr(leaf)


def _is_computed(func: Any, name: str, tensors: list[Tensor], kwargs: dict) -> bool:
    """Whether this is arithmetic of integers or a few floats."""
    integral = all(x.dtype in INTEGRAL for x in tensors)
    moves = torch.device(kwargs.get('device') or 'cuda').type != 'cuda'
    return (
        all(x.is_cuda or not x.ndim for x in tensors)
        and sum(x.numel() for x in tensors)
        <= (MOST_INTEGERS if integral else MOST_FLOATS)
        and not (func.is_view or moves or name.startswith('empty'))
        and name not in ('_local_scalar_dense', 'set_', 'resize_', 'new_empty')
    )


def _on_host(x: Tensor) -> Tensor:
    """The same memory, as a tensor of the host."""
    storage = x.untyped_storage()
    size = storage.nbytes()
    if not x.is_cuda or not size:
        return x if not x.is_cuda else torch.empty_like(x, device='cpu')
    memory = (ctypes.c_byte * size).from_address(storage.data_ptr())
    flat = torch.frombuffer(memory, dtype=torch.uint8)
    whole = flat[: size // x.itemsize * x.itemsize].view(x.dtype)
    return whole.as_strided(x.shape, x.stride(), x.storage_offset())


def _on_device(x: Tensor, device: torch.device) -> Tensor:
    """A copy on the device of a tensor of the host, without a transfer."""
    result = torch.empty_strided(x.shape, x.stride(), dtype=x.dtype, device=device)
    _on_host(result).copy_(x)
    return result


def _place() -> str:
    """The innermost line that is neither torch's nor ours: FILE:LINE (FUNCTION)."""
    frame: Any = sys._getframe(1)
    while frame is not None and frame.f_code.co_filename.startswith(PASSING):
        frame = frame.f_back
    if frame is None:
        return f'thread {threading.current_thread().name}'
    path = frame.f_code.co_filename.split('site-packages/')[-1]
    path = path.removeprefix(f'{ROOT}{os.sep}')
    return f'{path}:{frame.f_lineno} ({frame.f_code.co_name})'


def watch_backward(device: NullDevice) -> None:
    """Let the phase be 'backward' while that is queued, and 'update' from then on."""
    backward: Callable = torch.autograd.backward

    def watched(*args: Any, **kwargs: Any) -> None:
        device.phase = 'backward'
        backward(*args, **kwargs)
        device.phase = 'update'

    torch.autograd.backward = watched


def watch_graphs(device: NullDevice) -> None:
    """Let launches of CUDA graphs be operations, and their kernels be `replayed`."""
    graph: Any = torch.cuda.CUDAGraph
    begin, end, replay = graph.capture_begin, graph.capture_end, graph.replay

    def capture_begin(self: Any, *args: Any, **kwargs: Any) -> None:
        self.kernels = -device.queued()
        begin(self, *args, **kwargs)

    def capture_end(self: Any) -> None:
        end(self)
        self.kernels += device.queued()

    def replayed(self: Any) -> None:
        replay(self)
        device.operations['replay'] += 1
        device.replayed += self.kernels

    graph.capture_begin, graph.capture_end = capture_begin, capture_end
    graph.replay = replayed
