"""Our training step and insightface's, counted on GPUs that are not there.

On a null GPU (tests/null_gpu) kernels do nothing, while torch's dispatcher,
allocator, autograd, GradScaler and DDP are the real ones. So all that the host does
can be counted and timed without a GPU, for one rank of as many as one likes:

- host syncs: waits of the host for the device, and those among them that fall between
  the beginning of the forward pass and the end of the backward pass's queueing: there
  the device runs dry;
- operations: those of torch on device tensors, views left out, and Triton's kernels,
  that the host queues, and how many it replays by launching CUDA graphs;
- dispatch: processor time of a step, which is all queueing here; both steps alternate
  in one process, and the table has the median and the ratio of the medians;
- allocated and reserved: peaks of the caching allocator in a steady step;
- sent: bytes that a rank must send at the least in a ring, for DDP and classifier;
- roofline: the sum over all operations of the larger of bytes / bandwidth and
  FLOPs / rate, with 2 µs for each, uncompiled and without what collectives take.

Loading of data and validation are left out. Images are 112 x 112, mixed precision is
fp16 on both sides, and data layouts are what each side has.

    python tools/benchmarks/null_gpu_steps.py --peer-dir DIR --compiled
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from common import benchmark_parser, conclude, new_table
from rich.console import Console

from mmhyperface.utils.command_line import report_errors
from mmhyperface.utils.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor

ROOT = Path(__file__).parents[2]

sys.path.append(str(ROOT / 'tests'))
# What is reached in practice: bytes/s, FLOP/s of half and of single precision.
RATES = {'A100': (1.6e12, 230e12, 17e12), 'H100': (2.8e12, 600e12, 50e12)}
PER_OPERATION = 2e-6
# Iterations until steps are steady: DDP times its first ten.
STEADY = 12
TIMED = 41
# Passes over the images that cuDNN's batch norm takes beyond one.
MORE_PASSES = {'cudnn_batch_norm': 1, 'cudnn_batch_norm_backward': 2}
# Bytes that each of N ranks sends on a ring, per byte of what it gives.
SENT: dict[str, Callable[[int], float]] = {
    'all_reduce': lambda world: 2 * (world - 1) / world,
    'all_gather': lambda world: world - 1,
    'reduce_scatter': lambda world: (world - 1) / world,
    'reduce': lambda world: 1,
    'broadcast': lambda world: 1,
}


@dataclass(frozen=True)
class Setting:
    """One row of the table.

    Attributes:
        config: Ours.
        network: insightface's.
        classes: Number of identities.
        batch_size: Images on each rank.
        rate: Share of the centres that are sampled.
        arcface: Whether the margin is ArcFace's, else CosFace's.
    """

    config: str
    network: str
    classes: int
    batch_size: int
    rate: float = 1.0
    arcface: bool = True

    @property
    def options(self) -> dict[str, Any]:
        return {
            'model.head.num_classes': self.classes,
            'model.head.sample_rate': self.rate,
            'train_dataloader.batch_size': self.batch_size,
        }


R100, R50 = 'configs/arcface_r100_ms1mv3.py', 'configs/cosface_r50_webface42m.py'
SETTINGS = {
    '8 x 64': Setting(R100, 'r100', 85_742, 64),
    '8 x 128': Setting(R100, 'r100', 85_742, 128),
    '8 x 64, sampled 0.1': Setting(R100, 'r100', 85_742, 64, 0.1),
    'R50, 2.06 M classes, 0.2, 8 x 128': Setting(
        R50, 'r50', 2_059_906, 128, 0.2, False
    ),
}
# Options of the config beside a setting's.
SIDES: dict[str, dict[str, Any]] = {
    'insightface': {},
    'ours': {},
    'ours, compiled': {'default_hooks.compile': dict(type='CompileHook')},
    'ours, CUDA graphs': {
        'default_hooks.compile': dict(type='CompileHook', mode='reduce-overhead'),
        # DDP's buckets cut the graphs: two of each pass in place of nine.
        'model_wrapper_cfg.bucket_cap_mb': 256,
    },
}


def parse_args() -> argparse.Namespace:
    parser = benchmark_parser(__doc__)
    add = parser.add_argument
    add('--peer-dir', type=Path, required=True, help='folder with insightface/')
    add('--settings', nargs='+', choices=SETTINGS, default=list(SETTINGS))
    add('--world', type=int, default=8, help='ranks, of which rank 0 is run')
    add('--compiled', action='store_true', help='ours with CompileHook, too')
    # Set by the script itself for its processes.
    add('--child', help=argparse.SUPPRESS)
    return parser.parse_args()


def roofline_mode() -> Any:
    """A mode that sums up what the operations under it cost at the least."""
    import torch
    from torch.utils._python_dispatch import TorchDispatchMode
    from torch.utils._pytree import tree_leaves
    from torch.utils.flop_counter import flop_registry

    class Roofline(TorchDispatchMode):
        def __init__(self) -> None:
            super().__init__()
            self.seconds = dict.fromkeys(RATES, 0.0)

        def __torch_dispatch__(self, func, types, args=(), kwargs=None) -> Any:
            kwargs = kwargs or {}
            out = func(*args, **kwargs)
            name = func._schema.name.removeprefix('aten::')
            if func.is_view or name.startswith(('empty', 'new_empty', 'detach')):
                return out
            given = [
                value
                for value in tree_leaves((args, kwargs, out))
                if isinstance(value, torch.Tensor) and value.is_cuda
            ]
            if given:
                packet = flop_registry.get(func._overloadpacket)
                flops = packet(*args, **kwargs, out_val=out) if packet else 0
                moved = _bytes(given)
                moved += MORE_PASSES.get(name, 0) * given[0].nbytes
                if name.endswith('_'):
                    moved += given[0].nbytes
                self.add(name, moved, flops, given[0].element_size() == 2)
            return out

        def add(self, name: str, moved: int, flops: int, half: bool) -> None:
            for gpu, (bandwidth, half_rate, rate) in RATES.items():
                products = flops / (half_rate if half else rate)
                self.seconds[gpu] += max(moved / bandwidth, products) + PER_OPERATION

    return Roofline()


def _bytes(tensors: list[Tensor]) -> int:
    return sum({(t.data_ptr(), t.numel()): t.nbytes for t in tensors}.values())


def kernels_that_allocate() -> Any:
    """Let what libraries compute be of the right size: torch dispatches as ever.

    Where the size of a result depends on values, it is what rank 0 of eight expects.
    """
    import torch

    from mmhyperface.models.heads import hypersphere_head

    def convolution(x, w, b, stride, padding, dilation, *rest) -> Tensor:
        sizes = [
            (size + 2 * pad - gap * (kernel - 1) - 1) // step + 1
            for size, pad, gap, kernel, step in zip(
                x.shape[2:], padding, dilation, w.shape[2:], stride, strict=True
            )
        ]
        last = any(t.is_contiguous(memory_format=torch.channels_last) for t in (x, w))
        layout = torch.channels_last if last else torch.contiguous_format
        options = dict(dtype=x.dtype, device=x.device, memory_format=layout)
        return torch.empty((len(x), len(w), *sizes), **options)

    def convolution_backward(grad, x, w, sizes, *rest) -> tuple:
        wanted = zip((x, w), rest[-1][:2], strict=True)
        grads = [torch.empty_like(t) if wants else None for t, wants in wanted]
        return *grads, grad.new_empty(len(w)) if rest[-1][2] else None

    def batch_norm(x, w, *rest) -> tuple:
        reserve = x.new_empty(0, dtype=torch.uint8)
        return torch.empty_like(x), torch.empty_like(w), torch.empty_like(w), reserve

    def integers(x: Tensor, *shape: int) -> Tensor:
        return x.new_zeros(shape, dtype=torch.int64)

    library = torch.library.Library('aten', 'IMPL')
    for name, kernel in {
        'convolution': convolution,
        'convolution_backward': convolution_backward,
        'cudnn_batch_norm': batch_norm,
        'cudnn_batch_norm_backward': lambda x, grad, w, *_: (
            torch.empty_like(x),
            torch.empty_like(w),
            torch.empty_like(w),
        ),
        'mm': lambda a, b: a.new_empty(len(a), b.shape[1]),
        'mm.out': lambda a, b, *, out: out,
        'mm.dtype': lambda a, b, dtype: a.new_empty(len(a), b.shape[1], dtype=dtype),
        'bmm': lambda a, b: a.new_empty(*a.shape[:2], b.shape[2]),
        'mm.dtype_out': lambda a, b, dtype, *, out: out,
        'addmm': lambda c, a, b, **_: a.new_empty(len(a), b.shape[1]),
        'addmm.out': lambda c, a, b, *, out, **_: out,
        'addmm.dtype_out': lambda c, a, b, dtype, *, out, **_: out,
        'addmm_': lambda c, a, b, **_: c,
        'equal': lambda a, b: True,
        'nonzero': lambda x: integers(x, max(1, x.numel() // 8), x.ndim),
        '_unique2': lambda x, *_, **__: (x.new_zeros(x.numel()), *[integers(x, 0)] * 2),
        'topk': lambda x, k, *_: (x.new_empty(k), integers(x, k)),
        'sort.stable': lambda x, **_: (torch.empty_like(x), integers(x, *x.shape)),
        '_index_put_impl_': lambda x, *_: x,
        'randperm.generator_out': lambda n, *, generator, out: out.resize_(n),
    }.items():
        library.impl(name, kernel, 'CUDA')
    # What has come of no kernel must not end a step, nor be taken for a size.
    world = torch.distributed.get_world_size()
    hypersphere_head.batch_sizes = lambda local: [len(local)] * world
    torch.amp.GradScaler._maybe_opt_step = take_step
    return library


def take_step(self: Any, optimizer: Any, state: dict, *args: Any, **kwargs: Any) -> Any:
    """GradScaler's decision, as if there were no overflow."""
    for flag in state['found_inf_per_device'].values():
        flag.item()
    return optimizer.step(*args, **kwargs)


def child(args: argparse.Namespace) -> dict[str, Any]:
    import torch
    from null_gpu import process_groups
    from null_gpu.device import NullDevice, watch_backward, watch_graphs
    from training_steps import ARCFACE, COSFACE, insightface_step, run_ours

    name, side, what = args.child.split('|')
    setting = SETTINGS[name]
    # As on their side, loading is no part of a step: it has no threads.
    loading = {
        f'train_dataloader.{x}': 0 for x in ('num_workers', 'persistent_workers')
    }
    options = {**setting.options, **SIDES[side], **loading}
    ours = str(ROOT / setting.config), options, False
    exchanged: list = []
    process_groups.stand_in(exchanged.append)
    torch.distributed.init_process_group('nccl')

    def theirs() -> Callable[[], None]:
        return insightface_step(
            args.peer_dir,
            setting.network,
            setting.classes,
            setting.batch_size,
            setting.rate,
            ARCFACE if setting.arcface else COSFACE,
        )

    if what == 'dispatch':
        kept = kernels_that_allocate()
        return dispatch(ours, theirs()) if kept else {}
    device, roofline = NullDevice(), roofline_mode()
    watch_backward(device)
    watch_graphs(device)
    figures: dict[str, Any] = {}

    def each(iteration: int, before: bool) -> None:
        if iteration == STEADY and before:
            roofline.__enter__()
        elif iteration == STEADY:
            roofline.__exit__(None, None, None)
        elif before:
            exchanged.clear()
            device.begin()
        else:
            figures.update(
                device.end(),
                sent=sum(SENT[e.name](args.world) * e.bytes for e in exchanged),
            )

    with device:
        if side == 'insightface':
            step = theirs()
            for iteration in range(STEADY + 1):
                each(iteration, True)
                step()
                each(iteration, False)
        else:
            run_ours(*ours, STEADY + 1, each)
    return figures | ({} if SIDES[side] else dict(roofline=roofline.seconds))


def dispatch(ours: tuple, theirs: Callable[[], None]) -> dict[str, list[float]]:
    """Seconds of processor time of steps, alternating."""
    from training_steps import run_ours

    times: dict[str, list[float]] = dict(ours=[], theirs=[])
    begin = 0.0

    def each(iteration: int, before: bool) -> None:
        nonlocal begin
        if before:
            gc.collect()
            begin = time.process_time()
            return
        middle = time.process_time()
        theirs()
        if iteration >= STEADY:
            times['ours'].append(middle - begin)
            times['theirs'].append(time.process_time() - middle)

    run_ours(*ours, STEADY + TIMED, each)
    return times


def in_child(args: argparse.Namespace, *which: str) -> dict[str, Any]:
    from null_gpu import harness

    arguments = ['-W', 'ignore', *sys.argv, '--child', '|'.join(which)]
    # Compiling takes minutes.
    cache = os.environ.get('TORCHINDUCTOR_CACHE_DIR')
    output = harness.python(*arguments, world=args.world, cache=cache)
    return json.loads(output.splitlines()[-1])


def main() -> None:
    args = parse_args()
    if args.child:
        from training_steps import emit

        emit(child(args))
        return
    from null_gpu import harness

    if reason := harness.missing():
        raise UserError(f'there can be no null GPU here: {reason}')
    console = Console(width=160)
    table = new_table(
        args,
        'step',
        'host syncs (drains)',
        'operations',
        'dispatch ms (ratio)',
        'allocated / reserved GB',
        'sent MB',
        'roofline A100 / H100 ms',
    )
    rows = []
    for setting in args.settings:
        for side in list(SIDES)[: 4 if args.compiled else 2]:
            counted = in_child(args, setting, side, 'counts')
            row = dict(setting=setting, side=side, **counted)
            if side == 'insightface':
                cpu = '-'
            else:
                times = in_child(args, setting, side, 'dispatch')
                ours, theirs = median(times['ours']), median(times['theirs'])
                row |= dict(times=times, ratio=ours / theirs)
                cpu = f'{1e3 * ours:.1f} : {1e3 * theirs:.1f} ({ours / theirs:.2f})'
            rows.append(row)
            drains = [sync for sync in row['syncs'] if sync[0] != 'update']
            lines, replayed = row.get('roofline'), row['replayed']
            table.add_row(
                f'{side}, {setting}',
                f'{len(row["syncs"])} ({len(drains)})',
                f'{row["operations"]:,}' + f' + {replayed:,}' * bool(replayed),
                cpu,
                f'{row["allocated"] / 1e9:.3f} / {row["reserved"] / 1e9:.3f}',
                f'{row["sent"] / 1e6:.1f}',
                ' / '.join(f'{1e3 * lines[gpu]:.1f}' for gpu in RATES)
                if lines
                else '-',
            )
    console.print(table)
    import torch

    conclude(console, args, dict(torch=torch.__version__, world=args.world), rows=rows)


if __name__ == '__main__':
    with report_errors():
        main()
