"""How far figures would move with other people: the bootstrap over identities.

The pairs of a test set are not independent: one person who is hard to recognise is in
many of them. So identities are drawn, with replacement, as many as there are, and every
pair counts as often as its identities were drawn: a pair of one person w times, one of
two people w · w' times (the vertex bootstrap: Snijders and Borgatti, Connections 22(2),
1999; for 1:1 matching Fogliato, Patil and Perona, IJCV 2024). A search of a probe
counts as often as its subject; galleries and distractors stay.

Intervals are percentiles of what the figures then are.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import cache, singledispatch
from typing import Any, NamedTuple

import numpy as np

from mmhyperface.utils.errors import UserError

from .functional.arrays import Floats, Ints
from .functional.identification import probe_rates
from .functional.megaface import megaface_rates
from .functional.verification import SortedScores, weighted_fold_accuracy
from .results import (
    IdentificationResult,
    MegaFaceResult,
    Result,
    VerificationResult,
    rate_name,
)

Figures = dict[str, float]

# Of more pairs only the TARs are drawn again, whose FARs need few of the pairs.
MANY_PAIRS = 2**20
MOST_COUNTS = 2**26
SPARE_PAIRS = 64


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
    found = {
        name: (_quantile(x, low), _quantile(x, high))
        for name, x in (drawn[0] if drawn else {}).items()
        if not np.isnan(figures[name])
    }
    return {name: ends for name, ends in found.items() if np.isfinite(ends).all()}


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
    found: dict[str, list[Difference]] = {
        name: [] for name in drawn[0] if name in shared
    }
    for name, differences in found.items():
        for value, x in zip(values[1:], drawn[1:], strict=True):
            with np.errstate(invalid='ignore'):  # of infinities, which are unknown
                apart = x[name] - drawn[0][name]
            observed = value[name] - values[0][name]
            differences.append(_difference(observed, apart, low, high))
    return found


def unlike(first: Result, other: Result) -> str | None:
    """Why two results cannot be compared in pairs, in words; None if they can."""
    if type(first) is not type(other):
        return 'it was tested by another protocol'
    theirs = _tested(other)
    for what, ours in _tested(first).items():
        if not all(map(np.array_equal, ours, theirs[what])):
            return f'it was tested on other {what}'
    return None


@singledispatch
def _tested(result: Result) -> dict[str, list[Any]]:
    """What has to be equal for a paired comparison, in words."""
    raise TypeError(f'no comparison is known of {type(result).__name__}')


@_tested.register
def _(result: VerificationResult) -> dict[str, list[Any]]:
    return {
        'pairs': [result.same],
        'identities': [result.identity_a, result.identity_b],
        'folds or by another rule': [result.folds, result.interpolation, result.fars],
    }


@_tested.register
def _(result: IdentificationResult) -> dict[str, list[Any]]:
    return {
        'probes': [result.subjects],
        'galleries': [result.galleries, result.merged, result.mate_ranks > 0],
        'thresholds': [result.threshold],
    }


@_tested.register
def _(result: MegaFaceResult) -> dict[str, list[Any]]:
    return {
        'probes': [result.subjects],
        'distractors': [result.distractors, result.used, result.num_impostors],
    }


@singledispatch
def resampler(result: Result) -> tuple[int, Callable[[Ints], Figures]] | None:
    """The number I of identities, and a function from weights [I] to figures.

    None where identities are not known.
    """
    raise TypeError(f'{type(result).__name__} cannot be resampled')


@resampler.register
def _(result: VerificationResult) -> tuple[int, Callable[[Ints], Figures]] | None:
    a, b = result.identity_a, result.identity_b
    if a is None or b is None:
        return None
    identities = int(max(a.max(), b.max())) + 1
    if len(a) > MANY_PAIRS:
        return identities, _highest_tars(result, a, b, identities)
    same = result.same
    positives, negatives = np.flatnonzero(same), np.flatnonzero(~same)
    positives = positives[np.argsort(result.scores[positives])]
    negatives = negatives[np.argsort(result.scores[negatives])]
    ascending = result.scores[positives], result.scores[negatives]

    def figures(weights: Ints) -> Figures:
        of_pair = np.where(same, weights[a], weights[a] * weights[b])
        of_same, of_different = of_pair[positives], of_pair[negatives]
        if not of_same.any() or not of_different.any():
            return {}
        scores = SortedScores.weighted(
            ascending[0], of_same, ascending[1], of_different
        )
        found = {'eer': scores.equal_error_rate(), 'auc': scores.auc()}
        if result.interpolation == 'exact':
            found |= _by_rate('tar@far', result.fars, scores.staircase(result.fars))
        if result.folds is not None:
            found['accuracy'] = weighted_fold_accuracy(
                result.scores, same, result.folds, of_pair
            )
        return found

    return identities, figures


def _highest_tars(
    result: VerificationResult, a: Ints, b: Ints, identities: int
) -> Callable[[Ints], Figures]:
    """TARs alone, from the highest scores of different pairs, of very many pairs."""
    scores, same = result.scores, result.same
    positives = np.flatnonzero(same)
    positives = positives[np.argsort(scores[positives])]
    person, of_positives = a[positives], scores[positives]
    every = np.flatnonzero(~same)
    between = _PairCounts(a[every], b[every], identities)

    @cache
    def highest(count: int) -> tuple[Floats, Ints, Ints]:
        """Of the different pairs with the highest scores, ascending: these, a and b."""
        chosen = every
        if count < len(every):
            place = len(every) - count
            chosen = every[np.argpartition(scores[every], place)[place:]]
        chosen = chosen[np.argsort(scores[chosen])]
        return scores[chosen], a[chosen], b[chosen]

    # More than needed, since those that are drawn may weigh less; where that is not
    # enough, all.
    needed = int(1.5 * result.fars.max(initial=0) * len(every))
    enough = min(needed + SPARE_PAIRS, len(every))

    def figures(weights: Ints) -> Figures:
        of_same = weights[person]
        if result.interpolation != 'exact' or not of_same.any():
            return {}
        for count in (enough, len(every)):
            values, first, second = highest(count)
            of_different = weights[first] * weights[second]
            tars = SortedScores.weighted(
                of_positives,
                of_same,
                values,
                of_different,
                between.total(weights) - int(of_different.sum()),
            ).staircase(result.fars)
            if not np.isnan(tars).any():
                break
        return _by_rate('tar@far', result.fars, tars)

    return figures


class _PairCounts:
    """How many pairs there are of each two identities."""

    def __init__(self, a: Ints, b: Ints, identities: int) -> None:
        self.a, self.b = a, b
        self.counts: Floats | None = None
        if identities**2 <= MOST_COUNTS:
            both = a.astype(np.int64) * identities + b
            counts = np.bincount(both, minlength=identities**2)
            self.counts = counts.reshape(identities, identities).astype(np.float64)

    def total(self, weights: Ints) -> int:
        """Of all pairs, each counting as often as its two identities together."""
        if self.counts is None:
            return int((weights[self.a] * weights[self.b]).sum())
        return round(float(weights @ self.counts @ weights))


@resampler.register
def _(result: IdentificationResult) -> tuple[int, Callable[[Ints], Figures]]:
    def figures(weights: Ints) -> Figures:
        rates = probe_rates(result, result.ranks, result.fpirs, weights)
        ranks = {
            f'rank-{rank}': float(rate)
            for rank, rate in zip(result.ranks, rates.rank_rates, strict=True)
        }
        return ranks | _by_rate('tpir@fpir', result.fpirs, _beyond(rates.tpirs))

    return int(result.subjects.max()) + 1, figures


@resampler.register
def _(result: MegaFaceResult) -> tuple[int, Callable[[Ints], Figures]]:
    def figures(weights: Ints) -> Figures:
        rates = megaface_rates(result, weights)
        ranks = {
            f'rank-{rank}@{count}': float(rates.rates[row, column])
            for row, count in enumerate(result.distractors)
            for column, rank in enumerate(result.ranks)
        }
        return ranks | _by_rate('tar@far', result.fars, _beyond(rates.tars))

    return len(result.num_impostors), figures


def _beyond(rates: Floats) -> Floats:
    """Rates by a threshold below the scores that were kept are above all others."""
    return np.where(np.isnan(rates), np.inf, rates)


def _by_rate(name: str, rates: Floats, values: Floats) -> Figures:
    return {
        f'{name}={rate_name(rate)}': float(value)
        for rate, value in zip(rates, values, strict=True)
    }


def _drawn(results: Sequence[Result], draws: int, seed: int) -> list[dict[str, Floats]]:
    """Of each result its figures in each draw, [draws]; NaN where a draw has none."""
    if draws < 1:
        raise UserError(f'draws is {draws}; at least one is needed')
    known = [made for result in results if (made := resampler(result)) is not None]
    if len(known) < len(results):
        return []
    found = [
        [figures(weights) for weights in _weights(known[0][0], draws, seed)]
        for _, figures in known
    ]
    return [
        {
            name: np.array([figures.get(name, np.nan) for figures in of_draw])
            for name in dict.fromkeys(name for figures in of_draw for name in figures)
        }
        for of_draw in found
    ]


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
