import cv2
import numpy as np
import pytest
from mmengine.dataset import BaseDataset

from mmhyperface.datasets import FaceFolder, FacePairs, FaceTestSets
from mmhyperface.utils.errors import UserError

PIPELINE = [dict(type='LoadFace', size=(1, 2)), dict(type='PackInputs')]


@pytest.fixture
def lists(tmp_path):
    """Image k holds the value k: 4 images in one list and 3 in the other."""
    for k in range(7):
        cv2.imwrite(str(tmp_path / f'{k}.png'), np.full((1, 2, 3), k, np.uint8))
    (tmp_path / 'lfw.txt').write_text('1\t0.png\t1.png\n0\t2.png\t3.png\n')
    (tmp_path / 'age.txt').write_text(
        '0\t4.png\t5.png\n1\t6.png\t4.png\n1\t6.png\t5.png'
    )
    return tmp_path


def config(root, name, **kwargs):
    return dict(
        type='FacePairs',
        ann_file=f'{name}.txt',
        data_root=str(root),
        name=name,
        pipeline=PIPELINE,
        **kwargs,
    )


class Foreign(BaseDataset):
    """Test sets of another kind: two in one data set, the second after the first."""

    def load_data_list(self):
        pairs = dict(index_a=np.array([0]), index_b=np.array([1]), folds=None)
        self._metainfo['test_sets'] = dict(
            first=dict(
                kind='pairs', offset=0, num_images=2, same=np.array([True]), **pairs
            ),
            second=dict(kind='templates', offset=2, num_images=3),
        )
        return [dict(value=i) for i in range(5)]


def test_items_and_offsets(lists):
    dataset = FaceTestSets([config(lists, 'lfw'), config(lists, 'age')])
    assert len(dataset) == 7
    for k, item in enumerate(dataset[i] for i in range(len(dataset))):
        assert item['inputs'].tolist() == [[[k, k]]] * 3
        assert item['data_samples'].sample_idx == k
    assert dataset[-1]['data_samples'].sample_idx == 6
    for index in (7, -8):
        with pytest.raises(IndexError):
            dataset[index]
    assert dataset.get_data_info(4) == dict(img_path=str(lists / '4.png'), sample_idx=4)

    test_sets = dataset.metainfo['test_sets']
    assert list(test_sets) == ['lfw', 'age']
    assert [(s['offset'], s['num_images']) for s in test_sets.values()] == [
        (0, 4),
        (4, 3),
    ]
    # Within a set, indices count from its offset.
    assert test_sets['age']['index_a'].tolist() == [0, 2, 2]
    assert test_sets['age']['index_b'].tolist() == [1, 0, 1]
    assert test_sets['age']['same'].tolist() == [False, True, True]


def test_combined(lists):
    dataset = FaceTestSets([config(lists, 'lfw'), config(lists, 'age')], combined='all')
    test_sets = dataset.metainfo['test_sets']
    assert list(test_sets) == ['lfw', 'age', 'all']
    combined = test_sets['all']
    assert (combined['kind'], combined['offset']) == ('pairs', 0)
    assert combined['num_images'] == 7
    # Image k of `lists` is item k.
    assert combined['index_a'].tolist() == [0, 2, 4, 6, 6]
    assert combined['index_b'].tolist() == [1, 3, 5, 4, 5]
    assert combined['same'].tolist() == [True, False, False, True, True]
    assert combined['folds'] is None


def test_folds_of_the_combination(tmp_path):
    for name in ('lfw', 'age'):
        fold = f'{name} 1 2\n{name} 1 other 1\n'
        (tmp_path / f'{name}.txt').write_text('2 1\n' + 2 * fold)
    (tmp_path / 'loose.txt').write_text('1 a b\n0 a c\n')
    lfw, age, loose = (
        config(tmp_path, name, check_files=False) for name in ('lfw', 'age', 'loose')
    )
    dataset = FaceTestSets([lfw, age], combined='all')
    assert dataset.metainfo['test_sets']['all']['folds'].tolist() == [0, 0, 1, 1] * 2
    dataset = FaceTestSets([lfw, loose], combined='all')
    assert dataset.metainfo['test_sets']['all']['folds'] is None


def test_identities_of_the_combination(tmp_path):
    for name in ('lfw', 'age'):
        (tmp_path / f'{name}.txt').write_text('1 1\nAnn 1 2\nAnn 1 Bob 1\n')
    (tmp_path / 'loose.txt').write_text('1 a b\n0 a c\n')
    lfw, age, loose = (
        config(tmp_path, name, check_files=False) for name in ('lfw', 'age', 'loose')
    )
    sets = FaceTestSets([lfw, age], combined='all').metainfo['test_sets']
    assert sets['lfw']['identities'].tolist() == [0, 0, 1]
    assert sets['age']['identities'].tolist() == [0, 0, 1]
    # Ann of one set need not be Ann of the other one.
    assert sets['all']['identities'].tolist() == [0, 0, 1, 2, 2, 3]

    combined = dict(both=['age', 'lfw'], second=['age'], again=['second', 'lfw'])
    sets = FaceTestSets([lfw, loose, age], combined=combined).metainfo['test_sets']
    assert sets['loose']['identities'] is None
    assert sets['both']['identities'].tolist() == [2, 2, 3, -1, -1, -1, 0, 0, 1]
    assert sets['second']['identities'].tolist() == [0, 0, 1]
    assert sets['again']['identities'].tolist() == [2, 2, 3, -1, -1, -1, 0, 0, 1]
    sets = FaceTestSets([lfw, loose], combined='all').metainfo['test_sets']
    assert sets['all']['identities'] is None


def test_combinations_of_some(lists):
    sets = [config(lists, 'lfw'), config(lists, 'age')]
    dataset = FaceTestSets(sets, combined=dict(second=['age'], both=['age', 'lfw']))
    actual = dataset.metainfo['test_sets']
    assert list(actual) == ['lfw', 'age', 'second', 'both']
    # A combination begins where the first of its images does.
    assert actual['second']['offset'] == actual['age']['offset'] == 4
    assert (actual['second']['index_a'] == actual['age']['index_a']).all()
    assert [actual[name]['num_images'] for name in ('second', 'both')] == [3, 7]
    assert actual['both']['same'].tolist() == [
        *actual['age']['same'],
        *actual['lfw']['same'],
    ]
    for parts, message in ((['age', 'x'], "'x' is no set"), ([], 'nothing is no set')):
        with pytest.raises(UserError, match=rf"{message}.* there are 'lfw', 'age'"):
            FaceTestSets(sets, combined=dict(both=parts))


def test_one_set_and_built_sets(lists):
    (lists / 'empty').mkdir()
    built = FacePairs(str(lists / 'lfw.txt'), data_prefix=str(lists), lazy_init=True)
    dataset = FaceTestSets([built], combined='all')
    assert len(dataset) == 4
    assert list(dataset.metainfo['test_sets']) == ['pairs', 'all']


def test_other_kinds_are_shifted_too(lists):
    dataset = FaceTestSets([config(lists, 'lfw'), Foreign()])
    offsets = {n: s['offset'] for n, s in dataset.metainfo['test_sets'].items()}
    assert offsets == dict(lfw=0, first=4, second=6)
    assert dataset[8] == dict(value=4, sample_idx=8)
    with pytest.raises(UserError, match=r"combined='all' .* 'second' is no set of"):
        FaceTestSets([Foreign()], combined='all')


def test_metainfo_is_a_copy(lists):
    dataset = FaceTestSets([config(lists, 'lfw')])
    dataset.metainfo['test_sets']['lfw']['same'][:] = False
    assert dataset.metainfo['test_sets']['lfw']['same'].any()


@pytest.mark.parametrize(
    ('names', 'combined'), [(('lfw', 'lfw'), None), (('lfw', 'age'), 'lfw')]
)
def test_names_are_unique(lists, names, combined):
    with pytest.raises(UserError, match="two test sets are called 'lfw'"):
        FaceTestSets([config(lists, name) for name in names], combined=combined)


def test_data_sets_without_test_sets(lists):
    (lists / 'train' / 'ann').mkdir(parents=True)
    (lists / 'train' / 'ann' / '1.png').touch()
    with pytest.raises(UserError, match='FaceFolder has no test sets'):
        FaceTestSets([FaceFolder(str(lists / 'train'))])
    with pytest.raises(UserError, match='list has no test sets'):
        FaceTestSets([[1, 2]])
    with pytest.raises(UserError, match='datasets is empty'):
        FaceTestSets([])
    inner = FaceTestSets([config(lists, 'lfw')])
    with pytest.raises(UserError, match='of the inner FaceTestSets here'):
        FaceTestSets([inner])
