"""Histograms of angles and feature norms, as pictures for a visualizer."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from mmhyperface.utils.figures import COLORS, finish, new_figure

BINS = 90
DEGREES = (0.0, 180.0)
# Norms beyond these quantiles are drawn in the outermost bins.
SHOWN = (0.001, 0.999)
OWN, NEAREST, NORMS, WRONG, *_ = COLORS
LINE = 0.82  # of the height; the legend is above

Floats = npt.NDArray[np.floating]


def draw_angles(own: Mapping[str, Floats], nearest: Floats, title: str) -> Figure:
    """Angles to the own and to the nearest other centre in one plot.

    Args:
        own: In degrees, [n], by what they are called: of all samples, or of two parts.
        nearest: In degrees, [N].
        title: Above the plot.
    """
    figure, ax = _new(title)
    kinds = {
        name: (values, color)
        for (name, values), color in zip(own.items(), (OWN, WRONG), strict=False)
    }
    kinds['nearest other centre'] = nearest, NEAREST
    _histograms(ax, kinds, np.linspace(*DEGREES, BINS + 1), '{:.1f}°')
    ax.set(xlabel='angle to a class centre (degrees)', xlim=DEGREES)
    ax.set_xticks(range(0, 181, 30))
    return figure


def draw_norms(norms: Floats, title: str) -> Figure:
    """Feature norms [N]."""
    figure, ax = _new(title)
    low, high = np.quantile(norms, SHOWN)
    if not high > low:
        low, high = low - 0.5, high + 0.5
    edges = np.linspace(low, high, BINS // 2 + 1)
    _histograms(ax, {'feature norm': (norms, NORMS)}, edges, '{:.4g}')
    ax.set(xlabel='norm of the feature', xlim=(low, high))
    return figure


def as_image(figure: Figure) -> npt.NDArray[np.uint8]:
    """The drawn figure as RGB, uint8 [H, W, 3]."""
    canvas: Any = figure.canvas
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()


def _new(title: str) -> tuple[Figure, Axes]:
    figure = new_figure(6.4, 4.2, dpi=110)
    ax = figure.subplots()
    ax.set_title(title, fontsize='medium')
    ax.set_ylabel('share of the samples')
    ax.yaxis.set_major_formatter(PercentFormatter(1, symbol=' %'))
    finish(ax)
    return figure, ax


def _histograms(
    ax: Axes, kinds: Mapping[str, tuple[Floats, str]], edges: Floats, form: str
) -> None:
    """Shares of each kind, and a line at its median."""
    for name, (values, color) in kinds.items():
        counts, _ = np.histogram(values.clip(edges[0], edges[-1]), edges)
        middle = float(np.median(values))
        ax.stairs(
            counts / len(values),
            edges,
            fill=True,
            color=color,
            alpha=0.55,
            label=f'{name}, median {form.format(middle)}',
        )
        ax.axvline(middle, ymax=LINE, color=color, linestyle='--')
    ax.set_ylim(top=ax.get_ylim()[1] / LINE)
    ax.legend(loc='upper right', fontsize='small')
