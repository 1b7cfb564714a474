"""The functions against plain loops in float64 that try every threshold."""

import time
from itertools import pairwise

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score, roc_curve
from sklearn.model_selection import KFold

from mmhyperface.evaluation import functional as F
from mmhyperface.utils.errors import UserError

FARS = (1e-4, 5e-4, 1e-3, 5e-3, 1e-2, 0.1, 0.29, 0.5, 1.0)


def _random(pairs, share=0.5, shift=1.0, decimals=None, seed=0):
    generator = np.random.default_rng(seed)
    same = generator.random(pairs) < share
    same[:4] = True, False, True, False
    scores = np.tanh(0.4 * (generator.standard_normal(pairs) + shift * same))
    return (scores if decimals is None else scores.round(decimals)), same


CASES = {
    'random': _random(203),
    'tied': _random(211, decimals=1),
    'two values': (np.tile([0.25, 0.5, 0.5], 20), np.tile([0, 1, 1, 0, 1], 12) == 1),
    'separable': _random(120, shift=50.0),
    'reversed': _random(120, shift=-2.0),
    'mostly same': _random(151, share=0.95),
    'mostly different': _random(151, share=0.05),
    'four pairs': (np.array([0.9, 0.1, 0.8, 0.2]), np.array([1, 0, 1, 0]) == 1),
}
every_case = pytest.mark.parametrize(
    ('scores', 'same'), CASES.values(), ids=CASES.keys()
)


def _candidates(scores):
    return [*sorted(set(scores.tolist())), float('inf')]


def _accuracy(scores, same, threshold):
    right = [(s >= threshold) == k for s, k in zip(scores, same, strict=True)]
    return sum(right) / len(right)


def _best_threshold(scores, same):
    actual = [(_accuracy(scores, same, t), t) for t in _candidates(scores)]
    return max(actual)[1]  # the highest of equals


def _loop_tar(scores, same, far):
    negatives = sorted(scores[~same].tolist(), reverse=True)
    allowed = int(far * 10**6 + 0.5) * len(negatives) // 10**6
    if allowed == 0:
        return float('nan'), float('nan')
    threshold = negatives[allowed] if allowed < len(negatives) else float('-inf')
    positives = scores[same].tolist()
    return sum(score > threshold for score in positives) / len(positives), threshold


@every_case
def test_roc_loop(scores, same):
    far, tar, thresholds = F.roc(scores, same)
    descending = _candidates(scores)[::-1]
    assert thresholds.tolist() == descending
    for i, threshold in enumerate(descending):
        accepted = scores >= threshold
        assert far[i] == (accepted & ~same).sum() / (~same).sum()
        assert tar[i] == (accepted & same).sum() / same.sum()


@every_case
def test_roc_and_auc_sklearn(scores, same):
    expected = roc_curve(same, scores, drop_intermediate=False)
    for ours, theirs in zip(F.roc(scores, same), expected, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert F.auc(scores, same) == pytest.approx(roc_auc_score(same, scores), abs=1e-14)


@every_case
def test_auc_counts_pairs_of_pairs(scores, same):
    wins = [
        1.0 if p > n else 0.5 if p == n else 0.0
        for p in scores[same]
        for n in scores[~same]
    ]
    assert F.auc(scores, same) == pytest.approx(sum(wins) / len(wins), abs=1e-14)


@every_case
def test_tar_at_far_loop(scores, same):
    tars, thresholds = F.tar_at_far(scores, same, FARS)
    expected = [_loop_tar(scores, same, far) for far in FARS]
    np.testing.assert_array_equal(tars, [tar for tar, _ in expected])
    np.testing.assert_array_equal(thresholds, [threshold for _, threshold in expected])


def test_tar_at_far_ties_are_rejected():
    scores = np.array([0.9, 0.5, 0.5, 0.4, 0.5, 0.6])
    same = np.array([0, 0, 0, 0, 1, 1]) == 1
    tars, thresholds = F.tar_at_far(scores, same, [0.25, 0.5, 0.2])
    np.testing.assert_array_equal(tars, [0.5, 0.5, np.nan])
    np.testing.assert_array_equal(thresholds, [0.5, 0.5, np.nan])


@pytest.mark.parametrize('interpolation', ['exact', 'linear', 'nearest'])
def test_tar_at_far_below_resolution(interpolation):
    scores, same = _random(400)
    negatives = int((~same).sum())
    fars = [0.0, 0.999 / negatives, 1 / negatives, 1.0]
    result = F.tar_at_far(scores, same, fars, interpolation)
    assert np.isnan(result.tars).tolist() == [True, True, False, False]
    assert np.isnan(result.thresholds).tolist() == [True, True, False, False]


@pytest.mark.parametrize('negatives', [3, 7, 10, 49, 100, 3000, 30000])
def test_tar_at_far_of_whole_counts(negatives):
    """FAR = k/N allows k, however k/N or the decimal was rounded."""
    scores = np.append(np.arange(negatives) / negatives, 2.0)
    same = np.append(np.zeros(negatives, bool), True)
    for k in {1, 2, negatives // 3, negatives - 1}:
        threshold = F.tar_at_far(scores, same, k / negatives).thresholds[0]
        assert (scores[~same] > threshold).sum() == k


def test_tar_at_far_in_float32():
    scores, same = np.arange(10001) / 10001, np.arange(10001) == 10000
    fars = torch.tensor([1e-4, 1e-3])
    thresholds = F.tar_at_far(scores, same, fars).thresholds
    assert [(scores[~same] > t).sum() for t in thresholds] == [1, 10]


@every_case
def test_linear_is_interp1d(scores, same):
    from scipy.interpolate import interp1d

    fars = [far for far in FARS if far >= 1 / (~same).sum()]
    far, tar, _ = roc_curve(same, scores)
    expected = interp1d(far, tar)(fars)
    tars, thresholds = F.tar_at_far(scores, same, fars, 'linear')
    np.testing.assert_allclose(tars, expected, atol=1e-14)
    assert np.isfinite(thresholds).all()


@every_case
def test_nearest_is_insightface(scores, same):
    fars = [far for far in FARS if far >= 1 / (~same).sum()]
    far, tar, _ = roc_curve(same, scores)
    far, tar = np.flipud(far), np.flipud(tar)
    expected = [
        tar[min(zip(abs(far - x), range(len(far)), strict=True))[1]] for x in fars
    ]
    np.testing.assert_array_equal(
        F.tar_at_far(scores, same, fars, 'nearest').tars, expected
    )


@every_case
@pytest.mark.parametrize('folds', [2, 3, 10])
def test_kfold_loop(scores, same, folds):
    if len(scores) < folds or len(scores) == 4:
        folds = 2
    result = F.kfold_accuracy(scores, same, folds)
    accuracies, thresholds = [], []
    for train, held in KFold(folds).split(scores):
        thresholds.append(_best_threshold(scores[train], same[train]))
        accuracies.append(_accuracy(scores[held], same[held], thresholds[-1]))
    assert result.accuracies.tolist() == pytest.approx(accuracies, abs=1e-15)
    assert result.thresholds.tolist() == thresholds
    assert result.mean == pytest.approx(np.mean(accuracies))
    assert result.std == pytest.approx(np.std(accuracies, ddof=0))


@every_case
def test_kfold_grid_is_insightface(scores, same):
    """Their loop, with squared distances from the same scores."""
    distances = 2 - 2 * scores
    accuracies, limits = [], []
    for train, held in KFold(2).split(scores):
        actual = [
            np.mean((distances[train] < t) == same[train]) for t in F.INSIGHTFACE_GRID
        ]
        limits.append(F.INSIGHTFACE_GRID[np.argmax(actual)])
        accuracies.append(np.mean((distances[held] < limits[-1]) == same[held]))
    result = F.kfold_accuracy(scores, same, 2, grid=F.INSIGHTFACE_GRID)
    assert result.accuracies.tolist() == pytest.approx(accuracies, abs=1e-15)
    np.testing.assert_allclose(result.thresholds, 1 - np.array(limits) / 2)


def test_kfold_ids_in_any_order():
    scores, same = _random(206)
    blocks = np.repeat([7, -1, 3], [69, 69, 68])
    shuffle = np.random.default_rng(1).permutation(len(scores))
    by_number = F.kfold_accuracy(scores, same, 3)
    by_id = F.kfold_accuracy(scores[shuffle], same[shuffle], blocks[shuffle])
    assert by_id.accuracies.tolist() == by_number.accuracies[[1, 2, 0]].tolist()


def test_kfold_accepts_at_the_threshold_and_takes_the_highest():
    scores = np.array([0.1, 0.6, 0.9, 0.1, 0.6, 0.9])
    same = np.array([0, 1, 1, 0, 1, 1]) == 1
    result = F.kfold_accuracy(scores, same, 2)
    assert result.thresholds.tolist() == [0.6, 0.6]
    assert result.accuracies.tolist() == [1, 1]


def test_kfold_may_reject_everything():
    scores = np.array([0.2, 0.1, 0.9, 0.2, 0.1, 0.9])
    same = np.array([0, 1, 0, 0, 1, 0]) == 1
    result = F.kfold_accuracy(scores, same, 2)
    assert result.thresholds.tolist() == [np.inf, np.inf]
    assert result.mean == pytest.approx(2 / 3)


@every_case
def test_global_accuracy_loop(scores, same):
    accuracy, threshold = F.global_accuracy(scores, same)
    assert threshold == _best_threshold(scores, same)
    assert accuracy == pytest.approx(_accuracy(scores, same, threshold), abs=1e-15)


@every_case
def test_equal_error_rate_loop(scores, same):
    points = []
    for threshold in _candidates(scores)[::-1]:
        accepted = scores >= threshold
        points.append((accepted[~same].mean(), 1 - accepted[same].mean()))
    for (far0, frr0), (far1, frr1) in pairwise(points):
        if far1 >= frr1:
            weight = (frr0 - far0) / ((frr0 - far0) + (far1 - frr1))
            expected = far0 + weight * (far1 - far0)
            break
    assert F.equal_error_rate(scores, same) == pytest.approx(expected, abs=1e-14)


def test_two_pairs():
    scores, same = [0.9, 0.2], [True, False]
    assert F.auc(scores, same) == 1
    assert F.equal_error_rate(scores, same) == 0
    assert F.global_accuracy(scores, same) == (1, 0.9)
    assert F.tar_at_far(scores, same, 0.5).tars.tolist() == pytest.approx(
        [np.nan], nan_ok=True
    )
    assert F.auc([0.2, 0.9], same) == 0
    assert F.equal_error_rate([0.2, 0.9], same) == 1


@pytest.mark.parametrize(
    'dtype', [torch.float16, torch.bfloat16, torch.float32, torch.float64]
)
def test_types(dtype):
    scores, same = _random(300)
    tensor, labels = torch.from_numpy(scores).to(dtype), torch.from_numpy(same)
    exact = tensor.double().numpy()
    assert F.auc(tensor, labels) == F.auc(exact, same)
    assert F.equal_error_rate(tensor, labels.int()) == F.equal_error_rate(exact, same)
    assert F.kfold_accuracy(tensor, labels).mean == F.kfold_accuracy(exact, same).mean
    np.testing.assert_array_equal(
        F.tar_at_far(tensor, labels, FARS).tars, F.tar_at_far(exact, same, FARS).tars
    )
    if dtype != torch.bfloat16:
        assert F.auc(tensor.numpy(), same) == F.auc(exact, same)


FUNCTIONS = {
    'roc': F.roc,
    'auc': F.auc,
    'eer': F.equal_error_rate,
    'global': F.global_accuracy,
    'kfold': lambda scores, same: F.kfold_accuracy(scores, same, 2),
    'tar': lambda scores, same: F.tar_at_far(scores, same, 0.1),
}


@pytest.mark.parametrize('function', FUNCTIONS.values(), ids=FUNCTIONS.keys())
@pytest.mark.parametrize(
    ('scores', 'same', 'message'),
    [
        ([0.1, np.nan, 0.3], [1, 0, 1], 'NaN or infinite at pairs 1'),
        ([0.1, np.inf, 0.3], [1, 0, 1], 'NaN or infinite'),
        ([0.5, 0.5, 0.5], [1, 0, 1], 'all 3 scores equal 0.5'),
        ([0.1, 0.2], [1, 1], "all 2 pairs are 'same'"),
        ([0.1, 0.2], [0, 0], "all 2 pairs are 'different'"),
        ([0.1, 0.2], [1, 0, 1], '2 scores but 3 labels'),
        ([], [], 'no pairs'),
        ([0.1, 0.2, 0.3], [1, 0, 2], 'booleans'),
        ([[0.1, 0.2]], [1, 0], 'one dimension'),
        ([0.1, 0.2], [[1, 0]], 'one dimension'),
        (['a', 'b'], [1, 0], 'real numbers'),
    ],
)
def test_bad_input(function, scores, same, message):
    with pytest.raises(UserError, match=message):
        function(scores, same)


def test_bad_arguments():
    scores, same = _random(40)
    with pytest.raises(UserError, match='cannot be cut into 41'):
        F.kfold_accuracy(scores, same, 41)
    with pytest.raises(UserError, match='cannot be cut into 1 '):
        F.kfold_accuracy(scores, same, 1)
    with pytest.raises(UserError, match='all pairs are in one fold'):
        F.kfold_accuracy(scores, same, np.zeros(40, int))
    with pytest.raises(UserError, match=r'\[40\] integers'):
        F.kfold_accuracy(scores, same, np.zeros(39, int))
    with pytest.raises(UserError, match='without fold 0 all pairs are of one kind'):
        F.kfold_accuracy(np.sort(scores), np.arange(40) < 20, 2)
    with pytest.raises(UserError, match='ascending'):
        F.kfold_accuracy(scores, same, grid=[1.0, 0.5])
    with pytest.raises(UserError, match='cosines'):
        F.kfold_accuracy(scores * 3, same, grid=F.INSIGHTFACE_GRID)
    with pytest.raises(UserError, match='interpolation'):
        F.tar_at_far(scores, same, 0.1, 'cubic')
    for far in (-0.1, 1.1, np.nan):
        with pytest.raises(UserError, match='must lie in'):
            F.tar_at_far(scores, same, far)
    for far in ('often', [[0.5]], None):
        with pytest.raises(UserError, match='must be numbers'):
            F.tar_at_far(scores, same, far)
    with pytest.raises(UserError, match='the rarer kind has 2'):
        F.stratified_folds(np.arange(30) < 2, 3)


@pytest.mark.parametrize(('pairs', 'folds'), [(6000, 10), (203, 7), (20, 4)])
def test_stratified_folds(pairs, folds):
    _, same = _random(pairs, share=0.4)
    fold_of = F.stratified_folds(same, folds, seed=3)
    for chosen in (same, ~same, np.ones_like(same)):
        sizes = np.bincount(fold_of[chosen], minlength=folds)
        assert sizes.max() - sizes.min() <= 1
    np.testing.assert_array_equal(fold_of, F.stratified_folds(same, folds, seed=3))
    assert (fold_of != F.stratified_folds(same, folds, seed=4)).any()


def test_score_pairs():
    generator = np.random.default_rng(0)
    features = generator.standard_normal((50, 33)).astype(np.float32)
    a, b = generator.integers(0, 50, (2, 5001))
    scores = F.score_pairs(torch.from_numpy(features), a, b)
    wide = features.astype(np.float64)
    wide /= np.linalg.norm(wide, axis=1, keepdims=True)
    np.testing.assert_allclose(scores, (wide[a] * wide[b]).sum(1), atol=1e-14)
    alone = F.score_pairs(features, a[4990:4991], b[4990:4991])
    assert alone[0] == scores[4990]


def test_score_pairs_bad_input():
    features = np.ones((4, 3))
    features[2] = 0
    assert F.score_pairs(features, [0, 1], [1, 3]) == pytest.approx([1, 1])
    with pytest.raises(UserError, match=r'in rows 2$'):
        F.score_pairs(features, [0, 1], [2, 3])
    with pytest.raises(UserError, match='from 0 to 4, but there are 4 rows'):
        F.score_pairs(features, [0, 4], [1, 3])
    with pytest.raises(UserError, match='index_a 2, index_b 1'):
        F.score_pairs(features, [0, 1], [3])


def test_no_loop_over_thresholds():
    """Eight times as many pairs may not take 64 times as long."""

    def duration(pairs):
        scores, same = _random(pairs)
        start = time.process_time()
        F.kfold_accuracy(scores, same)
        return time.process_time() - start

    fewer, more = (min(duration(x) for _ in range(3)) for x in (10_000, 80_000))
    assert more < 32 * fewer


# ---- very many pairs


def _many(monkeypatch, entries):
    """score_pairs takes products of all rows with all others from five pairs on."""
    module = 'mmhyperface.evaluation.functional.pair_scores'
    monkeypatch.setattr(f'{module}.MANY_PAIRS', 5)
    monkeypatch.setattr(f'{module}.PRODUCT_ENTRIES', entries)


@pytest.mark.parametrize('entries', [1, 30, 10_000])
@pytest.mark.parametrize('dtype', [np.float32, np.float64])
def test_products_of_few_rows_for_many_pairs(monkeypatch, entries, dtype):
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(40, 7)).astype(dtype)
    a, b = rng.choice([3, 5, 8, 39], 173), rng.choice([0, 3, 4, 11, 38], 173)
    expected = F.score_pairs(rows.astype(np.float64), a, b)
    _many(monkeypatch, entries)
    scores = F.score_pairs(rows, a.astype(np.int32), b)
    assert scores.dtype == dtype
    atol = 1e-6 if dtype == np.float32 else 1e-14
    np.testing.assert_allclose(scores, expected, rtol=0, atol=atol)


def test_many_pairs_of_many_rows_go_row_by_row(monkeypatch):
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(60, 7)).astype(np.float32)
    a, b = np.arange(30), np.arange(30, 60)
    expected = F.score_pairs(rows, a, b)
    _many(monkeypatch, 10)
    np.testing.assert_array_equal(F.score_pairs(rows, a, b), expected)


@pytest.mark.parametrize('value', [0.0, np.nan, np.inf])
def test_useless_rows_among_many_pairs(monkeypatch, value):
    rows = np.random.default_rng(0).normal(size=(6, 3))
    rows[4] = value
    _many(monkeypatch, 100)
    pairs = np.zeros(50, int)
    assert np.allclose(F.score_pairs(rows, pairs, pairs), 1)
    with pytest.raises(UserError, match='not finite in rows 4'):
        F.score_pairs(rows, pairs, pairs + 4)


def test_features_of_any_size():
    rng = np.random.default_rng(0)
    rows, a, b = rng.normal(size=(9, 4)), np.arange(8), np.arange(1, 9)
    expected = F.score_pairs(rows, a, b)
    for scale in (1e-100, 1e100):
        np.testing.assert_allclose(F.score_pairs(rows * scale, a, b), expected)


# ---- one sort for all rates


@pytest.mark.parametrize('seed', range(4))
def test_weighted_scores_are_repeated_scores(seed):
    rng = np.random.default_rng(seed)
    positives = np.sort(rng.integers(2, 12, 30)).astype(float)
    negatives = np.sort(rng.integers(0, 9, 50)).astype(float)
    of_same, of_different = rng.integers(0, 4, 30), rng.integers(0, 4, 50)
    weighted = F.SortedScores.weighted(positives, of_same, negatives, of_different)
    repeated = np.repeat(positives, of_same), np.repeat(negatives, of_different)
    same = np.repeat([True, False], [len(x) for x in repeated])
    scores = np.concatenate(repeated)
    fars = [0.001, 0.02, 0.1, 0.5, 1.0]
    expected = F.tar_at_far(scores, same, fars)
    actual = weighted.tar_at_far(fars)
    np.testing.assert_array_equal(actual.tars, expected.tars)
    np.testing.assert_array_equal(actual.thresholds, expected.thresholds)
    assert weighted.auc() == F.auc(scores, same)
    assert weighted.equal_error_rate() == F.equal_error_rate(scores, same)


def test_staircase_is_the_exact_curve():
    rng = np.random.default_rng(0)
    scores, same = np.round(rng.normal(size=300), 1), rng.random(300) < 0.3
    far, tar, _ = F.roc(scores, same)
    asked = np.concatenate([far, np.linspace(0, 1, 50)])
    expected = [tar[far <= x].max() for x in asked]
    np.testing.assert_array_equal(
        F.SortedScores(scores, same).staircase(asked), expected
    )
