"""1:N identification, against loops written from the protocols."""

import math

import numpy as np
import pytest
import torch

from mmhyperface.evaluation.functional import identify
from mmhyperface.evaluation.highest import Highest, thresholds_among
from mmhyperface.utils.errors import UserError

DIM = 8


def _searches(probes=60, enrolled=(7, 5), subjects=16, noise=0.8, seed=0):
    """Probes of subjects, some of whom no gallery has, and galleries."""
    rng = np.random.default_rng(seed)
    people = rng.normal(size=(subjects, DIM))
    who = rng.permutation(subjects)
    galleries, start = [], 0
    for size in enrolled:
        of = who[start : start + size]
        start += size
        galleries.append((people[of] + 0.3 * rng.normal(size=(size, DIM)), of + 100))
    of = rng.integers(0, subjects, probes)
    features = people[of] + noise * rng.normal(size=(probes, DIM))
    return features, of + 100, galleries


def _cosine(a, b):
    return sum(x * y for x, y in zip(a, b, strict=True)) / math.sqrt(
        sum(x * x for x in a) * sum(y * y for y in b)
    )


def _loop(probes, subjects, galleries, ranks, fpirs, merged=False, threshold='exact'):
    """Rates as the protocol tells them; scores come rounded, so that ties are ties."""
    if merged:
        galleries = [tuple(np.concatenate(x) for x in zip(*galleries, strict=True))]
    actual, at_rank, searches = [], [0] * len(ranks), 0
    for features, enrolled in galleries:
        mates, free, impostors = [], [], []
        for probe, subject in zip(probes, subjects, strict=True):
            scores = {
                int(who): round(_cosine(probe, row), 12)
                for row, who in zip(features, enrolled, strict=True)
            }
            own = scores.pop(int(subject), None)
            others = sorted(scores.values(), reverse=True)
            impostors += others
            if own is None:
                free.append(others[0])
                continue
            rank = 1 + sum(other >= own for other in others)
            mates.append((own, rank))
            searches += 1
            for k, limit in enumerate(ranks):
                at_rank[k] += rank <= limit
        tpirs = []
        for fpir in fpirs:
            if merged:
                impostors.sort(reverse=True)
                limit = impostors[math.ceil(round(fpir * len(probes), 9)) - 1]
                hits = [own > limit for own, _ in mates]
            else:
                free.sort(reverse=True)
                allowed = int(round(fpir * len(free), 9))
                if threshold == 'insightface':
                    limit = free[max(allowed - 1, 0)]
                elif allowed == 0:
                    tpirs.append((math.nan, math.nan))
                    continue
                else:
                    limit = free[allowed] if allowed < len(free) else -math.inf
                hits = [own > limit and rank == 1 for own, rank in mates]
            tpirs.append((sum(hits) / len(mates), limit))
        actual.append(tpirs)
    rates = np.array(actual)
    return np.array(at_rank) / searches, rates[..., 0], rates[..., 1]


def _compare(result, expected):
    rank_rates, tpirs, thresholds = expected
    np.testing.assert_array_equal(result.rank_rates, rank_rates)
    np.testing.assert_array_equal(result.gallery_tpirs, tpirs)
    np.testing.assert_array_equal(result.tpirs, tpirs.mean(0))
    np.testing.assert_allclose(result.thresholds, thresholds, atol=1e-9)


RANKS, FPIRS = (1, 2, 5), (0.001, 0.05, 0.1, 0.3, 1.0)


@pytest.mark.parametrize('ties', [False, True])
@pytest.mark.parametrize('threshold', ['exact', 'insightface'])
@pytest.mark.parametrize('seed', range(3))
def test_galleries_apart(seed, threshold, ties):
    searches = _searches(seed=seed)
    if ties:
        searches = _along_axes(*searches)
    result = identify(*searches, RANKS, FPIRS, threshold=threshold)
    _compare(result, _loop(*searches, RANKS, FPIRS, threshold=threshold))


@pytest.mark.parametrize('enrolled', [(7, 5), (9,), (3, 4, 2)])
def test_merged(enrolled):
    searches = _searches(enrolled=enrolled)
    fpirs = (0.01, 0.05, 0.1, 0.5)
    result = identify(*searches, RANKS, fpirs, merged=True)
    assert result.galleries == ['merged']
    _compare(result, _loop(*searches, RANKS, fpirs, merged=True))


def _along_axes(probes, subjects, galleries):
    """All cosines are -1, 0 or 1 exactly, so there are ties."""

    def axes(rows):
        at = np.abs(rows).argmax(1)
        return np.eye(DIM)[at] * np.sign(rows[np.arange(len(rows)), at])[:, None]

    return axes(probes), subjects, [(axes(rows), of) for rows, of in galleries]


def test_one_probe_and_one_enrolled():
    probe = np.ones((1, DIM))
    result = identify(probe, [3], [(probe, [3])], fpirs=(0.5,))
    assert result.figures()['rank-1'] == 1
    # Nobody is there to set a threshold by.
    assert np.isnan(result.figures()['tpir@fpir=5e-01'])
    assert result.counts['mated probes of gallery 1'] == 1


def test_identical_templates_rank_last():
    same = np.ones((4, DIM))
    result = identify(same, [0, 1, 2, 3], [(same, [0, 1, 2, 3])], ranks=(1, 3, 4))
    np.testing.assert_array_equal(result.rank_rates, [0, 0, 1])


@pytest.mark.parametrize('seed', range(4))
def test_equal_features_tie_whatever_rounding_says(seed):
    """In single precision equal features need not have equal products."""
    rng = np.random.default_rng(seed)
    people = rng.normal(size=(50, 512)).astype(np.float32)
    # Each mate has a twin under another name.
    rows = np.concatenate([people, people])
    result = identify(people * 3, np.arange(50), [(rows, np.arange(100))], ranks=(1, 2))
    np.testing.assert_array_equal(result.rank_rates, [0, 1])
    # A network that sees no difference is none.
    flat = np.repeat(people[:1], 50, axis=0)
    galleries = [(flat[:30], np.arange(30)), (flat[30:], np.arange(30, 50))]
    result = identify(flat * 7, np.arange(50), galleries, ranks=(1,), fpirs=(0.5,))
    assert list(result.figures().values()) == [0, 0]
    result = identify(flat * 7, np.arange(50), galleries, (1,), (0.5,), merged=True)
    assert list(result.figures().values()) == [0, 0]


def test_a_share_that_rounding_leaves_above_a_number():
    probes, subjects, galleries = _searches(probes=100)
    assert 0.07 * 100 > 7
    result = identify(probes, subjects, galleries, (1,), (0.07,), merged=True)
    _compare(result, _loop(probes, subjects, galleries, (1,), (0.07,), merged=True))


def test_subjects_of_any_integer_type():
    probes, subjects, galleries = _searches()
    expected = identify(probes, subjects, galleries, fpirs=(0.1,)).figures()
    for dtype in (np.uint8, np.int16, np.uint64):
        named = [(rows, of.astype(dtype)) for rows, of in galleries]
        result = identify(probes, subjects.astype(dtype), named, fpirs=(0.1,))
        assert result.figures() == expected
    big = np.uint64(2**63) + subjects.astype(np.uint64)
    with pytest.raises(UserError, match='below 2⁶³'):
        identify(probes, big, galleries)


def test_types_of_features_may_differ():
    probes, subjects, galleries = _searches()
    (rows, of), second = galleries
    mixed = [(rows.astype(np.float32), of), second]
    result = identify(probes.astype(np.float32), subjects, mixed, RANKS, FPIRS)
    assert result.mate_scores.dtype == np.float64
    expected = identify(probes, subjects, galleries, RANKS, FPIRS)
    np.testing.assert_array_equal(result.rank_rates, expected.rank_rates)


def test_cmc_ends_with_the_ranks_and_rises():
    result = identify(*_searches(noise=2), ranks=(1, 5))
    assert result.cmc[0] == result.rank_rates[0]
    assert result.cmc[4] == result.rank_rates[1]
    assert (np.diff(result.cmc) >= 0).all()
    known = ~np.isnan(result.curve_tpirs)
    assert (np.diff(result.curve_tpirs[known]) >= 0).all()


def test_more_probes_than_a_block(monkeypatch):
    searches = _searches()
    expected = identify(*searches, RANKS, FPIRS)
    module = 'mmhyperface.evaluation.functional.identification.BLOCK_ENTRIES'
    monkeypatch.setattr(module, 30)
    result = identify(*searches, RANKS, FPIRS)
    np.testing.assert_array_equal(result.mate_ranks, expected.mate_ranks)
    np.testing.assert_allclose(result.thresholds, expected.thresholds, atol=1e-14)


@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16])
def test_torch(dtype):
    probes, subjects, galleries = _searches()
    as_torch = [(torch.tensor(x).to(dtype), torch.tensor(y)) for x, y in galleries]
    probes = torch.tensor(probes).to(dtype)
    result = identify(probes, torch.tensor(subjects), as_torch, RANKS, FPIRS)
    rounded = [(x.double().numpy(), y.numpy()) for x, y in as_torch]
    expected = _loop(probes.double().numpy(), subjects, rounded, RANKS, FPIRS)
    np.testing.assert_array_equal(result.rank_rates, expected[0])
    np.testing.assert_allclose(result.thresholds, expected[2], atol=1e-6)


PROBES, SUBJECTS, GALLERIES = _searches()
ROWS, OF = GALLERIES[0]


@pytest.mark.parametrize(
    ('changes', 'message'),
    [
        (dict(galleries=GALLERIES[:1] * 2), 'gallery 2 shares subject .* with'),
        (dict(galleries=[(ROWS[[0, 0]], OF[[0, 0]])]), 'more than once'),
        (dict(galleries=[]), 'no galleries'),
        (dict(galleries=[(ROWS, OF[1:])]), 'lengths differ: gallery 1: features 7'),
        (dict(galleries=[(ROWS[:, 1:], OF)]), 'probes have 8 values, but .* 7'),
        (dict(galleries=[(ROWS[:0], OF[:0])]), 'gallery 1: features: there are none'),
        (dict(galleries=[(ROWS * np.nan, OF)]), 'gallery 1: .* not finite in rows 0'),
        (dict(probes=PROBES * 0), 'probes are zero or not finite in rows 0, 1'),
        (dict(probe_subjects=SUBJECTS + 1000), 'no probe has a mate'),
        (dict(ranks=(0,)), 'ranks must be integers from 1 on'),
        (dict(fpirs=(1.5,)), r'must lie in \[0, 1\]'),
        (dict(threshold='best'), "threshold is 'best'"),
        (dict(galleries=[ROWS]), 'gallery 1: expected a pair'),
        (dict(names=['one']), 'galleries 2, names 1'),
    ],
)
def test_bad_input(changes, message):
    given = dict(probes=PROBES, probe_subjects=SUBJECTS, galleries=GALLERIES)
    with pytest.raises(UserError, match=message):
        identify(**{**given, **changes})


@pytest.mark.parametrize('count', [0, 1, 7, 200])
def test_highest_of_blocks(count):
    rng = np.random.default_rng(0)
    scores = rng.integers(0, 40, (30, 9)).astype(np.float32)
    highest = Highest(count)
    for start in (0, 1, 5, 17):
        stop = {0: 1, 1: 5, 5: 17, 17: 30}[start]
        highest.add(scores[start:stop], start)
    actual, rows = highest.result()
    np.testing.assert_array_equal(actual, np.sort(scores.ravel())[::-1][:count])
    assert all(score in scores[row] for score, row in zip(actual, rows, strict=True))


def test_thresholds_with_weights_are_those_of_repeated_scores():
    scores = np.array([9.0, 8, 8, 5, 3])
    weights = np.array([0, 2, 1, 0, 4])
    allowed = np.arange(9)
    repeated = np.repeat(scores, weights)
    expected = [repeated[n] if n < len(repeated) else np.nan for n in allowed]
    np.testing.assert_array_equal(thresholds_among(scores, weights, allowed), expected)
    expected = [*expected[:7], -np.inf, -np.inf]
    actual = thresholds_among(scores, weights, allowed, total=7)
    np.testing.assert_array_equal(actual, expected)
