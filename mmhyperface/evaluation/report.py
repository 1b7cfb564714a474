"""Table, picture and JSON file of verification results."""

import json
import math
import os
import tempfile
import textwrap
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from io import StringIO
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from rich import box
from rich.console import Console
from rich.table import Table

from .functional import roc
from .metrics.face_verification import VerificationResult, far_name

NOT_RESOLVABLE = 'not resolvable'

# Points of a drawn ROC, at evenly spaced exponents; more cannot be seen.
CURVE_POINTS = 2000
HISTOGRAM_BINS = 60
TEXT_WIDTH = 120
TABLE_WIDTH = 400  # a limit; the table is as wide as its columns
SAME_COLOR, DIFFERENT_COLOR = 'tab:blue', 'tab:orange'


def verification_table(rows: Mapping[str, VerificationResult]) -> str:
    """The results as lines of text, rates in percent, one row each.

    Under it stands the convention of the rows; where they differ, of each row.
    """
    fars = sorted({float(far) for result in rows.values() for far in result.fars})
    table = Table(box=box.ASCII2)
    table.add_column('')
    titles = ['pairs\nsame + different', 'accuracy\n%', 'EER\n%', 'AUC\n%']
    for title in titles + [f'TAR % at\nFAR {far_name(far)}' for far in fars]:
        table.add_column(title, justify='right', no_wrap=True)
    for name, result in rows.items():
        tars = dict(zip(result.fars.tolist(), result.tars.tolist(), strict=True))
        table.add_row(
            name,
            f'{result.num_same:,} + {result.num_different:,}',
            _accuracy(result),
            _percent(result.eer),
            _percent(result.auc),
            *(_tar(tars[far]) if far in tars else '' for far in fars),
        )
    text = StringIO()
    Console(file=text, width=TABLE_WIDTH, color_system=None).print(table)
    return text.getvalue() + _conventions(rows, TEXT_WIDTH)


def plot_verification(
    results: Mapping[str, VerificationResult], path: str | Path
) -> None:
    """Draw the ROC of all results and the score histograms of the last two.

    The FAR axis is logarithmic and begins where the different pairs begin to
    resolve it; the curve is the exact staircase. The dashed line in a histogram is
    the threshold of the accuracy (the median over the folds). The file appears
    complete or not at all; its suffix says the format (png, pdf, svg).
    """
    figure = Figure(figsize=(15, 5.6), dpi=110)
    FigureCanvasAgg(figure)
    shown = list(results.items())[-2:]
    axes = figure.subplots(1, 1 + len(shown), squeeze=False)[0]
    _draw_roc(axes[0], results)
    for ax, (name, result) in zip(axes[1:], shown, strict=True):
        _draw_histogram(ax, name, result)
    note = _conventions(results, 190)
    figure.text(0.012, 0.012, note, fontsize=8, color='0.3', va='bottom')
    figure.tight_layout(rect=(0, 0.03 + 0.03 * note.count('\n'), 1, 1))
    with _replacing(path) as file:
        figure.savefig(file, format=Path(path).suffix.lstrip('.') or 'png')


def write_verification_json(
    sets: Mapping[str, Mapping[str, VerificationResult]], path: str | Path
) -> None:
    """Write every figure but the scores: set → row → figures, as fractions.

    A figure that is not a finite number (a FAR that is not resolvable, a threshold
    that accepts nothing) is null. The file appears complete or not at all.
    """
    content = {
        name: {row: _figures(result) for row, result in rows.items()}
        for name, rows in sets.items()
    }
    with _replacing(path) as file:
        file.write_text(json.dumps(content, indent=2) + '\n', encoding='utf-8')


def _percent(rate: float) -> str:
    return f'{100 * rate:.2f}'


def _tar(rate: float) -> str:
    return NOT_RESOLVABLE if math.isnan(rate) else _percent(rate)


def _accuracy(result: VerificationResult) -> str:
    std = result.accuracy_std
    spread = '' if math.isnan(std) else f' ± {_percent(std)}'
    return _percent(result.accuracy) + spread


def _conventions(rows: Mapping[str, VerificationResult], width: int) -> str:
    conventions = {name: result.convention for name, result in rows.items()}
    if len(set(conventions.values())) == 1:
        lines = [next(iter(conventions.values()))]
    else:
        lines = [f'{name}: {convention}' for name, convention in conventions.items()]
    return '\n'.join(textwrap.fill(line, width) for line in lines)


def _draw_roc(ax: Axes, results: Mapping[str, VerificationResult]) -> None:
    lowest = 1 / max(result.num_different for result in results.values())
    for name, result in results.items():
        far, tar = _staircase(result)
        ax.plot(far, tar, label=f'{name} (AUC {_percent(result.auc)} %)')
    chance = np.geomspace(lowest, 1, 200)
    ax.plot(chance, chance, color='0.6', linestyle=':', label='chance')
    ax.set(
        xscale='log',
        xlim=(lowest, 1),
        ylim=(0, 1.005),
        xlabel=f'false accept rate (from 1 / {round(1 / lowest):,} different pairs)',
        ylabel='true accept rate',
        title='ROC',
    )
    ax.grid(True, which='both', color='0.92')
    ax.legend(loc='best', fontsize=9)


def _staircase(result: VerificationResult) -> tuple[np.ndarray, np.ndarray]:
    """The best TAR at a FAR of at most x, for x from 1/N to 1."""
    far, tar, _ = roc(result.scores, result.same)
    x = np.geomspace(1 / result.num_different, 1, CURVE_POINTS)
    x[-1] = 1
    return x, tar[np.searchsorted(far, x, side='right') - 1]


def _draw_histogram(ax: Axes, name: str, result: VerificationResult) -> None:
    low, high = result.scores.min(), result.scores.max()
    bins = np.linspace(low, high, HISTOGRAM_BINS + 1).tolist()
    for kind, chosen, color in (
        ('different', ~result.same, DIFFERENT_COLOR),
        ('same', result.same, SAME_COLOR),
    ):
        label = f'{kind}, {np.count_nonzero(chosen):,} pairs'
        weight = np.full(np.count_nonzero(chosen), 1 / np.count_nonzero(chosen))
        scores = result.scores[chosen]
        ax.hist(scores, bins, weights=weight, color=color, alpha=0.55, label=label)
    threshold = float(np.median(result.accuracy_thresholds))
    if math.isfinite(threshold):
        ax.axvline(
            threshold, color='0.2', linestyle='--', label=f'threshold {threshold:.3f}'
        )
    ax.set(
        xlabel='score (cosine)',
        ylabel='share of the pairs of a kind',
        title=f'{name}: accuracy {_accuracy(result)} %',
    )
    ax.set_ylim(top=1.3 * ax.get_ylim()[1])  # room for the legend
    ax.legend(loc='upper left', fontsize=9)


def _figures(result: VerificationResult) -> dict:
    return {
        'accuracy': _finite(result.accuracy),
        'accuracy_std': _finite(result.accuracy_std),
        'accuracy_thresholds': [_finite(x) for x in result.accuracy_thresholds],
        'eer': _finite(result.eer),
        'auc': _finite(result.auc),
        'tar_at_far': [
            {'far': float(far), 'tar': _finite(tar), 'threshold': _finite(threshold)}
            for far, tar, threshold in zip(
                result.fars, result.tars, result.thresholds, strict=True
            )
        ],
        'num_same': result.num_same,
        'num_different': result.num_different,
        'convention': result.convention,
    }


def _finite(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None


@contextmanager
def _replacing(path: str | Path) -> Iterator[Path]:
    """A temporary file beside ``path`` that takes its place when all went well."""
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=target.parent, prefix=f'.{target.name}.')
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        # mkstemp's files are private; these have the rights of any new file.
        mask = os.umask(0)
        os.umask(mask)
        temporary.chmod(0o666 & ~mask)
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)
