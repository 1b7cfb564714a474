"""1:1 verification on pairs: ROC, TAR at FAR, accuracy, EER, AUC.

Pure functions of two arrays, ``scores`` [P] (higher means more alike, for
instance a cosine) and ``same`` [P] (whether both images show one person), as
numpy arrays, torch tensors of any floating type on any device, or lists. They
return plain numbers and numpy arrays; rates are fractions, not percent.

All raise :class:`UserError` when the scores hold NaN or an infinity or are all
equal, when the lengths differ, when there are no pairs, or when all pairs are of
one kind: no rate means anything then.

Conventions
    - A curve and an accuracy accept a pair when ``score >= threshold``.
    - The threshold of an accuracy is the highest of those that are best on the
      pairs it is fitted on. This is the supremum over all real thresholds, so it
      is one of the fitted scores, or infinity if rejecting every pair is best.
      insightface's ``np.argmax`` over ascending distances picks the same end.
    - TAR at FAR accepts ``score > threshold``: see :func:`tar_at_far`.
"""

import bisect
import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from mmhyperface.utils.choices import TARS
from mmhyperface.utils.errors import UserError, some

from .arrays import (
    Array,
    Bools,
    Floats,
    Ints,
    as_rates,
    check_choice,
    floor_product,
    to_numpy,
)

# Squared distances that insightface tries (arcface_torch/eval/verification.py).
INSIGHTFACE_GRID = np.arange(0, 4, 0.01)


class RocCurve(NamedTuple):
    """Rates when every pair with ``score >= thresholds`` is accepted; [K] each."""

    far: Floats
    tar: Floats
    thresholds: Floats


class TarAtFar(NamedTuple):
    """``tars`` and ``thresholds``, one per FAR; NaN where it is not resolvable."""

    tars: Floats
    thresholds: Floats


class KFoldAccuracy(NamedTuple):
    """Mean and std (ddof 0) over the folds' accuracies; both arrays are [folds]."""

    mean: float
    std: float
    accuracies: Floats
    thresholds: Floats


class GlobalAccuracy(NamedTuple):
    """The best accuracy that one threshold reaches on all pairs."""

    accuracy: float
    threshold: float


class _Counts(NamedTuple):
    """Accepted pairs of each kind at infinity and each distinct score, [K + 1] each."""

    thresholds: Floats
    false_accepts: Ints
    true_accepts: Ints


def roc(scores: Array, same: Array) -> RocCurve:
    """The receiver operating characteristic, exactly.

    Returns:
        The point (0, 0) at threshold infinity, then one point per distinct score
        in descending order: what ``sklearn.metrics.roc_curve`` returns with
        ``drop_intermediate=False``.
    """
    counts = SortedScores(scores, same).counts()
    return RocCurve(
        counts.false_accepts / counts.false_accepts[-1],
        counts.true_accepts / counts.true_accepts[-1],
        counts.thresholds,
    )


def tar_at_far(
    scores: Array,
    same: Array,
    fars: float | Sequence[float] | npt.NDArray[np.floating],
    interpolation: str = 'exact',
) -> TarAtFar:
    """True accept rate at given false accept rates.

    With N different pairs, a FAR below 1/N cannot be resolved: TAR and threshold
    are NaN, whatever the interpolation.

    Args:
        fars: K rates in [0, 1].
        interpolation: ``'exact'``: the threshold is the (⌊FAR·N⌋ + 1)-th largest
            score of a different pair, and a pair is accepted strictly above it, so
            ties with it are rejected and the FAR is never exceeded. ``'linear'``:
            on the straight line between the two neighbouring points of the ROC, and
            the highest of several with this FAR (OpenSphere, ``interp1d``).
            ``'nearest'``: the ROC's corner with the nearest FAR, which may be above
            the one asked for, and the higher of two that are equally near
            (insightface, ``ijb_11.py``).

    Raises:
        UserError: also for a FAR outside [0, 1] or an unknown interpolation.
    """
    check_choice('interpolation', interpolation, TARS)
    if interpolation == 'exact':
        return SortedScores(scores, same).tar_at_far(fars)
    rates = as_rates(fars, 'false accept rates')
    counts = SortedScores(scores, same).counts()
    tars, thresholds = (_linear if interpolation == 'linear' else _nearest)(
        counts, rates
    )
    unresolvable = floor_product(rates, int(counts.false_accepts[-1])) == 0
    tars[unresolvable] = np.nan
    thresholds[unresolvable] = np.nan
    return TarAtFar(tars, thresholds)


def kfold_accuracy(
    scores: Array,
    same: Array,
    folds: int | Array = 10,
    grid: npt.ArrayLike | None = None,
) -> KFoldAccuracy:
    """Accuracy on each fold with the threshold that is best on the others.

    Args:
        folds: a number: that many consecutive, unshuffled blocks, the first
            P mod folds of them one pair longer (``sklearn``'s ``KFold``); or [P]
            integers: the fold of each pair.
        grid: None tries every threshold there is, exactly (see the module). Or
            ascending squared distances: a pair is accepted when
            d² = 2 − 2·score lies strictly below, and the smallest of equally good
            ones is taken; :data:`INSIGHTFACE_GRID` is insightface's. The scores
            must be cosines then.

    Returns:
        mean, std, the folds' accuracies, and their thresholds as scores.

    Raises:
        UserError: also when the training pairs of a fold are all of one kind.
    """
    scores, same = _pairs(scores, same)
    fold_of = check_folds(folds, same)
    count = int(fold_of.max()) + 1
    if grid is None:
        accuracies, thresholds = _kfold_exact(scores, same, fold_of, count)
    else:
        accuracies, thresholds = _kfold_grid(scores, same, fold_of, count, grid)
    return KFoldAccuracy(
        float(accuracies.mean()), float(accuracies.std()), accuracies, thresholds
    )


def weighted_fold_accuracy(
    scores: Floats, same: Bools, fold_of: Ints, weights: Ints
) -> float:
    """Mean accuracy of :func:`kfold_accuracy` where pairs count several times.

    Args:
        fold_of: [P], numbered from 0.
        weights: [P]; a fold in which nothing counts is left out.
    """
    count = int(fold_of.max()) + 1
    accuracies, _ = _kfold_exact(scores, same, fold_of, count, weights)
    return float(np.nanmean(accuracies))


def stratified_folds(same: Array, folds: int = 10, seed: int = 0) -> Ints:
    """Fold of each pair, [P], with the same share of each kind in every fold.

    The pairs of each kind are shuffled with the seed and dealt in turn, so the
    sizes of two folds differ by at most one, for each kind and in total.

    Raises:
        UserError: when a kind has fewer pairs than there are folds.
    """
    labels = _labels(same)
    fewest = min(np.count_nonzero(labels), np.count_nonzero(~labels))
    if not 2 <= folds <= fewest:
        raise UserError(
            f'{folds} stratified folds need at least 2 folds and at least as many '
            f'pairs of each kind; the rarer kind has {fewest}'
        )
    generator = np.random.default_rng(seed)
    dealt = np.concatenate(
        [generator.permutation(np.flatnonzero(labels == kind)) for kind in (1, 0)]
    )
    fold_of = np.empty(len(labels), np.int64)
    fold_of[dealt] = np.arange(len(labels)) % folds
    return fold_of


def global_accuracy(scores: Array, same: Array) -> GlobalAccuracy:
    """Accuracy with the one threshold that is best on all pairs.

    OpenSphere's ACC; optimistic, for the threshold has seen the pairs it judges.
    """
    counts = SortedScores(scores, same).counts()
    same_pairs, different_pairs = counts.true_accepts[-1], counts.false_accepts[-1]
    correct = counts.true_accepts + different_pairs - counts.false_accepts
    best = int(np.argmax(correct))
    return GlobalAccuracy(
        float(correct[best] / (same_pairs + different_pairs)),
        float(counts.thresholds[best]),
    )


def equal_error_rate(scores: Array, same: Array) -> float:
    """The rate where FAR and FRR = 1 − TAR cross.

    On the straight line between the two neighbouring points of the ROC where no
    point of it has FAR = FRR.
    """
    return SortedScores(scores, same).equal_error_rate()


def auc(scores: Array, same: Array) -> float:
    """Probability that a same pair outscores a different one, ties counting half."""
    return SortedScores(scores, same).auc()


def d_prime(scores: Array, same: Array) -> float:
    """The decidability index: how far apart the scores of both kinds of pairs lie.

    The difference of their means over the root mean square of their standard deviations
    (Daugman, "High confidence visual recognition of persons by a test of statistical
    independence", IEEE TPAMI 15(11), 1993); a plain number, negative if different pairs
    have the higher scores, NaN if no kind has any spread.
    """
    return SortedScores(scores, same).d_prime()


class SortedScores:
    """Scores sorted once, for all rates of many millions of pairs.

    Each method gives what the function of its name gives.

    Attributes:
        positives, negatives: the pairs of each kind.
    """

    def __init__(self, scores: Array, same: Array) -> None:
        values, labels = _pairs(scores, same)
        self.positives = _Sorted(np.sort(values[labels]))
        self.negatives = _Sorted(np.sort(values[~labels]))

    @classmethod
    def weighted(
        cls,
        positives: Floats,
        positive_weights: Ints,
        negatives: Floats,
        negative_weights: Ints,
        left_out: int = 0,
    ) -> 'SortedScores':
        """Of ascending scores, pair i of which counts so many times.

        ``left_out`` is the weight of lower negatives that are not among these. Then
        only :meth:`tar_at_far` and :meth:`staircase` work, and give NaN for a FAR that
        would need them.
        """
        scores = cls.__new__(cls)
        scores.positives = _Sorted(positives, positive_weights)
        scores.negatives = _Sorted(negatives, negative_weights, left_out)
        return scores

    def tar_at_far(
        self, fars: float | Sequence[float] | npt.NDArray[np.floating]
    ) -> TarAtFar:
        """Exact; the other interpolations are those of :func:`tar_at_far`."""
        rates = as_rates(fars, 'false accept rates')
        tars, thresholds = self._at(rates)
        unresolvable = floor_product(rates, self.negatives.total) == 0
        tars[unresolvable] = np.nan
        thresholds[unresolvable] = np.nan
        return TarAtFar(tars, thresholds)

    def staircase(self, fars: npt.ArrayLike) -> Floats:
        """The best TAR [K] at a FAR of at most each of these [K]: the exact ROC.

        NaN where negatives that were left out would be needed.
        """
        return self._at(np.asarray(fars, np.float64)).tars

    def _at(self, rates: Floats) -> TarAtFar:
        """The lowest thresholds that do not exceed these FARs."""
        allowed = floor_product(rates, self.negatives.total)
        thresholds = self.negatives.thresholds(allowed)
        tars = self.positives.above(thresholds) / self.positives.total
        return TarAtFar(np.where(np.isnan(thresholds), np.nan, tars), thresholds)

    def counts(self) -> _Counts:
        """All points of the ROC, from accepting nothing to accepting everything."""
        scores = np.concatenate([self.positives.scores, self.negatives.scores])
        thresholds = np.append(np.inf, np.unique(scores)[::-1])
        return _Counts(
            thresholds,
            self.negatives.from_(thresholds),
            self.positives.from_(thresholds),
        )

    def auc(self) -> float:
        # Twice the area in integers, so that nothing is rounded before the division.
        above = self.negatives.above(self.positives.scores)
        not_below = self.negatives.from_(self.positives.scores)
        doubled = 2 * self.negatives.total - above - not_below
        area = int(doubled @ self.positives.weights())
        return area / (2 * self.negatives.total * self.positives.total)

    def d_prime(self) -> float:
        mean, variance = self.positives.moments()
        other_mean, other_variance = self.negatives.moments()
        spread = math.sqrt((variance + other_variance) / 2)
        return (mean - other_mean) / spread if spread else math.nan

    def equal_error_rate(self) -> float:
        crossing = self._crossing()
        far, frr = self._errors(crossing)
        # The point of the ROC before the errors cross; there is one, since nothing is
        # accepted above all scores.
        before = min(self.positives.next(crossing), self.negatives.next(crossing))
        far_before, frr_before = self._errors(before)
        excess, excess_before = far - frr, far_before - frr_before
        weight = -excess_before / (excess - excess_before)
        return float(far_before + weight * (far - far_before))

    def _errors(self, threshold: float) -> tuple[float, float]:
        """FAR and FRR of accepting ``score >= threshold``."""
        return (
            float(self.negatives.from_(threshold) / self.negatives.total),
            float(1 - self.positives.from_(threshold) / self.positives.total),
        )

    def _crossing(self) -> float:
        """The highest score at which FAR >= FRR."""

        def too_high(threshold: float) -> bool:
            far, frr = self._errors(threshold)
            return far - frr < 0

        highest = -np.inf
        for scores in (self.negatives.scores, self.positives.scores):
            place = bisect.bisect_left(scores, True, key=too_high)  # type: ignore[call-overload]
            if place:
                highest = max(highest, float(scores[place - 1]))
        return highest


class _Sorted:
    """Ascending scores, and how many there are above any threshold.

    Args:
        scores: [N].
        weights: [N], how many times each counts; None: once.
        left_out: the weight of lower scores that are not among these.

    Attributes:
        total: of the weights.
    """

    def __init__(
        self, scores: Floats, weights: Ints | None = None, left_out: int = 0
    ) -> None:
        self.scores = scores
        self._before: Ints | None = None
        self.total = len(scores)
        if weights is not None:
            self._before = np.empty(len(scores) + 1, np.int64)
            self._before[0] = left_out
            np.cumsum(weights, out=self._before[1:])
            self._before[1:] += left_out
            self.total = int(self._before[-1])

    def weights(self) -> Ints:
        if self._before is None:
            return np.ones(len(self.scores), np.int64)
        return np.diff(self._before)

    def moments(self) -> tuple[float, float]:
        """Mean and variance, in float64."""
        if self.scores[0] == self.scores[-1]:
            return float(self.scores[0]), 0.0
        if self._before is None:
            mean = self.scores.mean(dtype=np.float64)
            return float(mean), float(self.scores.var(dtype=np.float64))
        weights = np.diff(self._before)
        mean = np.average(self.scores, weights=weights)
        variance = np.average((self.scores - mean) ** 2, weights=weights)
        return float(mean), float(variance)

    def above(self, thresholds: npt.ArrayLike) -> Ints:
        """How many scores are > each threshold."""
        return self._behind(np.searchsorted(self.scores, thresholds, 'right'))

    def from_(self, thresholds: npt.ArrayLike) -> Ints:
        """How many scores are >= each threshold."""
        return self._behind(np.searchsorted(self.scores, thresholds, 'left'))

    def thresholds(self, allowed: Ints) -> Floats:
        """The lowest thresholds that at most so many scores are above.

        The (n + 1)-th highest score, minus infinity where all are allowed, or NaN where
        it was left out.
        """
        thresholds = np.full(len(allowed), -np.inf)
        inside = allowed < self.total
        rejected = self.total - allowed[inside]
        if self._before is None:
            places = rejected - 1
        else:
            places = np.searchsorted(self._before, rejected, 'left') - 1
        thresholds[inside] = np.where(places < 0, np.nan, self.scores[places])
        return thresholds

    def next(self, threshold: float) -> float:
        """The lowest score above, or infinity."""
        place = np.searchsorted(self.scores, threshold, 'right')
        return float(self.scores[place]) if place < len(self.scores) else np.inf

    def _behind(self, places: Ints) -> Ints:
        passed = places if self._before is None else self._before[places]
        return self.total - passed


def _labels(same: Array) -> Bools:
    labels = to_numpy(same)
    if labels.ndim != 1:
        raise UserError(f'same must have one dimension, not the shape {labels.shape}')
    if labels.dtype != np.bool_ and not np.isin(labels, (0, 1)).all():
        raise UserError('same must hold booleans, or 0 and 1')
    return labels.astype(np.bool_)


def _pairs(scores: Array, same: Array) -> tuple[Floats, Bools]:
    values, labels = to_numpy(scores), _labels(same)
    if values.ndim != 1:
        raise UserError(
            f'scores must have one dimension, their shape is {values.shape}'
        )
    if len(values) != len(labels):
        raise UserError(f'{len(values)} scores but {len(labels)} labels of pairs')
    if not len(values):
        raise UserError('there are no pairs')
    if values.dtype not in (np.float32, np.float64):
        if values.dtype.kind not in 'iuf':
            raise UserError(f'scores must be real numbers, not {values.dtype}')
        values = values.astype(np.float64)
    bad = np.flatnonzero(~np.isfinite(values))
    if len(bad):
        raise UserError(f'scores are NaN or infinite at pairs {some(bad)}')
    if labels.all() or not labels.any():
        kind = 'same' if labels[0] else 'different'
        raise UserError(f'all {len(labels)} pairs are {kind!r}; both kinds are needed')
    if values.min() == values.max():
        raise UserError(f'all {len(values)} scores equal {values[0]}: no pair differs')
    return values, labels


def _linear(counts: _Counts, rates: Floats) -> tuple[Floats, Floats]:
    far = counts.false_accepts / counts.false_accepts[-1]
    tar = counts.true_accepts / counts.true_accepts[-1]
    # Infinity is above every score; the highest score says as much.
    thresholds = np.minimum(counts.thresholds, counts.thresholds[1])
    return np.interp(rates, far, tar), np.interp(rates, far, thresholds)


def _nearest(counts: _Counts, rates: Floats) -> tuple[Floats, Floats]:
    # The corners are all that sklearn's roc_curve keeps, and all that the peer sees.
    turns = np.diff(counts.false_accepts, 2) | np.diff(counts.true_accepts, 2)
    corners = np.flatnonzero(np.concatenate([[1], turns, [1]]))[::-1]
    far = (counts.false_accepts / counts.false_accepts[-1])[corners]
    nearest = corners[[np.argmin(np.abs(far - rate)) for rate in rates]]
    tar = counts.true_accepts[nearest] / counts.true_accepts[-1]
    return tar, counts.thresholds[nearest]


def check_folds(folds: int | Array, same: Bools) -> Ints:
    """The fold of each pair, [P], numbered from 0.

    Raises:
        UserError: see :func:`kfold_accuracy`.
    """
    fold_of = _fold_ids(folds, len(same))
    held_same, held = np.bincount(fold_of, same), np.bincount(fold_of)
    train_same, train = held_same.sum() - held_same, len(same) - held
    bad = np.flatnonzero((train_same == 0) | (train_same == train))
    if len(bad):
        raise UserError(
            f'without fold {bad[0]} all pairs are of one kind, which fits no '
            'threshold; take stratified_folds, or fewer pairs per fold'
        )
    return fold_of


def _fold_ids(folds: int | Array, pairs: int) -> Ints:
    if isinstance(folds, int | np.integer):
        if not 2 <= folds <= pairs:
            raise UserError(f'{pairs} pairs cannot be cut into {folds} folds')
        sizes = np.full(folds, pairs // folds)
        sizes[: pairs % folds] += 1
        return np.repeat(np.arange(folds), sizes)
    given = to_numpy(folds)
    if given.shape != (pairs,) or given.dtype.kind not in 'iu':
        raise UserError(
            f'folds must be a number or [{pairs}] integers, not {given.dtype} of '
            f'shape {given.shape}'
        )
    names, fold_of = np.unique(given, return_inverse=True)
    if len(names) < 2:
        raise UserError('all pairs are in one fold; at least two are needed')
    return fold_of


def _kfold_exact(
    scores: Floats,
    same: Bools,
    fold_of: Ints,
    count: int,
    weights: Ints | None = None,
) -> tuple[Floats, Floats]:
    order = np.argsort(scores)[::-1]
    descending = scores[order]
    # The last pair of each distinct score; infinity rejects all.
    last = np.append(np.flatnonzero(descending[1:] != descending[:-1]), len(scores) - 1)
    candidates = np.append(np.inf, descending[last])
    once = np.ones(len(scores), np.int64) if weights is None else weights
    gain = np.where(same, once, -once)[order]
    fold_in_order = fold_of[order]
    accuracies, thresholds = np.empty(count), np.empty(count)
    for fold in range(count):
        # Correct decisions, but for a constant. A threshold at a held-out score
        # gains as much as the training score above it, which comes first.
        trained = np.cumsum(gain * (fold_in_order != fold), dtype=np.int64)
        best = np.argmax(np.concatenate([[0], trained[last]]))
        thresholds[fold] = candidates[best]
        held = fold_of == fold
        correct = (scores[held] >= thresholds[fold]) == same[held]
        total = once[held].sum()
        accuracies[fold] = once[held] @ correct / total if total else np.nan
    return accuracies, thresholds


def _kfold_grid(
    scores: Floats, same: Bools, fold_of: Ints, count: int, grid: npt.ArrayLike
) -> tuple[Floats, Floats]:
    limits = np.asarray(grid, np.float64)
    if limits.ndim != 1 or not len(limits) or (np.diff(limits) <= 0).any():
        raise UserError('grid must be an ascending list of squared distances')
    if np.abs(scores).max() > 1 + 1e-3:
        raise UserError('a grid of squared distances needs cosines as scores')
    distances = 2 - 2 * scores.astype(np.float64)
    # The first limit that accepts a pair, then the correct decisions at each.
    first = np.searchsorted(limits, distances, side='right')
    cells = first + (len(limits) + 1) * fold_of
    gain = np.where(same, 1.0, -1.0)
    size = count * (len(limits) + 1)
    gains = np.bincount(cells, gain, size).reshape(count, -1)[:, :-1].cumsum(1)
    held_different = np.bincount(fold_of[~same], minlength=count)
    best = np.argmax(gains.sum(0) - gains, axis=1)
    correct = gains[np.arange(count), best] + held_different
    accuracies = correct / np.bincount(fold_of, minlength=count)
    return accuracies, 1 - limits[best] / 2
