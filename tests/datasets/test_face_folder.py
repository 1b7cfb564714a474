import argparse
import hashlib
import os
import pickle
import unicodedata
from collections import OrderedDict

import pytest
from mmengine.config import DictAction
from mmengine.registry import DATASETS as ROOT_DATASETS
from mmengine.registry import DefaultScope, init_default_scope

from mmhyperface.datasets import FaceFolder
from mmhyperface.utils.errors import UserError

PEOPLE = [f's{i}' for i in range(1, 30)]


def make(root, **files):
    """make(root, ann='1.jpg 2.jpg'): empty files, which a scan does not open."""
    for identity, names in files.items():
        (root / identity).mkdir(parents=True)
        for name in names.split():
            (root / identity / name).touch()
    return str(root)


@pytest.fixture
def people(tmp_path):
    return make(tmp_path / 'orl', **{name: '1.pgm 10.pgm 2.pgm' for name in PEOPLE})


def items(dataset):
    infos = [dataset.get_data_info(i) for i in range(len(dataset))]
    root = dataset.data_root
    return [(os.path.relpath(i['img_path'], root), i['gt_label']) for i in infos]


def options(*words):
    parser = argparse.ArgumentParser()
    parser.add_argument('--cfg-options', nargs='+', action=DictAction)
    return parser.parse_args(['--cfg-options', *words]).cfg_options


# What is found ------------------------------------------------------------------


def test_labels_are_positions_among_the_sorted_names(tmp_path, warnings):
    root = make(tmp_path, s2='b.JPG a.jpeg', s10='x.webp', Zoe='1.png', ann='1.bmp')
    dataset = FaceFolder(root)
    assert items(dataset) == [
        ('Zoe/1.png', 0),
        ('ann/1.bmp', 1),
        ('s10/x.webp', 2),
        ('s2/a.jpeg', 3),
        ('s2/b.JPG', 3),
    ]
    assert dataset.metainfo['classes'] == ('Zoe', 'ann', 's10', 's2')
    assert dataset.metainfo['num_classes'] == 4
    assert warnings == []


def test_items(tmp_path):
    dataset = FaceFolder(make(tmp_path, ann='1.jpg', bob='2.jpg 3.jpg'))
    info = dataset[-1]
    assert info == dict(
        img_path=str(tmp_path / 'bob' / '3.jpg'), gt_label=1, sample_idx=2
    )
    assert type(info['gt_label']) is int
    assert dataset.get_cat_ids(0) == [0]
    assert dataset.get_gt_labels().tolist() == [0, 1, 1]


def test_what_is_passed_over(tmp_path, warnings):
    root = make(tmp_path, ann='1.jpg .hidden.jpg notes.txt', bob='', cem='Thumbs.db')
    make(tmp_path, **{'.cache': '1.jpg', 'ann/deeper': '1.jpg', 'ann/folder.jpg': ''})
    (tmp_path / 'readme.md').touch()
    (tmp_path / 'lost.jpg').touch()
    (tmp_path / 'ann' / 'broken.jpg').symlink_to('nowhere.jpg')
    (tmp_path / 'ann' / 'photo').write_bytes(b'\x89PNG\r\n\x1a\n')
    dataset = FaceFolder(root)
    assert items(dataset) == [('ann/1.jpg', 0)]
    assert dataset.metainfo['classes'] == ('ann',)
    assert dataset.left_out == ['ann/photo', 'lost.jpg']
    left_out, entries, empty = warnings
    assert '2 images that lie in no folder of an identity, or are not n' in left_out
    assert "'ann/photo', 'lost.jpg'" in left_out
    assert '5 entries that are no image by their names' in entries
    assert '--cfg-options train_dataloader.dataset.extensions=' in entries
    assert "'readme.md', 'ann/broken.jpg', 'ann/deeper', 'ann/folder.jpg'," in entries
    assert "2 identities without an image: 'bob', 'cem'" in empty
    # As training, validation and test do, of one folder.
    assert len(FaceFolder(root)) == 1
    assert len(warnings) == 3


def test_links_and_pipes(tmp_path, warnings):
    real = make(tmp_path / 'real', cem='1.jpg')
    root = tmp_path / 'root'
    make(root, ann='1.jpg')
    (root / 'bob').symlink_to(os.path.join(real, 'cem'))
    (root / 'loop').symlink_to('loop')
    (root / 'up').symlink_to('.')
    (root / 'gone').symlink_to('nowhere')
    (root / 'ann' / 'loop.jpg').symlink_to('loop.jpg')
    os.mkfifo(root / 'ann' / '2.jpg')
    assert items(FaceFolder(str(root))) == [('ann/1.jpg', 0), ('bob/1.jpg', 1)]
    assert "'gone', 'loop', 'ann/2.jpg', 'ann/loop.jpg'" in warnings[0]
    assert "1 identities without an image: 'up'" in warnings[1]


def test_what_systems_and_our_tools_leave_is_of_no_account(tmp_path, warnings):
    root = make(tmp_path, ann='1.jpg ._1.jpg .DS_Store Thumbs.db landmarks.tsv')
    (tmp_path / 'not_aligned.tsv').touch()
    leftovers = {
        '.ipynb_checkpoints': '1.jpg',
        'ann/.ipynb_checkpoints': '1-checkpoint.jpg',
        '@eaDir': 'ann@SynoEAStream',
        'ann/@eaDir/1.jpg': 'SYNOPHOTO_THUMB_M.jpg',
        '__MACOSX/ann': '._1.jpg',
        'lost+found': '',
    }
    make(tmp_path, **leftovers)
    assert items(FaceFolder(root)) == [('ann/1.jpg', 0)]
    assert warnings == []


def test_names_that_are_not_utf8(tmp_path, warnings):
    name, file = os.fsdecode(b'\xff'), os.fsdecode(b'\xe9.jpg')
    try:
        root = make(tmp_path, **{name: f'{file} \udcff.txt', 'b': '1.jpg'})
    except OSError:
        pytest.skip('this file system has no such names')
    dataset = pickle.loads(pickle.dumps(FaceFolder(root)))
    assert items(dataset) == [('b/1.jpg', 0), (f'{name}/{file}', 1)]
    assert os.path.isfile(dataset.get_data_info(1)['img_path'])
    assert warnings[0].isprintable()


@pytest.mark.parametrize('extensions', [(), '', '.', None, [7]])
def test_no_extensions(tmp_path, extensions):
    with pytest.raises(UserError, match='extensions: expected some'):
        FaceFolder(str(tmp_path), extensions=extensions)


@pytest.mark.parametrize(
    'extensions', ['tif', '.TIF', '*.tif', ['tif'], ('.tif', 'gif')]
)
def test_extensions(tmp_path, extensions):
    root = make(tmp_path, ann='1.tif 2.jpg')
    assert items(FaceFolder(root, extensions=extensions)) == [('ann/1.tif', 0)]


# Nothing there ------------------------------------------------------------------


def test_missing_root(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv('HOME', str(tmp_path))
    make(tmp_path / 'faces', ann='1.jpg')
    assert len(FaceFolder('~/faces')) == 1
    with pytest.raises(UserError) as error:
        FaceFolder('data/orl')
    assert str(error.value) == (
        f"FaceFolder: cannot list 'data/orl' (in {tmp_path}): No such file or "
        'directory. Expected data_root/identity/image; set data_root (for instance '
        '--cfg-options train_dataloader.dataset.data_root=...)'
    )


@pytest.mark.parametrize('root', [None, 7, b'/', 's3://faces', 'abc://x', 'a\0b'])
def test_root_is_no_path(root):
    with pytest.raises(UserError, match='data_root: expected a path of this machine'):
        FaceFolder(root)


@pytest.mark.parametrize('link', [True, False])
def test_what_may_not_be_read(tmp_path, link):
    root = make(tmp_path / 'root', ann='1.jpg', bob='1.jpg')
    where = tmp_path / 'root' / 'bob'
    closed = where
    if link:
        closed = tmp_path / 'closed'
        make(closed, cem='1.jpg')
        where = tmp_path / 'root' / 'cem'
        where.symlink_to(closed / 'cem')
    closed.chmod(0)
    try:
        if os.access(closed, os.R_OK):
            pytest.skip('root may read anything')
        with pytest.raises(
            UserError, match=f"'{where}': Permission denied. Make it read"
        ):
            FaceFolder(root)
    finally:
        closed.chmod(0o700)


def test_no_identity_folders(tmp_path):
    (tmp_path / '.git').mkdir()
    with pytest.raises(UserError, match=f"no identity folders.*'{tmp_path}', nothing"):
        FaceFolder(str(tmp_path))
    for i in range(7):
        (tmp_path / f'{i}.jpg').touch()
    with pytest.raises(UserError, match=r"only '0\.jpg', .*\.\.\. \(7 in all\)"):
        FaceFolder(str(tmp_path))


@pytest.mark.parametrize('holdout', [{}, dict(holdout=1, split='test')])
def test_identities_without_images(tmp_path, holdout):
    root = make(tmp_path, ann='1.txt', bob='')
    with pytest.raises(UserError, match=r'no image in 2 identity .*\.extensions='):
        FaceFolder(root, **holdout)


# A choice of identities ---------------------------------------------------------


def test_include_and_exclude(people):
    apart = ['s29', 's3', 's10', 's9', 's1']
    train = FaceFolder(people, exclude=apart)
    test = FaceFolder(people, include=apart)
    assert train.metainfo['num_classes'] == 24
    assert set(train.metainfo['classes']) == set(PEOPLE) - set(apart)
    assert test.metainfo['classes'] == ('s1', 's10', 's29', 's3', 's9')
    assert len(train) == 72
    assert [label for _, label in items(test)] == sorted([0, 1, 2, 3, 4] * 3)
    both = FaceFolder(people, include=apart, exclude='s1')
    assert both.metainfo['classes'] == ('s10', 's29', 's3', 's9')


def test_include_a_list(people, tmp_path):
    # As LFW lists its people: their number, and how many images each has.
    (tmp_path / 'some.txt').write_text('2\ns5\t3\ns7\t3\n')
    listed = FaceFolder(people, include='../some.txt')
    assert listed.metainfo['classes'] == ('s5', 's7')
    (tmp_path / 'some.txt').write_text('s5\nnobody\n')
    with pytest.raises(UserError, match="include: 'nobody' fits 0 identities"):
        FaceFolder(people, include='../some.txt')


def test_from_the_command_line(people):
    dataset = FaceFolder(people, **options("exclude=['s26','s27']"))
    assert set(PEOPLE) - set(dataset.metainfo['classes']) == {'s26', 's27'}
    assert FaceFolder(people, **options('include=s5')).metainfo['classes'] == ('s5',)


def test_a_number_stands_for_a_name(tmp_path):
    root = make(tmp_path, **{'0045': '1.jpg', '046': '1.jpg', '46': '1.jpg'})
    given = options("include=['0045']")
    assert given == dict(include=[45])  # what mmengine makes of it
    assert FaceFolder(root, **given).metainfo['classes'] == ('0045',)
    assert FaceFolder(root, include='46').metainfo['classes'] == ('46',)
    with pytest.raises(UserError, match='include: 46 fits 2 identities'):
        FaceFolder(root, include=46)


def test_unknown_names(people):
    with pytest.raises(UserError, match=r"exclude: 's30' fits 0 .*1 of 's1', "):
        FaceFolder(people, exclude=['s1', 's30'])
    with pytest.raises(UserError, match=r'leave none of the 29 identities'):
        FaceFolder(people, include=['s1'], exclude=['s1'])


def test_a_letter_and_its_accent(tmp_path):
    one, two = (unicodedata.normalize(form, 'Zoë') for form in ('NFC', 'NFD'))
    root = make(tmp_path, **{two: '1.jpg', 'ann': '1.jpg'})
    assert FaceFolder(root, include=one).metainfo['classes'] == (two,)
    try:
        make(tmp_path, **{one: '1.jpg'})
    except FileExistsError:
        pytest.skip('one name on this file system')
    assert FaceFolder(root, include=one).metainfo['classes'] == (one,)


def test_names_of_other_kinds(people):
    assert len(FaceFolder(people, exclude=None)) == 87
    assert len(FaceFolder(people, include={'s1', 's2'})) == 6
    for name in ([['s1']], 1.5, [None]):
        with pytest.raises(UserError, match=r'include: .* fits 0 identities'):
            FaceFolder(people, include=name)


@pytest.mark.parametrize('seed', [0, 1])
def test_holdout(people, seed):
    train, test = (
        FaceFolder(people, holdout=5, split=split, split_seed=seed).metainfo['classes']
        for split in ('train', 'test')
    )
    assert (len(train), len(test)) == (24, 5)
    assert sorted(train + test) == sorted(PEOPLE)
    assert list(train) == sorted(train)


def test_holdout_is_drawn_from_the_seed(people):
    def test_side(seed):
        dataset = FaceFolder(people, holdout=5, split='test', split_seed=seed)
        return dataset.metainfo['classes']

    # Numbers that are published depend on the split: it must never change.
    digests = {
        name: hashlib.sha256(f'0/{name}'.encode()).hexdigest() for name in PEOPLE
    }
    assert test_side(0) == tuple(sorted(sorted(PEOPLE, key=digests.get)[:5]))
    assert test_side(0) == ('s14', 's21', 's23', 's27', 's3')
    assert len({test_side(seed) for seed in range(8)}) == 8


def test_someone_who_joins_moves_one_other_at_most(people, tmp_path):
    before = set(FaceFolder(people, holdout=5, split='test').metainfo['classes'])
    for i in range(30, 40):
        make(tmp_path / 'orl', **{f's{i}': '1.pgm'})
        after = set(FaceFolder(people, holdout=5, split='test').metainfo['classes'])
        assert len(before - after) <= 1
        before = after


@pytest.mark.parametrize(
    ('given', 'message'),
    [
        (dict(holdout=5), 'go together'),
        (dict(split='test'), 'go together'),
        (dict(holdout=5, split='val'), "go together, got holdout=5 and split='val'"),
        (dict(holdout=29, split='train'), 'holdout=29 of 29 identities'),
        (dict(holdout=-1, split='train'), 'holdout=-1 is no integer from 0'),
        (dict(holdout=0.1, split='train'), 'holdout=0.1 is no integer'),
        (dict(holdout='5', split='train'), "holdout='5' is no integer"),
        (dict(holdout=5, split='train', split_seed=0.5), 'split_seed=0.5 is no integ'),
    ],
)
def test_bad_holdout(people, given, message):
    with pytest.raises(UserError, match=message):
        FaceFolder(people, **given)


def test_holdout_of_a_choice(people):
    dataset = FaceFolder(people, include=['s1', 's2', 's3'], holdout=2, split='train')
    assert dataset.metainfo['classes'][0] in ('s1', 's2', 's3')
    assert dataset.metainfo['num_classes'] == 1


# As a data set of OpenMMLab -----------------------------------------------------


@pytest.mark.parametrize(
    ('scope', 'prefix'),
    [('mmhyperface', ''), ('mmpretrain', 'mmhyperface.'), (None, 'mmhyperface.')],
)
def test_scopes(people, monkeypatch, scope, prefix):
    monkeypatch.setattr(DefaultScope, '_instance_dict', OrderedDict())
    if scope:
        init_default_scope(scope)
    config = dict(
        type=prefix + 'FaceFolder',
        data_root=people,
        pipeline=[
            dict(type=prefix + 'LoadFace'),
            dict(type='RandomFlip', prob=0.5),
            dict(type='PackInputs'),
        ],
    )
    assert len(ROOT_DATASETS.build(config).pipeline.transforms) == 3


@pytest.mark.parametrize('serialize_data', [True, False])
def test_subsets_and_workers(people, serialize_data):
    dataset = FaceFolder(people, serialize_data=serialize_data)
    whole = items(dataset)
    assert items(pickle.loads(pickle.dumps(dataset))) == whole
    assert items(dataset.get_subset(range(3, 9))) == whole[3:9]
    few = FaceFolder(people, indices=4, serialize_data=serialize_data)
    assert items(few) == whole[:4]
    assert few.metainfo['num_classes'] == 29


@pytest.mark.parametrize('indices', [0, [87], [0, -88], 'few', 1.5, ['s1'], []])
def test_bad_indices(people, indices):
    with pytest.raises(UserError, match=r'indices=.* of 87 images: expected a number'):
        FaceFolder(people, indices=indices)


@pytest.mark.parametrize('name', ['ann_file', 'data_prefix'])
def test_left_over_arguments_of_an_inherited_config_are_refused(tmp_path, name):
    with pytest.raises(UserError, match=f"needs no {name}, got 'train.rec'.*_delete_"):
        FaceFolder(str(tmp_path), **{name: 'train.rec'})
