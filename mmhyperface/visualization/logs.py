"""Curves of trainings, from the scalars that mmengine's ``LocalVisBackend`` keeps."""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.figure import Figure

from mmhyperface.utils.errors import UserError, some
from mmhyperface.utils.figures import color, finish, legend_below, new_figure, plain

SCALARS = 'scalars.json'
# What is set and not measured is not smoothed.
SCHEDULES = ('lr', 'base_lr', 'margin')
# Points beyond which each is no longer drawn.
FEW_POINTS = 40

Floats = npt.NDArray[np.float64]
Curve = tuple[Floats, Floats]
"""Iterations and values, [N] each."""


class Log:
    """What one training logged, also if it was resumed.

    Attributes:
        lines: Its entries with ``step``, their iteration, in its order.
    """

    def __init__(self, lines: Sequence[dict[str, Any]]) -> None:
        self.lines = lines

    @property
    def keys(self) -> list[str]:
        """Names of all that was logged, sorted."""
        names = {name for line in self.lines for name in line}
        return sorted(names - {'step', 'iter', 'epoch'})

    def matching(self, key: str) -> list[str]:
        """The key, or those of all sets whose figure it is: ``set/key``."""
        if key in self.keys:
            return [key]
        return [name for name in self.keys if name.endswith(f'/{key}')]

    def curve(self, key: str) -> Curve:
        """Where there is a number, be it NaN."""
        points = [(line['step'], line[key]) for line in self.lines if key in line]
        steps, values = np.array(points, np.float64).reshape(-1, 2).T
        return steps, values


def read_log(path: str | Path) -> Log:
    """The log of a work dir, of one run in it, or of a file of scalars.

    Of a work dir it is the latest run; what this one continued comes before it, up to
    where it began anew.

    Raises:
        UserError: If there is none, it is empty, or a line of it is damaged. The last
            line may be cut off, for the training may be about to write it.
    """
    place = Path(path)
    if not place.exists():
        raise UserError(f'there is no log, and no folder, {path}')
    if place.is_file():
        return Log(_placed(_read(place)))
    files = _files(place)
    if not files:
        raise UserError(
            f'{path}: no work dir and no run, for there is no vis_data/{SCALARS}; '
            'configs/_base_/default_runtime.py has the LocalVisBackend that writes it'
        )
    runs = (_placed(_read(file)) for file in reversed(files))
    lines = next(runs)
    for earlier in runs:
        first = _training(lines)[0]['step']
        if not _continues(lines, earlier):
            break
        lines = [line for line in earlier if line['step'] < first] + lines
    return Log(lines)


def _files(folder: Path) -> list[Path]:
    """Files of scalars that are not empty, the oldest first."""
    for pattern in (SCALARS, f'vis_data/{SCALARS}', f'*/vis_data/{SCALARS}'):
        # The folders of runs are named by their time.
        files = sorted(file for file in folder.glob(pattern) if file.stat().st_size)
        if files:
            return files
    return []


def _read(file: Path) -> list[dict[str, Any]]:
    try:
        texts = file.read_text(encoding='utf-8').split('\n')
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f'{file} cannot be read as a log: {error}') from None
    lines = []
    for number, text in enumerate(texts, 1):
        if not text.strip():
            continue
        try:
            line = json.loads(text)
            if not isinstance(line, dict):
                raise ValueError('no object')
        except ValueError:
            if number == len(texts):
                break  # without its line feed: being written
            raise UserError(
                f'{file}, line {number} is damaged, or it is no log of scalars'
            ) from None
        lines.append(line)
    if not lines:
        raise UserError(f'{file} is empty: the training has logged nothing yet')
    return lines


def _placed(lines: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The numbers of each line, its ``step`` counted in iterations.

    mmengine counts validations by epochs, and in trainings without epochs as 0: they
    are where training was when they were logged.
    """
    placed: list[dict[str, Any]] = []
    so_far: float = 0
    for line in lines:
        numbers = {
            name: value
            for name, value in line.items()
            if isinstance(value, int | float) and not isinstance(value, bool)
        }
        step = numbers.get('step', 0)
        so_far = step if 'iter' in line else max(step, so_far)
        placed.append({**numbers, 'step': so_far})
    return placed


def _training(lines: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [line for line in lines if 'iter' in line] or lines


def _continues(lines: list[dict[str, Any]], earlier: list[dict[str, Any]]) -> bool:
    """Whether a run was resumed.

    Then it begins later than the earlier one, and later than after one interval.
    """
    steps = [line['step'] for line in _training(lines)]
    interval = int(np.diff(steps).max(initial=0))
    return steps[0] > max(interval, _training(earlier)[0]['step'])


def smoothed(values: Floats, weight: float) -> Floats:
    """The running mean that forgets by a factor of ``weight``, in [0, 1), per point.

    Without a bias to its start; NaN stay, and leave no trace.
    """
    mean = total = 0.0
    result = np.full(len(values), np.nan)
    for i, value in enumerate(values):
        if math.isfinite(value):
            mean = weight * mean + (1 - weight) * value
            total = weight * total + (1 - weight)
            result[i] = mean / total
    return result


def keys_of(logs: Mapping[str, Log], wanted: Sequence[str]) -> list[str]:
    """The keys of the logs that are asked for.

    Raises:
        UserError: For one that no log has.
    """
    names: list[str] = []
    for key in wanted:
        matching = [name for log in logs.values() for name in log.matching(key)]
        if not matching:
            known = sorted({name for log in logs.values() for name in log.keys})
            raise UserError(f'no log has {key!r}; they have {some(known, 60)}')
        names += matching
    return list(dict.fromkeys(names))


def draw_logs(
    logs: Mapping[str, Log], keys: Sequence[str], weight: float = 0.0
) -> Figure:
    """A panel for each key, a colour for each training.

    Args:
        weight: See :func:`smoothed`; what is smoothed stands faintly behind.
    """
    columns = len(keys) if len(keys) <= 3 else math.ceil(len(keys) ** 0.5)
    rows = -(-len(keys) // columns)
    figure = new_figure(5.2 * columns, 3.6 * rows + 0.4)
    axes = figure.subplots(rows, columns, squeeze=False, sharex=True)
    for ax, key in zip(axes.flat, keys, strict=False):
        for number, (name, log) in enumerate(logs.items()):
            steps, values = log.curve(key)
            few = {'marker': '.'} if len(steps) <= FEW_POINTS else {}
            style: dict[str, Any] = {'color': color(number), 'linewidth': 1.6, **few}
            if weight and key.rpartition('/')[2] not in SCHEDULES:
                ax.plot(steps, values, color=color(number), linewidth=0.7, alpha=0.35)
                values = smoothed(values, weight)
            ax.plot(steps, values, label=plain(name), **style)
        ax.set(title=plain(key), xlabel='iteration')
        ax.tick_params(labelbottom=True)
        finish(ax)
    for ax in axes.ravel()[len(keys) :]:
        ax.set_axis_off()
    legend_below(figure, axes[0, 0])
    return figure
