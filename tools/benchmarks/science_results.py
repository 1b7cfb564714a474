"""Tables and pictures of the comparison of losses."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from rich.box import MARKDOWN
from rich.table import Table
from science_runs import Run

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Results = Mapping[tuple[str, float], Sequence[dict[str, Any] | None]]
MARKERS = 'osD^vP*X'
ACCURACY = 'accuracy'
FIGURES = {ACCURACY: 'accuracy %', 'tar@far=1e-02': 'TAR % at FAR 1e-2'}
AXIS = 'accuracy on people not trained on, %'


def of_seeds(runs: Sequence[dict[str, Any] | None], figure: str) -> np.ndarray:
    """The figure of each run that was done and did not diverge, in percent."""
    figures = [run['figures'] for run in runs if run]
    return np.array([100 * each[figure] for each in figures if each])


def cell(runs: Sequence[dict[str, Any] | None], figure: str) -> str:
    """Mean ± standard deviation over the seeds.

    Runs that diverged, and seeds that are missing, are counted beside it.
    """
    done = [run for run in runs if run]
    values = of_seeds(done, figure)
    text = f'{values.mean():.1f}' if len(values) else ''
    if len(values) > 1:
        text += f' ± {values.std(ddof=1):.1f}'
    if len(values) < len(done):
        text += f' ({len(done) - len(values)} of {len(done)} diverged)'
    if len(done) < len(runs):
        text += f' ({len(done)} of {len(runs)} seeds)'
    return text.strip()


def settings_table(
    settings: Mapping[str, Sequence[Run]],
    done: Mapping[str, Sequence[dict[str, Any] | None]],
) -> Table:
    """The settings of each loss with their accuracy."""
    table = Table('loss', 'settings: accuracy %, the published one first', box=MARKDOWN)
    for loss, runs in settings.items():
        described = [
            f'{_described(run)}: {cell([result], ACCURACY)}'
            for run, result in zip(runs, done[loss], strict=True)
        ]
        table.add_row(loss, '; '.join(described))
    return table


def _described(run: Run) -> str:
    options = dict(run.loss or {})
    del options['type']
    return ', '.join(
        f'{name} {value:.3g}' if isinstance(value, float) else f'{name} {value}'
        for name, value in options.items()
    )


def noise_table(done: Results) -> Table:
    """A row for each loss, columns for the share of wrong labels."""
    noises = sorted({noise for _, noise in done})
    table = Table(box=MARKDOWN)
    table.add_column('wrong labels', no_wrap=True)
    for figure in FIGURES.values():
        for noise in noises:
            table.add_column(f'{figure}, {noise:.0%}')
    for loss in dict.fromkeys(loss for loss, _ in done):
        cells = [
            cell(done[loss, noise], figure) if (loss, noise) in done else ''
            for figure in FIGURES
            for noise in noises
        ]
        table.add_row(loss, *cells)
    return table


def stability_table(done: Results) -> Table:
    """A row for each variant, columns for the margin."""
    margins = sorted({m for _, m in done})
    table = Table(
        'accuracy %', *(f'm = {m:g}' for m in margins), 'largest gradient norm',
        box=MARKDOWN,
    )  # fmt: skip
    for name in dict.fromkeys(name for name, _ in done):
        cells = [cell(done[name, m], ACCURACY) for m in margins]
        norms = [
            max(run['grad_norm'], default=0.0)
            for m in margins
            for run in done[name, m]
            if run
        ]
        table.add_row(name, *cells, f'{max(norms):.3g}' if norms else 'not run')
    return table


def save_pictures(noise: Results, stability: Results, folder: Path) -> list[Path]:
    """Accuracy by the share of wrong labels, and over the margin; what there is."""
    from mmhyperface.utils.figures import finish, new_figure
    from mmhyperface.visualization import save_figure

    saved = []
    for name, done, draw, height in (
        ('noise', noise, draw_noise, 1.2 + 0.24 * len({row for row, _ in noise})),
        ('stability', stability, draw_stability, 4.2),
    ):
        if not any(run for runs in done.values() for run in runs):
            continue
        figure = new_figure(8, height, dpi=110)
        axes = figure.subplots()
        draw(axes, done)
        finish(axes)
        saved.append(folder / f'{name}.png')
        save_figure(figure, saved[-1])
    return saved


def draw_noise(ax: Axes, done: Results) -> None:
    """A row for each loss, a mark for each share of wrong labels."""
    names = list(dict.fromkeys(name for name, _ in done))
    for i, noise in enumerate(sorted({noise for _, noise in done})):
        cells, means, deviations = _known(
            {name: runs for (name, share), runs in done.items() if share == noise}
        )
        rows = [names.index(name) for name in cells]
        _draw_marks(ax, i, f'{noise:.0%}', means, rows, 'none', xerr=deviations)
    ax.set_yticks(range(len(names)), names)
    ax.invert_yaxis()
    ax.set_xlabel(AXIS)
    ax.legend(
        title='wrong labels',
        loc='lower center',
        bbox_to_anchor=(0.5, 1.0),
        ncols=4,
        frameon=False,
    )


def draw_stability(ax: Axes, done: Results) -> None:
    """A line for each variant over the margin."""
    for i, name in enumerate(dict.fromkeys(name for name, _ in done)):
        margins, means, deviations = _known(
            {m: runs for (row, m), runs in done.items() if row == name}
        )
        # Side by side, where they would hide one another.
        x = [m + 0.02 * i for m in margins]
        line = '-' if 'hard' in name else '--'
        _draw_marks(ax, i, name, x, means, line, yerr=deviations)
    ax.set(xlabel='margin m', ylabel=AXIS)
    ax.legend(loc='center left', bbox_to_anchor=(1.0, 0.5), frameon=False)


def _known(
    done: Mapping[Any, Sequence[dict[str, Any] | None]],
) -> tuple[list, list[float], list[float]]:
    """The cells with an accuracy; its mean and standard deviation over the seeds."""
    values = {key: of_seeds(runs, ACCURACY) for key, runs in done.items()}
    values = {key: some for key, some in values.items() if len(some)}
    deviations = [
        float(some.std(ddof=1)) if len(some) > 1 else 0.0 for some in values.values()
    ]
    return list(values), [float(some.mean()) for some in values.values()], deviations


def _draw_marks(
    ax: Axes, i: int, label: str, x: list, y: list, line: str, **errors: list[float]
) -> None:
    from mmhyperface.utils.figures import color

    if x:
        ax.errorbar(
            x,
            y,
            **errors,
            label=label,
            color=color(i),
            marker=MARKERS[i % len(MARKERS)],
            linestyle=line,
            markersize=5,
            capsize=2,
        )
