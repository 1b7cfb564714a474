"""Pooling images to templates, against loops written from the protocol."""

import numpy as np
import pytest
import torch
from mixed_sets import pool_by_loop

from mmhyperface.evaluation.functional import pool_templates, template_rows
from mmhyperface.utils.errors import UserError

DIM = 5


def _images(images=40, templates=9, media=6, seed=0):
    """Features, mirrored ones, template and media ids, detector scores."""
    rng = np.random.default_rng(seed)
    features, mirrored = rng.normal(size=(2, images, DIM))
    ids = rng.choice(10_000, templates, replace=False)
    template = np.concatenate([ids, rng.choice(ids, images - templates)])
    rng.shuffle(template)
    return (
        features,
        mirrored,
        template,
        rng.integers(-3, media, images),
        rng.random(images),
    )


@pytest.mark.parametrize('media', ['mean', 'none'])
@pytest.mark.parametrize('flip', ['sum', 'concat', 'none'])
@pytest.mark.parametrize('norm', ['keep', 'unit'])
@pytest.mark.parametrize('scored', [True, False])
def test_every_option_against_the_loop(scored, norm, flip, media):
    features, mirrored, template, media_ids, scores = _images()
    scores = scores if scored else None
    actual = pool_templates(
        features, template, media_ids, scores, mirrored, norm, flip, media
    )
    ids, expected = pool_by_loop(
        features, template, media_ids, scores, mirrored, norm, flip, media
    )
    np.testing.assert_array_equal(actual.ids, ids)
    np.testing.assert_allclose(actual.features, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize('images', [1, 2, 3000])
def test_sizes(images):
    features, _, template, media_ids, scores = _images(images, min(images, 700), 40)
    actual = pool_templates(features, template, media_ids, scores)
    ids, expected = pool_by_loop(features, template, media_ids, scores)
    np.testing.assert_array_equal(actual.ids, ids)
    np.testing.assert_allclose(actual.features, expected, rtol=0, atol=1e-10)


@pytest.mark.parametrize('dtype', [torch.float32, torch.float16, torch.bfloat16])
def test_types_of_torch(dtype):
    features, mirrored, template, media_ids, scores = _images()
    given = [torch.from_numpy(x).to(dtype) for x in (features, mirrored)]
    actual = pool_templates(
        given[0],
        torch.from_numpy(template),
        torch.from_numpy(media_ids),
        scores,
        given[1],
    )
    exact = [x.double().numpy() for x in given]
    _, expected = pool_by_loop(exact[0], template, media_ids, scores, exact[1])
    assert actual.features.dtype == np.float32
    np.testing.assert_allclose(actual.features, expected, atol=2e-6)


def test_an_image_without_weight_does_not_count():
    features, _, template, media_ids, scores = _images()
    template[:3], media_ids[:3], scores[0] = template[1], media_ids[1], 0
    with_it = pool_templates(features, template, media_ids, scores)
    features[0] = 1e6
    np.testing.assert_array_equal(
        pool_templates(features, template, media_ids, scores).features, with_it.features
    )


def test_a_feature_of_zeros_is_passed_over_among_others():
    features, _, template, media_ids, _ = _images()
    template[:2] = template[1]
    features[0] = 0
    actual = pool_templates(features, template, media_ids, norm='unit')
    assert np.isfinite(actual.features).all()


def _with(**changes):
    names = ('features', 'mirrored', 'template_ids', 'media_ids', 'detector_scores')
    given = dict(zip(names, _images(), strict=True))
    for name, change in changes.items():
        given[name] = change(given[name]) if callable(change) else change
    return given


def _set(row, value):
    def change(array):
        array = array.copy()
        array[row] = value
        return array

    return change


@pytest.mark.parametrize(
    ('changes', 'message'),
    [
        (dict(template_ids=np.arange(39)), 'features 40, template_ids 39, media'),
        (dict(detector_scores=np.ones(41)), 'detector_scores 41'),
        (dict(mirrored=np.ones((40, 4))), r'\[40, 5\] but mirrored \[40, 4\]'),
        (dict(features=np.ones(40)), r'features must be \[N, D\]'),
        (dict(features=np.full((40, 5), 'a')), 'real numbers'),
        (dict(template_ids=np.ones(40)), 'template_ids must be integers'),
        (dict(features=_set((7, 2), np.nan)), r'NaN or infinite in rows 7$'),
        (dict(mirrored=_set(3, np.inf)), r'NaN or infinite in rows 3$'),
        (dict(detector_scores=_set(5, np.nan)), r'detector scores .* of images 5$'),
        (dict(detector_scores=_set(5, -0.1)), r'detector scores are negative'),
        (dict(detector_scores=np.full(40, 'a')), 'detector_scores must be numbers'),
        (dict(norm='l2'), "norm is 'l2'; it can be"),
        (dict(flip='max'), "flip is 'max'"),
        (dict(media='sum'), "media is 'sum'"),
        (
            {x: lambda old: old[:0] for x in ('features', 'template_ids', 'media_ids')}
            | {'mirrored': None, 'detector_scores': None},
            'no images',
        ),
    ],
)
def test_bad_input(changes, message):
    with pytest.raises(UserError, match=message):
        pool_templates(**_with(**changes))


def test_template_without_a_usable_image():
    features, _, template, media_ids, scores = _images()
    inside = template == template[4]
    dark = np.where(inside, 0, scores)
    with pytest.raises(UserError, match=f'template {template[4]} is usable: all their'):
        pool_templates(features, template, media_ids, dark)
    features[inside] = 0
    with pytest.raises(UserError, match=f'template {template[4]} is usable: the feat'):
        pool_templates(features, template, media_ids, scores)


@pytest.mark.parametrize('ids', [[2, 3, 9], [-5, 0, 4], [1, 10**12], [0]])
def test_rows_of_templates(ids):
    wanted = np.array(ids)[np.random.default_rng(0).integers(0, len(ids), 50)]
    np.testing.assert_array_equal(
        template_rows(np.array(ids), wanted), [ids.index(x) for x in wanted]
    )
    for unknown in (min(ids) - 1, max(ids) + 1, -(10**13), 5):
        with pytest.raises(UserError, match=f'no image belongs to template {unknown}$'):
            template_rows(np.array(ids), np.append(wanted, unknown))
    empty = np.empty(0, int)
    assert template_rows(np.array(ids), empty).shape == (0,)
    with pytest.raises(UserError, match='template 3'):
        template_rows(empty, np.array([3]))
    with pytest.raises(UserError, match='ids must ascend'):
        template_rows(np.array([5, 1, 2]), np.array([1]))


@pytest.mark.filterwarnings('error')
def test_views_and_arrays_that_are_only_read():
    features, _, template, media_ids, scores = _images()
    expected = pool_templates(features, template, media_ids, scores).features
    actual = pool_templates(
        features[::-1], template[::-1], media_ids[::-1], scores[::-1]
    ).features
    np.testing.assert_allclose(actual, expected, atol=1e-14)
    both = np.concatenate([features, features], axis=1)
    actual = pool_templates(both[:, :DIM], template, media_ids, scores, both[:, DIM:])
    np.testing.assert_allclose(actual.features, expected, atol=1e-14)
    for array in (features, template, media_ids, scores):
        array.flags.writeable = False
    actual = pool_templates(features, template, media_ids, scores).features
    np.testing.assert_array_equal(actual, expected)


@pytest.mark.parametrize('dtype', [np.uint8, np.int8, np.uint16, np.uint64])
def test_ids_of_any_integer_type(dtype):
    features, _, template, media_ids, scores = _images()
    small = np.unique(template, return_inverse=True)[1]
    expected = pool_templates(features, small, media_ids + 3, scores)
    actual = pool_templates(
        features, small.astype(dtype), (media_ids + 3).astype(dtype), scores
    )
    np.testing.assert_array_equal(actual.ids, expected.ids)
    np.testing.assert_array_equal(actual.features, expected.features)
    wanted = small[:5].astype(dtype)
    np.testing.assert_array_equal(template_rows(actual.ids, wanted), small[:5])
