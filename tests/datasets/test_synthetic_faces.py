"""Drawn faces: what a picture depends on, labels, pairs, errors."""

import hashlib
import multiprocessing
import pickle

import cv2
import numpy as np
import pytest
from mmengine.dataset import BaseDataset

from mmhyperface.datasets import SyntheticFacePairs, SyntheticFaces
from mmhyperface.datasets.synthetic.face_renderer import (
    HAIR_STYLES,
    Face,
    identity_parameters,
    nuisance_parameters,
    render,
)
from mmhyperface.utils.errors import UserError


def faces(num_identities=5, images_per_identity=3, **kwargs):
    kwargs = {'image_size': 48, **kwargs}
    return SyntheticFaces(num_identities, images_per_identity, **kwargs)


def image(dataset, idx):
    return dataset.get_data_info(idx)['img']


def digest(dataset):
    """Of all pictures: also run by another process."""
    images = [image(dataset, idx).tobytes() for idx in range(len(dataset))]
    return hashlib.sha256(b''.join(images)).hexdigest()


def test_what_an_item_holds():
    dataset = faces()
    assert isinstance(dataset, BaseDataset)
    assert len(dataset) == 15
    item = dataset[np.int64(7)]
    assert item['img'].shape == (48, 48, 3)
    assert item['img'].dtype == np.uint8
    assert item['img_shape'] == item['ori_shape'] == (48, 48)
    assert (item['gt_label'], item['sample_idx']) == (2, 7)
    assert type(item['gt_label']) is int
    assert type(item['sample_idx']) is int
    assert dataset.metainfo['num_classes'] == 5
    assert type(dataset.metainfo['num_classes']) is int
    assert dataset.get_gt_labels().tolist() == [k for k in range(5) for _ in range(3)]
    for idx in (-16, 15, 10**9):
        with pytest.raises(IndexError, match=str(idx)):
            dataset[idx]


def test_the_same_pictures_in_another_process():
    dataset = faces(label_noise=0.5)
    with multiprocessing.get_context('forkserver').Pool(1) as pool:
        elsewhere = pool.apply(digest, (dataset,))
    assert digest(faces()) == digest(dataset) == elsewhere


def test_a_picture_depends_on_seed_identity_and_index_alone():
    small, large = faces(), faces(num_identities=1000, images_per_identity=7)
    for identity, index in ((4, 2), (0, 0), (2, 1)):  # in no order
        expected = image(small, identity * 3 + index)
        assert np.array_equal(expected, image(large, identity * 7 + index))
        shifted = faces(first_identity=identity)
        assert np.array_equal(expected, image(shifted, index))
        for other in (faces(seed=1), faces(first_identity=2**40)):
            assert not np.array_equal(expected, image(other, identity * 3 + index))


def test_training_and_test_identities_are_disjoint():
    train = faces(num_identities=20, difficulty=0)
    test = faces(num_identities=20, difficulty=0, first_identity=20)
    people = {image(d, i).tobytes() for d in (train, test) for i in range(0, 60, 3)}
    assert len(people) == 40


def test_without_difficulty_the_pictures_of_a_person_are_equal():
    dataset = faces(difficulty=0)
    for start in range(0, 15, 3):
        assert np.array_equal(image(dataset, start), image(dataset, start + 2))
    assert not np.array_equal(image(dataset, 0), image(dataset, 3))


def test_pictures_of_a_person_differ_more_with_difficulty():
    spreads = []
    for difficulty in (0.25, 0.5, 1, 2):
        dataset = faces(20, 4, difficulty=difficulty)
        images = np.stack([image(dataset, i) for i in range(80)]).astype(float)
        spreads.append(images.reshape(20, 4, -1).std(axis=1).mean())
    assert spreads == sorted(spreads)


def test_nuisance_is_drawn_apart_from_the_identity():
    identity = identity_parameters(3, 8)
    assert identity == identity_parameters(3, 8) != identity_parameters(3, 9)
    nuisance = nuisance_parameters(3, 8, 1)
    assert nuisance == nuisance_parameters(3, 8, 1) != nuisance_parameters(3, 8, 2)
    assert nuisance != nuisance_parameters(3, 9, 1)


@pytest.mark.parametrize('size', [16, 33, 64, 97, 112, 224])
def test_sizes(size):
    dataset = faces(3, 2, image_size=size)
    for idx in range(6):
        picture = image(dataset, idx)
        assert picture.shape == (size, size, 3)
        assert picture.std() > 5


def test_a_smaller_picture_shows_the_same_face():
    identity, nuisance = identity_parameters(0, 5), nuisance_parameters(0, 5, 0, 0)
    large = cv2.resize(render(identity, nuisance, 128), (64, 64))
    small = render(identity, nuisance, 64)
    assert np.corrcoef(large.ravel(), small.ravel())[0, 1] > 0.97


@pytest.mark.parametrize('difficulty', [0, 1, 2, 5])
@pytest.mark.parametrize('style', range(len(HAIR_STYLES)))
def test_every_kind_of_hair_beard_and_occlusion_can_be_drawn(style, difficulty):
    position = (style + 0.5) / len(HAIR_STYLES)
    for k in range(12):
        identity = identity_parameters(0, k)._replace(
            hair_style=position, beard=0.55 + 0.037 * k, freckles=1.0, mole=1.0, age=1.0
        )
        nuisance = nuisance_parameters(0, k, 0, difficulty)._replace(
            glasses=0.5 + k / 20, occluder=k % 2, occluder_kind=k / 12
        )
        assert render(identity, nuisance, 40).shape == (40, 40, 3)
        for part in Face(identity, nuisance).parts():
            assert np.isfinite(part.points).all()


def test_wrong_labels():
    share, people, images = 0.3, 50, 40
    dataset = faces(people, images, label_noise=share)
    labels = dataset.get_gt_labels()
    truth = np.repeat(np.arange(people), images)
    wrong = labels != truth
    # Five standard deviations of a binomial.
    bound = 5 * np.sqrt(share * (1 - share) / len(labels))
    assert abs(wrong.mean() - share) < bound
    assert labels.min() >= 0
    assert labels.max() < people
    distances = (labels - truth)[wrong] % people
    assert len(np.unique(distances)) > 0.9 * (people - 1)  # all the others occur
    assert dataset.get_data_info(7)['gt_label'] == labels[7]
    # The same images stay wrong in a larger data set.
    larger = faces(2 * people, images, label_noise=share)
    larger_wrong = larger.get_gt_labels()[: len(labels)] != truth
    assert np.array_equal(wrong, larger_wrong)
    labels = faces(4, 50, label_noise=1.0).get_gt_labels()
    assert not (labels == np.repeat(np.arange(4), 50)).any()


def test_millions_of_identities_cost_nothing():
    dataset = SyntheticFaces(10_000_000, 100, image_size=32)
    assert len(dataset) == 1_000_000_000
    assert dataset[999_999_999]['gt_label'] == 9_999_999
    assert len(pickle.dumps(dataset)) < 4000
    pairs = SyntheticFacePairs(10_000_000, 100, num_pairs=100, image_size=32)
    assert len(pairs) <= 200
    assert len(pickle.dumps(pairs)) < 20_000


def test_indices_and_lazy_init():
    assert len(faces(indices=4)) == 4
    subset = faces(indices=[3, 9])
    assert [item['gt_label'] for item in subset] == [1, 3]
    lazy = faces(lazy_init=True)
    assert lazy.metainfo['num_classes'] == 5
    assert lazy.get_data_info(14)['gt_label'] == 4


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (dict(num_identities=0), 'num_identities=0'),
        (dict(num_identities=2.5), 'num_identities=2.5'),
        (dict(images_per_identity=0), 'images_per_identity=0'),
        (dict(image_size=8), 'image_size=8'),
        (dict(seed=-1), 'seed=-1'),
        (dict(first_identity=-3), 'first_identity=-3'),
        (dict(difficulty=-0.1), 'difficulty=-0.1'),
        (dict(difficulty=float('nan')), 'difficulty=nan'),
        (dict(label_noise=1.5), 'label_noise=1.5'),
        (dict(label_noise=0.1, num_identities=1), 'no wrong label'),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(UserError, match=message):
        faces(**arguments)


def pairs_of(dataset, name='synthetic'):
    return dataset.metainfo['test_sets'][name]


def test_pairs():
    dataset = SyntheticFacePairs(
        30, 6, num_pairs=110, image_size=32, first_identity=100, name='mine'
    )
    pairs = pairs_of(dataset, 'mine')
    assert (pairs['kind'], pairs['offset']) == ('pairs', 0)
    assert pairs['num_images'] == len(dataset)
    a, b, same, folds = (pairs[k] for k in ('index_a', 'index_b', 'same', 'folds'))
    assert a.dtype == b.dtype == folds.dtype == np.int64
    assert same.dtype == bool
    assert len(a) == len(b) == len(same) == len(folds) == 110
    # Every image is in a pair, no image with itself, no pair twice.
    assert np.array_equal(np.union1d(a, b), np.arange(len(dataset)))
    assert (a != b).all()
    assert len({frozenset(pair) for pair in zip(a, b, strict=True)}) == 110
    labels = dataset.get_gt_labels()
    assert np.array_equal(labels[a] == labels[b], same)
    assert np.array_equal(pairs['identities'], labels)
    assert pairs['identities'].dtype == np.int64
    for fold in range(10):
        assert same[folds == fold].mean() == 0.5
    assert same.sum() == 55
    # An item is the picture of that person.
    everyone = faces(30, 6, image_size=32, first_identity=100)
    drawn = {image(everyone, i).tobytes() for i in range(180)}
    items = {image(dataset, i).tobytes() for i in range(len(dataset))}
    assert items < drawn
    assert len(items) == len(dataset)


def test_pairs_depend_on_the_seed_alone():
    first, again = (SyntheticFacePairs(20, 5, num_pairs=60) for _ in range(2))
    other = SyntheticFacePairs(20, 5, num_pairs=60, seed=1)
    lazy = SyntheticFacePairs(20, 5, num_pairs=60, lazy_init=True)
    for same in (again, lazy):
        for key in ('index_a', 'index_b', 'folds'):
            assert np.array_equal(pairs_of(first)[key], pairs_of(same)[key])
    assert not np.array_equal(pairs_of(first)['index_a'], pairs_of(other)['index_a'])


def test_all_pairs_there_are():
    # 3 people with 3 images: 9 pairs of one person, 27 of two.
    dataset = SyntheticFacePairs(3, 3, num_pairs=18, folds=3)
    assert len(dataset) == 9
    with pytest.raises(UserError, match='at most 18'):
        SyntheticFacePairs(3, 3, num_pairs=20, folds=3)


def test_pairs_cover_all_people_evenly():
    dataset = SyntheticFacePairs(10, 40, num_pairs=4000)
    pairs, labels = pairs_of(dataset), dataset.get_gt_labels()
    for kind in (True, False):
        people = labels[pairs['index_a'][pairs['same'] == kind]]
        people = np.append(people, labels[pairs['index_b'][pairs['same'] == kind]])
        share = np.bincount(people, minlength=10) / len(people)
        assert np.abs(share - 0.1).max() < 0.03


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (dict(num_pairs=41), 'odd'),
        (dict(num_pairs=10), 'num_pairs=10'),
        (dict(folds=0), 'folds=0'),
        (dict(num_identities=1), 'at most 0'),
        (dict(images_per_identity=1), 'at most 0'),
        (dict(num_identities=10**8, images_per_identity=100), 'above 4294967296'),
        (dict(indices=5), 'indices'),
    ],
)
def test_bad_pairs(arguments, message):
    arguments = {'num_identities': 9, 'images_per_identity': 4, **arguments}
    with pytest.raises(UserError, match=message):
        SyntheticFacePairs(**{'num_pairs': 40, **arguments})


def test_raw_pixels_do_not_recognise_anyone():
    dataset = SyntheticFacePairs(100, 10, num_pairs=600, image_size=48)
    pixels = np.stack([image(dataset, i) for i in range(len(dataset))])
    pixels = pixels.reshape(len(dataset), -1) / 127.5 - 1
    pixels /= np.linalg.norm(pixels, axis=1, keepdims=True)
    pairs = pairs_of(dataset)
    scores = (pixels[pairs['index_a']] * pixels[pairs['index_b']]).sum(1)
    thresholds = np.sort(scores)[:, None]
    accuracy = ((scores > thresholds) == pairs['same']).mean(axis=1).max()
    assert accuracy < 0.66


def test_cached_images_are_the_same_and_do_not_leak():
    plain, cached = (
        SyntheticFaces(3, 2, image_size=33, cache_images=c) for c in (False, True)
    )
    for _ in range(2):
        for index in range(6):
            image = cached[index]['img']
            np.testing.assert_array_equal(image, plain[index]['img'])
            image[:] = 0
