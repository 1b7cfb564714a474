"""What a training leaves of verification: one table, one picture, one JSON file."""

import json
import math
import textwrap
from collections.abc import Mapping
from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from mmhyperface.utils.atomic_files import new_files

from ..protocols import VerificationResult, figure_of, rate_name
from ..protocols.base import finite
from ..protocols.drawing import label
from ..protocols.verification import curves_of, draw_roc, draw_scores
from .figure_tables import TEXT_WIDTH, Table, figure_text, table_text

SPREADS = {figure.spread for figure in VerificationResult.FIGURES}


def verification_table(rows: Mapping[str, VerificationResult]) -> str:
    """The results as lines of text, rates in percent, one row each.

    Under it stands the convention of the rows; where they differ, of each row.
    """
    figures = {row: result.figures() for row, result in rows.items()}
    names = sorted({name for known in figures.values() for name in known}, key=_place)
    names = [name for name in names if name not in SPREADS]
    titles = ['', 'pairs\nsame + different', *map(_heading, names)]
    lines = []
    for row, result in rows.items():
        pairs = f'{result.num_same:,} + {result.num_different:,}'
        cells = [_cell(figures[row], name, result.finite) for name in names]
        lines.append([row, pairs, *cells])
    table = table_text(Table(titles, lines))
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


def _place(name: str) -> tuple[int, float]:
    """Figures stand in their order, those of a rate by the rate."""
    number = VerificationResult.FIGURES.index(figure_of('1:1', name))
    return number, float(name.partition('=')[2] or 0)


def _heading(name: str) -> str:
    figure = figure_of('1:1', name)
    label = figure.label_of(name)
    if figure.unit.name:
        return label.replace(' (', '\n(')
    return label.replace(' at ', ' % at\n') if figure.axes else f'{label}\n%'


def _cell(figures: Mapping[str, float], name: str, known: bool) -> str:
    """Empty where a result has no such figure."""
    if name not in figures:
        return ''
    figure = figure_of('1:1', name)
    text = figure_text(figure, finite(figures[name]), known)
    spread = figures.get(str(figure.spread), math.nan)
    return text if math.isnan(spread) else f'{text} ± {figure.unit.text(spread)}'


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

    listed = {f'tar@far={rate_name(far)}' for far in result.fars}
    return {
        'finite': result.finite,
        **{figure.key: None for figure in result.FIGURES if not figure.axes},
        **{
            name: finite(value)
            for name, value in result.figures().items()
            if name not in listed
        },
        'accuracy_thresholds': [number(x) for x in result.accuracy_thresholds],
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
