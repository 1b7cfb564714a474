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
from functools import singledispatch
from typing import Any, NamedTuple

import numpy as np

from mmhyperface.errors import UserError

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
    exact (grids, interpolations), those that are NaN in every draw, and EER and AUC of
    more than a million pairs.

    Args:
        draws: how many times identities are drawn.
        level: probability that an interval should hold the true value.

    Raises:
        UserError: no draws, or a level outside (0, 1).
    """
    drawn = _drawn([result], draws, seed)
    low, high = _tails(level)
    return {
        name: (float(np.nanquantile(x, low)), float(np.nanquantile(x, high)))
        for name, x in (drawn[0] if drawn else {}).items()
        if not np.isnan(x).all()
    }


def paired_differences(
    results: Sequence[Result], draws: int = 1000, level: float = 0.95, seed: int = 0
) -> dict[str, list[Difference]]:
    """Each result against the first, for every figure that all have.

    All see the same draws, so what they have in common does not count as a difference.
    The results must be of the same pairs or probes; empty where their identities are
    not known.

    Raises:
        UserError: results of other pairs; no draws, or a level outside (0, 1).
    """
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
    return {
        name: [
            _difference(
                value[name] - values[0][name], x[name] - drawn[0][name], low, high
            )
            for value, x in zip(values[1:], drawn[1:], strict=True)
        ]
        for name in drawn[0]
        if name in shared
    }


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
    }


@_tested.register
def _(result: IdentificationResult) -> dict[str, list[Any]]:
    return {
        'probes': [result.subjects],
        'galleries': [result.galleries, result.merged, result.mate_ranks > 0],
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
            tars = scores.tar_at_far(result.fars).tars
            found |= _by_rate('tar@far', result.fars, tars)
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
    negatives = np.flatnonzero(~same)
    # Half as many again as needed, since those that are drawn again may weigh less.
    needed = int(1.5 * result.fars.max() * len(negatives)) + 64
    between = _PairCounts(a[negatives], b[negatives], identities)
    if needed < len(negatives):
        place = len(negatives) - needed
        negatives = negatives[np.argpartition(scores[negatives], place)[place:]]
    negatives = negatives[np.argsort(scores[negatives])]
    ascending = scores[positives], scores[negatives]
    person, first, second = a[positives], a[negatives], b[negatives]

    def figures(weights: Ints) -> Figures:
        of_same, of_different = weights[person], weights[first] * weights[second]
        if result.interpolation != 'exact' or not of_same.any():
            return {}
        left_out = between.total(weights) - int(of_different.sum())
        tars = SortedScores.weighted(
            ascending[0], of_same, ascending[1], of_different, left_out
        ).tar_at_far(result.fars)
        return _by_rate('tar@far', result.fars, tars.tars)

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
        return ranks | _by_rate('tpir@fpir', result.fpirs, rates.tpirs)

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
        return ranks | _by_rate('tar@far', result.fars, rates.tars)

    return len(result.num_impostors), figures


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


def _difference(value: float, drawn: Floats, low: float, high: float) -> Difference:
    drawn = drawn[~np.isnan(drawn)]
    if not len(drawn) or np.isnan(value):
        return Difference(value, float('nan'), float('nan'), float('nan'))
    # With one more draw, the observed one, p is never 0.
    below, above = (1 + np.count_nonzero(x <= 0) for x in (drawn, -drawn))
    return Difference(
        value,
        float(np.quantile(drawn, low)),
        float(np.quantile(drawn, high)),
        float(min(1.0, 2 * min(below, above) / (len(drawn) + 1))),
    )
