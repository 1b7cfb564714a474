"""The pictures of a report, a file each, with convention and counts in small print."""

import textwrap
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from ..results import (
    IdentificationResult,
    MegaFaceResult,
    VerificationResult,
)
from .curves import (
    curves_of,
    draw_cmc,
    draw_det,
    draw_distractors,
    draw_open_set,
    draw_roc,
    draw_scores,
    draw_searches,
)
from .output import file_name

# Small enough that the letters can be read on a phone, where it fills the width.
WIDTH, HEIGHT, DPI = 5.2, 3.9, 200  # inches, without the small print
NOTE_SIZE, NOTE_WIDTH, LINE_HEIGHT = 7, 96, 0.115  # points, letters, inches
TITLE_SIZE, TITLE_WIDTH, TITLE_LINES = 9.5, 62, 3  # points, letters

Draw = Callable[[Axes], None]


def draw_pictures(
    number: int,
    name: str,
    rows: Mapping[str, Any],
    note: str,
    folder: Path,
) -> list[dict[str, str]]:
    """Draw what one protocol on one test set has to show into files of ``folder``.

    Args:
        number: of the section, tells its files apart.
        rows: results of one protocol.
        note: the small print.

    Returns:
        ``dict(title, file)`` of each; the file is a path relative to ``folder``.
    """
    protocol = next(iter(rows.values())).protocol
    pictures = []
    for kind, (title, draw) in PICTURES[protocol](rows).items():
        file = f'pictures/{file_name(number, kind, name)}.png'
        title = f'{name}, {protocol}: {title}'
        save_picture(draw, title, note, folder / file)
        pictures.append({'title': title, 'file': file})
    return pictures


def save_picture(draw: Draw, title: str, note: str, path: Path) -> None:
    """With title and note in it, for the file may be looked at alone."""
    lines = [
        line for part in note.split('\n') for line in textwrap.wrap(part, NOTE_WIDTH)
    ]
    print_height = LINE_HEIGHT * len(lines)
    figure = Figure(figsize=(WIDTH, HEIGHT + print_height), dpi=DPI)
    FigureCanvasAgg(figure)
    ax = figure.subplots()
    draw(ax)
    ax.set_title(_plain(_shortened(title)), fontsize=TITLE_SIZE)
    text = _plain('\n'.join(lines))
    figure.text(0.015, 0.01, text, fontsize=NOTE_SIZE, color='0.3', va='bottom')
    figure.tight_layout(rect=(0, print_height / (HEIGHT + print_height), 1, 1))
    figure.savefig(path, format='png')


def _shortened(title: str) -> str:
    """Without its middle if it is long, for the end says what is shown."""
    lines = textwrap.wrap(title, TITLE_WIDTH)
    if len(lines) > TITLE_LINES:
        lines = [*lines[: TITLE_LINES - 1], f'… {title[2 - TITLE_WIDTH :]}']
    return '\n'.join(lines)


def _plain(text: str) -> str:
    """No dollar begins a formula."""
    return text.replace('$', r'\$')


def _verification(
    rows: Mapping[str, VerificationResult],
) -> dict[str, tuple[str, Draw]]:
    curves = curves_of(rows)
    return {
        'roc': ('ROC', partial(draw_roc, results=rows, curves=curves)),
        'det': ('DET', partial(draw_det, results=rows, curves=curves)),
        **_histograms(draw_scores, rows),
    }


def _identification(
    rows: Mapping[str, IdentificationResult],
) -> dict[str, tuple[str, Draw]]:
    return {
        'cmc': ('CMC', partial(draw_cmc, results=rows)),
        'tpir': ('TPIR over FPIR', partial(draw_open_set, results=rows)),
        **_histograms(draw_searches, rows),
    }


def _megaface(rows: Mapping[str, MegaFaceResult]) -> dict[str, tuple[str, Draw]]:
    title = 'identification among distractors'
    return {'distractors': (title, partial(draw_distractors, results=rows))}


def _histograms(
    draw: Callable[..., None], rows: Mapping[str, Any]
) -> dict[str, tuple[str, Draw]]:
    return {
        f'scores_{number}': (
            f'scores, {name}',
            partial(draw, result=result),
        )
        for number, (name, result) in enumerate(rows.items())
    }


PICTURES: dict[str, Callable[[Any], dict[str, tuple[str, Draw]]]] = {
    VerificationResult.protocol: _verification,
    IdentificationResult.protocol: _identification,
    MegaFaceResult.protocol: _megaface,
}
