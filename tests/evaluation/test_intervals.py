"""The bootstrap over identities, against test sets that were copied out in full."""

import math

import numpy as np
import pytest

from mmhyperface.evaluation import functional as F
from mmhyperface.evaluation.intervals import (
    confidence_intervals,
    paired_differences,
    unlike,
)
from mmhyperface.evaluation.protocols import VerificationResult, verification
from mmhyperface.utils.errors import UserError

PEOPLE, PAIRS = 12, 400


def _verification(seed=0, shift=0.0, noise=1.0):
    """All pairs of the same people, whatever the seed of the scores."""
    rng = np.random.default_rng(7)
    a, b = rng.integers(0, PEOPLE, (2, PAIRS))
    b[::2] = a[::2]
    same, folds = a == b, rng.permutation(np.arange(PAIRS) % 4)
    rng = np.random.default_rng(seed)
    scores = np.round(same * (1 + shift) + noise * rng.normal(size=PAIRS), 1)
    return VerificationResult(
        convention='',
        scores=scores,
        same=same,
        accuracy=F.kfold_accuracy(scores, same, folds).mean,
        eer=F.equal_error_rate(scores, same),
        auc=F.auc(scores, same),
        fars=np.array([0.001, 0.05, 0.3]),
        tars=F.tar_at_far(scores, same, [0.001, 0.05, 0.3]).tars,
        thresholds=np.zeros(3),
        folds=folds,
        identity_a=a,
        identity_b=b,
    )


@pytest.mark.parametrize('seed', range(5))
def test_weights_are_those_of_pairs_that_are_there_several_times(seed):
    result = _verification()
    size, figures = result.resampler()
    assert size == PEOPLE
    weights = np.random.default_rng(seed).integers(0, 4, PEOPLE)
    actual = figures(weights)
    a, b, same = result.identity_a, result.identity_b, result.same
    times = np.where(same, weights[a], weights[a] * weights[b])
    copies = np.repeat(np.arange(PAIRS), times)
    scores, same, folds = result.scores[copies], same[copies], result.folds[copies]
    assert actual['eer'] == pytest.approx(F.equal_error_rate(scores, same), abs=1e-15)
    assert actual['auc'] == pytest.approx(F.auc(scores, same), abs=1e-15)
    assert actual['d_prime'] == pytest.approx(F.d_prime(scores, same), rel=1e-12)
    expected = F.kfold_accuracy(scores, same, folds).mean
    assert actual['accuracy'] == pytest.approx(expected, abs=1e-15)
    # A draw gives a number also where it does not resolve the FAR.
    tars = F.SortedScores(scores, same).staircase(result.fars)
    np.testing.assert_array_equal(
        [actual[f'tar@far={name}'] for name in ('1e-03', '5e-02', '3e-01')], tars
    )


@pytest.mark.parametrize('most_counts', [0, 10_000])
def test_very_many_pairs_need_only_the_highest(monkeypatch, most_counts):
    result = _verification()
    result.fars = np.array([0.02, 0.05, 0.1])
    _, every = result.resampler()
    monkeypatch.setattr(verification, 'MANY_PAIRS', PAIRS - 1)
    monkeypatch.setattr(verification, 'MOST_COUNTS', most_counts)
    _, highest = result.resampler()
    for seed in range(20):
        weights = np.random.default_rng(seed).integers(0, 3, PEOPLE)
        expected = every(weights)
        assert highest(weights) == {
            name: pytest.approx(expected[name], nan_ok=True)
            for name in ('tar@far=2e-02', 'tar@far=5e-02', 'tar@far=1e-01')
        }


def test_draws_that_need_more_than_the_highest_take_all(monkeypatch):
    """One person has all the highest scores, and is often not drawn."""
    result = _verification()
    of_one = (result.identity_a == 3) & ~result.same
    result.scores = np.where(of_one, 9 + result.scores, result.scores)
    result.fars, result.tars = np.array([0.02, 0.1]), np.array([0.1, 0.1])
    _, every = result.resampler()
    monkeypatch.setattr(verification, 'MANY_PAIRS', PAIRS - 1)
    monkeypatch.setattr(verification, 'SPARE_PAIRS', 0)
    _, highest = result.resampler()
    for drawn in (np.ones(PEOPLE, int), np.where(np.arange(PEOPLE) == 3, 0, 2)):
        expected = every(drawn)
        assert 0 < expected['tar@far=1e-01'] < 1
        assert highest(drawn) == {name: expected[name] for name in highest(drawn)}


def test_an_end_that_the_kept_scores_do_not_tell():
    """All impostors that were kept are of one subject, who is often not drawn."""
    rng = np.random.default_rng(0)
    result = F.megaface_identification(
        rng.normal(size=(30, 4)), np.arange(30) % 10, rng.normal(size=(50, 4)), (50,)
    )
    result.fars, result.tars = np.array([0.01]), np.array([0.5])
    keep = slice(0, 16)
    result.impostors = result.impostors[keep]
    result.impostor_subjects = np.full(16, 2)
    intervals = confidence_intervals(result, draws=100)
    assert 'rank-1@50' in intervals
    assert 'tar@far=1e-02' not in intervals
    (difference,) = paired_differences([result, result], draws=100)['tar@far=1e-02']
    assert difference.value == 0
    assert math.isnan(difference.p_value)


def test_a_far_that_is_not_resolvable_has_no_interval():
    result = _verification()
    names = ('tar@far=1e-03', 'tar@far=5e-02')
    assert np.isnan(result.figures()[names[0]])
    intervals = confidence_intervals(result, draws=50)
    assert [name in intervals for name in names] == [False, True]
    # Just resolvable: no draw is left out, though half of them have fewer pairs.
    negatives = np.count_nonzero(~result.same)
    result.fars = np.array([1 / negatives])
    result.tars = F.tar_at_far(result.scores, result.same, result.fars).tars
    (name,) = (name for name in result.figures() if name.startswith('tar'))
    low, high = confidence_intervals(result, draws=400)[name]
    _, figures = result.resampler()
    rng = np.random.default_rng(0)
    drawn = [
        figures(np.bincount(rng.integers(0, PEOPLE, PEOPLE), minlength=PEOPLE))[name]
        for _ in range(400)
    ]
    assert (low, high) == tuple(np.quantile(drawn, [0.025, 0.975]))


def test_a_far_that_needs_more_than_the_highest_is_unknown():
    scores = F.SortedScores.weighted(
        np.array([3.0]), np.array([1]), np.array([1.0, 2.0]), np.array([1, 1]), 8
    )
    actual = scores.tar_at_far([0.05, 0.1, 0.2, 1.0])
    np.testing.assert_array_equal(actual.thresholds, [np.nan, 1, np.nan, -np.inf])
    tars = scores.staircase([0.05, 0.1, 0.2, 1.0])
    np.testing.assert_array_equal(tars, [1, 1, np.nan, 1])


def _identification(noise=0.8, copies=slice(None), **options):
    """Of 90 probes, or some of them, possibly repeated."""
    rng = np.random.default_rng(3)
    people = rng.normal(size=(14, 8))
    of = rng.integers(0, 14, 90)
    probes = people[of] + noise * rng.normal(size=(90, 8))
    galleries = [(people[:5], np.arange(5)), (people[5:11], np.arange(5, 11))]
    return F.identify(
        probes[copies], of[copies], galleries, fpirs=(0.05, 0.2), **options
    )


@pytest.mark.parametrize(
    'options', [{}, dict(merged=True), dict(threshold='insightface')]
)
def test_weights_are_those_of_probes_that_are_there_several_times(options):
    result = _identification(**options)
    size, figures = result.resampler()
    assert size == 14
    weights = np.random.default_rng(1).integers(0, 3, 14)
    copies = np.repeat(np.arange(90), weights[result.subjects])
    expected = _identification(copies=copies, **options)
    actual, known = figures(weights), expected.figures()
    assert np.isfinite(list(known.values())).sum() >= 4
    for name, value in known.items():
        assert np.isnan(value) or actual[name] == pytest.approx(value, abs=1e-12)


def test_weights_are_those_of_megaface_subjects():
    rng = np.random.default_rng(0)
    people, of = rng.normal(size=(5, 6)), np.arange(20) % 5
    probes = people[of] + 0.5 * rng.normal(size=(20, 6))
    result = F.megaface_identification(
        probes, of, rng.normal(size=(60, 6)), (10, 60), (1, 3), (0.01, 1e-2)
    )
    _, figures = result.resampler()
    assert figures(np.ones(5, int)) == pytest.approx(result.figures())
    # Whom nobody drew does not count.
    left = of != 2
    rng = np.random.default_rng(0)
    rng.normal(size=(5, 6)), rng.normal(size=(20, 6))
    expected = F.megaface_identification(
        probes[left], of[left], rng.normal(size=(60, 6)), (10, 60), (1, 3), (0.01, 1e-2)
    )
    actual = figures(np.array([1, 1, 0, 1, 1]))
    assert actual == pytest.approx(expected.figures())


@pytest.mark.parametrize('make', [_verification, _identification])
def test_intervals_hold_the_figures(make):
    result = make()
    intervals = confidence_intervals(result, draws=200)
    figures = result.figures()
    for name, (low, high) in intervals.items():
        assert low <= figures[name] <= high
    assert any(low < high for low, high in intervals.values())
    assert intervals == confidence_intervals(result, draws=200)
    assert intervals != confidence_intervals(result, draws=200, seed=1)
    narrow = confidence_intervals(result, draws=200, level=0.5)
    assert all(
        low <= narrow[name][0] <= narrow[name][1] <= high
        for name, (low, high) in intervals.items()
    )


def test_interval_of_a_mean_of_independent_people():
    """Of people who only have pairs of their own the variance is known."""
    rng = np.random.default_rng(0)
    people = 400
    same = np.repeat([True, False], people)
    a = np.tile(np.arange(people), 2)
    # Each person's two pairs are all right or all wrong: TAR at threshold 0.
    scores = np.concatenate([rng.random(people) < 0.7, np.full(people, -1.0)])
    result = VerificationResult(
        convention='', scores=scores - 0.5, same=same, eer=0, auc=0,
        fars=np.array([0.5]), tars=np.array([0.0]), thresholds=np.zeros(1),
        identity_a=a, identity_b=np.where(same, a, (a + 1) % people),
    )  # fmt: skip
    share = scores[:people].mean()
    low, high = confidence_intervals(result, draws=2000)['auc']
    # AUC = share of right ones + none of the rest, for -1.5 lies below both.
    assert (low, high) == (1, 1)
    result.scores = np.concatenate([scores[:people], np.full(people, 0.5)])
    low, high = confidence_intervals(result, draws=2000)['auc']
    spread = 1.96 * math.sqrt(share * (1 - share) / people)
    assert low == pytest.approx(share - spread, abs=0.012)
    assert high == pytest.approx(share + spread, abs=0.012)


def test_who_is_on_the_images_may_be_unknown():
    result = _verification()
    result.identity_a = None
    assert confidence_intervals(result) == {}
    assert paired_differences([result, result]) == {}


def test_one_identity_cannot_be_told_from_others():
    result = _verification()
    result.identity_a = result.identity_b = np.zeros(PAIRS, int)
    intervals = confidence_intervals(result, draws=5)
    assert intervals['auc'] == (result.auc, result.auc)


def test_differences():
    good, alike, bad = _verification(), _verification(), _verification(1, -0.8)
    actual = paired_differences([good, alike, bad], draws=300)
    for name, (same, worse) in actual.items():
        if name == 'tar@far=1e-03':  # not resolvable
            assert math.isnan(same.value)
            continue
        assert same == (0, 0, 0, 1)
        value = bad.figures()[name] - good.figures()[name]
        assert worse.value == value
        assert worse.low <= value <= worse.high
    assert actual['auc'][1].p_value < 0.05
    assert actual['eer'][1].p_value < 0.05


def test_the_same_draws_for_all():
    """A constant advantage is certain, however wide the interval of each."""
    first = _identification(noise=3)
    second = _identification(noise=3)
    second.mate_ranks = np.where(second.mate_ranks > 0, 1, 0)
    second.rank_rates = np.ones(3)
    actual = paired_differences([first, second], draws=200)['rank-1'][0]
    assert actual.value > 0
    assert actual.low > 0
    assert actual.p_value == pytest.approx(2 / 201)


def test_what_cannot_be_compared():
    first, other = _verification(), _verification()
    other.same = ~other.same
    assert unlike(first, _verification()) is None
    assert unlike(first, other) == 'it was tested on other pairs'
    assert unlike(first, _identification()) == 'it was tested by another protocol'
    unfolded = _verification()
    unfolded.folds = None
    assert 'folds or by another rule' in unlike(first, unfolded)
    searched = _identification(threshold='insightface')
    assert unlike(_identification(), searched) == 'it was tested on other thresholds'
    with pytest.raises(UserError, match='first: it was tested on other pairs'):
        paired_differences([first, other])


@pytest.mark.parametrize(
    ('options', 'message'),
    [(dict(draws=0), 'draws is 0'), (dict(level=95), 'level is 95')],
)
def test_bad_options(options, message):
    with pytest.raises(UserError, match=message):
        confidence_intervals(_verification(), **options)
