"""Alignment against a least squares solver, augmentations by what they promise."""

import cv2
import numpy as np
import pytest

from mmhyperface.datasets import (
    AlignFace,
    RandomFaceCrop,
    RandomFaceFlip,
    RandomLowResolution,
)
from mmhyperface.datasets.transforms import similarity, template
from mmhyperface.utils.errors import UserError


def by_least_squares(source: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Of x' = a x - b y + c, y' = b x + a y + d over all points."""
    rows, values = [], []
    for (x, y), (u, v) in zip(source, target, strict=True):
        rows += [[x, -y, 1, 0], [y, x, 0, 1]]
        values += [u, v]
    a, b, c, d = np.linalg.lstsq(np.array(rows), np.array(values), rcond=None)[0]
    return np.array([[a, -b, c], [b, a, d]])


@pytest.mark.parametrize('seed', range(20))
def test_the_similarity_of_least_squared_error(seed):
    chance = np.random.default_rng(seed)
    spread, shift = 10 ** chance.uniform(-2, 3), chance.normal(0, 50)
    source = chance.normal(shift, spread, (5, 2))
    actual = similarity(source, template(112, 112))
    np.testing.assert_allclose(
        actual, by_least_squares(source, template(112, 112)), rtol=1e-8, atol=1e-8
    )


def test_the_template():
    expected = [38.2946, 51.6963, 73.5318, 51.5014, 56.0252, 71.7366]
    assert template(112, 112)[:3].ravel().tolist() == expected
    # FORMATS of the older papers: the same points with x - 8.
    assert np.allclose(template(112, 96), template(112, 112) - [8, 0])
    assert np.allclose(template(224, 224), template(112, 112) * 2)


@pytest.mark.parametrize('size', [112, (112, 96), (64, 64)])
def test_faces_come_to_their_place(size):
    """Discs at the landmarks of a turned face, found again after alignment."""
    height, width = (size, size) if isinstance(size, int) else size
    angle, scale = np.deg2rad(25), 2.5
    turn = scale * np.array(
        [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    )
    points = template(112, 112) @ turn.T + [260, 120]
    image = np.zeros((600, 700, 3), np.uint8)
    for x, y in points:
        cv2.circle(image, (round(x), round(y)), 5, (255, 255, 255), -1)
    results = AlignFace(size).transform(dict(img=image, landmarks=points))
    crop = results['img']
    assert crop.shape == (height, width, 3)
    assert results['img_shape'] == (height, width)
    np.testing.assert_allclose(results['landmarks'], template(height, width), atol=1e-6)
    *_, centres = cv2.connectedComponentsWithStats(
        (crop[:, :, 0] > 100).astype(np.uint8)
    )
    assert len(centres) == 6
    for point in template(height, width):
        assert np.linalg.norm(centres[1:] - point, axis=1).min() < 1


@pytest.mark.parametrize(
    ('points', 'message'),
    [
        (None, 'has no landmarks'),
        ([[1, 1]] * 5, 'no face has'),
        ([[np.nan, 1]] + [[2, 3]] * 4, 'no face has'),
        ([[1, 2], [3, 4]], r'expected points \[5, 2\], got \[2, 2\]'),
        ([1, 2, 3], r'got \[3\]'),
    ],
)
def test_landmarks_that_are_none(points, message):
    image = np.zeros((9, 9, 3), np.uint8)
    results = dict(img=image, landmarks=points, img_path='a.jpg')
    with pytest.raises(UserError, match=rf'a\.jpg: .*{message}'):
        AlignFace().transform(results)


def test_flips_mirror_the_image_and_its_landmarks():
    """Each landmark stays on the pixel that it marks, under its new name."""
    chance = np.random.default_rng(0)
    image = chance.integers(0, 256, (9, 7, 3), np.uint8)
    points = np.stack([chance.permutation(7)[:5], chance.permutation(9)[:5]], 1)
    colours = [image[y, x] for x, y in points]
    flipped = 0
    for _ in range(400):
        results = dict(img=image.copy(), landmarks=points.copy())
        out = RandomFaceFlip(prob=0.25).transform(results)
        order = range(5)
        if not np.array_equal(out['img'], image):
            flipped += 1
            np.testing.assert_array_equal(out['img'], image[:, ::-1])
            # Left eye, right eye, nose, left and right corner of the mouth.
            order = [1, 0, 2, 4, 3]
        for (x, y), which in zip(out['landmarks'].astype(int), order, strict=True):
            np.testing.assert_array_equal(out['img'][y, x], colours[which])
    assert 60 < flipped < 140
    assert RandomFaceFlip(1).transform(dict(img=image))['img'].shape == (9, 7, 3)


def test_crops_keep_a_rectangle_in_its_place():
    image = np.full((112, 112, 3), 200, np.uint8)
    transform = RandomFaceCrop(prob=0.5, scale=(0.25, 0.5), ratio=(0.5, 2.0))
    changed, areas, ratios = 0, [], []
    for _ in range(400):
        out = transform.transform(dict(img=image))['img']
        rows, columns = (out[:, :, 0].any(axis) for axis in (1, 0))
        h, w = rows.sum(), columns.sum()
        assert (out[np.ix_(rows, columns)] == 200).all()
        assert (out > 0).sum() == 3 * h * w
        if h * w < 112 * 112:
            changed += 1
            areas.append(h * w / 112**2)
            ratios.append(w / h)
    assert 140 < changed < 260
    assert min(areas) > 0.24
    assert max(areas) < 0.51
    assert min(ratios) > 0.48
    assert max(ratios) < 2.1
    # The image that came in is whole.
    assert (image == 200).all()


def test_low_resolution_takes_detail_and_nothing_else():
    chance = np.random.default_rng(0)
    noise = chance.integers(0, 256, (112, 96, 3), np.uint8)
    flat = np.full((112, 96, 3), 90, np.uint8)
    transform = RandomLowResolution(prob=1.0, scale=(0.2, 0.5))
    for _ in range(50):
        assert (transform.transform(dict(img=flat))['img'] == 90).all()
        out = transform.transform(dict(img=noise))['img']
        assert out.shape == noise.shape
        assert (out != noise).mean() > 0.5
    same = RandomLowResolution(prob=0.0).transform(dict(img=noise))['img']
    assert same is noise


@pytest.mark.parametrize(
    ('make', 'message'),
    [
        (lambda: RandomFaceFlip(prob=-0.1), 'prob is a share'),
        (lambda: RandomFaceCrop(prob=1.2), 'prob is a share'),
        (lambda: RandomFaceCrop(scale=(0.5, 1.5)), 'scale is a range'),
        (lambda: RandomFaceCrop(ratio=(2, 1)), 'ratio is a range'),
        (lambda: RandomLowResolution(prob=-1), 'prob is a share'),
        (lambda: RandomLowResolution(scale=(0, 1)), 'scale is a range'),
    ],
)
def test_augmentations_that_are_none(make, message):
    with pytest.raises(UserError, match=message):
        make()
