"""All that is to be measured on GPUs, in ten minutes: one table.

The tests that need CUDA; the classifier's step at 85,742, 360,232 and 2,059,906
classes; 100 steps of the flagship, SphereFace2 with IResNet-100 in fp16, eager and
compiled; and, with a checkout of insightface, its PartialFC and its training step
beside them. Images are noise in memory. Whole steps run on all GPUs, the classifier's
on one. Each part has its time; what fails, does not end in it, or is not reached, says
so in the table, and the others go on. The file of --json is complete after each part.

Time in host syncs is what a profile of ten more steps gives on rank 0 for waiting for
streams and events.

    python tools/benchmarks/gpu.py --peer-dir DIR --json gpu.json
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from statistics import median
from typing import Any

from common import (
    benchmark_parser,
    conclude,
    new_table,
    peer_file,
    run_in_processes,
    write_json,
)
from rich.console import Console

from mmhyperface.utils.command_line import report_errors
from mmhyperface.utils.errors import UserError

ROOT = Path(__file__).parents[2]
CLASSES = (85_742, 360_232, 2_059_906)
WARM_UP, PROFILED = 20, 10
STEPS = ('eager', 'insightface', 'compiled')
# Seconds of each part, in the order of running: without right results the others say
# nothing, and compilation may take what time is left of all.
ALL = 570
BUDGET = {
    'CUDA tests': 75,
    'eager': 70,
    'insightface': 60,
    **{f'classifier, {c:,}': s for c, s in zip(CLASSES, (45, 45, 70), strict=True)},
    'compiled': ALL,
}
# 8 V100, of which each holds so many MB: insightface, recognition/arcface_torch,
# docs/speed_benchmark.md.
PUBLISHED = (
    ('125 k classes, data parallel', 4681, 7358),
    ('125 k classes, model parallel', 4824, 5306),
    ('125 k classes, Partial FC 0.1', 5004, 4868),
    ('1 M classes, data parallel', 2090, 23708),
    ('1 M classes, model parallel', 3449, 9966),
    ('1 M classes, Partial FC 0.1', 4803, 5620),
    ('5.5 M classes, model parallel', 1389, None),
    ('5.5 M classes, Partial FC 0.1', 3975, None),
    ('29 M classes, Partial FC 0.1', 1855, None),
)
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
    add('--child', choices=STEPS, help=argparse.SUPPRESS)
    return parser.parse_args()


def commands(args: argparse.Namespace, folder: Path) -> dict[str, list[Any]]:
    """What runs each part; figures go to JSON of its name in the folder."""
    # Collecting the others takes longer than these do.
    tests = [f for f in (ROOT / 'tests').rglob('test_*.py') if 'cuda' in f.read_text()]
    found = {'CUDA tests': ['-m', 'pytest', '-q', '-n0', '-k', 'cuda', *tests]}
    peers = ['--peer-dir', args.peer_dir] if args.peer_dir else []
    for kind in STEPS if peers else ('eager', 'compiled'):
        found[kind] = [__file__, '--child', kind, '--gpus', args.gpus, *peers]
        found[kind] += ['--batch-size', args.batch_size, '--steps', args.steps]
        found[kind] += ['--json', folder / f'{kind}.json']
    for classes in CLASSES:
        name = f'classifier, {classes:,}'
        found[name] = [ROOT / 'tools/benchmarks/classifier_step.py', '--device', 'cuda']
        found[name] += ['--batch-size', 8 * args.batch_size, '--classes', classes]
        found[name] += ['--losses', 'SphereFace2', 'ArcFace', '--engines', 'blocked']
        found[name] += ['--matmul-dtype', 'bfloat16', '--repeats', 5, *peers]
        found[name] += ['--only', '^floor|^[SA].*blocked|PartialFC']
        found[name] += ['--json', folder / f'{name}.json']
    return found


def run(arguments: list[Any], seconds: float) -> tuple[int | None, str]:
    """The status of Python with these arguments, and all that it prints.

    The status is None if it takes longer. Its children end with it.
    """
    with tempfile.TemporaryFile('w+') as log:
        process = subprocess.Popen(
            [sys.executable, *map(str, arguments)],
            cwd=ROOT,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        status = None
        try:
            with suppress(subprocess.TimeoutExpired):
                status = process.wait(seconds)
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        log.seek(0)
        return status, log.read()


def row(name: str, *cells: str) -> list[str]:
    """A row of the table, with dashes for what does not apply."""
    return [name, *cells, *['-'] * (len(COLUMNS) - len(cells))]


def rows_of(name: str, figures: dict[str, Any]) -> list[list[str]]:
    """What a part has measured, be it all or not."""
    if 'images/s' in figures:
        speed = f'{figures["images/s"]:,.0f}', f'{figures["ms"]:.1f}'
        peaks = f'{figures["allocated"] / 1e9:.2f} / {figures["reserved"] / 1e9:.2f}'
        waited = f'{figures["syncs"]:.2f}' if 'syncs' in figures else '-'
        return [row(f'{figures["setting"]}, {name}', *speed, peaks, waited)]
    return [
        row(
            f'{name}: {head["name"]}',
            '-',
            f'{1e3 * median(head["times"]):.2f}',
            f'{head["peak"] / 1e3:.2f}',
        )
        for head in figures.get('rows', [])
    ]


def measured(
    name: str, arguments: list[Any], out: Path, seconds: float
) -> tuple[list[list[str]], dict[str, Any]]:
    """The rows of a part, of which one says why there are no more, and its figures."""
    if seconds < 1:
        return [row(f'{name}: not reached, no time was left')], {}
    status, output = run(arguments, seconds)
    figures = json.loads(out.read_text()) if out.exists() else {}
    lines = output.strip().splitlines() or ['']
    rows = rows_of(name, figures)
    rows += [row(f'{name}: {line}') for line in lines if ': left out, ' in line]
    end = lines[-1].strip('= ')
    if status is None:
        end = f'not finished in its {seconds:.0f} s'
    elif status:
        end = f'failed, status {status}: {end}'
    if status != 0:
        print(output[-3000:], file=sys.stderr)
    if status != 0 or not rows:
        rows.append(row(f'{name}: {end[:150]}'))
    return rows, figures


def child(args: argparse.Namespace) -> None:
    """Take the steps, as one of the ranks."""
    import torch
    from training_steps import insightface_step, run_ours

    measure = Measured(args)
    if args.child == 'insightface':
        torch.cuda.set_device(int(os.environ['LOCAL_RANK']))
        torch.distributed.init_process_group('nccl')
        step = insightface_step(args.peer_dir, 'r100', CLASSES[0], args.batch_size)
        for _ in range(measure.last):
            step()
            measure.after_step()
    else:
        run_ours(
            str(ROOT / 'configs' / 'sphereface2_r100_ms1m.py'),
            {'train_dataloader.batch_size': args.batch_size},
            args.child == 'compiled',
            measure.last,
            lambda iteration, before: None if before else measure.after_step(),
        )


class Measured:
    """Time of so many steps after a warm-up, then a profile of a few more."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.args = args
        self.last = WARM_UP + args.steps + PROFILED
        self.taken = 0
        self.figures: dict[str, Any] = {}

    def after_step(self) -> None:
        import torch

        steps = self.args.steps
        self.taken += 1
        if self.taken == WARM_UP:
            torch.cuda.reset_peak_memory_stats()
            torch.cuda.synchronize()
            self.begin = time.perf_counter()
        elif self.taken == WARM_UP + steps:
            torch.cuda.synchronize()
            seconds = (time.perf_counter() - self.begin) / steps
            images, gpus = self.args.batch_size, self.args.gpus
            self.note(
                {
                    'setting': f'{gpus} x {images}, {steps} steps',
                    'images/s': gpus * images / seconds,
                    'ms': 1e3 * seconds,
                    'allocated': torch.cuda.max_memory_allocated(),
                    'reserved': torch.cuda.max_memory_reserved(),
                }
            )
            self.profile = torch.profiler.profile()
            self.profile.start()
        elif self.taken == self.last:
            self.profile.stop()
            # The profiler itself waits for the device, at its end.
            waits = 'cudaStreamSynchronize', 'cudaEventSynchronize'
            waited = sum(
                event.self_cpu_time_total
                for event in self.profile.key_averages()
                if event.key in waits
            )
            self.note({'syncs': waited / 1e3 / PROFILED})

    def note(self, figures: dict[str, Any]) -> None:
        """Keep what is known, whatever comes after."""
        self.figures |= figures
        if os.environ['RANK'] == '0':
            write_json(self.args, self.figures)


def main() -> None:
    args = parse_args()
    if args.child:
        run_in_processes(args.gpus, child, args)
        return
    import torch

    gpus = torch.cuda.device_count()
    if not gpus:
        raise UserError(f'torch {torch.__version__} sees no GPU to measure')
    args.gpus = args.gpus or gpus
    if args.gpus > gpus:
        raise UserError(f'--gpus {args.gpus}: torch sees {gpus}')
    if args.peer_dir:
        peer_file(args.peer_dir / 'insightface', 'partial_fc_v2.py')
    end = time.monotonic() + args.seconds
    rows: list[list[str]] = []
    parts: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        found = commands(args, Path(folder))
        for name, budget in BUDGET.items():
            write_json(args, dict(columns=COLUMNS, rows=rows, parts=parts))
            if name not in found:
                rows.append(row(f'{name}: not measured without --peer-dir'))
                continue
            seconds = min(budget * args.seconds / ALL, end - time.monotonic())
            out = Path(folder, f'{name}.json')
            more, parts[name] = measured(name, found[name], out, seconds)
            rows += more
            print(f'{end - time.monotonic():.0f} s left after {name}', file=sys.stderr)
    for name, speed, megabytes in PUBLISHED:
        memory = f'{megabytes / 1e3:.2f}' if megabytes else '-'
        rows.append(row(f'published, 8 V100: {name}', f'{speed:,}', '-', memory))
    table = new_table(args, 'measured', *COLUMNS)
    for cells in rows:
        table.add_row(*cells)
    console = Console(width=150)
    console.print(table)
    device = f'{args.gpus} x {torch.cuda.get_device_name()}'
    settings = dict(torch=torch.__version__, device=device, batch_size=args.batch_size)
    conclude(console, args, settings, columns=COLUMNS, rows=rows, parts=parts)


if __name__ == '__main__':
    with report_errors():
        main()
