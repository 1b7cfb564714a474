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

from collections.abc import Sequence
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt
import torch

from mmhyperface.errors import UserError

Array: TypeAlias = npt.ArrayLike | torch.Tensor
Floats: TypeAlias = npt.NDArray[np.floating]
Ints: TypeAlias = npt.NDArray[np.int64]
Bools: TypeAlias = npt.NDArray[np.bool_]

# Squared distances that insightface tries (arcface_torch/eval/verification.py).
INSIGHTFACE_GRID = np.arange(0, 4, 0.01)

INTERPOLATIONS = ('exact', 'linear', 'nearest')

# Rows of features in one block of pair scores: larger blocks leave the cache.
BLOCK_VALUES = 2**20


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
    """Accepted pairs of each kind at each distinct score, from none to all.

    ``order`` [P] sorts the scores downwards and ``last`` [K] is the position in
    it of the last pair of each distinct score. The other three are [K + 1]: they
    begin with the threshold infinity, which accepts nothing.
    """

    order: Ints
    last: Ints
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
    counts = _count(*_pairs(scores, same))
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
    if interpolation not in INTERPOLATIONS:
        raise UserError(
            f'interpolation is {interpolation!r}; it can be {INTERPOLATIONS}'
        )
    rates = _rates(fars)
    scores, same = _pairs(scores, same)
    negatives = scores[~same]
    accepted = _allowed(rates, len(negatives))
    if interpolation == 'exact':
        tars, thresholds = _strictly_above(scores[same], negatives, accepted)
    else:
        at = _linear if interpolation == 'linear' else _nearest
        tars, thresholds = at(_count(scores, same), rates)
    unresolvable = accepted == 0
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
    fold_of, count = _fold_ids(folds, len(scores))
    _check_training_folds(same, fold_of, count)
    if grid is None:
        accuracies, thresholds = _kfold_exact(scores, same, fold_of, count)
    else:
        accuracies, thresholds = _kfold_grid(scores, same, fold_of, count, grid)
    return KFoldAccuracy(
        float(accuracies.mean()), float(accuracies.std()), accuracies, thresholds
    )


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
    counts = _count(*_pairs(scores, same))
    correct = (
        counts.true_accepts + counts.false_accepts[-1] - counts.false_accepts
    ) / len(counts.order)
    best = int(np.argmax(correct))
    return GlobalAccuracy(float(correct[best]), float(counts.thresholds[best]))


def equal_error_rate(scores: Array, same: Array) -> float:
    """The rate where FAR and FRR = 1 − TAR cross.

    On the straight line between the two neighbouring points of the ROC where no
    point of it has FAR = FRR.
    """
    far, tar, _ = roc(scores, same)
    excess = far - (1 - tar)
    after = int(np.argmax(excess >= 0))
    before = after - 1  # exists: the curve begins with an excess of -1
    weight = -excess[before] / (excess[after] - excess[before])
    return float(far[before] + weight * (far[after] - far[before]))


def auc(scores: Array, same: Array) -> float:
    """Probability that a same pair outscores a different one, ties counting half."""
    counts = _count(*_pairs(scores, same))
    # Twice the area in integers, so that nothing is rounded before the division.
    doubled = np.diff(counts.false_accepts) @ (
        counts.true_accepts[1:] + counts.true_accepts[:-1]
    )
    total = 2 * int(counts.false_accepts[-1]) * int(counts.true_accepts[-1])
    return int(doubled) / total


def score_pairs(features: Array, index_a: Array, index_b: Array) -> Floats:
    """Cosine of the rows ``index_a`` [P] and ``index_b`` [P] of features [T, D].

    In float64 and in blocks of rows, so the memory is that of the features and a
    score does not depend on its neighbours.

    Raises:
        UserError: for an index outside the features, or a row in use that is zero
            or not finite.
    """
    rows = _to_numpy(features)
    first, second = _row_index(index_a, len(rows)), _row_index(index_b, len(rows))
    if len(first) != len(second):
        raise UserError(f'{len(first)} first and {len(second)} second rows of pairs')
    used = np.union1d(first, second)
    bad = used[np.isin(used, unusable_rows(rows))]
    if len(bad):
        raise UserError(f'features are zero or not finite in rows {some(bad)}')
    scores = np.empty(len(first))
    for part in _blocks(len(first), rows.shape[1]):
        a = rows[first[part]].astype(np.float64)
        b = rows[second[part]].astype(np.float64)
        norms = np.sqrt(_row_dots(a, a) * _row_dots(b, b))
        scores[part] = _row_dots(a, b) / norms
    return scores


def unusable_rows(features: Array) -> Ints:
    """Numbers of the rows of features [T, D] that have no direction.

    A row of zeros, or one with NaN or an infinity, has a cosine with nothing.
    """
    rows = _to_numpy(features)
    if rows.ndim != 2:
        raise UserError(f'features must be [T, D], their shape is {rows.shape}')
    squares = np.empty(len(rows))
    for part in _blocks(*rows.shape):
        block = rows[part].astype(np.float64)
        squares[part] = _row_dots(block, block)
    return np.flatnonzero(~(np.isfinite(squares) & (squares > 0)))


def some(numbers: npt.NDArray[np.integer], most: int = 10) -> str:
    """The first few numbers, for a message: ``'3, 7, … (21 in all)'``."""
    listed = ', '.join(str(number) for number in numbers[:most])
    return f'{listed}, … ({len(numbers)} in all)' if len(numbers) > most else listed


def _to_numpy(values: Array) -> npt.NDArray[Any]:
    if isinstance(values, torch.Tensor):
        values = values.detach()
        # numpy has no bfloat16; both half types are exact in float32.
        if values.dtype in (torch.bfloat16, torch.float16):
            values = values.float()
        return values.cpu().numpy()
    array = np.asarray(values)
    return array.astype(np.float32) if array.dtype == np.float16 else array


def _labels(same: Array) -> Bools:
    labels = _to_numpy(same)
    if labels.ndim != 1:
        raise UserError(f'same must have one dimension, not the shape {labels.shape}')
    if labels.dtype != np.bool_ and not np.isin(labels, (0, 1)).all():
        raise UserError('same must hold booleans, or 0 and 1')
    return labels.astype(np.bool_)


def _pairs(scores: Array, same: Array) -> tuple[Floats, Bools]:
    values, labels = _to_numpy(scores), _labels(same)
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


def _count(scores: Floats, same: Bools) -> _Counts:
    order = np.argsort(scores)[::-1]
    descending = scores[order]
    last = np.append(np.flatnonzero(descending[1:] != descending[:-1]), len(scores) - 1)
    true_accepts = np.cumsum(same[order], dtype=np.int64)[last]
    return _Counts(
        order,
        last,
        np.concatenate([[np.inf], descending[last]]),
        np.concatenate([[0], last + 1 - true_accepts]),
        np.concatenate([[0], true_accepts]),
    )


def _rates(fars: float | Sequence[float] | npt.NDArray[np.floating]) -> Floats:
    # Through their decimals: 1e-4 in float32 is below 1/10000 once widened.
    given = np.atleast_1d(_to_numpy(fars))
    rates = np.array([float(str(rate)) for rate in given], np.float64)
    if not ((rates >= 0) & (rates <= 1)).all():
        raise UserError(f'false accept rates must lie in [0, 1]: {rates.tolist()}')
    return rates


def _allowed(rates: Floats, negatives: int) -> Ints:
    """⌊FAR·N⌋, where a product that rounding left below an integer is that one."""
    product = rates * negatives
    nearest = np.rint(product)
    close = np.abs(product - nearest) <= 4 * np.finfo(np.float64).eps * nearest
    return np.where(close, nearest, np.floor(product)).astype(np.int64)


def _strictly_above(
    positives: Floats, negatives: Floats, accepted: Ints
) -> tuple[Floats, Floats]:
    # One more than all of them: FAR = 1 accepts everything.
    thresholds = np.full(len(accepted), -np.inf)
    inside = accepted < len(negatives)
    ranks = len(negatives) - 1 - accepted[inside]
    if len(ranks):
        thresholds[inside] = np.partition(negatives, np.unique(ranks))[ranks]
    tars = np.array(
        [np.count_nonzero(positives > threshold) for threshold in thresholds]
    )
    return tars / len(positives), thresholds


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


def _fold_ids(folds: int | Array, pairs: int) -> tuple[Ints, int]:
    if isinstance(folds, int | np.integer):
        if not 2 <= folds <= pairs:
            raise UserError(f'{pairs} pairs cannot be cut into {folds} folds')
        sizes = np.full(folds, pairs // folds)
        sizes[: pairs % folds] += 1
        return np.repeat(np.arange(folds), sizes), int(folds)
    given = _to_numpy(folds)
    if given.shape != (pairs,) or given.dtype.kind not in 'iu':
        raise UserError(
            f'folds must be a number or [{pairs}] integers, not {given.dtype} of '
            f'shape {given.shape}'
        )
    names, fold_of = np.unique(given, return_inverse=True)
    if len(names) < 2:
        raise UserError('all pairs are in one fold; at least two are needed')
    return fold_of, len(names)


def _check_training_folds(same: Bools, fold_of: Ints, count: int) -> None:
    held_same = np.bincount(fold_of[same], minlength=count)
    held = np.bincount(fold_of, minlength=count)
    train_same, train = held_same.sum() - held_same, len(same) - held
    bad = np.flatnonzero((train_same == 0) | (train_same == train))
    if len(bad):
        raise UserError(
            f'without fold {bad[0]} all pairs are of one kind, which fits no '
            'threshold; take stratified_folds, or fewer pairs per fold'
        )


def _kfold_exact(
    scores: Floats, same: Bools, fold_of: Ints, count: int
) -> tuple[Floats, Floats]:
    counts = _count(scores, same)
    gain = np.where(same, 1, -1).astype(np.int8)[counts.order]
    fold_in_order = fold_of[counts.order]
    accuracies, thresholds = np.empty(count), np.empty(count)
    for fold in range(count):
        # Correct decisions, but for a constant. A threshold at a held-out score
        # gains as much as the training score above it, which comes first.
        trained = np.cumsum(gain * (fold_in_order != fold), dtype=np.int64)
        best = np.argmax(np.concatenate([[0], trained[counts.last]]))
        thresholds[fold] = counts.thresholds[best]
        held = fold_of == fold
        accuracies[fold] = np.mean((scores[held] >= thresholds[fold]) == same[held])
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


def _row_index(index: Array, rows: int) -> Ints:
    given = _to_numpy(index)
    if given.ndim != 1 or given.dtype.kind not in 'iu':
        raise UserError(f'row numbers must be [P] integers, not {given.dtype}')
    if len(given) and not 0 <= given.min() <= given.max() < rows:
        raise UserError(
            f'row numbers go from {given.min()} to {given.max()}, but there are '
            f'{rows} rows'
        )
    return given


def _blocks(count: int, width: int) -> list[slice]:
    step = min(max(BLOCK_VALUES // max(width, 1), 1), 4096)
    return [slice(start, start + step) for start in range(0, count, step)]


def _row_dots(a: Floats, b: Floats) -> Floats:
    return np.einsum('ij,ij->i', a, b)
