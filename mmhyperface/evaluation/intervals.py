"""How far figures would move with other people: the bootstrap over identities.

The pairs of a test set are not independent: one person who is hard to recognise is in
many of them. So identities are drawn, with replacement, as many as there are, and every
pair counts as often as its identities were drawn: a pair of one person w times, one of
two people w · w' times (the vertex bootstrap: Snijders and Borgatti, Connections 22(2),
1999; for 1:1 matching Fogliato, Patil and Perona, IJCV 2024). A search of a probe
counts as often as its subject; galleries and distractors stay.

Intervals are percentiles of what the figures then are.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from mmhyperface.utils.errors import UserError

from .arrays import Floats, Ints
from .protocols import Result


class Difference(NamedTuple):
    """Of a figure of two results, with its interval.

    ``p_value`` is that of no difference, two-sided: twice the share of draws that lie
    on the other side of zero, or on it.
    """

    value: float
    low: float
    high: float
    p_value: float


def confidence_intervals(
    result: Result, draws: int = 200, level: float = 0.95, seed: int = 0
) -> dict[str, tuple[float, float]]:
    """Lowest and highest value of each figure, by its name.

    Empty where a result does not know its identities; without the figures that are not
    exact (grids, interpolations) or not resolvable, without EER and AUC of more than a
    million pairs, and where a result kept too few scores for an end of the interval. In
    a draw, a FAR below what it resolves accepts what lies above all different pairs.

    Args:
        draws: how many times identities are drawn.
        level: probability that an interval should hold the true value.

    Raises:
        UserError: no draws, or a level outside (0, 1).
    """
    drawn = _drawn([result], draws, seed)
    low, high = _tails(level)
    figures = result.figures()
    intervals = {
        name: (_quantile(x, low), _quantile(x, high))
        for name, x in (drawn[0] if drawn else {}).items()
        if not np.isnan(figures.get(name, np.nan))
    }
    return {name: ends for name, ends in intervals.items() if np.isfinite(ends).all()}


def paired_differences(
    results: Sequence[Result], draws: int = 1000, level: float = 0.95, seed: int = 0
) -> dict[str, list[Difference]]:
    """Each result against the first, for every figure that all have.

    All see the same draws, so what they have in common does not count as a difference.
    The results must be of the same pairs or probes, by the same rules; empty where
    their identities are not known. NaN where :func:`confidence_intervals` has none.

    Raises:
        UserError: results of other pairs; no draws, or a level outside (0, 1).
    """
    if not results:
        return {}
    first = results[0]
    for other in results[1:]:
        reason = unlike(first, other)
        if reason is not None:
            raise UserError(f'a result cannot be compared with the first: {reason}')
    drawn = _drawn(results, draws, seed)
    low, high = _tails(level)
    if not drawn:
        return {}
    values = [result.figures() for result in results]
    shared = set(drawn[0]).intersection(*drawn, *values)
    differences: dict[str, list[Difference]] = {}
    for name in (name for name in drawn[0] if name in shared):
        differences[name] = []
        for value, x in zip(values[1:], drawn[1:], strict=True):
            with np.errstate(invalid='ignore'):  # of infinities, which are unknown
                apart = x[name] - drawn[0][name]
            observed = value[name] - values[0][name]
            differences[name].append(_difference(observed, apart, low, high))
    return differences


def unlike(first: Result, other: Result) -> str | None:
    """Why two results cannot be compared in pairs, in words; None if they can."""
    if type(first) is not type(other):
        return 'it was tested by another protocol'
    theirs = other.tested()
    for what, ours in first.tested().items():
        if not all(map(np.array_equal, ours, theirs[what])):
            return f'it was tested on other {what}'
    return None


def _drawn(results: Sequence[Result], draws: int, seed: int) -> list[dict[str, Floats]]:
    """Of each result its figures in each draw, [draws]; NaN where a draw has none."""
    if draws < 1:
        raise UserError(f'draws is {draws}; at least one is needed')
    known = [made for result in results if (made := result.resampler()) is not None]
    if len(known) < len(results):
        return []
    drawn = []
    for _, figures in known:
        every = [figures(weights) for weights in _weights(known[0][0], draws, seed)]
        names = dict.fromkeys(name for of_draw in every for name in of_draw)
        drawn.append(
            {
                name: np.array([of_draw.get(name, np.nan) for of_draw in every])
                for name in names
            }
        )
    return drawn


def _weights(identities: int, draws: int, seed: int) -> Iterator[Ints]:
    generator = np.random.default_rng(seed)
    for _ in range(draws):
        drawn = generator.integers(0, identities, identities)
        yield np.bincount(drawn, minlength=identities)


def _tails(level: float) -> tuple[float, float]:
    if not 0 < level < 1:
        raise UserError(f'level is {level}; it is a probability between 0 and 1')
    return (1 - level) / 2, (1 + level) / 2


def _quantile(drawn: Floats, share: float) -> float:
    """Of the draws that have a figure; infinite or NaN where it is not known."""
    drawn = np.sort(drawn[~np.isnan(drawn)])
    with np.errstate(invalid='ignore'):
        return float(np.quantile(drawn, share)) if len(drawn) else float('nan')


def _difference(value: float, drawn: Floats, low: float, high: float) -> Difference:
    if np.isnan(value) or not np.isfinite(drawn).all():
        return Difference(value, float('nan'), float('nan'), float('nan'))
    # With one more draw, the observed one, p is never 0.
    below, above = (1 + np.count_nonzero(x <= 0) for x in (drawn, -drawn))
    return Difference(
        value,
        _quantile(drawn, low),
        _quantile(drawn, high),
        float(min(1.0, 2 * min(below, above) / (len(drawn) + 1))),
    )
