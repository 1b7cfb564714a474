"""Curves and histograms, each drawn into axes that are given."""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from matplotlib.axes import Axes
from matplotlib.ticker import NullLocator, PercentFormatter

from mmhyperface.evaluation.functional.verification import SortedScores
from mmhyperface.evaluation.results import (
    IdentificationResult,
    MegaFaceResult,
    VerificationResult,
    rate_name,
)

from .content import accuracy_threshold
from .figure_tables import NOT_FINITE, percent

# Points of a drawn curve, at evenly spaced exponents; more cannot be seen.
CURVE_POINTS = 2000
HISTOGRAM_BINS = 60
NAME_LENGTH = 32
# An axis of rates begins here at the latest, for one pair is not enough for any.
FEWEST = 0.1
COLORS = ('tab:orange', 'tab:blue')  # of different and of same people
GRID_COLOR = '0.9'
DIGIT_SHARE = 0.026  # of an axis, that a digit of a name takes, and a gap
RANK_TICKS = [digit * 10**power for power in range(6) for digit in (1, 2, 5)]
# Rates that a deviate axis names, if they lie on it.
DEVIATE_TICKS = (
    *(1e-8, 1e-7, 1e-6, 1e-5, 1e-4, 1e-3, 0.01),
    *(0.05, 0.2, 0.4, 0.6, 0.8, 0.95, 0.99, 0.999),
)

Floats = npt.NDArray[np.floating]


class Curve(NamedTuple):
    """The exact staircase of a ROC: the best TAR at a FAR of at most each of these."""

    fars: Floats
    tars: Floats


def curve_of(result: VerificationResult) -> Curve:
    """From the lowest FAR that the different pairs resolve to 1."""
    fars = np.geomspace(1 / result.num_different, 1, CURVE_POINTS)
    fars[-1] = 1
    return Curve(fars, SortedScores(result.scores, result.same).staircase(fars))


def curves_of(results: Mapping[str, VerificationResult]) -> dict[str, Curve]:
    """Of the results that are finite."""
    return {name: curve_of(x) for name, x in results.items() if x.finite}


def label(name: str) -> str:
    """A name as a legend takes it: short, and no dollar begins a formula."""
    short = name if len(name) <= NAME_LENGTH else f'{name[: NAME_LENGTH - 1]}…'
    return short.replace('$', r'\$')


def draw_roc(
    ax: Axes, results: Mapping[str, VerificationResult], curves: Mapping[str, Curve]
) -> None:
    """TAR over a logarithmic FAR; of a result without a curve its name."""
    _name_missing(ax, results)
    if not curves:
        return
    for name, curve in curves.items():
        auc = percent(results[name].auc)
        ax.plot(curve.fars, curve.tars, label=f'{label(name)} (AUC {auc} %)')
    lowest = min(curve.fars[0] for curve in curves.values())
    chance = np.geomspace(lowest, 1, 200)
    ax.plot(chance, chance, color='0.6', linestyle=':', label='chance')
    ax.set(
        xscale='log',
        xlim=(min(lowest, FEWEST), 1),
        ylim=(0, 1.005),
        xlabel=f'false accept rate (from 1 / {round(1 / lowest):,} different pairs)',
        ylabel='true accept rate',
    )
    _finish(ax)


def draw_det(
    ax: Axes, results: Mapping[str, VerificationResult], curves: Mapping[str, Curve]
) -> None:
    """FRR over FAR, both as normal deviates: normal scores make straight lines."""
    _name_missing(ax, results)
    if not curves:
        return
    fewest = 1 / max(result.num_same for result in results.values())
    lowest = min(curve.fars[0] for curve in curves.values())
    fewest, lowest, highest = min(fewest, FEWEST), min(lowest, FEWEST), 0.5
    for name, (fars, tars) in curves.items():
        frrs = 1 - tars
        shown = (frrs > 0) & (frrs < 1) & (fars < 1)
        ax.plot(_deviates(fars[shown]), _deviates(frrs[shown]), label=label(name))
        highest = max(highest, *frrs[shown], 0)
    _deviate_axis(ax, 'x', lowest, 0.5)
    _deviate_axis(ax, 'y', fewest, min(highest, 1 - fewest))
    diagonal = _deviates(np.array([1e-12, 1 - 1e-12]))
    ax.plot(diagonal, diagonal, color='0.6', linestyle=':', label='equal errors')
    ax.set(
        xlabel='false accept rate (scale of normal deviates)',
        ylabel='false reject rate (scale of normal deviates)',
    )
    _finish(ax)


def draw_scores(ax: Axes, result: VerificationResult) -> None:
    """Histograms of both kinds of pairs, with thresholds of the accuracy and of a FAR.

    The FAR is the lowest that is resolvable.
    """
    if not result.finite:
        ax.text(0.5, 0.5, NOT_FINITE, transform=ax.transAxes, ha='center')
        ax.set_axis_off()
        return
    kinds = {
        'different pairs': result.scores[~result.same],
        'same pairs': result.scores[result.same],
    }
    lines = {x['figure']: x['threshold'] for x in accuracy_threshold(result)}
    resolvable = np.flatnonzero(np.isfinite(result.thresholds))
    if len(resolvable):
        strictest = resolvable[np.argmin(result.fars[resolvable])]
        lines[f'FAR {rate_name(result.fars[strictest])}'] = result.thresholds[strictest]
    _histograms(ax, kinds, lines)
    ax.set_ylabel('share of the pairs of a kind')


def draw_searches(ax: Axes, result: IdentificationResult) -> None:
    """Histograms of what the thresholds separate, with those of an FPIR.

    The FPIR is the lowest that is resolvable.
    """
    mated = result.mate_ranks > 0
    if result.merged:
        others = {'probes, highest of another subject': result.best_others.ravel()}
    else:
        others = {'probes without a mate, highest': result.best_others[~mated]}
    kinds = {**others, 'probes with a mate, that score': result.mate_scores[mated]}
    lines: dict[str, float | None] = {}
    resolvable = np.flatnonzero(np.isfinite(result.thresholds).any(axis=0))
    if len(resolvable):
        strictest = resolvable[np.argmin(result.fpirs[resolvable])]
        fpir = f'FPIR {rate_name(result.fpirs[strictest])}'
        for gallery, threshold in zip(
            result.galleries, result.thresholds[:, strictest], strict=True
        ):
            lines[f'{fpir}, {label(gallery)}'] = threshold
    _histograms(ax, kinds, lines)
    ax.set_ylabel('share of the searches of a kind')


def draw_cmc(ax: Axes, results: Mapping[str, IdentificationResult]) -> None:
    """Identification rate over the logarithmic rank."""
    for name, result in results.items():
        ranks = np.arange(1, len(result.cmc) + 1)
        ax.plot(ranks, result.cmc, marker='.', label=label(name))
    ax.set(xscale='log', xlabel='rank', ylabel='share of the mated searches')
    last = max(len(result.cmc) for result in results.values())
    _count_axis(ax, np.array([rank for rank in RANK_TICKS if rank <= last]))
    ax.yaxis.set_major_formatter(PercentFormatter(1, symbol=' %'))
    _finish(ax)


def draw_open_set(ax: Axes, results: Mapping[str, IdentificationResult]) -> None:
    """TPIR over a logarithmic FPIR; dots where the report has figures."""
    for name, result in results.items():
        known = (result.curve_fpirs > 0) & ~np.isnan(result.curve_tpirs)
        (line,) = ax.plot(
            result.curve_fpirs[known], result.curve_tpirs[known], label=label(name)
        )
        ax.plot(result.fpirs, result.tpirs, 'o', color=line.get_color())
    ax.set(
        xscale='log',
        ylim=(0, 1.005),
        xlabel='false positive identification rate',
        ylabel='true positive identification rate',
    )
    _finish(ax)


def draw_distractors(ax: Axes, results: Mapping[str, MegaFaceResult]) -> None:
    """Rank-k rates over the logarithmic number of distractors."""
    for name, result in results.items():
        for rates, rank in zip(result.rates.T, result.ranks, strict=True):
            ax.plot(
                result.distractors,
                rates,
                marker='o',
                label=f'{label(name)}, rank-{rank}',
            )
    ax.set(
        xscale='log',
        xlabel='distractors',
        ylabel='share of the ordered pairs of mates',
    )
    _count_axis(
        ax, np.unique(np.concatenate([x.distractors for x in results.values()]))
    )
    ax.yaxis.set_major_formatter(PercentFormatter(1, symbol=' %'))
    _finish(ax)


def _name_missing(ax: Axes, results: Mapping[str, VerificationResult]) -> None:
    missing = [name for name, result in results.items() if not result.finite]
    for name in missing:
        ax.plot([], [], ' ', label=f'{label(name)} ({NOT_FINITE})')
    if len(missing) == len(results):
        _finish(ax)


def _finish(ax: Axes) -> None:
    ax.grid(True, which='both', color=GRID_COLOR)
    ax.set_axisbelow(True)
    ax.legend(loc='best', fontsize='small')


def _count_axis(ax: Axes, counts: npt.NDArray[np.integer]) -> None:
    """A tick for each count [C], ascending, with a name where there is room."""
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


def _deviates(rates: Floats) -> Floats:
    return torch.special.ndtri(torch.from_numpy(np.asarray(rates, np.float64))).numpy()


def _deviate_axis(ax: Axes, which: str, low: float, high: float) -> None:
    ticks = [rate for rate in DEVIATE_TICKS if low <= rate <= high]
    axis = {'x': ax.xaxis, 'y': ax.yaxis}[which]
    names = [f'{rate:g}' if rate > 0.005 else f'{rate:.0e}' for rate in ticks]
    axis.set_ticks(_deviates(np.array(ticks)), names)
    limits = _deviates(np.array([low, high]))
    ax.set(**{f'{which}lim': (limits[0] - 0.1, limits[1] + 0.1)})


def _histograms(
    ax: Axes, kinds: Mapping[str, Floats], lines: Mapping[str, float | None]
) -> None:
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
    styles = _line_styles(len(lines))
    for style, (name, threshold) in zip(styles, lines.items(), strict=True):
        if threshold is not None and math.isfinite(threshold):
            text = f'threshold, {name}: {threshold:.4f}'
            ax.axvline(threshold, color='0.2', linestyle=style, label=text)
    ax.set_xlabel('score (cosine)')
    ax.set_ylim(top=1.45 * ax.get_ylim()[1])  # room for the legend
    ax.legend(loc='upper left', fontsize='small')


def _line_styles(count: int) -> Sequence[str]:
    return (['--', ':', '-.'] * count)[:count]
