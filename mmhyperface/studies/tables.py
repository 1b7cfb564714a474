"""Tables and pictures of a study, of the runs that there are."""

import csv
import io
import itertools
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from mmhyperface.evaluation.protocols import figure_of, rate_name
from mmhyperface.evaluation.protocols.base import Unit
from mmhyperface.utils.atomic_files import new_files
from mmhyperface.utils.errors import UserError
from mmhyperface.utils.figures import color, finish, new_figure, plain, save_figure

from .grid import Run, Study
from .runs import TEST, VERIFICATION, Outcome, logged, outcome_of

#: What a figure of the log may be of its values over the training.
OF_LOG: Mapping[str, Callable[[Any], Any]] = {
    'last': lambda x: x[-1],
    'median': np.median,
    'max': np.max,
}
TRAINED = 'trained'
BASELINES = ('raw pixels', 'untrained')
MARKERS = 'osD^vP*X'


@dataclass
class Cell:
    """One figure of all seeds of one place in the grid, in the table's unit."""

    planned: int
    values: dict[int, float] = field(default_factory=dict)  # by seed
    ended: int = 0
    diverged: int = 0
    failed: int = 0
    paper: float | None = None

    @property
    def mean(self) -> float:
        return float(np.mean(list(self.values.values()))) if self.values else math.nan

    @property
    def std(self) -> float:
        """Over the seeds, of a sample; NaN of one."""
        values = list(self.values.values())
        return float(np.std(values, ddof=1)) if len(values) > 1 else math.nan

    @property
    def interval(self) -> tuple[float, float]:
        """95 % of the mean over all seeds, if figures are normally distributed."""
        n = len(self.values)
        half = student(n - 1) * self.std / math.sqrt(n) if n > 1 else math.nan
        return self.mean - half, self.mean + half

    def text(self, unit: Unit) -> str:
        """Mean ± standard deviation, and how many runs are not in it."""
        text = f'{self.mean:.{unit.digits}f}' if self.values else ''
        if len(self.values) > 1:
            text += f' ± {self.std:.{unit.digits}f}'
        counts = {'diverged': self.diverged, 'failed': self.failed}
        counts['without a value'] = self.ended - len(self.values) - sum(counts.values())
        for word, number in counts.items():
            if number:
                text += f' ({number} of {self.ended} {word})'
        if not self.ended:
            text += ' not run'
        elif self.ended < self.planned:
            text += f' ({self.ended} of {self.planned} runs)'
        return text.strip()


def student(freedom: int) -> float:
    """The t between whose negative and itself Student's distribution has 95 %.

    Abramowitz and Stegun, Handbook of Mathematical Functions, 26.7.3 and 26.7.4.
    """
    odd = freedom % 2

    def share(t: float) -> float:
        angle = math.atan(t / math.sqrt(freedom))
        term, total = math.cos(angle) if odd else 1.0, 0.0
        for k in range(2 + odd, freedom + 1, 2):
            total += term
            term *= math.cos(angle) ** 2 * (k - 1) / k
        total *= math.sin(angle)
        return 2 / math.pi * (angle + total) if odd else total

    low, high = 0.0, 13.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if share(middle) < 0.95 else (low, middle)
    return low


def write_tables(study: Study) -> str:
    """Write ``table.md``, ``table.csv`` and the study's picture.

    Returns:
        The text of ``table.md``.

    Raises:
        UserError: If a run was begun with another config, or has no such figure.
    """
    outcomes = {run.folder: outcome_of(run) for run in study.runs}
    cells = _cells(study, outcomes)
    text = _markdown(study, cells, outcomes)
    files = {'table.md': text, 'table.csv': _csv(study, cells)}
    paths = [str(study.folder / name) for name in files]
    with new_files(paths, overwrite=True) as opened:
        for file, content in zip(opened, files.values(), strict=True):
            file.write(content.encode())
    if study.plot is not None:
        _save_picture(study, cells)
    return text


Place = tuple[str, ...]
"""Names of the values of rows and then of columns; of a baseline its name first."""


def _cells(
    study: Study, outcomes: Mapping[Path, Outcome | None]
) -> dict[Place, dict[str, Cell]]:
    """By place and figure, in the order of the table."""
    axes = _axes(study)
    cells: dict[Place, dict[str, Cell]] = {}
    # Of what was not trained, in each column the same for all runs of a seed, if so.
    baselines: dict[Place, dict[str, dict[int, set[float]]]] = {}
    for place in itertools.product(*(study.axes[axis] for axis in axes)):
        paper: Any = study.published
        for level in place:
            paper = paper.get(level, {})
        runs = [r for r in study.runs if tuple(r.values[x] for x in axes) == place]
        names = dict.fromkeys([*study.figures, *paper])
        cells[place] = {name: Cell(len(runs), paper=paper.get(name)) for name in names}
        for run in runs:
            outcome = outcomes[run.folder]
            if outcome is None:
                continue
            rows = {} if outcome.failure else _figures(run)
            for name in study.figures:
                cell = cells[place][name]
                cell.ended += 1
                cell.diverged += outcome.diverged
                cell.failed += bool(outcome.failure) and not outcome.diverged
                if rows:
                    known = rows[TRAINED]
                    if name not in known:
                        raise UserError(
                            f'{study.path}: table.figures: {run.folder} has no {name}, '
                            f'but {", ".join(x for x in known if not _of_log(x))} and '
                            f'{", ".join(OF_LOG)}.KEY of the log'
                        )
                    _take(cell.values, run.seed, name, known[name])
                for row in BASELINES:
                    value = rows.get(row, {}).get(name)
                    if value is None:
                        continue
                    column = place[-1:] if study.columns else ()
                    where = (row, *[''] * (len(study.rows) - 1), *column)
                    seeds = baselines.setdefault(where, {}).setdefault(name, {})
                    seeds.setdefault(run.seed, set()).add(value)
    untrained: dict[Place, dict[str, Cell]] = {}
    for where, figures in sorted(baselines.items(), key=_order):
        for name, seeds in figures.items():
            cell = Cell(len(seeds), ended=len(seeds))
            if all(len(values) == 1 for values in seeds.values()):
                for seed, (only,) in seeds.items():
                    _take(cell.values, seed, name, only)
                untrained.setdefault(where, {})[name] = cell
    return untrained | cells


def _of_log(figure: str) -> bool:
    return figure.partition('.')[0] in OF_LOG


def _order(item: tuple[Place, Any]) -> int:
    return BASELINES.index(item[0][0])


def _take(values: dict[int, float], seed: int, name: str, value: float | None) -> None:
    """Keep a value in the unit of the table."""
    if value is not None and math.isfinite(value):
        values[seed] = value * unit_of(name).scale


def _axes(study: Study) -> list[str]:
    return [*study.rows, *([study.columns] if study.columns else [])]


def unit_of(figure: str) -> Unit:
    """Of a figure of the table."""
    if _of_log(figure):
        return Unit('of the log')
    return figure_of('1:1', figure.rpartition('.')[2]).unit


def _figures(run: Run) -> dict[str, dict[str, float | None]]:
    """What a run has left, by row of ``verification.json`` and name of the figure.

    Those of the log and of ``test.json`` are the trained network's, too.
    """
    rows: dict[str, dict[str, float | None]] = {TRAINED: {}}
    content = json.loads((run.folder / VERIFICATION).read_text())
    for name, some in content.items():
        for row, figures in some.items():
            known = {
                key: value
                for key, value in figures.items()
                if not isinstance(value, str | list | bool)
            }
            for rate in figures.get('tar_at_far', ()):
                known[f'tar@far={rate_name(rate["far"])}'] = rate['tar']
            rows.setdefault(row, {}).update(
                {f'{name}.{k}': v for k, v in known.items()}
            )
    if run.test_sets:
        tested = json.loads((run.folder / TEST).read_text())
        for name, value in tested.items():
            rows[TRAINED]['.'.join(name.rsplit('/', 1))] = value
    lines = logged(run).values()
    for key in dict.fromkeys(key for line in lines for key in line):
        values = [line[key] for line in lines if key in line]
        rows[TRAINED] |= {f'{x}.{key}': float(of(values)) for x, of in OF_LOG.items()}
    return rows


def _markdown(
    study: Study,
    cells: Mapping[Place, Mapping[str, Cell]],
    outcomes: Mapping[Path, Outcome | None],
) -> str:
    lines = [
        f'# {study.title}',
        '',
        f'Study `{Path(study.path).stem}` on `{study.base}`, seeds '
        f'{", ".join(map(str, study.seeds))}. Mean ± standard deviation over the '
        "seeds, and the 95 % interval of the mean by Student's t. Figures of papers "
        'are of their own data.',
    ]
    if study.columns:
        columns = study.axes[study.columns]
        for figure in study.figures:
            heading = [f'{_label(figure)}, by {study.columns}', *columns]
            rows = dict.fromkeys(place[:-1] for place in cells)
            unit = unit_of(figure)
            body = []
            for row in rows:
                some = [cells.get((*row, c), {}).get(figure) for c in columns]
                texts = [cell.text(unit) if cell else '' for cell in some]
                if any(texts):
                    body.append([' '.join(row).strip(), *texts])
            lines += ['', *_table(heading, body)]
    heading = [*_axes(study), 'figure', 'paper', 'ours', '95 % interval', 'runs']
    body = []
    for place, figures in cells.items():
        for figure, cell in figures.items():
            unit = unit_of(figure)
            low, high = (f'{x:.{unit.digits}f}' for x in cell.interval)
            body.append(
                [
                    *place,
                    _label(figure),
                    '' if cell.paper is None else f'{cell.paper:g}',
                    cell.text(unit),
                    f'{low} to {high}' if len(cell.values) > 1 else '',
                    str(len(cell.values)),
                ]
            )
    lines += ['', *_table(heading, body)]
    failures = [
        f'- {run.name}: {"diverged: " if outcome.diverged else "failed: "}'
        f'{outcome.failure}'
        for run in study.runs
        if (outcome := outcomes[run.folder]) and outcome.failure
    ]
    if failures:
        lines += [
            '',
            'Runs without figures (`--retry` does them again):',
            '',
            *failures,
        ]
    return '\n'.join(lines) + '\n'


def _table(heading: Sequence[str], body: Sequence[Sequence[str]]) -> list[str]:
    rows = [heading, ['---'] * len(heading), *body]
    return [f'| {" | ".join(x.replace("|", "/") for x in row)} |' for row in rows]


def _label(figure: str) -> str:
    return figure if unit_of(figure).name else f'{figure} %'


def _csv(study: Study, cells: Mapping[Place, Mapping[str, Cell]]) -> str:
    """A line for each place and figure, with a column for each seed."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator='\n')
    seeds = [f'seed {seed}' for seed in study.seeds]
    writer.writerow(
        [
            *(*_axes(study), 'figure', 'paper', 'mean', 'std', 'low', 'high'),
            *('runs', 'ended', 'diverged', 'planned', *seeds),
        ]
    )
    for place, figures in cells.items():
        for figure, cell in figures.items():
            numbers = [cell.paper, cell.mean, cell.std, *cell.interval]
            numbers += [cell.values.get(seed) for seed in study.seeds]
            known = ['' if x is None or math.isnan(x) else repr(x) for x in numbers]
            counts = [len(cell.values), cell.ended, cell.diverged, cell.planned]
            writer.writerow([*place, figure, *known[:5], *counts, *known[5:]])
    return text.getvalue()


def _save_picture(study: Study, cells: Mapping[Place, Mapping[str, Cell]]) -> None:
    """The first figure over the values of an axis, a line for each of the others."""
    assert study.plot is not None
    axis = _axes(study).index(study.plot['x'])
    names = list(study.axes[study.plot['x']])
    figure = new_figure(8, 4.5, dpi=110)
    ax = figure.subplots()
    lines: dict[Place, dict[str, Cell]] = {}
    for place, figures in cells.items():
        cell = figures.get(study.figures[0])
        if place[axis] in names and cell and cell.values:
            lines.setdefault(place[:axis] + place[axis + 1 :], {})[place[axis]] = cell
    for number, (line, some) in enumerate(lines.items()):
        _draw(ax, number, ' '.join(line).strip(), some, names)
    ax.set_xticks(range(len(names)), [plain(name, 24) for name in names])
    ax.set(
        xlabel=study.plot.get('label', study.plot['x']), ylabel=_label(study.figures[0])
    )
    ax.set_title(plain(study.title, 90), fontsize='medium')
    if lines:
        ax.legend(loc='center left', bbox_to_anchor=(1.0, 0.5), frameon=False)
    finish(ax)
    save_figure(figure, study.folder / 'picture.png')


def _draw(
    ax: Axes, number: int, label: str, cells: Mapping[str, Cell], names: Sequence[str]
) -> None:
    """Means with standard deviations, side by side where they would hide each other."""
    ax.errorbar(
        [names.index(name) + 0.02 * number for name in cells],
        [cell.mean for cell in cells.values()],
        yerr=[0.0 if math.isnan(cell.std) else cell.std for cell in cells.values()],
        label=plain(label),
        color=color(number),
        marker=MARKERS[number % len(MARKERS)],
        markersize=5,
        capsize=2,
    )
