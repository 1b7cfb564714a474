"""Train each method on a folder of real faces and verify on people it never saw.

For each seed five people are kept apart and the network trains on the others; the
table gives mean and standard deviation over the seeds, of the trained network, of
the same network untrained, and of raw pixels. Finished runs are not repeated.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
from rich import box
from rich.console import Console
from rich.table import Table

ROOT = Path(__file__).resolve().parents[2]
METHODS = ('sphereface2', 'spherefacer', 'sface')
FIGURES = ('accuracy', 'eer', 'auc', 'tar@far=1e-02')


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('data_root', help='folder of faces: data_root/identity/image')
    parser.add_argument('--methods', nargs='+', choices=METHODS, default=METHODS)
    parser.add_argument('--seeds', nargs='+', type=int, default=[0, 1, 2])
    parser.add_argument('--work-dir', default='work_dirs/real_faces')
    parser.add_argument(
        '--cfg-options', nargs='+', default=[], help='further options of tools/train.py'
    )
    return parser.parse_args()


def run(args: argparse.Namespace, method: str, seed: int) -> dict[str, dict]:
    """The figures of one run: row -> figure -> value."""
    work = Path(args.work_dir) / f'{method}_seed{seed}'
    report = work / 'verification.json'
    if not report.is_file():
        # The seed chooses the people, the initial weights and the order.
        split = [
            f'{loader}_dataloader.dataset.split_seed={seed}'
            for loader in ('train', 'val', 'test')
        ]
        config = ROOT / 'configs' / f'{method}_facefolder.py'
        subprocess.run(
            [
                *(sys.executable, ROOT / 'tools' / 'train.py', config),
                *('--work-dir', work, '--cfg-options', f'randomness.seed={seed}'),
                *(f'data_root={args.data_root}', *split, *args.cfg_options),
            ],
            check=True,
        )
    return json.loads(report.read_text())['heldout']


def figure(row: dict, name: str) -> float:
    if name.startswith('tar@far='):
        tars = {entry['far']: entry['tar'] for entry in row['tar_at_far']}
        value = tars[float(name.partition('=')[2])]
    else:
        value = row[name]
    return float('nan') if value is None else 100 * value


def cell(mean: float, std: float) -> str:
    return 'not resolvable' if np.isnan(mean) else f'{mean:.1f} ± {std:.1f}'


def main() -> None:
    args = parse_args()
    table = Table('method', *(f'{name} %' for name in FIGURES), box=box.MARKDOWN)
    baselines: dict[str, list[dict]] = {'raw pixels': [], 'untrained': []}
    rows: dict[str, list[dict]] = {}
    for method in args.methods:
        runs = [run(args, method, seed) for seed in args.seeds]
        rows[method] = [figures['trained'] for figures in runs]
        for name in baselines:
            # The same for every method: the network and the people are.
            baselines[name] = [figures[name] for figures in runs]
    for name, seeds in {**baselines, **rows}.items():
        values = np.array([[figure(row, f) for f in FIGURES] for row in seeds])
        means, deviations = values.mean(0), values.std(0)
        table.add_row(name, *map(cell, means, deviations))
    Console(width=120).print(table)


if __name__ == '__main__':
    main()
