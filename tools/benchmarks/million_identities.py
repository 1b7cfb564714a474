"""Train on as many identities as you like, on the CPU: images per second, memory.

The SphereFace2 quickstart with another number of (drawn) identities: the real runner,
its data loader, network, head and optimizer, without validation, checkpoints and
gradient clipping. With several processes the class centres are split over them.

Images per second are those of all processes in the iterations after the first few,
by the clock on the wall; the share of it that an iteration waited for pictures is
told apart. Memory is the peak of each process that trains, and of its largest data
loader worker, since it started (VmHWM); pages that a worker shares with its parent
count for both.

    python tools/benchmarks/million_identities.py --fused-update
    python tools/benchmarks/million_identities.py --processes 1 --sample-rate 0.1
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from common import (
    benchmark_parser,
    new_table,
    options_of,
    resident,
    run_in_processes,
    write_json,
)
from mmengine.config import Config
from rich.console import Console
from rich.table import Table

from mmhyperface.apis import build_runner
from mmhyperface.engine.launch import load_config
from mmhyperface.utils.command_line import report_errors
from mmhyperface.utils.errors import UserError

if TYPE_CHECKING:
    from mmengine.hooks import Hook
    from mmengine.runner import Runner

ROOT = Path(__file__).resolve().parents[2]
WARM_UP = 3


def parse_args() -> argparse.Namespace:
    parser = benchmark_parser(__doc__)
    add = parser.add_argument
    add('--identities', type=int, default=1_000_000)
    add(
        '--images-per-identity',
        type=int,
        default=2,
        help="mmengine's InfiniteSampler lists all images: 40 bytes each",
    )
    add('--iterations', type=int, default=20)
    add('--batch-size', type=int, default=64, help='of all processes together')
    add('--loss', default='SphereFace2', help='name of a loss without "Loss"')
    add('--engine', default='blocked', choices=['dense', 'blocked', 'fused'])
    add('--fused-update', action='store_true', help='update in the block loop')
    add('--sample-rate', type=float, default=1.0)
    add('--processes', type=int, default=2, help='they split the class centres')
    add('--threads', type=int, help='of each process; 2 for one process, else 1')
    add('--workers', type=int, default=1, help='of the data loader of each process')
    args = parser.parse_args()
    if args.iterations <= WARM_UP:
        raise UserError(
            f'the first {WARM_UP} iterations are not counted: set --iterations higher'
        )
    if args.batch_size % args.processes:
        raise UserError('--batch-size must be a multiple of --processes')
    if args.threads is None:
        args.threads = 2 if args.processes == 1 else 1
    return args


def config(args: argparse.Namespace, work_dir: str) -> Config:
    """The quickstart for these arguments."""
    cfg = load_config(str(ROOT / 'configs' / 'sphereface2_quickstart.py'))
    cfg.work_dir = work_dir
    cfg.launcher = 'none' if args.processes == 1 else 'pytorch'
    cfg.merge_from_dict(
        {
            'model.head.num_classes': args.identities,
            'model.head.engine': args.engine,
            'model.head.fused_update': args.fused_update,
            'model.head.sample_rate': args.sample_rate,
            'train_dataloader.batch_size': args.batch_size // args.processes,
            'train_dataloader.num_workers': args.workers,
            'train_dataloader.dataset.num_identities': args.identities,
            'train_dataloader.dataset.images_per_identity': args.images_per_identity,
            'train_dataloader.dataset.cache_images': False,
            'train_cfg.max_iters': args.iterations,
            'default_hooks.logger.interval': args.iterations,
            'log_level': 'WARNING',
        }
    )
    if args.loss != 'SphereFace2':
        cfg.model.head.loss = dict(type=f'{args.loss}Loss')
    # The norm of a gradient that is never complete cannot be clipped.
    cfg.optim_wrapper.clip_grad = None
    cfg.param_scheduler = None
    cfg.default_hooks.checkpoint = None
    cfg.default_hooks.report = None
    for part in ('dataloader', 'evaluator', 'cfg'):
        cfg[f'val_{part}'] = cfg[f'test_{part}'] = None
    return cfg


def watch_hook() -> Hook:
    """Keeps the peak memory of the data loader's workers while they live."""

    import torch
    from mmengine.hooks import Hook

    class WatchHook(Hook):
        workers = 0.0

        def after_train_iter(self, runner: Runner, *_: object, **__: object) -> None:
            children = torch.multiprocessing.active_children()
            self.workers = max(
                [self.workers, *(resident('VmHWM', child.pid) for child in children)]
            )

    return WatchHook()


def train(args: argparse.Namespace, folder: str) -> None:
    """What one process does; its figures go to the folder."""
    import torch

    rank = os.environ['RANK']
    torch.set_num_threads(args.threads)
    start = resident('VmRSS')
    runner = build_runner(config(args, f'{folder}/{rank}'))
    watch = watch_hook()
    runner.register_hook(watch, 'LOWEST')
    runner.train()
    seconds, waited = (
        np.array(runner.message_hub.get_scalar(f'train/{name}').data[0])[WARM_UP:]
        for name in ('time', 'data_time')
    )
    loss = runner.message_hub.get_scalar('train/loss').data[0][-1]
    figures = dict(
        images_per_second=args.batch_size / seconds.mean(),
        seconds_per_iteration=seconds.mean(),
        quartiles=np.percentile(seconds, [25, 75]).tolist(),
        waited_for_pictures=waited.sum() / seconds.sum(),
        start_mb=start,
        peak_mb=resident('VmHWM'),
        peak_mb_of_a_worker=watch.workers,
        last_loss=float(loss),
    )
    Path(folder, f'{rank}.json').write_text(json.dumps(figures))


def table_of(args: argparse.Namespace, figures: list[dict]) -> Table:
    table = new_table(
        args,
        'process',
        'images/s of all',
        's/iteration',
        'quartiles',
        'waited for pictures',
        'MB after imports',
        'peak MB',
        'of a worker',
        title=f'{args.identities:,} identities, {args.loss}, {args.engine}'
        + ', update in the block loop' * args.fused_update
        + f', sample rate {args.sample_rate:g}' * (args.sample_rate < 1)
        + f'; {args.processes} x {args.threads} threads, batch {args.batch_size}',
    )
    for rank, row in enumerate(figures):
        low, high = row['quartiles']
        table.add_row(
            str(rank),
            f'{row["images_per_second"]:.1f}',
            f'{row["seconds_per_iteration"]:.2f}',
            f'{low:.2f} to {high:.2f}',
            f'{100 * row["waited_for_pictures"]:.0f} %',
            f'{row["start_mb"]:.0f}',
            f'{row["peak_mb"]:.0f}',
            f'{row["peak_mb_of_a_worker"]:.0f}',
        )
    return table


def main() -> None:
    args = parse_args()
    with tempfile.TemporaryDirectory() as folder:
        run_in_processes(args.processes, train, args, folder)
        figures = [
            json.loads(Path(folder, f'{rank}.json').read_text())
            for rank in range(args.processes)
        ]
    Console(width=120).print(table_of(args, figures))
    write_json(args, dict(options_of(args), ranks=figures))


if __name__ == '__main__':
    with report_errors():
        main()
