"""What the pictures of protocols have in common; each is drawn into given axes."""

import math
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from itertools import cycle
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from ..arrays import Floats, Ints
from .base import Plot

if TYPE_CHECKING:
    from matplotlib.axes import Axes

HISTOGRAM_BINS = 60
NAME_LENGTH = 32
COLORS = ('tab:orange', 'tab:blue')  # of different and of same people
GRID_COLOR = '0.9'
DIGIT_SHARE = 0.026  # of an axis, that a digit of a name takes, and a gap
# Rates that a deviate axis names, if they lie on it.
DEVIATE_TICKS = (
    *(1e-8, 1e-7, 1e-6, 1e-5, 1e-4, 1e-3, 0.01),
    *(0.05, 0.2, 0.4, 0.6, 0.8, 0.95, 0.99, 0.999),
)


def label(name: str) -> str:
    """A name as a legend takes it: short, and no dollar begins a formula."""
    short = name if len(name) <= NAME_LENGTH else f'{name[: NAME_LENGTH - 1]}…'
    return short.replace('$', r'\$')


def finish(ax: 'Axes') -> None:
    """A grid behind the curves, and the legend."""
    ax.grid(True, which='both', color=GRID_COLOR)
    ax.set_axisbelow(True)
    ax.legend(loc='best', fontsize='small')


def count_axis(ax: 'Axes', counts: Ints) -> None:
    """Rates in percent over counts [C], ascending, with names where there is room."""
    from matplotlib.ticker import NullLocator, PercentFormatter

    names = [''] * len(counts)
    per_digit = DIGIT_SHARE * math.log10(counts[-1] / counts[0])
    right = math.inf  # where the next name begins
    for number in reversed(range(len(counts))):
        half = per_digit * (1 + len(str(counts[number]))) / 2
        place = math.log10(counts[number])
        if place + half <= right:
            names[number] = f'{counts[number]:,}'
            right = place - half
    ax.xaxis.set_ticks(counts, names)
    ax.xaxis.set_minor_locator(NullLocator())
    ax.yaxis.set_major_formatter(PercentFormatter(1, symbol=' %'))


def deviates(rates: Floats) -> Floats:
    """Rates as deviates of the normal distribution."""
    return torch.special.ndtri(torch.from_numpy(np.asarray(rates, np.float64))).numpy()


def deviate_axis(ax: 'Axes', which: str, low: float, high: float) -> None:
    """An axis, x or y, for deviates of rates between these."""
    ticks = [rate for rate in DEVIATE_TICKS if low <= rate <= high]
    axis = {'x': ax.xaxis, 'y': ax.yaxis}[which]
    names = [f'{rate:g}' if rate > 0.005 else f'{rate:.0e}' for rate in ticks]
    axis.set_ticks(deviates(np.array(ticks)), names)
    limits = deviates(np.array([low, high]))
    ax.set(**{f'{which}lim': (limits[0] - 0.1, limits[1] + 0.1)})


def histograms_of(draw: Callable[..., None], rows: Mapping[str, Any]) -> Iterator[Plot]:
    """A picture of the scores of each result."""
    for number, (name, result) in enumerate(rows.items()):
        title = f'scores, {name}'
        yield Plot(f'scores_{number}', title, partial(draw, result=result))


def histograms(
    ax: 'Axes', kinds: Mapping[str, Floats], lines: Mapping[str, float]
) -> None:
    """Scores of two kinds, and thresholds between them by name."""
    filled = [
        (kind, scores, color)
        for (kind, scores), color in zip(kinds.items(), COLORS, strict=True)
        if scores.size
    ]
    edges = np.linspace(
        min(scores.min() for _, scores, _ in filled),
        max(scores.max() for _, scores, _ in filled),
        HISTOGRAM_BINS + 1,
    )
    for kind, scores, color in filled:
        counts, _ = np.histogram(scores, HISTOGRAM_BINS, (edges[0], edges[-1]))
        ax.stairs(
            counts / scores.size,
            edges,
            fill=True,
            color=color,
            alpha=0.55,
            label=f'{scores.size:,} {kind}',
        )
    for style, (name, threshold) in zip(cycle(['--', ':', '-.']), lines.items()):
        if math.isfinite(threshold):
            text = f'threshold, {name}: {threshold:.4f}'
            ax.axvline(threshold, color='0.2', linestyle=style, label=text)
    ax.set_xlabel('score (cosine)')
    ax.set_ylim(top=1.45 * ax.get_ylim()[1])  # room for the legend
    ax.legend(loc='upper left', fontsize='small')
