"""What all pictures have in common: colours, and files that are whole or not there."""

from collections.abc import Collection
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from mmhyperface.utils.atomic_files import new_files
from mmhyperface.utils.errors import UserError
from mmhyperface.utils.paths import require_file

FORMATS = ('.png', '.pdf', '.svg')
#: Of Okabe and Ito: told apart with any colour vision, and on paper.
COLORS = (
    *('#0072B2', '#D55E00', '#009E73', '#CC79A7'),
    *('#E69F00', '#56B4E9', '#000000', '#8C564B'),
)
GRID_COLOR = '0.9'
NAME_LENGTH = 60


def require_picture(path: str | Path, formats: Collection[str] = FORMATS) -> None:
    """Raise ``UserError`` if no picture of that name can be drawn or written."""
    if Path(path).suffix.lower() not in formats:
        raise UserError(f'{path}: a picture is one of {", ".join(formats)}')
    require_file(path)


def new_figure(width: float, height: float, dpi: int = 100) -> Figure:
    """A figure of so many inches, without a window and outside pyplot's list."""
    figure = Figure(figsize=(width, height), dpi=dpi, layout='constrained')
    FigureCanvasAgg(figure)
    return figure


def save_figure(figure: Figure, path: str | Path) -> None:
    """The file appears complete or not at all; its suffix says the format."""
    require_picture(path)
    with new_files([str(path)], overwrite=True) as (file,):
        figure.savefig(file, format=Path(path).suffix.lower().lstrip('.'))


def color(number: int) -> str:
    return COLORS[number % len(COLORS)]


def plain(name: str, length: int = NAME_LENGTH) -> str:
    """A name as it can be drawn: not too long, and no dollar begins a formula."""
    short = name if len(name) <= length else f'{name[: length - 1]}…'
    return short.replace('$', r'\$')


def finish(ax: Axes) -> None:
    """A grid behind the curves."""
    ax.grid(True, color=GRID_COLOR)
    ax.set_axisbelow(True)


def legend_below(figure: Figure, ax: Axes, columns: int = 3) -> None:
    """The legend of one panel under all of them, where it covers nothing."""
    handles, labels = ax.get_legend_handles_labels()
    figure.legend(
        handles,
        labels,
        loc='outside lower center',
        ncols=min(columns, max(len(labels), 1)),
        fontsize='medium',
        frameon=False,
    )
