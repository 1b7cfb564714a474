import json
import struct

import cv2
import numpy as np
import pytest
from megaface_files import write_feature, write_megaface

from mmhyperface.datasets import MegaFaceImages
from mmhyperface.datasets.readers.megaface_lists import (
    LONGEST_PATH,
    read_feature_file,
    read_megaface_lists,
)
from mmhyperface.registry import DATASETS
from mmhyperface.utils.errors import UserError


@pytest.fixture
def truth(tmp_path):
    return write_megaface(tmp_path, pictures=False)


def add(path, *lines):
    with open(path, 'a') as file:
        file.writelines(line + '\n' for line in lines)


def decoded(paths):
    return [path.decode() for path in paths.tolist()]


def refused(root, message, **kwargs):
    with pytest.raises(UserError, match=message):
        read_megaface_lists(str(root), **kwargs)


# Lists --------------------------------------------------------------------------


@pytest.mark.parametrize('as_json', [False, True])
def test_lists(tmp_path, as_json):
    truth = write_megaface(tmp_path, as_json=as_json, pictures=False)
    lists = read_megaface_lists(str(tmp_path))
    assert decoded(lists.probes) == truth.probes
    assert decoded(lists.distractors) == truth.distractors
    none = [-1] * len(truth.distractors)
    assert lists.subjects.dtype == np.int64
    assert lists.subjects.tolist() == truth.probe_subjects + none
    assert lists.noisy.dtype == bool
    assert lists.noisy.tolist() == truth.noisy_probes + truth.noisy_distractors
    assert lists.identities == tuple(f'Person_{i:02d}' for i in range(4))
    assert lists.single_probes() == []


def test_without_lists_of_noise(truth):
    for name in ('facescrub_noises.txt', 'megaface_noises.txt'):
        (truth.root / name).unlink()
    refused(truth.root, r'facescrub_noises\.txt.*\. Check data_root')
    refused(truth.root, r'megaface_noises\.txt', facescrub_noises=None)
    lists = read_megaface_lists(
        str(truth.root), facescrub_noises=None, megaface_noises=None
    )
    assert not lists.noisy.any()


def test_so_many_distractors(truth):
    lists = read_megaface_lists(str(truth.root), num_distractors=5)
    assert decoded(lists.distractors) == truth.distractors[:5]
    # The noise is at the end of the list.
    assert lists.noisy.tolist() == truth.noisy_probes + [False] * 5
    assert len(lists.subjects) == len(truth.probes) + 5
    for count in (0, -1, 13, True, 2.0):
        refused(
            truth.root,
            rf'num_distractors={count}: .* 1 to the 12 that .*megaface_lst has',
            num_distractors=count,
        )


def test_identities_are_ids_or_folders(tmp_path):
    paths = ['x/a/1.png', 'x/b/1.png', 'x/a/2.png', 'x/c/1.png', 'x/c/2.png']
    (tmp_path / 'megaface_lst').write_text('d/e/f.jpg\n')
    none = dict(facescrub_noises=None, megaface_noises=None)
    for content, expected in (
        ('\n'.join(paths), [0, 1, 0, 2, 2]),
        (json.dumps(dict(path=paths)), [0, 1, 0, 2, 2]),
        (json.dumps(dict(path=paths, id=['n', 'm', 'm', 'm', 'n'])), [1, 0, 0, 0, 1]),
        (json.dumps(dict(path=paths, id=[7, 7, 10, 10, 10])), [1, 1, 0, 0, 0]),
    ):
        (tmp_path / 'facescrub_lst').write_text(content)
        lists = read_megaface_lists(str(tmp_path), **none)
        assert lists.subjects.tolist() == [*expected, -1]


def test_identities_with_one_image(truth, warnings):
    noise = [path.split('/')[1] for path in truth.probes[1:2] + truth.probes[3:6]]
    add(truth.root / 'facescrub_noises.txt', *noise)
    add(truth.root / 'facescrub_lst', 'Lone/Lone_1.jpg')
    # Of Person_00 one image is left, of Person_01 none.
    lists = read_megaface_lists(str(truth.root))
    assert lists.single_probes() == ['Lone', 'Person_00']
    dataset = MegaFaceImages(str(truth.root), check_files=False)
    assert dataset.metainfo['test_sets']['megaface']['noisy'].sum() == 7
    (line,) = warnings
    assert '2 identities have one image that is not noise' in line
    assert line.endswith('Lone, Person_00')


def test_no_mates(truth):
    (truth.root / 'facescrub_lst').write_text('a/1.jpg\nb/1.jpg\n')
    refused(truth.root, 'no identity has two images', facescrub_noises=None)
    (truth.root / 'facescrub_lst').write_text('a/1.jpg\na/2.jpg\n')
    (truth.root / 'facescrub_noises.txt').write_text('1.jpg\n2.jpg\n')
    refused(truth.root, r'facescrub_lst: no identity has two images')


@pytest.mark.parametrize('as_json', [False, True])
def test_listed_twice(tmp_path, as_json):
    truth = write_megaface(tmp_path, as_json=as_json, pictures=False)
    paths = [truth.distractors[0], *truth.distractors]
    content, first, again = '\n'.join(paths), ':1', ':2'
    if as_json:
        content, first, again = json.dumps(dict(path=paths)), ': path 0', ': path 1'
    (tmp_path / 'megaface_lst').write_text(content)
    refused(
        tmp_path,
        rf"_lst{again}: '0/4800@N00/7_0\.jpg' is listed again, .* in .*_lst{first}\.",
    )


def test_noise_that_matches_nothing(truth):
    for content in ('', '# none\n'):
        (truth.root / 'megaface_noises.txt').write_text(content)
        refused(
            truth.root,
            r'megaface_noises\.txt: lists no image\. .*; without a list of noise: None',
        )
    (truth.root / 'megaface_noises.txt').write_text('x\t2/3/b.jpg\n1/2/a.jpg\n')
    refused(
        truth.root,
        r'megaface_noises\.txt: none of its 2 images is in .*megaface_lst\. One is '
        r"'1/2/a\.jpg' here and '0/4800@N00/7_0\.jpg' there",
    )
    (truth.root / 'facescrub_noises.txt').write_text('Person_00_1.png\n')
    refused(truth.root, r"One is 'Person_00_1\.png' here and 'Person_00_1\.jpg' there")


def test_noise_is_the_end_of_a_path(truth):
    add(truth.root / 'megaface_noises.txt', '3\t/data/MegaFace/0/4800@N00/7_0.jpg')
    noisy = read_megaface_lists(str(truth.root)).noisy[len(truth.probes) :]
    assert noisy.tolist() == [True, *truth.noisy_distractors[1:]]


@pytest.mark.parametrize(
    ('name', 'content', 'message'),
    [
        ('facescrub_lst', '', 'facescrub_lst: lists no image'),
        ('megaface_lst', '\n\n', 'megaface_lst: lists no image'),
        ('megaface_lst', 'a\n' + LONGEST_PATH * 'ä', 'lst:2: a path of over 255 bytes'),
        ('megaface_lst', '{"path": ["a/b"]', 'starts as JSON, but: .* line 1'),
        ('megaface_lst', '{"id": []}', "expected a list of paths under 'path'"),
        ('megaface_lst', '{"path": []}', 'lists no image'),
        ('megaface_lst', '{"path": ["a"], "id": []}', "under 'id' as long as the 1"),
        ('megaface_lst', 'a\0b', 'NUL'),
    ],
)
def test_bad_lists(truth, name, content, message):
    (truth.root / name).write_text(content)
    refused(truth.root, message)


def test_a_probe_without_folder(truth):
    (truth.root / 'facescrub_lst').write_text('a/1.jpg\n2.jpg')
    refused(
        truth.root, r"facescrub_lst:2: '2\.jpg' has no folder", facescrub_noises=None
    )


@pytest.mark.parametrize('name', ['Zoë_李', 'Robert_D._Jr.', "Olivia_d'Abo", 'A B'])
def test_names_of_people(truth, name):
    paths = [f'{name}/{name}_{i}.png' for i in (1, 2)]
    add(truth.root / 'facescrub_lst', *paths)
    add(truth.root / 'facescrub_noises.txt', f'{name}_2.png')
    lists = read_megaface_lists(str(truth.root))
    assert name in lists.identities
    assert decoded(lists.probes)[-2:] == paths
    end = len(lists.probes)
    assert lists.noisy[end - 2 : end].tolist() == [False, True]
    assert lists.single_probes() == [name]


# Feature files ------------------------------------------------------------------


def test_feature_files(tmp_path):
    values = np.random.default_rng(0).normal(size=7).astype(np.float32)
    for name, extra in (('plain', None), ('cleaned', 100.0)):
        write_feature(tmp_path / name, values, extra)
        feature = read_feature_file(str(tmp_path / name))
        assert feature.dtype == np.float32
        assert feature.flags.writeable
        np.testing.assert_array_equal(feature[:7], values)
        assert feature[7:].tolist() == ([] if extra is None else [extra])


@pytest.mark.parametrize(
    ('data', 'message'),
    [
        (b'', 'a.bin: 0 bytes, expected the header'),
        (bytes(15), 'a.bin: 15 bytes'),
        (struct.pack('<4i', 2, 1, 4, 6) + bytes(8), r'starts with \(2, 1, 4, 6\)'),
        (struct.pack('<4i', 0, 1, 4, 5), 'no feature of MegaFace'),
        (struct.pack('>4i', 2, 1, 4, 5) + bytes(8), 'no feature of MegaFace'),
        (struct.pack('<4i', 2, 1, 4, 5) + bytes(7), 'has 7 bytes .* 4 x 2: it is cut'),
        (struct.pack('<4i', 2, 1, 4, 5) + bytes(12), 'has 12 bytes of values'),
    ],
)
def test_bad_feature_files(tmp_path, data, message):
    (tmp_path / 'a.bin').write_bytes(data)
    with pytest.raises(UserError, match=message):
        read_feature_file(str(tmp_path / 'a.bin'))
    with pytest.raises(UserError, match=r"cannot read the feature '.*gone'"):
        read_feature_file(str(tmp_path / 'gone'))


# The data set -------------------------------------------------------------------


def test_items(tmp_path):
    truth = write_megaface(tmp_path)
    dataset = DATASETS.build(
        dict(
            type='mmhyperface.MegaFaceImages',
            data_root=str(tmp_path),
            pipeline=[dict(type='LoadFace', size=(112, 112)), dict(type='PackFace')],
            test_mode=True,
        )
    )
    probes = [tmp_path / 'facescrub_images' / path for path in truth.probes]
    others = [tmp_path / 'megaface_images' / path for path in truth.distractors]
    assert len(dataset) == len(probes) + len(others)
    for i, path in enumerate(probes + others):
        assert dataset.get_data_info(i) == dict(img_path=str(path), sample_idx=i)
    last = dataset.get_subset(-1).get_data_info(0)
    assert last == dict(img_path=str(others[-1]), sample_idx=0)
    assert dataset.get_data_info(-1)['sample_idx'] == len(dataset) - 1
    with pytest.raises(IndexError):
        dataset.get_data_info(len(dataset))
    item = dataset[len(probes)]
    np.testing.assert_array_equal(item['inputs'], cv2.imread(str(others[0])))

    entry = dataset.metainfo['test_sets']['megaface']
    assert (entry['kind'], entry['offset']) == ('megaface', 0)
    assert entry['num_images'] == len(dataset)
    assert entry['subjects'].tolist() == truth.probe_subjects + [-1] * len(others)
    assert entry['noisy'].tolist() == truth.noisy_probes + truth.noisy_distractors


def test_missing_images(tmp_path):
    truth = write_megaface(tmp_path)
    (tmp_path / 'megaface_images' / truth.distractors[7]).unlink()
    with pytest.raises(
        UserError, match=r"no image '.*56_0\.jpg'; 1 of the 12 in .*megaface_images'"
    ):
        MegaFaceImages(str(tmp_path))
    assert len(MegaFaceImages(str(tmp_path), num_distractors=7)) == 19
    assert len(MegaFaceImages(str(tmp_path), check_files=False)) == 24
    with pytest.raises(UserError, match=r"no image .*; 12 of the 12 in '.*gone'"):
        MegaFaceImages(str(tmp_path), facescrub_prefix='gone')
    with pytest.raises(UserError, match=r'scrub_lst.*test_dataloader\.dataset\.dat'):
        MegaFaceImages(str(tmp_path / 'gone'))
