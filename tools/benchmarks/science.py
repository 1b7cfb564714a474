"""Which loss for which data? Every loss under one budget, on drawn faces.

Three studies, each run of which trains one small network and verifies on people it
never saw:

  settings   of each loss four settings of scale and margin (NormFace, without a margin,
             three), the published one among them, on clean labels and people of their
             own: the best one is used below;
  noise      every loss with 0, 20, 40 and 60 % wrong labels; where the best setting has
             another scale, also the one of scale 8, which most losses have;
  stability  SphereFace as published in 2017 (v0, without detachment) against
             SphereFace-R v1 and v2, with no, hard and soft feature normalisation, over
             growing margins, without gradient clipping.

Each run leaves a file in the work dir, and one that has its file is not run again: stop
the command when you like, and give it again to go on. Tables and pictures are made of
what there is.

    python tools/benchmarks/science.py --workers 2
    python tools/benchmarks/science.py --workers 8 --size medium
"""

import argparse
import json
import os
import time
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import track
from science_results import noise_table, save_pictures, settings_table, stability_table
from science_runs import (
    LOSSES,
    SIZES,
    Run,
    choices,
    execute,
    low_scale,
    noise_runs,
    stability_runs,
)

from mmhyperface.utils.command_line import report_errors
from mmhyperface.utils.errors import UserError
from mmhyperface.utils.paths import require_folder

STUDIES = ('noise', 'stability')


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add('--size', choices=SIZES, default='small', help='of network, people, schedule')
    add('--studies', nargs='+', choices=STUDIES, default=STUDIES)
    add('--losses', nargs='+', choices=LOSSES, default=tuple(LOSSES), metavar='LOSS')
    add('--seeds', nargs='+', type=int, default=[0, 1, 2])
    add('--workers', type=int, default=1, help='runs at a time, one thread each')
    add('--minutes', type=float, help='begin no run after so many')
    add('--work-dir', default='work_dirs/science')
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    work_dir = Path(args.work_dir)
    require_folder(work_dir)
    stop = time.monotonic() + 60 * args.minutes if args.minutes else None
    console = Console(width=160)

    settings: dict[str, list[Run]] = {}
    noise: Mapping[Any, list[Run]] = {}
    if 'noise' in args.studies:
        settings = choices(args.size, args.losses)
        perform(_flat(settings), work_dir, args.workers, stop, 'settings')
        chosen = best_settings(work_dir, settings)
        console.print(settings_table(settings, results(work_dir, settings)))
        noise = noise_runs(args.size, {**chosen, **low_scale(chosen)}, args.seeds)
    stability: Mapping[Any, list[Run]] = {}
    if 'stability' in args.studies:
        stability = stability_runs(args.size, args.seeds)
    perform(
        [*_flat(noise), *_flat(stability)], work_dir, args.workers, stop, 'comparison'
    )
    if noise:
        console.print(noise_table(results(work_dir, noise)))
    if stability:
        console.print(stability_table(results(work_dir, stability)))
    for path in save_pictures(
        results(work_dir, noise), results(work_dir, stability), work_dir / args.size
    ):
        console.print(f'picture: {path}')


def best_settings(work_dir: Path, settings: Mapping[str, list[Run]]) -> dict[str, dict]:
    """Of each loss the setting with the highest accuracy; the first of equal ones.

    Raises:
        UserError: If one of the runs is missing, since time was up.
    """
    chosen = {}
    for loss, runs in settings.items():
        accuracies = []
        for run in runs:
            done = result(work_dir, run)
            if done is None:
                raise UserError(
                    'time was up before all settings had been tried; give the command '
                    'again to go on'
                )
            figures = done['figures']
            accuracies.append(figures['accuracy'] if figures else 0.0)
        setting = runs[accuracies.index(max(accuracies))].loss
        assert setting is not None
        chosen[loss] = setting
    return chosen


def perform(
    runs: Iterable[Run], work_dir: Path, workers: int, stop: float | None, what: str
) -> None:
    """Do what has not been done, seed by seed, so that tables fill evenly."""
    missing = [run for run in runs if result(work_dir, run) is None]
    missing.sort(key=lambda run: run.seed)
    if not missing:
        return
    with ProcessPoolExecutor(workers, get_context('spawn'), _one_thread) as pool:
        done = [pool.submit(_perform, run, work_dir, stop) for run in missing]
        for future in track(as_completed(done), f'{what}:', len(done)):
            future.result()


def _one_thread() -> None:
    import torch

    torch.set_num_threads(1)


def _perform(run: Run, work_dir: Path, stop: float | None) -> None:
    from mmhyperface.utils.atomic_files import new_files

    if stop is not None and time.monotonic() > stop:
        return
    content = {'settings': run.settings(), **execute(run)}
    with new_files([str(work_dir / run.file)], overwrite=True) as (file,):
        file.write(json.dumps(content).encode())


def results(
    work_dir: Path, runs: Mapping[Any, Sequence[Run]]
) -> dict[Any, list[dict[str, Any] | None]]:
    return {key: [result(work_dir, run) for run in some] for key, some in runs.items()}


def result(work_dir: Path, run: Run) -> dict[str, Any] | None:
    """What a run has left; None if it has not been done.

    Raises:
        UserError: If it was done with other settings.
    """
    path = work_dir / run.file
    if not path.is_file():
        return None
    content = json.loads(path.read_text())
    # As a file has them: lists for tuples.
    if content['settings'] != json.loads(json.dumps(run.settings())):
        raise UserError(
            f'{path} was made with other settings; remove it, or name another '
            '--work-dir'
        )
    return content


def _flat(runs: Mapping[Any, Sequence[Run]]) -> list[Run]:
    return [run for some in runs.values() for run in some]


if __name__ == '__main__':
    # Before torch starts threads in the workers.
    os.environ.setdefault('OMP_NUM_THREADS', '1')
    with report_errors():
        main()
