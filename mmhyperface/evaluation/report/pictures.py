"""The pictures of a report, a file each, with convention and counts in small print."""

import re
import textwrap
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

# Small enough that the letters can be read on a phone, where it fills the width.
WIDTH, HEIGHT, DPI = 5.2, 3.9, 200  # inches, without the small print
NOTE_SIZE, NOTE_WIDTH, LINE_HEIGHT = 7, 96, 0.115  # points, letters, inches
TITLE_SIZE, TITLE_WIDTH, TITLE_LINES = 9.5, 62, 3  # points, letters
NAME_LENGTH = 60


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
    result = next(iter(rows.values()))
    pictures = []
    for picture in result.pictures(rows):
        file = f'pictures/{file_name(number, picture.name, name)}.png'
        title = f'{name}, {result.protocol}: {picture.title}'
        _save_picture(picture.draw, title, note, folder / file)
        pictures.append({'title': title, 'file': file})
    return pictures


def file_name(number: int, *words: str) -> str:
    """A name that any file system takes, without suffix; the number tells it apart."""
    plain = re.sub(r'[^A-Za-z0-9.-]+', '_', '_'.join(words)).strip('_.')
    return f'{number:02d}_{plain[:NAME_LENGTH]}'


def _save_picture(
    draw: Callable[[Axes], None], title: str, note: str, path: Path
) -> None:
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
