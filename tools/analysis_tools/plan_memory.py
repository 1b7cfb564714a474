"""Tell a training's memory per GPU and its exchanges per step, before renting.

    python tools/analysis_tools/plan_memory.py configs/sphereface2_r100_ms1m.py \
        --gpus 8 --num-classes 1000000
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from mmengine.config import Config
from rich import box
from rich.console import Console
from rich.table import Table

from mmhyperface.engine.launch import load_config
from mmhyperface.utils.command_line import Overrides, report_errors
from mmhyperface.utils.errors import UserError

if TYPE_CHECKING:
    from mmhyperface.engine.memory_plan import Plan

GB = 1e9
MB = 1e6


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('config', help='path of the config')
    parser.add_argument('--gpus', type=int, help='number of GPUs')
    parser.add_argument(
        '--gpu-memory',
        type=float,
        metavar='GB',
        help='memory of a GPU, 10^9 bytes: tells whether it suffices or, without '
        '--gpus, how many GPUs do',
    )
    parser.add_argument(
        '--num-classes',
        type=int,
        help='number of identities; by default that which the config tells',
    )
    parser.add_argument('--batch-size', type=int, help='images per GPU')
    parser.add_argument('--engine', choices=['auto', 'dense', 'blocked', 'fused'])
    parser.add_argument('--sample-rate', type=float, help='share of rows per step')
    parser.add_argument('--fused-update', action='store_true', default=None)
    parser.add_argument(
        '--no-activations',
        action='store_true',
        help='leave the activations of the network out',
    )
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        action=Overrides,
        help='override entries of the config: a.b=1 c.d=[x,y]',
    )
    parser.add_argument('--json', type=Path, help='write the plan to this file')
    parser.add_argument('--markdown', action='store_true')
    args = parser.parse_args()
    if args.gpus is None and args.gpu_memory is None:
        raise UserError('give --gpus, the number of GPUs, or --gpu-memory, or both')
    return args


def _counts_classes(cfg: Config) -> bool:
    """Whether the number of identities is that of the data."""
    return (cfg.get('model', {}).get('head') or {}).get('num_classes') == 'auto'


def plan_of(args: argparse.Namespace) -> Plan:
    from mmhyperface.engine.memory_plan import Planner

    cfg = load_config(args.config, args.cfg_options)
    if args.num_classes is None and _counts_classes(cfg):
        # Without the data what its config tells of it.
        args.num_classes = cfg.get('num_classes')
    for name in ('num_classes', 'engine', 'sample_rate', 'fused_update'):
        value = getattr(args, name)
        if value is not None and cfg.get('model', {}).get('head'):
            cfg.model.head[name] = value
    if args.batch_size is not None:
        cfg.merge_from_dict({'train_dataloader.batch_size': args.batch_size})
    planner = Planner(cfg, activations=not args.no_activations)
    if args.gpus is None:
        return planner.least(int(args.gpu_memory * GB))
    return planner.plan(args.gpus)


def tables_of(plan: Plan, style: box.Box) -> list[Table]:
    from mmhyperface.engine.memory_plan import PHASES

    memory = Table(
        'GB on a GPU while',
        *(f'{phase}' for phase in PHASES),
        title=f'{plan.num_classes:,} identities, D {plan.dim}, on {plan.gpus} GPUs: '
        f'{plan.rows:,} rows and {plan.batch_size} images on each',
        box=style,
    )
    for part in plan.parts:
        memory.add_row(part.name, *(f'{size / GB:.2f}' for size in part.bytes))
    memory.add_section()
    memory.add_row('all', *(f'{size / GB:.2f}' for size in plan.phases))
    if not plan.exchanges:
        return [memory]
    exchanges = Table(
        'exchanged per step', 'collective', 'MB sent by each GPU', box=style
    )
    for exchange in plan.exchanges:
        exchanges.add_row(
            exchange.name, exchange.collective, f'{exchange.sent / MB:.3f}'
        )
    exchanges.add_section()
    exchanges.add_row('all', '', f'{plan.sent / MB:.3f}')
    return [memory, exchanges]


def main() -> None:
    args = parse_args()
    plan = plan_of(args)
    console = Console(width=110)
    for table in tables_of(plan, box.MARKDOWN if args.markdown else box.SIMPLE):
        for column in table.columns[1:]:
            column.justify = 'right'
        console.print(table)
    console.print(
        f'{plan.allocated / GB:.2f} GB allocated, {plan.reserved / GB:.2f} GB reserved '
        f'at most, {plan.peak / GB:.2f} GB with CUDA and its libraries'
    )
    verdict = f'{plan.gpus} GPUs with {plan.peak / GB:.1f} GB each'
    if args.gpu_memory is not None:
        fits = plan.peak <= args.gpu_memory * GB
        verdict += f': {"fits" if fits else "does not fit"} in {args.gpu_memory:g} GB'
    console.print(verdict)
    for note in plan.notes:
        console.print(f'note: {note}')
    if args.json:
        written = dict(
            asdict(plan),
            parts=[part._asdict() for part in plan.parts],
            exchanges=[exchange._asdict() for exchange in plan.exchanges],
            **{
                name: getattr(plan, name)
                for name in ('phases', 'allocated', 'reserved', 'peak', 'sent')
            },
        )
        args.json.write_text(json.dumps(written, indent=1))


if __name__ == '__main__':
    with report_errors():
        main()
