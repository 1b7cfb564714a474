"""What a training leaves of verification: one table, one picture, one JSON file."""

import json
import math
import textwrap
from collections.abc import Mapping
from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from rich import box

from mmhyperface.utils.atomic_files import new_files

from ..results import VerificationResult, rate_name
from .content import finite
from .curves import curves_of, draw_roc, draw_scores, label
from .figure_tables import (
    NOT_FINITE,
    NOT_RESOLVABLE,
    TEXT_WIDTH,
    Table,
    percent,
    table_text,
    words,
)


def verification_table(rows: Mapping[str, VerificationResult]) -> str:
    """The results as lines of text, rates in percent, one row each.

    Under it stands the convention of the rows; where they differ, of each row.
    """
    fars = sorted({float(far) for result in rows.values() for far in result.fars})
    titles = ['', 'pairs\nsame + different', 'accuracy\n%', 'EER\n%', 'AUC\n%']
    titles += [f'TAR % at\nFAR {rate_name(far)}' for far in fars]
    lines = []
    for name, result in rows.items():
        tars = dict(zip(result.fars.tolist(), result.tars.tolist(), strict=True))
        line = [
            name,
            f'{result.num_same:,} + {result.num_different:,}',
            _accuracy(result),
            percent(result.eer) if result.finite else NOT_FINITE,
            percent(result.auc) if result.finite else NOT_FINITE,
            *(_tar(result, tars[far]) if far in tars else '' for far in fars),
        ]
        lines.append([words(text) for text in line])
    table = table_text(Table([words(title) for title in titles], lines), box.ASCII2)
    return f'{table}\n{_conventions(rows, TEXT_WIDTH)}'


def plot_verification(
    results: Mapping[str, VerificationResult], path: str | Path, title: str = '1:1'
) -> None:
    """Draw the ROC of all results and the score histograms of the last two.

    The FAR axis is logarithmic and begins where the different pairs begin to
    resolve it; the curve is the exact staircase. The dashed line in a histogram is
    the threshold of the accuracy (the median over the folds). Of a result that is not
    finite there is its name. The file appears complete or not at all; its suffix says
    the format (png, pdf, svg).
    """
    figure = Figure(figsize=(15, 5.6), dpi=110)
    FigureCanvasAgg(figure)
    shown = list(results.items())[-2:]
    axes = figure.subplots(1, 1 + len(shown), squeeze=False)[0]
    draw_roc(axes[0], results, curves_of(results))
    axes[0].set_title('ROC')
    for ax, (name, result) in zip(axes[1:], shown, strict=True):
        draw_scores(ax, result)
        ax.set_title(f'scores, {label(name)}')
    figure.suptitle(title.replace('$', r'\$'))
    note = _conventions(results, 190)
    figure.text(0.012, 0.012, note, fontsize=8, color='0.3', va='bottom')
    figure.tight_layout(rect=(0, 0.03 + 0.03 * note.count('\n'), 1, 1))
    with new_files([str(path)], overwrite=True) as (file,):
        figure.savefig(file, format=Path(path).suffix.lstrip('.') or 'png')


def write_verification_json(
    sets: Mapping[str, Mapping[str, VerificationResult]], path: str | Path
) -> None:
    """Write every figure but the scores: set → row → figures, as fractions.

    A figure that is not a finite number (a FAR that is not resolvable, a threshold
    that accepts nothing) is null, and so are all of a result that is not ``finite``.
    The file appears complete or not at all.
    """
    content = {
        name: {row: _figures(result) for row, result in rows.items()}
        for name, rows in sets.items()
    }
    with new_files([str(path)], overwrite=True) as (file,):
        file.write(json.dumps(content, indent=2).encode() + b'\n')


def _tar(result: VerificationResult, rate: float) -> str:
    if not result.finite:
        return NOT_FINITE
    return NOT_RESOLVABLE if math.isnan(rate) else percent(rate)


def _accuracy(result: VerificationResult) -> str:
    if math.isnan(result.accuracy):
        return ''
    if not result.finite:
        return NOT_FINITE
    std = result.accuracy_std
    spread = '' if math.isnan(std) else f' ± {percent(std)}'
    return percent(result.accuracy) + spread


def _conventions(rows: Mapping[str, VerificationResult], width: int) -> str:
    conventions = {name: result.convention for name, result in rows.items()}
    if len(set(conventions.values())) == 1:
        lines = [next(iter(conventions.values()))]
    else:
        lines = [f'{name}: {convention}' for name, convention in conventions.items()]
    return '\n'.join(textwrap.fill(line, width) for line in lines)


def _figures(result: VerificationResult) -> dict:
    def number(value: float) -> float | None:
        return finite(value) if result.finite else None

    return {
        'finite': result.finite,
        'accuracy': number(result.accuracy),
        'accuracy_std': number(result.accuracy_std),
        'accuracy_thresholds': [number(x) for x in result.accuracy_thresholds],
        'eer': number(result.eer),
        'auc': number(result.auc),
        'tar_at_far': [
            {'far': float(far), 'tar': number(tar), 'threshold': number(threshold)}
            for far, tar, threshold in zip(
                result.fars, result.tars, result.thresholds, strict=True
            )
        ],
        'num_same': result.num_same,
        'num_different': result.num_different,
        'convention': result.convention,
    }
