"""Tables and pictures of the comparison of losses."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from rich.box import MARKDOWN
from rich.table import Table
from science_plan import UNTRAINED
from science_run import Run

Results = Mapping[tuple[str, float], Sequence[dict[str, Any] | None]]
# Okabe and Ito's colours, which those who are colour-blind tell apart too.
COLORS = ('#000000', '#E69F00', '#56B4E9', '#009E73', '#0072B2', '#D55E00', '#CC79A7')
MARKERS = 'osD'
FIGURES = {'accuracy': 'accuracy %', 'tar@far=1e-02': 'TAR % at FAR 1e-2'}


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
        told = [
            f'{_told(run)}: {cell([result], "accuracy")}'
            for run, result in zip(runs, done[loss], strict=True)
        ]
        table.add_row(loss, '; '.join(told))
    return table


def _told(run: Run) -> str:
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
        cells = [cell(done[name, m], 'accuracy') for m in margins]
        norms = [
            max(run['grad_norm'], default=0.0)
            for m in margins
            for run in done[name, m]
            if run
        ]
        table.add_row(name, *cells, f'{max(norms):.3g}' if norms else 'not run')
    return table


def save_pictures(noise: Results, stability: Results, folder: Path) -> list[Path]:
    """Accuracy over the share of wrong labels, and over the margin."""
    saved = []
    for name, done, label in (
        ('noise', noise, 'wrong labels, %'),
        ('stability', stability, 'margin m'),
    ):
        if not any(run for runs in done.values() for run in runs):
            continue
        figure = Figure(figsize=(8, 4.5), layout='constrained')
        ax = figure.subplots()
        draw(ax, done, percent=name == 'noise')
        ax.set_xlabel(label)
        folder.mkdir(parents=True, exist_ok=True)
        saved.append(folder / f'{name}.png')
        figure.savefig(saved[-1], dpi=110)
    return saved


def draw(ax: Axes, done: Results, percent: bool) -> None:
    """A line for each row of the table, bars of one standard deviation."""
    names = [name for name in dict.fromkeys(name for name, _ in done)]
    for i, name in enumerate(names):
        points = [
            (x * (100 if percent else 1), of_seeds(runs, 'accuracy'))
            for (row, x), runs in done.items()
            if row == name
        ]
        points = [(x, values) for x, values in points if len(values)]
        if not points:
            continue
        xs = [x for x, _ in points]
        means = [values.mean() for _, values in points]
        if name == UNTRAINED:
            ax.axhline(means[0], color='0.6', linestyle=':', label=name)
            continue
        stds = [values.std(ddof=1) if len(values) > 1 else 0 for _, values in points]
        ax.errorbar(
            xs,
            means,
            stds,
            label=name,
            color=COLORS[i % len(COLORS)],
            marker=MARKERS[i // len(COLORS) % len(MARKERS)],
            linestyle=('-', '--')[i // len(COLORS) % 2],
            markersize=4,
            capsize=2,
            linewidth=1.2,
        )
    ax.set_ylabel('accuracy on people not trained on, %')
    ax.grid(color='0.9')
    ax.legend(loc='center left', bbox_to_anchor=(1.0, 0.5), frameon=False, fontsize=9)
