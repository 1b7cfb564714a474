"""Memory of a data loader with an index of 42 million records, over an epoch.

The index is as long as that of WebFace42M and points, over and over, to the records
of a small file, whose images have 8 x 8 pixels: an epoch passes in minutes, and all
that grows with the number of images is as large as ever. The loader is the runner's,
with the sampler of the MS1M config.

Memory is proportional (Pss): pages that processes share, as those of the mapped index,
count in equal parts for each, so that the sum over all is what the machine gives.

    python tools/benchmarks/loader_memory.py
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np
from common import benchmark_parser, conclude, new_table, processor, proportional
from rich.console import Console
from rich.progress import track

from mmhyperface.utils.command_line import report_errors
from mmhyperface.utils.errors import UserError

if TYPE_CHECKING:
    from mmhyperface.datasets import FaceRecord

RECORDS = 20_000
LABELS = 1000
LINES = 1_000_000


def parse_args() -> argparse.Namespace:
    parser = benchmark_parser(__doc__)
    add = parser.add_argument
    add('--images', type=int, default=42_000_000)
    add('--workers', type=int, default=4)
    add('--batch-size', type=int, default=128)
    add('--share', type=float, default=1.0, help='of an epoch that is read')
    args = parser.parse_args()
    if min(args.images, args.workers, args.batch_size) < 1 or not 0 < args.share <= 1:
        raise UserError('numbers are at least 1, and --share is above 0, up to 1')
    return args


def write_records(folder: Path, images: int) -> None:
    """A file of few records, with an index of many."""
    from mmhyperface.datasets.readers.recordio import chunks_of, pack_record

    rng = np.random.default_rng(0)
    offsets, at = [], 0
    with open(folder / 'train.rec', 'wb') as file:
        for number in range(min(RECORDS, images)):
            pixels = rng.integers(0, 256, (8, 8, 3), np.uint8)
            jpeg = cv2.imencode('.jpg', pixels)[1].tobytes()
            # All have one id, as with writers that do not fill it in.
            record = chunks_of(pack_record(jpeg, float(number % LABELS), 0))
            file.write(record)
            offsets.append(at)
            at += len(record)
    with open(folder / 'train.idx', 'w') as index:
        for start in track(range(0, images, LINES), 'index', transient=True):
            index.writelines(
                f'{key + 1}\t{offsets[key % len(offsets)]}\n'
                for key in range(start, min(start + LINES, images))
            )
    (folder / 'property').write_text(f'{LABELS},8,8')


def memory() -> tuple[float, float]:
    """MB of this process, and of all its workers."""
    import torch

    workers = torch.multiprocessing.active_children()
    return proportional(), sum(proportional(worker.pid) for worker in workers)


def read(data: FaceRecord, args: argparse.Namespace) -> list[tuple[float, ...]]:
    """Share of the epoch, MB of this process and of the workers, again and again."""
    from mmengine.runner import Runner

    loader = Runner.build_dataloader(
        dict(
            dataset=data,
            batch_size=args.batch_size,
            num_workers=args.workers,
            persistent_workers=True,
            sampler=dict(type='InfiniteFaceSampler', shuffle=True),
            collate_fn=dict(type='collate_faces'),
        ),
        seed=0,
    )
    batches = max(1, round(args.share * len(data) / args.batch_size))
    looks = set(np.linspace(batches / 100, batches, 40).astype(int).tolist())
    readings = []
    iterator = iter(loader)
    for number in track(range(1, batches + 1), 'reading', transient=True):
        next(iterator)
        if number in looks:
            readings.append((number * args.batch_size / len(data), *memory()))
    return readings


def main() -> None:
    args = parse_args()

    import torch
    from mmengine.registry import init_default_scope

    from mmhyperface.datasets import FaceRecord

    cv2.setNumThreads(0)
    torch.set_num_threads(1)
    init_default_scope('mmhyperface')
    before = proportional()
    with tempfile.TemporaryDirectory() as name:
        write_records(Path(name), args.images)
        start = time.perf_counter()
        data = FaceRecord(
            name, pipeline=[dict(type='LoadFace', size=8), dict(type='PackFace')]
        )
        seconds = time.perf_counter() - start
        parsed = proportional()
        start = time.perf_counter()
        readings = read(data, args)
        rate = readings[-1][0] * args.images / (time.perf_counter() - start)
    table = new_table(
        args,
        'share of the epoch read',
        'main process, MB',
        f'{args.workers} workers together, MB',
        'all, MB',
        title=f'{args.images:,} images, batch {args.batch_size}',
    )
    shown = readings[:: max(1, len(readings) // 5)] + readings[-1:]
    for share, main_process, workers in shown:
        cells = (main_process, workers, main_process + workers)
        table.add_row(f'{share:.0%}', *(f'{mb:,.0f}' for mb in cells))
    settings = dict(
        device=processor(),
        torch=torch.__version__,
        mb_of_imports=round(before),
        mb_with_data_set=round(parsed),
        seconds_to_parse=round(seconds, 1),
        images_per_second=round(rate),
    )
    console = Console(width=100)
    console.print(table)
    conclude(console, args, settings, found=readings)


if __name__ == '__main__':
    with report_errors():
        main()
