"""Time and memory of one classifier step, relative to the least it can cost.

A step is forward, backward and the SGD update of the class centres. The floor is what
no head can do without: the three matrix products (logits x Wᵀ, gradient of the
features g W, gradient of the centres gᵀ x, into a fresh buffer) and the update of W.
The folded floor lets the third product add to W directly, so that there is no buffer
of the gradient.

All heads see the same inputs in one process. On the CPU the clock is the processor
time of the process; on a GPU, CUDA events. A machine is not equally fast all the
time: each step of a head is preceded by one of the floor, and its ratio is the median
of its steps over the median of those floors, beside the quartiles of the ratios of
the pairs.

Peak memory counts from before the head is built, inputs excluded, W and the state of
the optimizer included: on the CPU the resident memory of a process of its own (Linux
only), after a step on a few classes; on a GPU what the caching allocator gave out.

A loss is compiled, where that pays and can be done, before time and memory are taken.

glibc gives large buffers back to the kernel and pays for their pages anew, up to a
size that grows with use: the script lets it grow to its end first (32 MB), for all
alike. MALLOC_* and LD_PRELOAD stand in the output.

    python tools/benchmarks/classifier_step.py --classes 85742 360232 --peer-dir DIR
    python tools/benchmarks/classifier_step.py --device cuda --batch-size 1024 \\
        --classes 360232 2059906 --engines blocked fused --matmul-dtype bfloat16

On a GPU ratios are to the floor *computed* from the rate of those products (measured
on up to 65,536 classes) and from the traffic of W, its gradient and the momentum at
the bandwidth of a copy; the floor that was run stands in the table as well.
"""

from __future__ import annotations

import argparse
import gc
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from itertools import product
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

import numpy as np
from common import (
    benchmark_parser,
    conclude,
    new_table,
    processor,
    resident,
    write_json,
)
from rich.console import Console
from rich.table import Table

from mmhyperface.utils.command_line import report_errors
from mmhyperface.utils.errors import UserError

if TYPE_CHECKING:
    import torch
    from classifier_peers import Peer
    from torch import Tensor, nn

Step = Callable[[], None]
ENGINES = ('dense', 'blocked', 'fused')
LOSSES = ('SphereFace2', 'SFace', 'SphereFace', 'ArcFace')
MB = 1e6
WARM_UP = 2
# For the rate of the products alone.
MOST_CLASSES = 2**16


def parse_args() -> argparse.Namespace:
    parser = benchmark_parser(__doc__)
    add = parser.add_argument
    add('--classes', nargs='+', type=int, default=[85_742], help='numbers of classes')
    add('--batch-size', type=int, default=64)
    add('--dim', type=int, default=512, help='dimension of the embedding')
    add('--engines', nargs='+', choices=ENGINES, default=['dense', 'blocked'])
    add(
        '--losses',
        nargs='+',
        default=LOSSES,
        help='names of losses without "Loss", at their published or default settings',
    )
    add('--centres', choices=['normalize', 'project'], default='normalize')
    add('--momentum', type=float, default=0.0, help='of SGD, on both sides')
    add(
        '--sample-rate',
        nargs='*',
        type=float,
        default=[0.1],
        help='rates below 1 to measure besides all classes',
    )
    add('--repeats', type=int, default=9, help='pairs of steps per head')
    add('--threads', type=int, default=1)
    add('--device', choices=['cpu', 'cuda'], default='cpu')
    add(
        '--matmul-dtype', choices=['bfloat16'], help='of the products; float32 if unset'
    )
    add('--peer-dir', type=Path, help='folder with opensphere/, SFace/, insightface/')
    add('--only', default='', help='regular expression: measure rows that match')
    add('--no-memory', action='store_true', help='leave out the peak memory')
    # Set by the script itself for its processes that measure memory.
    add('--memory-of', help=argparse.SUPPRESS)
    args = parser.parse_args()

    import torch

    if args.device == 'cuda' and not torch.cuda.is_available():
        raise UserError('torch sees no GPU: leave out --device cuda')
    if args.repeats < 1 or min(args.classes) < 2:
        raise UserError('--repeats must be at least 1 and --classes at least 2')
    return args


@dataclass
class Problem:
    """The inputs, the same for all, and what all agree on."""

    classes: int
    batch_size: int
    dim: int
    momentum: float
    device: str
    matmul_dtype: str | None
    lr: float = 1e-3

    def __post_init__(self) -> None:
        import torch
        from mmpretrain.structures import DataSample

        generator = torch.Generator().manual_seed(0)
        x = torch.randn(self.batch_size, self.dim, generator=generator)
        self.x = x.to(self.device).requires_grad_()
        labels = torch.randint(self.classes, (self.batch_size,), generator=generator)
        self.y = labels.to(self.device)
        self.samples = [DataSample().set_gt_label(int(label)) for label in labels]
        torch.manual_seed(0)

    @property
    def half(self) -> torch.dtype:
        import torch

        return getattr(torch, self.matmul_dtype or 'float32')

    @property
    def kept_bytes(self) -> int:
        """Of W, of its gradient and of the momentum."""
        return 4 * self.classes * self.dim * (2 + (self.momentum > 0))

    @property
    def logits_bytes(self) -> int:
        return 4 * self.batch_size * self.classes


class Floor:
    """The three products and the update of W, by hand.

    Args:
        problem: The inputs.
        folded: Whether the product that gives the gradient of W adds to W, or to the
            momentum, directly.
    """

    def __init__(self, problem: Problem, folded: bool = False) -> None:
        import torch
        from torch import nn

        self.problem = problem
        self.folded = folded
        self.x = nn.functional.normalize(problem.x.detach())
        shape = problem.classes, problem.dim
        self.w = torch.empty(shape, device=self.x.device).normal_(std=0.01)
        self.buffer = torch.zeros_like(self.w) if problem.momentum else None

    def __call__(self) -> None:
        import torch

        with torch.no_grad():
            self._step()

    def _step(self) -> None:
        momentum, dtype = self.problem.momentum, self.problem.half
        x, w = self.x.to(dtype), self.w.to(dtype)
        # Any matrix of this shape serves as the gradient of the logits.
        logits = x @ w.T
        logits @ w
        if not self.folded:
            grad = (logits.T @ x).to(self.w.dtype)
            if self.buffer is not None:
                grad = self.buffer.mul_(momentum).add_(grad)
            self.w.add_(grad, alpha=-self.problem.lr)
        elif self.buffer is not None:
            _add_product(self.buffer, logits, x, momentum, 1.0)
            self.w.add_(self.buffer, alpha=-self.problem.lr)
        else:
            _add_product(self.w, logits, x, 1.0, -self.problem.lr)


def _add_product(to: Tensor, g: Tensor, x: Tensor, beta: float, alpha: float) -> None:
    """``to = beta * to + alpha * gᵀ x``, in one product where the types allow it."""
    if to.dtype == g.dtype:
        to.addmm_(g.T, x, beta=beta, alpha=alpha)
    else:
        to.mul_(beta).add_(g.T @ x, alpha=alpha)


def ours(
    problem: Problem,
    loss: str,
    engine: str,
    centres: str,
    sample_rate: float = 1.0,
    fused_update: bool = False,
) -> Step:
    """A step through the public interface of the head, labels and checks included."""
    from torch import nn

    from mmhyperface.models import HypersphereHead

    class Drawn(HypersphereHead):
        def reset_parameters(self) -> None:
            # Drawing on the host takes 10 s at two million classes.
            nn.init.normal_(self.weight, std=0.01)
            self.loss_module.reset_parameters(self.num_classes)

    head = Drawn(
        problem.classes,
        problem.dim,
        dict(type=f'{loss}Loss'),
        centres=centres,
        engine=engine,
        sample_rate=sample_rate,
        fused_update=fused_update,
        matmul_dtype=problem.matmul_dtype,
    )

    def forward() -> Tensor:
        return head.loss((problem.x,), problem.samples)['loss']

    return _training_step(problem, head, forward)


def theirs(problem: Problem, peer_dir: Path, peer: Peer) -> Step:
    from classifier_peers import load

    module = peer.build(
        load(peer_dir, peer),
        problem.classes,
        problem.dim,
        problem.matmul_dtype is not None,
    )
    return _training_step(problem, module, lambda: module(problem.x, problem.y))


def _training_step(
    problem: Problem, module: nn.Module, forward: Callable[[], Tensor]
) -> Step:
    import torch

    parameters = module.to(problem.device).train().parameters()
    optimizer = torch.optim.SGD(parameters, problem.lr, problem.momentum)
    if hasattr(module, 'attach'):
        module.attach(optimizer)

    def step() -> None:
        problem.x.grad = None
        optimizer.zero_grad()
        forward().backward()
        optimizer.step()

    return step


def sampled(args: argparse.Namespace) -> list[float]:
    return [rate for rate in args.sample_rate if rate < 1]


def contenders(args: argparse.Namespace) -> dict[str, Callable[[Problem], Step]]:
    """What builds the step of each row, by its name."""
    from classifier_peers import peers

    rows: dict[str, Callable[[Problem], Step]] = {
        'floor': Floor,
        'folded floor': lambda problem: Floor(problem, folded=True),
    }
    rates = sampled(args)
    ways = product(args.losses, args.engines, [1.0, *rates], [False, True])
    for loss, engine, rate, fused in ways:
        name = f'{loss} {engine}' + f', rate {rate:g}' * (rate < 1)
        options = dict(loss=loss, engine=engine, centres=args.centres, sample_rate=rate)
        if not fused:
            rows[name] = partial(ours, **options)
        elif engine != 'dense':
            rows[f'{name}, fused update'] = partial(ours, **options, fused_update=True)
    if args.peer_dir:
        for name, peer in peers(rates).items():
            rows[name] = partial(theirs, peer_dir=args.peer_dir, peer=peer)
    return {name: row for name, row in rows.items() if re.search(args.only, name)}


def problem_of(args: argparse.Namespace, classes: int) -> Problem:
    return Problem(
        classes,
        args.batch_size,
        args.dim,
        args.momentum,
        args.device,
        args.matmul_dtype,
    )


def clock(problem: Problem, step: Step) -> float:
    """Seconds of one step."""
    import torch

    if problem.device == 'cuda':
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        step()
        end.record()
        end.synchronize()
        return start.elapsed_time(end) / 1000
    begin = time.process_time()
    step()
    return time.process_time() - begin


def computed_floor(problem: Problem) -> float:
    """Seconds of the products at their measured rate and of W at the bandwidth.

    W is read once for the products, its gradient is written and read, W and the
    momentum are read and written.
    """
    import torch

    classes = min(problem.classes, MOST_CLASSES)
    x = problem.x.detach().to(problem.half)
    w = torch.randn(classes, problem.dim, device=x.device)
    half, other = w.to(problem.half), torch.empty_like(w)

    def products() -> None:
        logits = x @ half.T
        logits @ half
        logits.T @ x

    def best(step: Step) -> float:
        return min(clock(problem, step) for _ in range(10))

    rows = problem.classes / classes
    passes = 5 + 2 * (problem.momentum > 0)
    one_pass = best(lambda: other.copy_(w)) / 2
    return rows * (best(products) + passes * one_pass)


def settle_malloc() -> None:
    """Let glibc's threshold between its heap and fresh pages grow to its end."""
    import torch

    for _ in range(2):
        torch.empty(31 * 2**20, dtype=torch.uint8).fill_(0)


def measure_resident(args: argparse.Namespace) -> None:
    """Print the peak of one row above the start, in MB; for a process of its own."""
    from mmhyperface.ops import terms

    (classes,) = args.classes
    build = contenders(args)[args.memory_of]
    # What many classes let compile, few should: torch's compiler is some 40 MB large.
    terms.FEW_CLASSES = 0
    settle_malloc()
    few = build(problem_of(args, min(classes, 1000)))
    few()
    problem = problem_of(args, classes)
    gc.collect()
    # Where the peak cannot be forgotten, that of the imports may hide a small one.
    start = resident('VmRSS')
    Path('/proc/self/clear_refs').write_text('5')
    step = build(problem)
    for _ in range(3):
        step()
    print(resident('VmHWM') - start)


def peak_memory(args: argparse.Namespace, name: str, classes: int) -> float | None:
    """MB above the start, in a process of its own; None where it cannot be measured."""
    if not Path('/proc/self/clear_refs').exists():
        return None
    done = subprocess.run(
        [sys.executable, *sys.argv, '--classes', str(classes), '--memory-of', name],
        stdout=subprocess.PIPE,
        text=True,
    )
    return float(done.stdout.splitlines()[-1]) if done.returncode == 0 else None


@dataclass
class Row:
    """One head at one number of classes; times in seconds, memory in MB."""

    name: str
    classes: int
    times: list[float]
    floors: list[float]
    computed_floor: float
    peak: float | None
    note: str = ''

    @property
    def seconds(self) -> float:
        return median(self.times)

    @property
    def ratio(self) -> float:
        return self.seconds / median(self.floors)

    @property
    def computed_ratio(self) -> float:
        return self.seconds / self.computed_floor

    @property
    def quartiles(self) -> list[float]:
        ratios = np.divide(self.times, self.floors)
        return np.percentile(ratios, [25, 75]).tolist()


def measure(args: argparse.Namespace, classes: int) -> Iterator[Row]:
    import torch
    from classifier_peers import peers

    problem = problem_of(args, classes)
    reference = computed_floor(problem)
    run_floor = Floor(problem)
    notes = peers(sampled(args))
    for name, build in contenders(args).items():
        gc.collect()
        if problem.device == 'cuda':
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
            start = torch.cuda.memory_allocated()
        try:
            with torch.device(problem.device):
                step = build(problem)
            for _ in range(WARM_UP):
                step()
        except (UserError, torch.cuda.OutOfMemoryError) as error:
            print(f'{name}: left out, {error}', file=sys.stderr)
            continue
        peak = None
        if problem.device == 'cuda':
            peak = (torch.cuda.max_memory_allocated() - start) / MB
        elif not args.no_memory:
            peak = peak_memory(args, name, classes)
        run_floor()
        gc.disable()
        pairs = [
            (clock(problem, run_floor), clock(problem, step))
            for _ in range(args.repeats)
        ]
        gc.enable()
        del step
        floors, times = (list(column) for column in zip(*pairs, strict=True))
        note = notes[name].note if name in notes else ''
        row = Row(name, classes, times, floors, reference, peak, note)
        print(f'{name}: {row.ratio:.2f}', file=sys.stderr)
        yield row


def table_of(args: argparse.Namespace, problem: Problem, rows: list[Row]) -> Table:
    on_gpu = args.device == 'cuda'
    floor_peak = next((row.peak for row in rows if row.name == 'floor'), None)
    table = new_table(
        args,
        'head',
        'ms',
        *(['/ computed floor'] if on_gpu else []),
        '/ floor',
        'quartiles',
        'peak MB',
        'above floor',
        *(['beyond W, gradient, momentum: % of logits'] if on_gpu else []),
        title=f'{problem.classes:,} classes, batch {args.batch_size}, D {args.dim}',
    )
    for row in rows:
        low, high = row.quartiles
        known = row.peak is not None
        cells = [row.name, f'{1000 * row.seconds:.1f}']
        if on_gpu:
            cells += [f'{row.computed_ratio:.2f}']
        cells += [f'{row.ratio:.2f}', f'{low:.2f} to {high:.2f}']
        cells += [f'{row.peak:.0f}' if known else '-']
        above = known and floor_peak is not None
        cells += [f'{row.peak - floor_peak:+.0f}' if above else '-']
        if on_gpu:
            extra = row.peak * MB - problem.kept_bytes
            cells += [f'{100 * extra / problem.logits_bytes:.1f}']
        table.add_row(*cells)
    return table


def conditions(args: argparse.Namespace) -> dict[str, object]:
    """What the figures depend on besides the code."""
    import torch

    settings = {
        name: value
        for name, value in os.environ.items()
        if name.startswith('MALLOC_') or name in ('LD_PRELOAD', 'OMP_NUM_THREADS')
    }
    on_gpu = args.device == 'cuda'
    return dict(
        torch=torch.__version__,
        device=torch.cuda.get_device_name() if on_gpu else processor(),
        threads=args.threads,
        momentum=args.momentum,
        centres=args.centres,
        matmul_dtype=args.matmul_dtype or 'float32',
        clock='CUDA events' if on_gpu else 'processor time',
        repeats=args.repeats,
        environment=settings,
    )


def main() -> None:
    args = parse_args()

    import torch

    torch.set_num_threads(args.threads)
    if args.memory_of:
        measure_resident(args)
        return
    settle_malloc()
    console = Console(width=120)
    settings = conditions(args)
    results = []
    for classes in args.classes:
        rows = []
        for row in measure(args, classes):
            rows.append(row)
            results.append(dict(asdict(row), ratio=row.ratio, quartiles=row.quartiles))
            # Who runs out of time has what was measured until then.
            write_json(args, dict(settings, rows=results))
        console.print(table_of(args, problem_of(args, classes), rows))
    conclude(console, args, settings, rows=results)
    notes = {row['name']: row['note'] for row in results if row['note']}
    for name, note in notes.items():
        console.print(f'{name}: {note}')
    if not args.peer_dir:
        console.print('no --peer-dir: the official heads were not measured')


if __name__ == '__main__':
    with report_errors():
        main()
