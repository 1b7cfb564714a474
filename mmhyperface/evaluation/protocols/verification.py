"""1:1: verification of pairs, of images or of templates."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, partial
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import numpy as np

from mmhyperface.utils.choices import TARS

from ..arrays import Bools, Floats, Ints
from ..pair_rates import (
    SortedScores,
    tar_at_far,
    weighted_fold_accuracy,
)
from . import drawing
from .base import (
    NOT_FINITE,
    NUMBER,
    FigureOfMerit,
    Plot,
    Result,
    far_thresholds,
    finite,
    rate_name,
    threshold_entry,
    unknown,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Of more pairs only the TARs are drawn again, whose FARs need few of the pairs.
MANY_PAIRS = 2**20
MOST_COUNTS = 2**26
SPARE_PAIRS = 64
# Points of a drawn curve, at evenly spaced exponents; more cannot be seen.
CURVE_POINTS = 2000
# An axis of rates begins here at the latest, for one pair is not enough for any.
FEWEST = 0.1

# Why a figure has no interval.
UNKNOWN_IMAGES = 'the list does not tell who is on the images'
UNKNOWN_TEMPLATES = (
    'it is not known who is in the templates, which only the lists of 1:N tell'
)
MANY = f'of more than {MANY_PAIRS:,} pairs only TARs are drawn again'
NOT_EXACT_TAR = 'only exact TARs are drawn again, not interpolated ones'
NOT_EXACT_ACCURACY = 'only an exact accuracy over folds is drawn again'
ONE_KIND = 'draws lack pairs of the same or of different people'


@dataclass(kw_only=True)
class VerificationResult(Result):
    """1:1 on pairs of images or of templates.

    Attributes:
        scores, same: [P], of all pairs.
        accuracy, accuracy_std: NaN where the protocol has none, or no folds.
        accuracy_thresholds: one for each fold; empty without accuracy.
        eer, auc: fractions.
        d_prime: the decidability index; NaN where it is not known.
        fars, tars, thresholds: [K]; NaN where the FAR is not resolvable.
        interpolation: of the TARs, see :func:`.tar_at_far`.
        folds: [P], the fold of each pair, if the accuracy is exact over folds.
        identity_a, identity_b: int [P], whom the images of a pair show, numbered
            from 0; None where that is not known.
    """

    protocol: ClassVar[str] = '1:1'
    FIGURES: ClassVar[tuple[FigureOfMerit, ...]] = (
        FigureOfMerit(
            *('accuracy', 'accuracy', 'accuracy'), optional=True, spread='accuracy_std'
        ),
        FigureOfMerit(
            *('accuracy_std', 'accuracy, std over folds', 'accuracy_std'),
            optional=True,
            lower_is_better=True,
        ),
        FigureOfMerit('eer', 'EER', 'eer', lower_is_better=True),
        FigureOfMerit('auc', 'AUC', 'auc'),
        FigureOfMerit('d_prime', "d'", 'd_prime', unit=NUMBER, optional=True),
        FigureOfMerit('tar@far={fars}', 'TAR at FAR {fars}', 'tars', ('fars',)),
    )

    scores: Floats
    same: Bools
    accuracy: float = float('nan')
    accuracy_std: float = float('nan')
    accuracy_thresholds: Floats = field(default_factory=unknown)
    eer: float
    auc: float
    d_prime: float = float('nan')
    fars: Floats
    tars: Floats
    thresholds: Floats
    interpolation: str = 'exact'
    folds: Ints | None = None
    identity_a: Ints | None = None
    identity_b: Ints | None = None

    @classmethod
    def of_pairs(
        cls,
        scores: Floats,
        same: Bools,
        fars: Sequence[float],
        interpolation: str,
        convention: str,
        **known: Any,
    ) -> 'VerificationResult':
        """The result of pairs from their scores and kinds, [P].

        Args:
            convention: of the scores, in words, to which that of TAR@FAR is added.
            known: other attributes of the result.
        """
        same = np.asarray(same, bool)
        ordered = SortedScores(scores, same)
        if interpolation == 'exact':
            tars = ordered.tar_at_far(fars)
        else:
            tars = tar_at_far(scores, same, fars, interpolation)
        return cls(
            scores=scores,
            same=same,
            fars=np.array(fars, np.float64),
            tars=tars.tars,
            thresholds=tars.thresholds,
            interpolation=interpolation,
            convention=f'{convention}; TAR@FAR: {TARS[interpolation]}',
            **_numbers(ordered),
            **known,
        )

    @property
    def num_same(self) -> int:
        return int(np.count_nonzero(self.same))

    @property
    def num_different(self) -> int:
        return len(self.same) - self.num_same

    def unknown_identities(self) -> str | None:
        if self.identity_a is not None and self.identity_b is not None:
            return None
        return UNKNOWN_TEMPLATES if 'templates' in self.counts else UNKNOWN_IMAGES

    def why_no_interval(self, name: str) -> str:
        of_tars = any(x.values == 'tars' and x.fits(name) for x in self.FIGURES)
        if (why := self.unknown_identities()) is not None:
            return why
        if name == 'accuracy' and self.folds is None:
            return NOT_EXACT_ACCURACY
        if of_tars and self.interpolation != 'exact':
            return NOT_EXACT_TAR
        return MANY if not of_tars and len(self.scores) > MANY_PAIRS else ONE_KIND

    def tested(self) -> dict[str, list[Any]]:
        return {
            'pairs': [self.same],
            'identities': [self.identity_a, self.identity_b],
            'folds or by another rule': [self.folds, self.interpolation, self.fars],
        }

    def details(self) -> dict[str, Any]:
        counts = {
            'same pairs': self.num_same,
            'different pairs': self.num_different,
        }
        if self.identity_a is not None and self.identity_b is not None:
            # A sort of very many pairs would take longer.
            shown = np.zeros(
                1 + max(self.identity_a.max(), self.identity_b.max()), bool
            )
            shown[self.identity_a] = shown[self.identity_b] = True
            counts['identities'] = int(shown.sum())
        median = self.accuracy_threshold
        return {
            'counts': counts,
            'thresholds': [
                *(
                    []
                    if median is None
                    else [threshold_entry('accuracy', self.accuracy, median)]
                ),
                *far_thresholds(self.fars, self.tars, self.thresholds),
            ],
            'accuracy_thresholds': [finite(x) for x in self.accuracy_thresholds],
        }

    @property
    def accuracy_threshold(self) -> float | None:
        """The median over the folds; None where the protocol has no accuracy."""
        if not len(self.accuracy_thresholds):
            return None
        return float(np.median(self.accuracy_thresholds))

    def _resampler(self) -> tuple[int, Callable[[Ints], dict[str, Any]]]:
        a, b = self.identity_a, self.identity_b
        assert a is not None
        assert b is not None
        identities = int(max(a.max(), b.max())) + 1
        if len(a) > MANY_PAIRS:
            return identities, _highest_tars(self, a, b, identities)
        same = self.same
        positives, negatives = np.flatnonzero(same), np.flatnonzero(~same)
        positives = positives[np.argsort(self.scores[positives])]
        negatives = negatives[np.argsort(self.scores[negatives])]
        ascending = self.scores[positives], self.scores[negatives]

        def draw(weights: Ints) -> dict[str, Any]:
            of_pair = np.where(same, weights[a], weights[a] * weights[b])
            of_same, of_different = of_pair[positives], of_pair[negatives]
            if not of_same.any() or not of_different.any():
                return {}
            scores = SortedScores.weighted(
                ascending[0], of_same, ascending[1], of_different
            )
            drawn = _numbers(scores)
            if self.interpolation == 'exact':
                drawn['tars'] = scores.staircase(self.fars)
            if self.folds is not None:
                drawn['accuracy'] = weighted_fold_accuracy(
                    self.scores, same, self.folds, of_pair
                )
            return drawn

        return identities, draw

    @staticmethod
    def pictures(rows: Mapping[str, 'VerificationResult']) -> Iterator[Plot]:
        curves = curves_of(rows)
        for name, title, draw in (('roc', 'ROC', draw_roc), ('det', 'DET', draw_det)):
            yield Plot(name, title, partial(draw, results=rows, curves=curves))
        yield from drawing.histograms_of(draw_scores, rows)


def _numbers(scores: SortedScores) -> dict[str, Any]:
    """The attributes of a result that are numbers, and follow from its scores."""
    return {
        'eer': scores.equal_error_rate(),
        'auc': scores.auc(),
        'd_prime': scores.d_prime(),
    }


def _highest_tars(
    result: VerificationResult, a: Ints, b: Ints, identities: int
) -> Callable[[Ints], dict[str, Any]]:
    """TARs alone, from the highest scores of different pairs, of very many pairs."""
    scores, same = result.scores, result.same
    positives = np.flatnonzero(same)
    positives = positives[np.argsort(scores[positives])]
    person, of_positives = a[positives], scores[positives]
    every = np.flatnonzero(~same)
    first_of, second_of = a[every], b[every]
    # How many pairs there are of each two identities, if they are not too many.
    counts: Floats | None = None
    if identities**2 <= MOST_COUNTS:
        both = first_of.astype(np.int64) * identities + second_of
        counts = np.bincount(both, minlength=identities**2).astype(np.float64)
        counts = counts.reshape(identities, identities)

    def total(weights: Ints) -> int:
        """Of the different pairs, each counting as often as its two identities."""
        if counts is None:
            return int((weights[first_of] * weights[second_of]).sum())
        return round(float(weights @ counts @ weights))

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

    def draw(weights: Ints) -> dict[str, Any]:
        of_same = weights[person]
        if result.interpolation != 'exact' or not of_same.any():
            return {}
        for count in (enough, len(every)):
            values, first, second = highest(count)
            of_different = weights[first] * weights[second]
            left_out = total(weights) - int(of_different.sum())
            tars = SortedScores.weighted(
                of_positives, of_same, values, of_different, left_out
            ).staircase(result.fars)
            if not np.isnan(tars).any():
                break
        return {'tars': tars}

    return draw


class Curve(NamedTuple):
    """The exact staircase of a ROC: the best TAR at a FAR of at most each of these."""

    fars: Floats
    tars: Floats


def curves_of(results: Mapping[str, VerificationResult]) -> dict[str, Curve]:
    """Of the results that are finite, from the lowest resolvable FAR to 1."""
    curves = {}
    for name, result in results.items():
        if result.finite:
            fars = np.geomspace(1 / result.num_different, 1, CURVE_POINTS)
            fars[-1] = 1
            ordered = SortedScores(result.scores, result.same)
            curves[name] = Curve(fars, ordered.staircase(fars))
    return curves


def draw_roc(
    ax: 'Axes', results: Mapping[str, VerificationResult], curves: Mapping[str, Curve]
) -> None:
    """TAR over a logarithmic FAR; of a result without a curve its name."""
    _name_missing(ax, results)
    if not curves:
        return
    for name, curve in curves.items():
        label = f'{drawing.label(name)} (AUC {100 * results[name].auc:.2f} %)'
        ax.plot(curve.fars, curve.tars, label=label)
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
    drawing.finish(ax)


def draw_det(
    ax: 'Axes', results: Mapping[str, VerificationResult], curves: Mapping[str, Curve]
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
        x, y = drawing.deviates(fars[shown]), drawing.deviates(frrs[shown])
        ax.plot(x, y, label=drawing.label(name))
        highest = max(highest, *frrs[shown], 0)
    drawing.deviate_axis(ax, 'x', lowest, 0.5)
    drawing.deviate_axis(ax, 'y', fewest, min(highest, 1 - fewest))
    diagonal = drawing.deviates(np.array([1e-12, 1 - 1e-12]))
    ax.plot(diagonal, diagonal, color='0.6', linestyle=':', label='equal errors')
    ax.set(
        xlabel='false accept rate (scale of normal deviates)',
        ylabel='false reject rate (scale of normal deviates)',
    )
    drawing.finish(ax)


def draw_scores(ax: 'Axes', result: VerificationResult) -> None:
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
    median = result.accuracy_threshold
    lines = {} if median is None else {'accuracy': median}
    resolvable = np.flatnonzero(np.isfinite(result.thresholds))
    if len(resolvable):
        strictest = resolvable[np.argmin(result.fars[resolvable])]
        lines[f'FAR {rate_name(result.fars[strictest])}'] = result.thresholds[strictest]
    drawing.histograms(ax, kinds, lines)
    ax.set_ylabel('share of the pairs of a kind')


def _name_missing(ax: 'Axes', results: Mapping[str, VerificationResult]) -> None:
    missing = [name for name, result in results.items() if not result.finite]
    for name in missing:
        ax.plot([], [], ' ', label=f'{drawing.label(name)} ({NOT_FINITE})')
    if len(missing) == len(results):
        drawing.finish(ax)
