"""Wrong labels and sets of sets."""

import itertools

import numpy as np
import pytest
import torch
from mmengine.dataset import BaseDataset, Compose
from mmengine.registry import init_default_scope
from mmengine.runner import Runner
from record_files import header, images, insightface_records, picture, seed_of, write

from mmhyperface.datasets import (
    FaceRecord,
    FaceSets,
    IdentityBalancedSampler,
    LabelNoise,
    SyntheticFaces,
    wrappers,
)
from mmhyperface.datasets.wrappers import labels_of, numbered, placed
from mmhyperface.registry import DATASETS
from mmhyperface.utils.errors import UserError

PIPELINE = [dict(type='LoadFace', size=16)]


def records(folder, identities=4, each=5, bad=(), pack=False, **options):
    content = insightface_records(images(identities, each))
    for number in bad:
        label = float(number // each)
        content[number] = (number + 1, header(label, number + 1) + b'no image')
    write(folder, content, identities)
    pipeline = PIPELINE + [dict(type='mmpretrain.PackInputs')] * pack
    return FaceRecord(str(folder), pipeline=pipeline, **options)


def test_symmetric_noise_is_that_of_its_definition():
    data = SyntheticFaces(10, images_per_identity=400, image_size=16, pipeline=[])
    noisy = LabelNoise(data, 0.4)
    wrong = noisy.labels() != noisy.clean
    assert wrong.sum() == 1600
    # Every other person is as likely: 178 of 1600 each, standard deviation 13.
    shift = (noisy.labels() - noisy.clean)[wrong] % 10
    counts = np.bincount(shift, minlength=10)
    assert counts[0] == 0
    assert (abs(counts[1:] - 1600 / 9) < 65).all()
    # Of everyone about as many.
    assert (abs(np.bincount(noisy.clean[wrong]) - 160) < 50).all()
    again, other = LabelNoise(data, 0.4), LabelNoise(data, 0.4, seed=1)
    assert (again.labels() == noisy.labels()).all()
    assert (other.labels() != noisy.labels()).any()
    assert (LabelNoise(data, 0).labels() == noisy.clean).all()
    assert (LabelNoise(data, 1).labels() != noisy.clean).all()


def test_noise_as_opensphere_draws_it():
    def drawn(identities, each, share):
        data = SyntheticFaces(identities, each, image_size=16, pipeline=[])
        return LabelNoise(data, share, seed=10086, to='opensphere')

    # What OpenSphere's own ClassDataset has (revision 032c31b).
    few = drawn(4, 5, 0.6)
    theirs = [0, 3, 1, 1, 0, 1, 0, 1, 2, 1, 2, 2, 1, 0, 2, 0, 2, 3, 3, 2]
    assert few.labels().tolist() == theirs
    truth = np.repeat(range(4), 5)
    assert (few.wrong_labels() == (theirs != truth)).all()
    assert (few.clean == truth).all()

    # Of 4000 images 0.6 * 9/10 are wrong (standard deviation 32), as likely to be of
    # any of the others.
    many = drawn(10, 400, 0.6)
    wrong = many.wrong_labels()
    assert abs(wrong.sum() - 2160) < 160
    shift = (many.labels() - many.clean)[wrong] % 10
    assert (abs(np.bincount(shift, minlength=10)[1:] - 240) < 75).all()
    assert not drawn(10, 40, 0).wrong_labels().any()


def test_similar_people(tmp_path, monkeypatch):
    messages = []
    monkeypatch.setattr(wrappers, 'print_log', lambda text, **_: messages.append(text))
    data = records(tmp_path)
    centres = np.array([[1, 0.1], [1, 0], [0, 0], [-1, 3.0]])
    np.save(tmp_path / 'centres.npy', centres)
    noisy = LabelNoise(data, 1.0, to='similar', centres=str(tmp_path / 'centres.npy'))
    # Cosines to the others by hand: 3 is nearest to 0, 2 has none and takes the first
    # of its ties.
    assert noisy.labels().tolist() == [1] * 5 + [0] * 5 + [0] * 5 + [2] * 5
    assert 'row i is taken for the person with label i' in messages[0]


def test_damaged_images_become_nobody(tmp_path):
    noisy = LabelNoise(records(tmp_path), 1.0)
    assert (noisy.labels() >= 0).all()
    data = records(tmp_path / 'damaged')
    data.labels = lambda: np.repeat([0, -1, 2, 3], 5)
    for to in ('any', 'opensphere'):
        damaged = LabelNoise(data, 1.0, to=to)
        assert (damaged.labels()[5:10] == -1).all()
        assert not damaged.wrong_labels()[5:10].any()
    labels = LabelNoise(data, 1.0).labels()
    assert (labels[:5] != 0).all()


@pytest.mark.parametrize('pack', [False, True])
def test_what_is_trained_on_has_that_label(tmp_path, pack):
    data = records(tmp_path, bad=[3, 4], pack=pack, on_error='skip')
    noisy = LabelNoise(data, 0.5)
    assert len(noisy) == 20
    for i in range(20):
        item = noisy[i]
        used = {3: 5, 4: 5}.get(i, i)
        if pack:
            assert item['data_samples'].gt_label.tolist() == [noisy.labels()[used]]
        else:
            assert seed_of(item['img']) == used
            assert item['gt_label'] == noisy.labels()[used]
        assert noisy.get_cat_ids(i) == [noisy.labels()[i]]
        assert noisy.get_data_info(i)['gt_label'] == noisy.labels()[i]
    # Metainfo goes into every checkpoint: nothing of the size of the set.
    assert noisy.metainfo == data.metainfo == {'num_classes': 4}
    assert noisy.on_error == 'skip'
    assert list(noisy.skipped()) == [3, 4]


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        (dict(share=1.5), 'share is in'),
        (dict(share=-0.1), 'share is in'),
        (dict(share=0.1, to='other'), "'similar' or 'opensphere'"),
        (dict(share=0.1, to='similar'), 'go together'),
        (dict(share=0.1, to='similar', centres='none.npy'), 'none.npy: cannot be read'),
    ],
)
def test_noise_that_is_none(tmp_path, options, message):
    with pytest.raises(UserError, match=message):
        LabelNoise(records(tmp_path), **options)


@pytest.mark.parametrize('pack', [False, True])
def test_sets_of_sets(tmp_path, pack):
    first = records(tmp_path / 'a', 3, 2, pack=pack)
    second = records(tmp_path / 'b', 4, 3, bad=[0], pack=pack, on_error='skip')
    both = FaceSets([first, second, first])
    assert len(both) == 6 + 12 + 6
    assert both.metainfo == {'num_classes': 10, 'set_sizes': (3, 4, 3)}
    expected = [i // 2 for i in range(6)] + [3 + i // 3 for i in range(12)]
    expected += [7 + i // 2 for i in range(6)]
    assert both.labels().tolist() == expected
    for i, label in enumerate(expected):
        if i != 6:
            assert both.get_cat_ids(i) == [label]
            assert both.get_data_info(i)['gt_label'] == label
            assert both.get_data_info(i)['sample_idx'] == i
        item = both[i]
        used = i + (i == 6)
        if pack:
            assert item['data_samples'].gt_label.tolist() == [label]
            assert item['data_samples'].sample_idx == used
        else:
            assert (item['gt_label'], item['sample_idx']) == (label, used)
    assert both.on_error == 'skip'
    assert list(both.skipped()) == [6]
    with pytest.raises(IndexError):
        both[24]


def test_names_of_sets_of_sets():
    one = SyntheticFaces(2, images_per_identity=1, image_size=16, pipeline=[])
    one._metainfo['classes'] = ('x', 'y')
    assert FaceSets([one, one]).metainfo['classes'] == ('0/x', '0/y', '1/x', '1/y')
    with pytest.raises(UserError, match='list at least one'):
        FaceSets([])


def test_noise_of_sets_of_sets(tmp_path):
    parts = [records(tmp_path / name, 3, 4) for name in 'ab']
    noisy = LabelNoise(FaceSets(parts), 0.5)
    assert (noisy.labels() != noisy.clean).sum() == 12
    for i in range(24):
        assert noisy[i]['gt_label'] == noisy.labels()[i]
        assert seed_of(noisy[i]['img']) == i % 12
    assert picture(0) == parts[0].get_data_info(0)['img_bytes']


def test_wrong_labels_of_sets_of_sets(tmp_path):
    clean = records(tmp_path / 'clean', 3, 4)
    noisy = LabelNoise(records(tmp_path / 'noisy', 3, 4), 0.5)
    wrong = noisy.labels() != np.repeat(range(3), 4)
    assert not hasattr(clean, 'wrong_labels')
    assert FaceSets([clean, clean]).wrong_labels() is None
    both = FaceSets([clean, noisy, clean]).wrong_labels()
    assert both.tolist() == [False] * 12 + wrong.tolist() + [False] * 12
    twice = numbered(torch.utils.data.ConcatDataset([noisy, noisy]))
    assert twice.wrong_labels().tolist() == [*wrong, *wrong]
    few = numbered(torch.utils.data.Subset(noisy, [11, 0, 5]))
    assert few.wrong_labels().tolist() == wrong[[11, 0, 5]].tolist()


def people(folder, first=0) -> dict:
    """Identities of one and of five images, of which image 3 is damaged."""
    for number in range(6):
        path = folder / ('b' if number else 'a') / f'{number}.jpg'
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(picture(first + number) if number != 3 else b'no image')
    steps = [*PIPELINE, dict(type='PackFace')]
    folder = dict(type='FaceFolder', data_root=str(folder), on_error='skip')
    return dict(folder, pipeline=steps)


def made_of_others(kind, folder) -> dict:
    one = people(folder / 'one')
    if kind == 'ConcatDataset':
        return dict(type=kind, datasets=[one, people(folder / 'two', first=10)])
    if kind == 'RepeatDataset':
        return dict(type=kind, dataset=one, times=2)
    if kind == 'KFoldDataset':
        return dict(type=kind, dataset=one, num_splits=6)
    if kind == 'Subset':
        data = DATASETS.build(one)
        return dict(
            type=torch.utils.data.Subset, dataset=data, indices=[5, 4, -4, 0, 5]
        )
    inner = one if kind == 'ClassBalancedDataset' else made_of_others(kind[:-2], folder)
    return dict(type='ClassBalancedDataset', dataset=inner, oversample_thr=0.5)


# The images of each by their colour; 4 is in the place of 3, which is damaged.
OF_OTHERS = {
    'RepeatDataset': [0, 1, 2, 4, 4, 5] * 2,
    'ConcatDataset': [0, 1, 2, 4, 4, 5, 10, 11, 12, 14, 14, 15],
    'ClassBalancedDataset': [0, 0, 1, 2, 4, 4, 5],
    'RepeatDataset ^': [0, 0, 1, 2, 4, 4, 5] * 2,
    'ConcatDataset ^': [0, 0, 1, 2, 4, 4, 5, 10, 10, 11, 12, 14, 14, 15],
    'Subset': [5, 4, 2, 0, 5],
    'KFoldDataset': [1, 2, 4, 4, 5],
}


@pytest.mark.parametrize('kind', OF_OTHERS)
def test_sets_of_mmengine_and_torch(tmp_path, kind):
    seen = OF_OTHERS[kind]
    init_default_scope('mmhyperface')
    config = made_of_others(kind, tmp_path)
    labels = [int(number % 10 > 0) for number in seen]

    def is_image(data, number, colour):
        path = data.get_data_info(number)['img_path']
        folder, person = 'two' if colour > 9 else 'one', 'ab'[colour % 10 > 0]
        return path == str(tmp_path / folder / person / f'{colour % 10}.jpg')

    # What a hook is told of a batch names the image that was seen.
    options = dict(
        batch_size=3,
        num_workers=0,
        collate_fn=dict(type='collate_faces'),
        sampler=dict(type='DefaultSampler', shuffle=False),
        dataset=config,
    )
    loader = Runner.build_dataloader(placed(options, 'train_dataloader'))
    batches = list(loader)
    actual = np.concatenate([batch['sample_idx'] for batch in batches]).tolist()
    pixels = [x.permute(1, 2, 0).numpy() for batch in batches for x in batch['inputs']]
    assert [seed_of(image) for image in pixels] == seen
    data = loader.dataset
    assert all(map(is_image, [data] * len(seen), actual, seen))
    assert labels_of(data).tolist() == labels
    assert [data.get_cat_ids(i) for i in range(len(seen))] == [[x] for x in labels]
    if kind != 'Subset':
        assert data.on_error == 'skip'
        assert len(data.skipped()) == (2 if 'Concat' in kind else 1)
        assert all('3.jpg: cannot be decoded' in x for x in data.skipped().values())

    # Without noise the labels are their own, with it those that the set tells.
    for share in (0.0, 0.6):
        noisy = LabelNoise(config, share)
        assert (noisy.labels() != labels).sum() == round(share * len(seen))
        for i, number in enumerate(actual):
            assert noisy[i]['gt_label'] == noisy.labels()[number]
    both = FaceSets([config, config])
    for i, number in enumerate(actual):
        item = both[len(seen) + i]
        assert item['gt_label'] == 2 + labels[i]
        assert item['sample_idx'] == len(seen) + number
    batch = itertools.islice(iter(IdentityBalancedSampler(data, 2, seed=0)), 4)
    assert {labels[i] for i in batch} == set(labels)


def test_an_image_in_place_of_another_that_was_not_chosen(tmp_path):
    data = DATASETS.build(people(tmp_path))
    few = torch.utils.data.Subset(data, [0, 3, 1])
    noisy = LabelNoise(few, 1.0)
    item = noisy[1]
    # It is image 4, which has no index here, and so no other label than its own.
    assert (seed_of(item['inputs']), item['gt_label'], item['sample_idx']) == (4, 1, -1)
    assert FaceSets([few, few])[4]['sample_idx'] == -1
    assert noisy[0]['gt_label'] == 1


def test_different_people_are_no_concat_dataset(tmp_path):
    init_default_scope('mmhyperface')
    one, other = people(tmp_path / 'one'), people(tmp_path / 'two')
    (tmp_path / 'two' / 'b').rename(tmp_path / 'two' / 'c')
    with pytest.raises(UserError, match="type='FaceSets'"):
        DATASETS.build(dict(type='ConcatDataset', datasets=[one, other]))


def test_folds_of_wrong_labels(tmp_path):
    init_default_scope('mmhyperface')
    noise = dict(type='LabelNoise', share=0.5, dataset=people(tmp_path))
    folds = numbered(dict(type='KFoldDataset', num_splits=6, dataset=noise))
    assert labels_of(folds).tolist() == DATASETS.build(noise).labels()[1:].tolist()
    assert [folds[i]['sample_idx'] for i in range(5)] == [0, 1, 3, 3, 4]


def test_subsets_have_nothing_of_earlier_ones(tmp_path):
    data = DATASETS.build(people(tmp_path))
    few = data.get_subset([0])
    # An object at the address of one that was copied, and is no more.
    (memo,) = BaseDataset._copy_without_annotation.__defaults__
    memo[id(data.pipeline)] = 'of another'
    assert isinstance(data.get_subset([1]).pipeline, type(few.pipeline))
    del memo[id(data.pipeline)]


def test_what_tells_no_labels_or_indices(tmp_path):
    data = DATASETS.build(people(tmp_path))
    pipeline = [*PIPELINE, lambda results: dict(inputs=results['img'])]
    data.pipeline = Compose(pipeline)
    with pytest.raises(UserError, match='must leave sample_idx'):
        LabelNoise(data, 0.5)[0]
    # Whoever needs neither gets what the pipeline makes, and what is known.
    data.pipeline = Compose([*PIPELINE, lambda results: (results['img'], 7)])
    data.get_data_info = lambda idx: {'img_path': str(idx)}
    twice = numbered(torch.utils.data.Subset(data, [0, 1]))
    assert twice.get_data_info(1) == {'img_path': '1', 'sample_idx': 1}
    del data.get_data_info
    assert twice[1][1] == 7
    with pytest.raises(UserError, match='TensorDataset does not tell the labels'):
        labels_of(torch.utils.data.TensorDataset(torch.zeros(3)))
