"""All that is to be measured on GPUs, in ten minutes: one table.

The tests that need CUDA; the classifier's step at 85,742, 360,232 and 2,059,906
classes; 100 steps of the flagship, SphereFace2 with IResNet-100 in fp16, eager and
compiled; and, with a checkout of insightface, its PartialFC and its training step
beside them. Images are noise in memory. Whole steps run on all GPUs, by torchrun,
the classifier's on one. Each part has its time; what does not end in it, or is not
reached, says so in the table.

    python tools/benchmarks/gpu.py --peer-dir DIR --json gpu.json
"""

from __future__ import annotations

import argparse
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from common import benchmark_parser, conclude, new_table
from rich.console import Console

from mmhyperface.utils.command_line import report_errors
from mmhyperface.utils.errors import UserError

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
FLAGSHIP = ROOT / 'configs' / 'sphereface2_r100_ms1m.py'
CLASSES = (85_742, 360_232, 2_059_906)
WARM_UP, PROFILED = 20, 10
# Seconds that each part may take, in the order of running.
BUDGET = {'CUDA tests': 60, 'eager': 70, 'insightface': 70, 'compiled': 200}
CLASSIFIER_BUDGET = 55
ALL = 590
# 8 V100, images/s and MB on each GPU: insightface, recognition/arcface_torch,
# docs/speed_benchmark.md.
PUBLISHED = {
    'data parallel': {'125 k': (4681, 7358), '1 M': (2090, 23708)},
    'model parallel': {
        '125 k': (4824, 5306),
        '1 M': (3449, 9966),
        '5.5 M': (1389, None),
    },
    'Partial FC 0.1': {
        '125 k': (5004, 4868),
        '1 M': (4803, 5620),
        '5.5 M': (3975, None),
        '29 M': (1855, None),
    },
}
COLUMNS = ('images/s', 'ms a step', 'allocated / reserved GB', 'ms in host syncs')


def parse_args() -> argparse.Namespace:
    parser = benchmark_parser(__doc__)
    add = parser.add_argument
    add('--peer-dir', type=Path, help='folder with insightface/')
    add('--gpus', type=int, help='for whole steps; all by default')
    add('--batch-size', type=int, default=64, help='images on each GPU')
    add('--steps', type=int, default=100)
    add('--seconds', type=float, default=ALL, help='for everything')
    # Set by the script itself for its processes.
    add('--child', choices=list(BUDGET), help=argparse.SUPPRESS)
    return parser.parse_args()


def run(command: list[Any], seconds: float) -> str | None:
    """What a command prints; None if it takes longer, and is ended with its children.

    Raises:
        UserError: With the end of its output, if it fails.
    """
    process = subprocess.Popen(
        [str(part) for part in command],
        cwd=ROOT,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    try:
        output, _ = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        return None
    if process.returncode:
        raise UserError(f'status {process.returncode}: {output.strip()[-300:]}')
    return output


def row(name: str, *cells: str) -> list[str]:
    """A row of the table, with dashes for what does not apply."""
    return [name, *cells, *['-'] * (len(COLUMNS) - len(cells))]


def test_rows(args: argparse.Namespace, seconds: float) -> list[list[str]] | None:
    output = run([sys.executable, '-m', 'pytest', '-q', '-n0', '-k', 'cuda'], seconds)
    return output and [row(f'CUDA tests: {output.splitlines()[-1].strip("= ")}')]


def step_rows(
    args: argparse.Namespace, kind: str, seconds: float
) -> list[list[str]] | None:
    launcher = [sys.executable, '-m', 'torch.distributed.run', '--standalone']
    command = [*launcher, f'--nproc-per-node={args.gpus}', __file__, '--child', kind]
    command += ['--batch-size', args.batch_size, '--steps', args.steps]
    output = run(
        [*command, *['--peer-dir', args.peer_dir] * bool(args.peer_dir)], seconds
    )
    if output is None:
        return None
    lines = [line for line in output.splitlines() if line.startswith('{"images')]
    figures = json.loads(lines[-1])
    peaks = f'{figures["allocated"] / 1e9:.2f} / {figures["reserved"] / 1e9:.2f}'
    name = f'{args.gpus} x {args.batch_size}, {args.steps} steps, {kind}'
    speed = f'{figures["images/s"]:,.0f}', f'{figures["ms"]:.1f}'
    return [row(name, *speed, peaks, f'{figures["syncs"]:.2f}')]


def classifier_rows(
    args: argparse.Namespace, classes: int, seconds: float
) -> list[list[str]] | None:
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / 'out.json'
        command = [sys.executable, HERE / 'classifier_step.py', '--device', 'cuda']
        command += ['--batch-size', 8 * args.batch_size, '--classes', classes]
        command += ['--losses', 'SphereFace2', 'ArcFace', '--engines', 'blocked']
        command += ['--matmul-dtype', 'bfloat16', '--repeats', 5, '--json', out]
        command += ['--only', '^floor|^[SA].*blocked|PartialFC']
        command += ['--peer-dir', args.peer_dir] if args.peer_dir else []
        if run(command, seconds) is None:
            return None
        return [
            row(
                f'classifier, {classes:,}: {found["name"]}',
                '-',
                f'{1e3 * sorted(found["times"])[len(found["times"]) // 2]:.2f}',
                f'{found["peak"] / 1e3:.2f}',
            )
            for found in json.loads(out.read_text())['rows']
        ]


def child(args: argparse.Namespace) -> None:
    """Take the steps, as one of the ranks."""
    import torch
    from training_steps import emit, insightface_step, run_ours

    world = int(os.environ['WORLD_SIZE'])
    measure = Measured(args.steps, world * args.batch_size)
    if args.child == 'insightface':
        torch.cuda.set_device(int(os.environ['LOCAL_RANK']))
        torch.distributed.init_process_group('nccl')
        step = insightface_step(args.peer_dir, 'r100', CLASSES[0], args.batch_size)
        while not measure.done:
            step()
            measure.after_step()
    else:
        run_ours(
            str(FLAGSHIP),
            {'train_dataloader.batch_size': args.batch_size},
            args.child == 'compiled',
            WARM_UP + args.steps + PROFILED,
            lambda iteration, before: None if before else measure.after_step(),
        )
    if os.environ['RANK'] == '0':
        emit(measure.figures)
    torch.distributed.destroy_process_group()


class Measured:
    """Time of so many steps after a warm-up, then a profile of a few more."""

    def __init__(self, steps: int, images: int) -> None:
        self.steps = steps
        self.images = images
        self.taken = 0
        self.figures: dict[str, float] = {}

    @property
    def done(self) -> bool:
        return self.taken == WARM_UP + self.steps + PROFILED

    def after_step(self) -> None:
        import torch

        self.taken += 1
        if self.taken == WARM_UP:
            torch.cuda.reset_peak_memory_stats()
            torch.cuda.synchronize()
            self.begin = time.perf_counter()
        elif self.taken == WARM_UP + self.steps:
            torch.cuda.synchronize()
            seconds = (time.perf_counter() - self.begin) / self.steps
            self.figures = {
                'images/s': self.images / seconds,
                'ms': 1e3 * seconds,
                'allocated': torch.cuda.max_memory_allocated(),
                'reserved': torch.cuda.max_memory_reserved(),
            }
            self.profile = torch.profiler.profile()
            self.profile.start()
        elif self.done:
            self.profile.stop()
            waited = sum(
                event.self_cpu_time_total
                for event in self.profile.key_averages()
                if re.fullmatch(r'cuda(Stream|Device|Event)Synchronize', event.key)
            )
            self.figures['syncs'] = waited / 1e3 / PROFILED


def measured(
    name: str, rows_in: Callable[[float], list[list[str]] | None], seconds: float
) -> list[list[str]]:
    """The rows of a part, or one that says why there are none."""
    if seconds < 1:
        return [row(f'{name}: not reached, no time was left')]
    try:
        rows = rows_in(seconds)
    except UserError as error:
        print(f'{name}: {error}', file=sys.stderr)
        return [row(f'{name}: failed, {str(error).splitlines()[0][:60]}')]
    return rows or [row(f'{name}: not finished in its {seconds:.0f} s')]


def main() -> None:
    args = parse_args()
    if args.child:
        child(args)
        return
    import torch

    if not torch.cuda.is_available():
        raise UserError('torch sees no GPU, and all of this is about GPUs')
    args.gpus = args.gpus or torch.cuda.device_count()
    parts: list[tuple[str, Callable, float]] = [
        ('CUDA tests', lambda s: test_rows(args, s), BUDGET['CUDA tests'])
    ]
    for kind in ('eager', *['insightface'] * bool(args.peer_dir)):
        parts.append(
            (kind, lambda s, kind=kind: step_rows(args, kind, s), BUDGET[kind])
        )
    for classes in CLASSES:
        name = f'classifier, {classes:,}'
        rows_of = lambda s, classes=classes: classifier_rows(args, classes, s)  # noqa: E731
        parts.append((name, rows_of, CLASSIFIER_BUDGET))
    # Compilation may take what time is left.
    parts.append(('compiled', lambda s: step_rows(args, 'compiled', s), args.seconds))
    end = time.monotonic() + args.seconds
    rows = []
    for name, rows_in, budget in parts:
        rows += measured(name, rows_in, min(budget, end - time.monotonic()))
        print(f'{end - time.monotonic():.0f} s left after {name}', file=sys.stderr)
    for way, speeds in PUBLISHED.items():
        for classes, (speed, megabytes) in speeds.items():
            memory = f'{megabytes / 1e3:.2f}' if megabytes else '-'
            name = f'published, 8 V100: {classes} classes, {way}'
            rows.append(row(name, f'{speed:,}', '-', memory))
    table = new_table(args, 'measured', *COLUMNS)
    for cells in rows:
        table.add_row(*cells)
    console = Console(width=150)
    console.print(table)
    device = f'{args.gpus} x {torch.cuda.get_device_name()}'
    settings = dict(torch=torch.__version__, device=device, batch_size=args.batch_size)
    conclude(console, args, settings, columns=COLUMNS, rows=rows)


if __name__ == '__main__':
    with report_errors():
        main()
