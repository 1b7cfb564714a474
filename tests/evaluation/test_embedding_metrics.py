"""Metrics on templates and on MegaFace: their figures, and what they refuse."""

import math
import re
from types import SimpleNamespace

import numpy as np
import pytest
from mixed_sets import (
    DISTRACTORS,
    PAIRS,
    PROBES,
    SIZE,
    TEMPLATES,
    cosine,
    embeddings,
    feed,
    megaface_set,
    mixed_meta,
    pair_set,
    pooled,
    protocol,
    template_set,
)
from mmengine.evaluator import Evaluator

from mmhyperface.evaluation import functional as F
from mmhyperface.evaluation.metrics import (
    FaceVerification,
    MegaFaceIdentification,
    TemplateIdentification,
    TemplateVerification,
)
from mmhyperface.evaluation.metrics.base import not_finite_sets
from mmhyperface.utils.errors import UserError

IJB = slice(PAIRS, PAIRS + TEMPLATES)
MEGA = slice(PAIRS + TEMPLATES, SIZE)
ALL = [
    FaceVerification,
    TemplateVerification,
    TemplateIdentification,
    MegaFaceIdentification,
]
POOLINGS = [
    {},
    {'norm': 'unit'},
    {'detector_scores': False},
    {'media': 'none', 'norm': 'unit', 'detector_scores': False},
]


def evaluated(metric, meta=None, **options):
    metric.dataset_meta = mixed_meta() if meta is None else meta
    feed(metric, **options)
    return metric.evaluate(SIZE)


@pytest.mark.parametrize('options', POOLINGS)
def test_pairs_of_templates(options):
    metric = TemplateVerification(fars=(1e-3, 0.05), **options)
    figures = evaluated(metric)
    result = metric.results_by_set['ijb']
    first, second, same = template_set()['protocol'].pairs
    templates = pooled(embeddings()[IJB], template_set(), **options)
    scores = [
        cosine(templates[i], templates[j]) for i, j in zip(first, second, strict=True)
    ]
    np.testing.assert_allclose(result.scores, scores, atol=1e-6)
    assert figures == pytest.approx(
        {
            'ijb/eer': F.equal_error_rate(scores, same),
            'ijb/auc': F.auc(scores, same),
            'ijb/d_prime': F.d_prime(scores, same),
            'ijb/tar@far=1e-03': math.nan,
            'ijb/tar@far=5e-02': F.tar_at_far(scores, same, 0.05).tars[0],
        },
        nan_ok=True,
    )
    np.testing.assert_array_equal(result.identity_a, first % 6)
    np.testing.assert_array_equal(result.identity_b, second % 6)
    assert result.counts == {'images': TEMPLATES, 'templates': 24}


@pytest.mark.parametrize(
    ('pooling', 'options'),
    [
        *((pooling, {}) for pooling in POOLINGS),
        ({}, {'merged': True}),
        ({}, {'threshold': 'insightface'}),
    ],
)
def test_search_for_templates(pooling, options):
    options = dict(ranks=(1, 2), fpirs=(0.25,), **options)
    metric = TemplateIdentification(**pooling, **options)
    figures = evaluated(metric)
    templates = np.array(pooled(embeddings()[IJB], template_set(), **pooling))
    own = template_set()['protocol']
    expected = F.identify(
        templates[own.probes[0]],
        own.probes[1],
        [(templates[rows], subjects) for rows, subjects in own.galleries.values()],
        **options,
    )
    assert figures == pytest.approx(
        {f'ijb/{name}': value for name, value in expected.figures().items()}
    )
    result = metric.results_by_set['ijb']
    assert expected.convention in result.convention
    assert result.galleries == (['merged'] if 'merged' in options else ['G1', 'G2'])
    assert result.counts['images'] == TEMPLATES
    assert result.counts['templates'] == 24


def test_mates_among_distractors():
    metric = MegaFaceIdentification(counts=(30, 12), ranks=(1, 3), fars=(0.01,))
    figures = evaluated(metric)
    rows, own = embeddings()[MEGA].double().numpy(), megaface_set()
    expected = F.megaface_identification(
        rows[:PROBES],
        own['subjects'][:PROBES],
        rows[PROBES:],
        *((12, 30), (1, 3), (0.01,)),
        *(own['noisy'][:PROBES], own['noisy'][PROBES:]),
    )
    assert figures == pytest.approx(
        {f'mega/{name}': value for name, value in expected.figures().items()}
    )
    assert 0 < figures['mega/rank-1@30'] < figures['mega/rank-3@30'] < 1
    assert metric.results_by_set['mega'].counts['images'] == PROBES + DISTRACTORS


def test_numbers_of_distractors_are_cut_to_those_there_are():
    metric = MegaFaceIdentification()
    evaluated(metric)
    assert metric.results_by_set['mega'].distractors.tolist() == [10, DISTRACTORS]
    with pytest.raises(UserError, match=r"'mega': 100 distractors .* has 37"):
        MegaFaceIdentification(counts=(10, 100)).dataset_meta = mixed_meta()


def test_noise_can_be_overwritten():
    plain, other = MegaFaceIdentification(), MegaFaceIdentification(noise='overwrite')
    evaluated(plain)
    evaluated(other)
    assert len(other.results_by_set['mega'].subjects) > len(
        plain.results_by_set['mega'].subjects
    )


def test_conventions_in_words():
    metric = TemplateVerification(norm='unit', detector_scores=False, media='none')
    evaluated(metric)
    words = metric.results_by_set['ijb'].convention
    for part in ('brought to length 1', 'not weighted by detector score', 'cosine'):
        assert part in words
    for part in ('sum over images', 'flips fused by the model', 'ties', 'rejected'):
        assert part in words
    metric = TemplateIdentification()
    evaluated(metric)
    words = metric.results_by_set['ijb'].convention
    for part in ('norm kept', 'weighted by detector score', 'mean over the images of'):
        assert part in words
    assert 'not weighted' not in words


@pytest.mark.parametrize('kind', ALL)
def test_order_repetition_and_precision_do_not_count(kind):
    rows = embeddings().bfloat16()
    expected = evaluated(kind(), rows=rows.float())
    numbers = [*reversed(range(SIZE)), 0, 3, 3, 62, SIZE - 1]
    assert repr(evaluated(kind(), rows=rows, numbers=numbers)) == repr(expected)


@pytest.mark.parametrize('kind', ALL)
@pytest.mark.parametrize('value', [0.0, math.nan, -math.inf])
def test_useless_embeddings_are_named(kind, value):
    name, number = {
        'pairs': ('lfw', 7),
        'templates': ('ijb', 70),
        'megaface': ('mega', 190),
    }[kind.KIND]
    rows = embeddings()
    rows[number] = value
    with pytest.raises(UserError, match=f"'{name}': .* of sample {number}$"):
        evaluated(kind(), rows=rows)
    # In training they have figures of the same names, which are none.
    metric = kind()
    metric.tolerant = True
    figures = evaluated(metric, rows=rows)
    assert not metric.results_by_set[name].finite
    assert np.isnan(list(figures.values())).all()
    known = evaluated(metric)
    assert metric.results_by_set[name].finite
    assert list(figures) == list(known)
    loop = SimpleNamespace(evaluator=Evaluator(metric))
    assert not_finite_sets(loop, {**figures, 'other': 0.5}) == [name]
    assert not_finite_sets(loop, known) == not_finite_sets(None, figures) == []
    rows = embeddings()
    rows[[number + 1]] = 1.0
    numbers = [i for i in range(SIZE) if i != number]
    with pytest.raises(UserError, match=f"'{name}': 1 of .* not processed: {number}$"):
        evaluated(kind(), rows=rows, numbers=numbers)


def test_only_own_images_are_kept():
    metric = TemplateVerification()
    metric.dataset_meta = mixed_meta()
    feed(metric)
    gathered = metric.store.gather()
    np.testing.assert_array_equal(gathered.numbers, np.arange(SIZE)[IJB])
    assert metric.store.gather() is None


def without(**changes):
    """The set of templates with another protocol."""
    test_set = template_set()
    parts = {**vars(test_set['protocol']), **changes}
    return {'test_sets': {'ijb': {**test_set, 'protocol': protocol(**parts)}}}


def test_sets_without_the_protocol_are_left_out():
    meta = without(pairs=None)
    meta['test_sets']['other'] = {**template_set(), 'offset': 0}
    metric = TemplateVerification()
    metric.dataset_meta = meta
    assert list(metric.test_sets) == ['other']
    for kind, there in (
        (TemplateVerification, without(pairs=None)),
        (TemplateIdentification, without(probes=None, galleries={})),
        (MegaFaceIdentification, without()),
    ):
        message = rf"protocol {kind.RESULT.protocol}, .*; it has \['ijb'\]"
        with pytest.raises(UserError, match=message):
            kind().dataset_meta = there


def test_unknown_subjects_give_no_identities():
    subjects = template_set()['protocol'].subjects.copy()
    subjects[3] = -1
    metric = TemplateVerification()
    evaluated(metric, without(subjects=subjects))
    assert metric.results_by_set['ijb'].identity_a is None


def changed(test_set, **changes):
    return {'test_sets': {'x': {**test_set, **changes}}}


ROWS = np.arange(3)


@pytest.mark.parametrize(
    ('kind', 'meta', 'message'),
    [
        (
            TemplateVerification,
            changed(template_set(), media_ids=ROWS),
            'lengths differ: num_images 83, template_ids 83, media_ids 3',
        ),
        (
            TemplateVerification,
            changed(template_set(), detector_scores=None),
            'no detector scores; set detector_scores=False',
        ),
        (
            TemplateVerification,
            changed(template_set(), template_ids=np.zeros(TEMPLATES, int)),
            'subjects of 24 templates, but the set has 1',
        ),
        (
            TemplateVerification,
            without(pairs=(ROWS, ROWS + 24, np.array([True, False, True]))),
            'index_b goes from 24 to 26, but there are 24 templates',
        ),
        (TemplateIdentification, without(galleries={}), 'no gallery'),
        (
            TemplateIdentification,
            without(probes=(ROWS, ROWS[:2])),
            'lengths differ: probes 3, subjects_of_probes 2',
        ),
        (
            TemplateIdentification,
            without(galleries={'G1': (ROWS, ROWS), 'G2': (ROWS + 3, ROWS + 2)}),
            'G2 shares subject 2 with another gallery',
        ),
        (
            TemplateVerification,
            changed(template_set(), detector_scores=-np.ones(TEMPLATES)),
            'detector scores are negative, NaN or infinite of images 0, 1',
        ),
        (
            TemplateIdentification,
            without(probes=(ROWS, ROWS), galleries={'G1': (ROWS, ROWS + 100)}),
            'no probe has a mate in a gallery',
        ),
        (
            MegaFaceIdentification,
            changed(megaface_set(), noisy=np.ones(PROBES + DISTRACTORS, bool)),
            'no subject has two images',
        ),
        (
            MegaFaceIdentification,
            changed(megaface_set(), noisy=np.ones(PROBES + DISTRACTORS)),
            'noisy must be booleans, not float64',
        ),
        (
            MegaFaceIdentification,
            changed(megaface_set(), noisy=np.zeros(3, bool)),
            'lengths differ: num_images 55, subjects 55, noisy 3',
        ),
        (
            TemplateIdentification,
            without(galleries={'G1': (ROWS - 1, ROWS)}),
            'gallery G1 goes from -1 to 1',
        ),
        (
            MegaFaceIdentification,
            changed(megaface_set(), subjects=megaface_set()['subjects'][::-1]),
            'distractors must follow',
        ),
        (
            MegaFaceIdentification,
            changed(megaface_set(), subjects=np.zeros(PROBES + DISTRACTORS, int)),
            '1 distractors are asked for, but the set has 0',
        ),
    ],
)
def test_bad_sets_are_reported_before_anything_is_computed(kind, meta, message):
    with pytest.raises(UserError, match=message):
        kind().dataset_meta = meta


@pytest.mark.parametrize(
    ('make', 'message'),
    [
        (lambda: TemplateVerification(norm='l2'), 'norm'),
        (lambda: TemplateVerification(fars=(2,)), 'fars'),
        (lambda: TemplateVerification(interpolation='cubic'), 'interpolation'),
        (lambda: TemplateIdentification(media='max'), 'media'),
        (lambda: TemplateIdentification(ranks=(0,)), 'ranks'),
        (lambda: TemplateIdentification(threshold='highest'), 'threshold'),
        (lambda: MegaFaceIdentification(noise='ignore'), 'noise'),
        (lambda: MegaFaceIdentification(counts=(0,)), 'counts'),
        (lambda: FaceVerification(accuracy='best'), 'accuracy'),
        (lambda: FaceVerification(interpolation='cubic'), 'interpolation'),
    ],
)
def test_bad_arguments(make, message):
    with pytest.raises(UserError, match=message):
        make()


def test_noisy_images_need_no_direction():
    noisy = np.flatnonzero(megaface_set()['noisy']) + MEGA.start
    rows = embeddings()
    expected = evaluated(MegaFaceIdentification())
    rows[noisy[0]], rows[noisy[-1]] = 0, float('nan')
    actual = evaluated(MegaFaceIdentification(), rows=rows)
    assert repr(actual) == repr(expected)


def test_labels_may_be_numbers():
    pairs = template_set()['protocol'].pairs
    metric = TemplateVerification()
    numbers = without(pairs=(*pairs[:2], pairs[2].astype(np.uint8)))
    expected = evaluated(TemplateVerification(), {'test_sets': {'ijb': template_set()}})
    assert repr(evaluated(metric, numbers)) == repr(expected)
    assert metric.results_by_set['ijb'].same.dtype == bool


@pytest.mark.parametrize('fusion', ['sum', 'concat', 'none', None])
def test_how_flips_were_fused_is_told(fusion):
    metric = TemplateVerification()
    metric.dataset_meta = {'test_sets': {'ijb': template_set()}}
    fused = {} if fusion is None else {'flip_fusion': fusion}
    for i, row in enumerate(embeddings()):
        metric.process(None, [{'sample_idx': i, 'embedding': row, **fused}])
    metric.evaluate(SIZE)
    words = {
        'sum': 'image + mirror image',
        'concat': 'image and mirror image concatenated',
        'none': 'no mirror images',
        None: 'flips fused by the model',
    }
    assert words[fusion] in metric.results_by_set['ijb'].convention


def test_embeddings_of_several_shapes():
    metric = TemplateVerification()
    metric.dataset_meta = {'test_sets': {'ijb': template_set()}}

    def samples(*rows):
        return [
            {'sample_idx': IJB.start + i, 'embedding': x} for i, x in enumerate(rows)
        ]

    with pytest.raises(UserError, match=r'differ in their dimensions: \[2, 3\]'):
        metric.process(None, samples(np.ones(2), np.ones(3)))
    with pytest.raises(UserError, match=r'must be \[D\], not \[2, 2\]'):
        metric.process(None, samples(np.ones((2, 2))))
    metric.process(None, samples(np.ones(2, np.float16)))
    with pytest.raises(UserError, match=r'dimensions: \[2, 3\]'):
        metric.process(None, samples(np.ones(3)))


def test_folds_of_any_numbers_are_numbered_from_0():
    meta = {'test_sets': {'lfw': pair_set()}}
    folds = np.arange(143) % 4
    meta['test_sets']['lfw']['folds'] = folds * 1000 - 5
    metric = FaceVerification()
    metric.dataset_meta = meta
    for i, row in enumerate(embeddings()):
        metric.process(None, [{'sample_idx': i, 'embedding': row}])
    metric.evaluate(SIZE)
    np.testing.assert_array_equal(metric.results_by_set['lfw'].folds, folds)
    meta['test_sets']['lfw']['folds'] = np.zeros(143, int)
    with pytest.raises(UserError, match="'lfw': all pairs are in one fold"):
        metric.dataset_meta = meta
    meta['test_sets']['lfw']['folds'] = None
    with pytest.raises(UserError, match="'lfw': 100 stratified folds need") as refused:
        FaceVerification(folds=100).dataset_meta = meta
    # The advice is one that can be taken.
    (advised,) = re.findall(r'set test_evaluator\.folds=(\d+) ', str(refused.value))
    FaceVerification(folds=int(advised)).dataset_meta = meta
    meta['test_sets']['lfw']['same'] = np.arange(143) == 0
    with pytest.raises(UserError, match=r'set test_evaluator\.accuracy=global'):
        FaceVerification().dataset_meta = meta
    FaceVerification(accuracy='global').dataset_meta = meta
    with pytest.raises(UserError, match="folds is a number from 2 on, not '10'"):
        FaceVerification(folds='10')
