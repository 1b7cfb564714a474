"""What is asked for, in which order, and with which landmarks."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch

from mmhyperface.inference.inputs import COLUMNS, expand, images_below, people_below
from mmhyperface.utils.errors import UserError

POINTS = np.arange(10.0).reshape(5, 2)


@pytest.fixture
def folder(tmp_path):
    for name in ('b.png', 'a.JPG', 'sub/c.tif', '.hidden.png', 'notes.md', 'x[1].png'):
        path = tmp_path / 'faces' / name
        path.parent.mkdir(exist_ok=True, parents=True)
        path.write_bytes(b'')
    return tmp_path / 'faces'


def sources(inputs, **options):
    return [item.source for item in expand(inputs, **options)]


def test_paths_folders_patterns_and_lists(folder):
    def within(*names):
        return [str(folder / name) for name in names]

    everything = within('a.JPG', 'b.png', 'sub/c.tif', 'x[1].png')
    assert sources(folder) == sources(str(folder)) == everything
    assert sources(folder / 'b.png') == within('b.png')
    assert sources('none.png') == ['none.png']
    assert sources(str(folder / '**' / '*.[pt]*')) == within(
        'b.png', 'sub/c.tif', 'x[1].png'
    )
    # A file of that name comes before what its name would mean as a pattern.
    assert sources(folder / 'x[1].png') == within('x[1].png')
    text = folder / 'list.txt'
    text.write_text(f'b.png\n\nsub/c.tif\n{folder}/a.JPG\n', encoding='utf-8-sig')
    assert sources(text) == within('b.png', 'sub/c.tif', 'a.JPG')
    array = np.zeros((3, 3), np.uint8)
    mixed = [text, array, (folder / 'b.png', [array])]
    assert sources(mixed) == [*sources(text), 'array 1', *within('b.png'), 'array 2']
    assert sources([]) == []


def test_a_generator_is_read_as_it_goes():
    def endless():
        while True:
            yield np.zeros((2, 2), np.uint8)

    items = expand(endless())
    assert [next(items).source for _ in range(3)] == ['array 1', 'array 2', 'array 3']


def table(path, rows, separator=','):
    lines = [separator.join(COLUMNS)]
    lines += [separator.join([name, *map(str, numbers)]) for name, numbers in rows]
    path.write_text('\n'.join(lines))
    return path


def test_a_table_has_landmarks(folder):
    twice = [('b.png', POINTS.ravel()), ('b.png', POINTS.ravel() + 1)]
    first, second = expand(table(folder / 'l.csv', twice))
    assert first.source == second.source == str(folder / 'b.png')
    np.testing.assert_array_equal(first.landmarks, POINTS)
    np.testing.assert_array_equal(second.landmarks, POINTS + 1)


def test_landmarks_of_a_folder(folder):
    rows = [('sub/c.tif', POINTS.ravel()), ('gone.png', POINTS.ravel())]
    file = table(folder.parent / 'l.tsv', rows, '\t')
    actual = list(expand(folder, file))
    given = {os.path.relpath(item.source, folder): item for item in actual}
    np.testing.assert_array_equal(given.pop('sub/c.tif').landmarks, POINTS)
    assert len(given) == 3
    for item in given.values():
        assert item.landmarks is None
        assert item.needs_landmarks
    with pytest.raises(UserError, match=r'start from a folder: give that folder alone'):
        expand([folder], file)


def test_landmarks_by_path_and_in_turn():
    one, other = expand(['a', 'b'], {Path('b'): POINTS.tolist()})
    assert one.needs_landmarks
    np.testing.assert_array_equal(other.landmarks, POINTS)
    one, other = expand(['a', 'b'], np.stack([POINTS, POINTS + 1]))
    np.testing.assert_array_equal(other.landmarks, POINTS + 1)
    one, other = expand(['a', 'b'], [POINTS, None])
    assert (one.needs_landmarks, other.needs_landmarks) == (False, True)
    (one,) = expand('a', POINTS)
    np.testing.assert_array_equal(one.landmarks, POINTS)
    with pytest.raises(UserError, match='given for 1 pictures, and there are 2'):
        expand(['a', 'b'], POINTS)
    for wrong in (POINTS[:4], 'abc', np.zeros((5, 3))):
        with pytest.raises(UserError, match='a: landmarks are five points'):
            list(expand('a', {'a': wrong}))


@pytest.mark.parametrize('inputs', [None, 3, b'a.png', {'a': 1}, torch.zeros(3, 3)])
def test_what_is_no_input(inputs):
    with pytest.raises(UserError, match='expected a path, a folder'):
        list(expand(inputs))


def test_one_input_that_is_none_stops_no_other(tmp_path):
    (tmp_path / 'none').mkdir()
    array = np.zeros((2, 2), np.uint8)
    inputs = [array, None, tmp_path / 'none', 'a[1].png', array, (3, array)]
    actual = list(expand(inputs))
    names = ['array 1', 'array 2', str(tmp_path / 'none'), 'a[1].png', 'array 3']
    assert [item.source for item in actual] == [*names, 'array 4', 'array 5']
    problems = [item.problem for item in actual]
    assert problems[0] == problems[4] == problems[6] == ''
    assert problems[1].endswith('any number of these, got NoneType')
    assert problems[2].startswith('there is no picture below')
    assert problems[3].startswith('no file fits the pattern')
    assert problems[5].endswith('got int')


def test_what_a_folder_holds_besides(folder, caplog):
    beginnings = {
        'heic': b'\0\0\0\x18ftypheic',
        'photo': b'\xff\xd8\xff\xe0\0\x10JFIF',
        'raw.nef': b'MM\0*\0\0\0\x08',
        'clip.mov': b'\0\0\0\x14ftypqt  ',
        'prose': b'II and P2 and BM begin no image',
        'a.HEIC': b'',
        'b.jfif': b'',
    }
    for name, data in beginnings.items():
        (folder / name).write_bytes(data)
    ours = ('landmarks.tsv', 'not_aligned.tsv', 'Thumbs.db', '@eaDir/x.jpg')
    (folder / '@eaDir').mkdir()
    for name in ours:
        (folder / name).touch()
    actual = {os.path.relpath(x.source, folder): x.problem for x in expand(folder)}
    misnamed = [name for name, problem in actual.items() if problem]
    assert misnamed == ['heic', 'photo', 'raw.nef']
    assert 'is an image by its content, but its name' in actual['photo']
    read = ['a.HEIC', 'a.JPG', 'b.jfif', 'b.png', 'sub/c.tif', 'x[1].png']
    assert [name for name in actual if name not in misnamed] == read
    (message,) = caplog.messages
    assert f"passed over in '{folder}': 3 files that are not pictures (clip." in message
    assert message.endswith('notes.md, prose)')
    assert sources(str(folder / '*.[jt]*')) == [str(folder / 'b.jfif')]


def test_nothing_to_be_read(tmp_path):
    for name, content in (
        ('empty.txt', b'\n'),
        ('binary.txt', b'\x89PNG\0'),
        ('l.csv', b'path,x1\na.png,1'),
    ):
        (tmp_path / name).write_bytes(content)
    (tmp_path / 'folder').mkdir()
    for inputs, message in (
        (tmp_path / 'folder', 'there is no picture below'),
        (str(tmp_path / '*.png'), 'no file fits the pattern'),
        (tmp_path / 'none.txt', 'cannot read the list'),
        (tmp_path / 'empty.txt', 'names no picture'),
        (tmp_path / 'binary.txt', r'binary.txt:1: not UTF-8'),
        (tmp_path / 'l.csv', r"l.csv:1: no column 'y1'"),
    ):
        with pytest.raises(UserError, match=message):
            list(expand(inputs))
    with pytest.raises(UserError, match='expected landmarks, got int'):
        expand('x.png', landmarks=3)


def test_people_of_a_folder(folder):
    with pytest.raises(UserError, match=r'a.JPG.* lies in no subfolder'):
        people_below(folder)
    (folder.parent / 'nobody').mkdir()
    actual = people_below(folder.parent)
    assert {name: len(items) for name, items in actual.items()} == {
        'faces': 4,
        'nobody': 0,
    }
    with pytest.raises(UserError, match='there is no folder'):
        people_below(folder / 'none')
    (folder / 'empty' / 'er').mkdir(parents=True)
    with pytest.raises(UserError, match='there is no picture below'):
        people_below(folder / 'empty')


def test_a_link_to_a_folder_above_is_no_new_folder(tmp_path):
    inner, apart = tmp_path / 'all' / 'inner', tmp_path / 'apart'
    for folder in (inner, apart):
        folder.mkdir(parents=True)
        (folder / 'a.png').touch()
    (inner / 'up').symlink_to(tmp_path / 'all')
    (inner / 'itself').symlink_to(inner)
    (inner / 'other').symlink_to(apart)
    images, others = images_below(str(tmp_path / 'all'))
    assert images == ['inner/a.png', 'inner/other/a.png']
    assert others == []
