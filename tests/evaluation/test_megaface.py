"""MegaFace's identification, against a loop written from the protocol."""

import math

import numpy as np
import pytest
import torch

from mmhyperface.evaluation.functional import megaface_identification
from mmhyperface.utils.errors import UserError

DIM = 6
COUNTS, RANKS, FARS = (1, 10, 37, 80), (1, 3, 50), (1e-4, 1e-3, 0.02, 1.0)


def _images(probes=23, subjects=6, distractors=80, seed=0):
    rng = np.random.default_rng(seed)
    people = rng.normal(size=(subjects, DIM))
    of = rng.permutation(np.arange(probes) % subjects)
    features = people[of] + 0.5 * rng.normal(size=(probes, DIM))
    return features, of * 7, rng.normal(size=(distractors, DIM))


def _cosine(a, b):
    return a @ b / math.sqrt((a @ a) * (b @ b))


def _loop(probes, subjects, distractors, noisy=(), noisy_distractors=(), replaced=None):
    """Rates [C, K], TARs [F] and thresholds [F]."""
    replaced = replaced or {}
    images = [i for i in range(len(probes)) if i not in noisy or i in replaced]
    rows = {i: replaced.get(i, probes[i]) for i in images}
    pairs = [
        (a, b) for a in images for b in images if a != b and subjects[a] == subjects[b]
    ]
    rates = np.zeros((len(COUNTS), len(RANKS)))
    for row, count in enumerate(COUNTS):
        others = [i for i in range(count) if i not in noisy_distractors]
        for a, b in pairs:
            mate = _cosine(rows[a], rows[b])
            rank = 1 + sum(_cosine(rows[a], distractors[i]) >= mate for i in others)
            rates[row] += [rank <= k for k in RANKS]
    impostors = sorted(
        (
            _cosine(rows[a], distractors[i])
            for a in images
            for i in range(len(distractors))
            if i not in noisy_distractors
        ),
        reverse=True,
    )
    tars, thresholds = [], []
    for far in FARS:
        allowed = int(round(far * len(impostors), 9))
        if allowed == 0:
            limit = math.nan
        else:
            limit = impostors[allowed] if allowed < len(impostors) else -math.inf
        hits = sum(_cosine(rows[a], rows[b]) > limit for a, b in pairs)
        thresholds.append(limit)
        tars.append(hits / len(pairs) if allowed else math.nan)
    return rates / len(pairs), tars, thresholds


def _compare(result, expected):
    np.testing.assert_array_equal(result.rates, expected[0])
    np.testing.assert_array_equal(result.tars, expected[1])
    np.testing.assert_allclose(result.thresholds, expected[2], atol=1e-9)


@pytest.mark.parametrize('blocks', [(1024, 4096), (4, 7), (1, 1)])
def test_against_the_loop(monkeypatch, blocks):
    module = 'mmhyperface.evaluation.functional.megaface'
    monkeypatch.setattr(f'{module}.PROBES', blocks[0])
    monkeypatch.setattr(f'{module}.DISTRACTORS', blocks[1])
    images = _images()
    _compare(megaface_identification(*images, COUNTS, RANKS, FARS), _loop(*images))


def test_verification_is_against_all_distractors():
    images = _images()
    result = megaface_identification(*images, COUNTS[:2], RANKS, FARS)
    expected = _loop(*images)
    np.testing.assert_array_equal(result.rates, expected[0][:2])
    np.testing.assert_array_equal(result.tars, expected[1])


def test_torch_in_single_precision():
    probes, subjects, distractors = _images()
    result = megaface_identification(
        torch.tensor(probes, dtype=torch.float32),
        torch.tensor(subjects),
        torch.tensor(distractors, dtype=torch.float32),
        COUNTS,
        RANKS,
        FARS,
    )
    expected = _loop(probes, subjects, distractors)
    np.testing.assert_array_equal(result.rates, expected[0])
    np.testing.assert_allclose(result.thresholds, expected[2], atol=1e-6)


def _flags(count, true):
    flags = np.zeros(count, bool)
    flags[list(true)] = True
    return flags


NOISY, NOISY_DISTRACTORS = (0, 4, 5), (0, 1, 2, 9, 40)


@pytest.mark.parametrize('noise', ['remove', 'overwrite'])
def test_noise_lists(noise):
    probes, subjects, distractors = _images()
    # What is removed need not even have a direction.
    distractors[1] = np.nan
    if noise == 'remove':
        probes[4] = 0
    result = megaface_identification(
        probes,
        subjects,
        distractors,
        COUNTS,
        RANKS,
        FARS,
        _flags(23, NOISY),
        _flags(80, NOISY_DISTRACTORS),
        noise,
    )
    replaced = {}
    if noise == 'overwrite':
        for i in NOISY:
            mates = [j for j in range(23) if subjects[j] == subjects[i]]
            replaced[i] = sum(
                probes[j] / np.linalg.norm(probes[j]) for j in mates if j not in NOISY
            )
    expected = _loop(probes, subjects, distractors, NOISY, NOISY_DISTRACTORS, replaced)
    _compare(result, expected)
    np.testing.assert_array_equal(result.used, [0, 6, 33, 75])
    assert result.counts['noisy probes'] == 3
    words = {'remove': 'noisy images removed', 'overwrite': 'noisy probes overwritten'}
    assert words[noise] in result.convention
    assert (result.counts['distractors'], result.counts['probes']) == (
        80,
        23 if noise == 'overwrite' else 20,
    )


def test_distractors_that_tie_count_against_the_mate():
    probes = np.eye(2)[[0, 0]]
    result = megaface_identification(
        probes, [5, 5], np.eye(2)[[1, 0, 0]], (1, 2, 3), (1, 2, 3), ()
    )
    np.testing.assert_array_equal(result.rates, [[1, 1, 1], [0, 1, 1], [0, 0, 1]])


@pytest.mark.parametrize('seed', range(4))
def test_equal_features_tie_whatever_rounding_says(seed):
    """In single precision equal features need not have equal products."""
    rng = np.random.default_rng(seed)
    of, people = np.arange(30) // 3, rng.normal(size=(30, 512)).astype(np.float32)
    # Each image has a twin among the distractors.
    result = megaface_identification(
        people + people[of * 3], of, 5 * (people + people[of * 3]), (30,), (1,), ()
    )
    np.testing.assert_array_equal(result.rates, [[0]])
    # A network that sees no difference is none.
    flat = np.repeat(people[:1], 30, axis=0)
    result = megaface_identification(flat, of, 7 * flat, (5, 30), (1, 5), (0.1, 0.5))
    assert not result.rates.any()
    assert not result.tars.any()


def test_figures_by_name():
    result = megaface_identification(*_images(), (10, 80), (1,), (0.02, 1e-5))
    figures = result.figures()
    assert list(figures) == ['rank-1@10', 'rank-1@80', 'tar@far=2e-02', 'tar@far=1e-05']
    assert figures['rank-1@80'] == result.rates[1, 0]
    assert math.isnan(figures['tar@far=1e-05'])


PROBES, SUBJECTS, DISTRACTORS = _images()


@pytest.mark.parametrize(
    ('changes', 'message'),
    [
        (dict(probe_subjects=SUBJECTS[1:]), 'probes 23, probe_subjects 22'),
        (dict(distractors=DISTRACTORS[:, 1:]), '6 values but distractors 5'),
        (dict(probe_subjects=np.arange(23)), 'no subject has two images'),
        (dict(counts=(10, 81)), 'up to the 80 distractors'),
        (dict(counts=(10, 10)), 'must ascend'),
        (dict(counts=(0, 10)), 'counts must be integers from 1'),
        (dict(ranks=(0,)), 'ranks must be integers from 1'),
        (dict(fars=(2,)), r'must lie in \[0, 1\]'),
        (dict(noise='ignore'), "noise is 'ignore'"),
        (dict(probes=PROBES * np.nan), 'probes are zero or not finite in rows 0, 1'),
        (dict(distractors=DISTRACTORS * 0), 'distractors are zero .* in rows 0, 1'),
        (dict(noisy_probes=[True]), 'noisy_probes must be 23 booleans'),
        (dict(noisy_probes=np.ones(23, bool)), 'no subject has two images'),
    ],
)
def test_bad_input(changes, message):
    given = dict(
        probes=PROBES, probe_subjects=SUBJECTS, distractors=DISTRACTORS, counts=(10, 80)
    )
    with pytest.raises(UserError, match=message):
        megaface_identification(**{**given, **changes})


def test_nothing_to_overwrite_with():
    noisy = _flags(23, [i for i, of in enumerate(SUBJECTS) if of == SUBJECTS[2]])
    with pytest.raises(
        UserError, match=f'all images of subject {SUBJECTS[2]} are noisy'
    ):
        megaface_identification(
            PROBES, SUBJECTS, DISTRACTORS, (80,), noisy_probes=noisy, noise='overwrite'
        )
