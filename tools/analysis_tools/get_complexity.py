"""Tell a network's parameters, multiply-adds, activations and speed.

python tools/analysis_tools/get_complexity.py configs/sphereface2_r100_ms1m.py
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmengine.config import Config
from rich import box
from rich.console import Console
from rich.table import Table

from mmhyperface.engine.launch import load_config
from mmhyperface.utils.command_line import add_overrides, report_errors
from mmhyperface.utils.errors import UserError
from mmhyperface.utils.paths import require_file

if TYPE_CHECKING:
    import torch
    from torch import nn

    from mmhyperface.inference.complexity import Complexity

# Batches that are not timed.
WARM_UP = 3


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add('config', help='path of the config')
    add('--num-classes', type=int, help='number of identities, of the head')
    add(
        '--input-size',
        type=int,
        nargs='+',
        metavar='PIXELS',
        help="height and width of images; by default the backbone's",
    )
    add(
        '--batch-sizes',
        type=int,
        nargs='*',
        default=[1, 32],
        metavar='B',
        help='to measure the speed with; none: not at all (default: 1 32)',
    )
    add('--repeats', type=int, default=10, help='batches of which the median counts')
    add('--device', help='where to measure; by default a GPU if there is one')
    add('--threads', type=int, help="of the processor; by default torch's own choice")
    add('--amp', action='store_true', help='measure with automatic mixed precision')
    add('--json', type=Path, help='write the figures to this file')
    add_overrides(parser)
    args = parser.parse_args()
    if args.repeats < 1 or min(args.batch_sizes, default=1) < 1:
        raise UserError('--repeats and --batch-sizes must be at least 1')
    threads = 1 if args.threads is None else args.threads
    if min(*(args.input_size or [1]), threads) < 1:
        raise UserError('--input-size and --threads must be at least 1')
    if args.input_size and len(args.input_size) > 2:
        raise UserError('--input-size takes one number, or height and width')
    if args.json:
        require_file(args.json)
    return args


def where(device: torch.device) -> str:
    """The device in words."""
    import torch

    if device.type == 'cuda':
        return torch.cuda.get_device_name(device)
    return f'{platform.machine()} processor, {torch.get_num_threads()} threads'


@dataclass(frozen=True)
class Speed:
    """Embeddings per second.

    Attributes:
        batch_size: Images at once.
        seconds: Of a batch, the median.
        repeats: Of how many.
    """

    batch_size: int
    seconds: float
    repeats: int

    @property
    def images_per_second(self) -> float:
        return self.batch_size / self.seconds


def speed_of(
    modules: list[nn.Module],
    batch_size: int,
    size: tuple[int, int],
    device: torch.device,
    repeats: int = 10,
    amp: bool = False,
) -> Speed:
    """Time backbone and neck on random pixels, without loading and without flips.

    Args:
        repeats: Batches that are timed, after WARM_UP others.
        amp: Whether to compute in 16 bits where autocast does.
    """
    import torch

    from mmhyperface.models.recognizers import image_channels

    network = torch.nn.Sequential(*modules).eval()
    channels = image_channels(modules[0])
    images = torch.rand(batch_size, channels, *size, device=device)
    times = []
    with torch.inference_mode(), torch.autocast(device.type, enabled=amp):
        for turn in range(WARM_UP + repeats):
            start = time.perf_counter()
            network(images)
            if device.type == 'cuda':  # which is only asked, and goes on
                torch.cuda.synchronize(device)
            if turn >= WARM_UP:
                times.append(time.perf_counter() - start)
    return Speed(batch_size, statistics.median(times), repeats)


def measure(
    cfg: Config, args: argparse.Namespace, size: tuple[int, int]
) -> tuple[list[Speed], str]:
    """Speeds, and where they were measured."""
    import torch

    from mmhyperface.inference.complexity import build_modules
    from mmhyperface.inference.loading import require_device

    device = require_device(args.device)
    if args.threads:
        torch.set_num_threads(args.threads)
    modules = build_modules(cfg, device)
    speeds = [
        speed_of(modules, batch, size, device, args.repeats, args.amp)
        for batch in args.batch_sizes
    ]
    return speeds, where(device) + (', mixed precision' if args.amp else '')


def tables_of(complexity: Complexity, speeds: list[Speed], place: str) -> list[Table]:
    height, width = complexity.input_size
    sizes = Table(
        'part',
        'parameters',
        'multiply-adds per image',
        title=f'images of {height} x {width}',
        box=box.SIMPLE,
    )
    for name in ('backbone', 'neck', 'head'):
        size = getattr(complexity, name)
        if size is not None:
            macs = f'{size.macs / 1e9:.4g} G'
            sizes.add_row(name, f'{size.parameters:,}', macs)
    if not speeds:
        return [sizes]
    times = Table(
        'images at once', 'images / s', 'ms', title=f'forward, {place}', box=box.SIMPLE
    )
    for speed in speeds:
        times.add_row(
            str(speed.batch_size),
            f'{speed.images_per_second:.4g}',
            f'{1e3 * speed.seconds:.4g}',
        )
    return [sizes, times]


def main() -> None:
    args = parse_args()

    from mmhyperface.inference.complexity import complexity_of
    from mmhyperface.utils.atomic_files import new_files

    cfg = load_config(args.config, args.cfg_options)
    if args.num_classes is not None and (cfg.get('model') or {}).get('head'):
        cfg.model.head.num_classes = args.num_classes
    wanted = args.input_size and (args.input_size[0], args.input_size[-1])
    complexity = complexity_of(cfg, wanted)
    speeds, place = [], ''
    if args.batch_sizes:
        speeds, place = measure(cfg, args, complexity.input_size)
    console = Console(width=100)
    for table in tables_of(complexity, speeds, place):
        for column in table.columns[1:]:
            column.justify = 'right'
        console.print(table)
    console.print(
        f'A training keeps {complexity.activations / 1e6:.4g} MB of activations per '
        'image, in single precision.'
    )
    if complexity.head is None and cfg.model.get('head'):
        console.print(
            'Without the head, no HypersphereHead of known size: give --num-classes.'
        )
    if args.json:
        content: dict[str, Any] = asdict(complexity)
        content['speed'] = [
            {**asdict(speed), 'images_per_second': speed.images_per_second}
            for speed in speeds
        ]
        content['measured_on'] = place or None
        with new_files([str(args.json)], overwrite=True) as (file,):
            file.write(json.dumps(content, indent=1).encode() + b'\n')


if __name__ == '__main__':
    with report_errors():
        main()
