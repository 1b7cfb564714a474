"""Data sets there and back again, by the tools as a user calls them."""

import os
import pickle
import re
import signal
import sys
import time
from collections.abc import Callable
from importlib import import_module
from multiprocessing import get_context
from pathlib import Path

import conversion
import cv2
import numpy as np
import pytest
from record_files import MAGIC, header, insightface_records, picture, write
from runs import ROOT, call

from mmhyperface.datasets import FaceFolder, FaceList, FacePack, FacePairs, FaceRecord
from mmhyperface.datasets.damage import DamagedImage
from mmhyperface.datasets.record_writer import RecordWriter
from mmhyperface.utils.errors import UserError

CONVERTERS = ROOT / 'tools' / 'dataset_converters'
#: Magic numbers after the JPEG: a record has its 24 bytes of a header ahead of these.
TAILS = [b'', MAGIC, b'x' + MAGIC, MAGIC * 3 + b'yz', b'xy' + MAGIC * 2]
# Spaces and other letters; sorted as strings: '10' comes before '2'.
NAMES = ['Zoë 张', '10', '2', 'Ann Lee']
RECORD_FILES = ['property', 'train.idx', 'train.lst', 'train.rec']


@pytest.fixture
def convert(call_main, monkeypatch, tmp_path) -> Callable[..., str]:
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / '.cache'))
    return call_main


def aligned(data: bytes) -> bytes:
    """A JPEG whose end is at a multiple of 4: bytes after its end are no damage."""
    return data + b'\0' * (-len(data) % 4)


@pytest.fixture
def faces(tmp_path) -> Path:
    """Four identities of 3, 3, 4 and 5 images, some with the magic number."""
    root = tmp_path / 'faces'
    for label, name in enumerate(sorted(NAMES)):
        for i in range(3 + label - (label > 0)):
            data = aligned(picture(10 * label + i)) + TAILS[i]
            file = root / name / f'{i} é.jpg'
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(data)
    return root


def files_in(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob('*'))
        if path.is_file() and not path.name.startswith('.train')
    }


def by_identity(folder: Path) -> list[list[bytes]]:
    return [
        [file.read_bytes() for file in sorted(identity.iterdir())]
        for identity in sorted(folder.iterdir())
    ]


def pixels(data: bytes) -> np.ndarray:
    return cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)


def damage(file: Path) -> None:
    file.write_bytes(picture(0)[:-40])


# ---- folder to rec and back


@pytest.mark.parametrize('size', [(), ('--size', 16, 16)])
def test_folder_to_rec(convert, faces, tmp_path, size):
    """What has the size is copied."""
    output = convert('folder_to_rec', faces, tmp_path / 'rec' / 'train.rec', *size)
    assert 'train.rec: 15 images of 4 identities' in output
    assert 'sizes' not in output
    images = by_identity(faces)
    write(tmp_path / 'expected', insightface_records(images))
    actual, expected = files_in(tmp_path / 'rec'), files_in(tmp_path / 'expected')
    assert sorted(actual) == RECORD_FILES
    assert actual['train.rec'] == expected['train.rec']
    assert actual['train.idx'] == expected['train.idx']
    assert actual['property'] == b'4,16,16\n'
    # The list as MXNet's im2rec reads it.
    lines = [line.split('\t') for line in actual['train.lst'].decode().splitlines()]
    for number, (key, label, path) in enumerate(lines, 1):
        assert int(key) == number
        name, file = path.split('/')
        assert name == sorted(NAMES)[int(label)]
        assert (faces / name / file).read_bytes() in images[int(label)]
    assert len(lines) == 15


def test_there_and_back(convert, faces, tmp_path):
    rec = tmp_path / 'train.rec'
    convert('folder_to_rec', faces, rec, '--workers', 3)
    output = convert('rec_to_folder', rec, tmp_path / 'named', '--names')
    assert 'named: 15 images' in output
    assert files_in(tmp_path / 'named') == files_in(faces)
    convert('rec_to_folder', rec, tmp_path / 'numbered')
    actual = files_in(tmp_path / 'numbered')
    assert list(actual.values()) == [data for one in by_identity(faces) for data in one]
    labels = np.repeat(range(4), (3, 3, 4, 5))
    assert list(actual) == [
        f'000000{label}/{key:08d}.jpg' for key, label in enumerate(labels, 1)
    ]
    # Identities and images keep their order: the records are the same again.
    convert('folder_to_rec', tmp_path / 'numbered', tmp_path / 'again' / 'train.rec')
    assert (tmp_path / 'again' / 'train.rec').read_bytes() == rec.read_bytes()


def test_no_image_and_other_types(convert, tmp_path):
    folder = tmp_path / 'one'
    (folder / 'a').mkdir(parents=True)
    with pytest.raises(UserError, match='no image in 1 identity folders'):
        convert('folder_to_rec', folder, tmp_path / 'train.rec')
    with pytest.raises(UserError, match='no identity folders'):
        convert('folder_to_rec', folder / 'a', tmp_path / 'train.rec')
    assert not files_in(tmp_path)
    # Other types and sizes are copied, whatever a name tells of the type.
    image = np.random.default_rng(0).integers(0, 256, (13, 7, 3)).astype(np.uint8)
    stored = {'.pgm': cv2.imencode('.pgm', image[:9, :, 0])[1].tobytes()}
    for ending in ('.bmp', '.jpg', '.png', '.webp'):
        stored[ending] = cv2.imencode(ending, image)[1].tobytes()
    for ending, data in stored.items():
        name = '2.JPEG' if ending == '.pgm' else f'1{ending}'
        (folder / 'a' / name).write_bytes(data)
    output = convert('folder_to_rec', folder, tmp_path / 'train.rec')
    assert 'The images have 2 sizes; `property` tells the first, 13 7.' in output
    assert (tmp_path / 'property').read_text() == '1,13,7\n'
    convert('rec_to_folder', tmp_path / 'train.rec', tmp_path / 'back')
    actual = files_in(tmp_path / 'back')
    assert {os.path.splitext(name)[1]: data for name, data in actual.items()} == stored


@pytest.mark.parametrize(
    ('options', 'size'), [('--size 12 10', (12, 10)), ('--size 24 24', (24, 24))]
)
def test_a_size(convert, faces, tmp_path, options, size):
    file = next(faces.rglob('*.jpg'))
    large = picture(7, size=40)
    file.write_bytes(large)
    convert('folder_to_rec', faces, tmp_path / 'train.rec', *options.split())
    records = FaceRecord(str(tmp_path))
    assert (tmp_path / 'property').read_text() == f'4,{size[0]},{size[1]}\n'
    pictures = [pixels(records.get_data_info(i)['img_bytes']) for i in range(15)]
    assert {image.shape for image in pictures} == {(*size, 3)}
    shrinks = cv2.INTER_AREA if size < (16, 16) else cv2.INTER_LINEAR
    images = [pixels(data) for of_one in by_identity(faces) for data in of_one]
    for before, after in zip(images, pictures, strict=True):
        way = cv2.INTER_AREA if before.shape[0] == 40 else shrinks
        expected = cv2.resize(before, size[::-1], interpolation=way)
        # JPEG of quality 95.
        assert np.abs(expected.astype(int) - after).mean() < 4


def test_quality(convert, faces, tmp_path):
    for quality in (95, 20):
        path = tmp_path / str(quality) / 'train.rec'
        convert('folder_to_rec', faces, path, '--quality', quality)
    assert os.path.getsize(path) < os.path.getsize(tmp_path / '95' / 'train.rec')
    data = FaceRecord(ann_file=str(path)).get_data_info(0)['img_bytes']
    first = pixels(by_identity(faces)[0][0])
    encoded = cv2.imencode('.jpg', first, [cv2.IMWRITE_JPEG_QUALITY, 20])[1]
    assert data == encoded.tobytes()


@pytest.mark.parametrize(
    ('line', 'message'),
    [
        ('1\t0\t../out.jpg', "'../out.jpg' is none within a folder"),
        ('1\t0\ta//out.jpg', 'is none within a folder'),
        ('1\t0\ta/.out.jpg', 'is none within a folder'),
        ('1\t0\ta\0.jpg', r'train\.lst:1: a NUL byte'),
        ('1\t0\t', r'train\.lst:1: expected `key <tab> label <tab> path`'),
        ('x\t0\ta.jpg', r'train\.lst:1: expected'),
        ('3\t0\ta.jpg', r'train\.lst: there is no line of the key 1'),
        ('1\t0\t' + 300 * 'a', 'cannot be written: .*File name too long'),
    ],
)
def test_names_in_a_list_that_are_none(convert, tmp_path, line, message):
    path = write(tmp_path / 'in' / 'set', insightface_records([[picture(0)]]), 1)
    (tmp_path / 'in' / 'set' / 'train.lst').write_text(line + '\n')
    before = files_in(tmp_path)
    with pytest.raises(UserError, match=message):
        convert('rec_to_folder', path, tmp_path / 'in' / 'out', '--names')
    assert files_in(tmp_path) == before
    assert sorted(os.listdir(tmp_path / 'in')) == ['set']


def test_a_list_of_im2rec(convert, tmp_path):
    """Labels are written as floats, there may be several; a name may come again."""
    images = [[picture(0), picture(1)], [picture(2)]]
    path = write(tmp_path, insightface_records(images), 2)
    with pytest.raises(UserError, match=r'train\.lst.*--names needs it'):
        convert('rec_to_folder', path, tmp_path / 'back', '--names')
    (tmp_path / 'train.lst').write_text(
        '3\t1.000000\tb/x.jpg\n2\t0.000000\t5.0\ta/y\n1\t0.000000\tb/x.jpg\n'
    )
    convert('rec_to_folder', path, tmp_path / 'back', '--names')
    assert files_in(tmp_path / 'back') == {
        'a/y.jpg': picture(1),
        'b/x.jpg': picture(0),
        'b/x_2.jpg': picture(2),
    }


@pytest.mark.parametrize('tool', ['folder_to_rec', 'folder_to_list'])
def test_images_that_are_passed_over(convert, faces, tmp_path, capsys, tool):
    (faces / 'lost.jpg').write_bytes(picture(0))
    (faces / 'notes.txt').touch()
    with pytest.raises(SystemExit) as stop:
        convert(tool, faces, tmp_path / 'train.rec')
    assert stop.value.code == 3
    assert '15 images' in capsys.readouterr().out
    (faces / 'lost.jpg').unlink()
    convert(tool, faces, tmp_path / 'train.rec', '--overwrite')


# ---- folder to list and back


@pytest.mark.parametrize('form', ['path name', 'path'])
def test_folder_to_list(convert, faces, tmp_path, form):
    path = tmp_path / 'train.txt'
    output = convert('folder_to_list', faces, path, '--format', form)
    assert 'train.txt: 15 images' in output
    listed, folder = FaceList(str(path), data_prefix=str(faces)), FaceFolder(str(faces))
    assert listed.metainfo['classes'] == folder.metainfo['classes']
    assert [listed.get_data_info(i) for i in range(15)] == [
        folder.get_data_info(i) for i in range(15)
    ]
    lines = path.read_text(encoding='utf-8').splitlines()
    assert lines[0] == '10/0 é.jpg' + '\t10' * (form != 'path')
    # Without spaces in paths one space is between them.
    (tmp_path / 'few' / 'a').mkdir(parents=True)
    (tmp_path / 'few' / 'a' / '1.jpg').write_bytes(picture(0))
    convert('folder_to_list', tmp_path / 'few', tmp_path / 'few.txt', '--format', form)
    expected = 'a/1.jpg a\n' if form == 'path name' else 'a/1.jpg\n'
    assert (tmp_path / 'few.txt').read_text() == expected
    convert('list_to_folder', path, tmp_path / 'back', '--root', faces)
    assert files_in(tmp_path / 'back') == files_in(faces)


@pytest.mark.parametrize(
    ('name', 'message'),
    [
        ('a\tb/1.jpg', 'no list can hold'),
        ('a\nb/1.jpg', 'no list can hold'),
        ('a /1.jpg', "no list can hold .'a /1.jpg', 'a '.: it would be read"),
        ('a.jpg/1.jpg', 'no list can hold'),
        (os.fsdecode(b'\xff/1.jpg'), 'which is no UTF-8'),
    ],
)
def test_names_that_no_list_can_hold(convert, tmp_path, name, message):
    file = tmp_path / 'faces' / name
    file.parent.mkdir(parents=True)
    file.write_bytes(picture(0))
    with pytest.raises(UserError, match=message):
        convert('folder_to_list', tmp_path / 'faces', tmp_path / 'train.txt')
    assert os.listdir(tmp_path) == ['faces']


def make_list(folder: Path, *lines: str) -> Path:
    """A list of images of the seeds 0, 1, 2, ...; the last field may be a name."""
    for seed, line in enumerate(lines):
        file = folder / line.split('\t')[0]
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(picture(seed))
    (folder / 'list.txt').write_text('\n'.join(lines))
    return folder / 'list.txt'


@pytest.mark.parametrize('link', [False, True])
def test_images_of_one_name_get_numbers(convert, tmp_path, monkeypatch, link):
    path = make_list(
        tmp_path / 'in',
        *('x/1.jpg\tAnn', 'y/1.jpg\tAnn', 'z/1.jpg\tBob', 'x/1_2.jpg\tAnn', 'u/1\tAnn'),
    )
    monkeypatch.chdir(tmp_path)
    convert(
        *('list_to_folder', path, tmp_path / 'out', '--root', 'in'),
        *('--format', 'path name', *['--link'] * link),
    )
    assert files_in(tmp_path / 'out') == {
        'Ann/1.jpg': picture(0),
        'Ann/1_2.jpg': picture(1),
        'Bob/1.jpg': picture(2),
        'Ann/1_2_2.jpg': picture(3),
        'Ann/1_3.jpg': picture(4),
    }
    assert (tmp_path / 'out' / 'Ann' / '1.jpg').is_symlink() == link


def test_identities_that_are_paths(convert, tmp_path):
    path = make_list(tmp_path / 'in', 'x/ann/1.jpg', 'x/bob/1.jpg')
    convert('list_to_folder', path, tmp_path / 'out', '--root', tmp_path / 'in')
    assert list(files_in(tmp_path / 'out')) == ['x_ann/1.jpg', 'x_bob/1.jpg']
    path = make_list(tmp_path / 'in', 'x/ann/1.jpg', 'x_ann/1.jpg')
    with pytest.raises(UserError, match=r"'x/ann' and 'x_ann' would share the folder"):
        convert('list_to_folder', path, tmp_path / 'two', '--root', tmp_path / 'in')
    path = make_list(tmp_path / 'in', 'x/1.jpg\t..')
    with pytest.raises(UserError, match='is none within a folder'):
        convert('list_to_folder', path, tmp_path / 'two', '--root', tmp_path / 'in')
    assert sorted(os.listdir(tmp_path)) == ['in', 'out']


def test_images_are_not_replaced_by_themselves(convert, tmp_path):
    path = make_list(tmp_path / 'in', 'Ann/1.jpg\tAnn')
    path = path.rename(tmp_path / 'list.txt')
    arguments = ('--root', tmp_path / 'in', '--overwrite')
    with pytest.raises(UserError, match=r'1\.jpg is in .*in, which would be replaced'):
        convert('list_to_folder', path, tmp_path / 'in', *arguments)
    assert files_in(tmp_path / 'in') == {'Ann/1.jpg': picture(0)}


# ---- pairs


def write_pairs(faces: Path, lines: list[tuple[int, str, str]]) -> Path:
    path = faces.parent / 'pairs.txt'
    path.write_text('\n'.join(f'{same}\t{a}\t{b}' for same, a, b in lines))
    return path


@pytest.fixture
def pairs(faces) -> list[tuple[int, str, str]]:
    """Twenty pairs in which images come again and again, ten folds of two kinds."""
    of = {
        name: sorted(f'{name}/{file.name}' for file in (faces / name).iterdir())
        for name in NAMES
    }
    chance = np.random.default_rng(0)
    lines = []
    for i in range(20):
        a, b = chance.permutation(NAMES)[:2]
        one, other = chance.permutation(3)[:2]
        same = (i + 1) % 2
        lines.append((same, of[a][one], of[a if same else b][other]))
    return lines


def test_pairs_to_bin(convert, faces, pairs, tmp_path):
    path = write_pairs(faces, pairs)
    output = convert('pairs_to_bin', path, tmp_path / 'lfw.bin', '--root', faces)
    assert re.search(r'lfw\.bin: 20 pairs\n$', output)
    images = [(faces / name).read_bytes() for _, *both in pairs for name in both]
    same = [bool(same) for same, *_ in pairs]
    assert pickle.loads((tmp_path / 'lfw.bin').read_bytes()) == (images, same)
    pack = FacePack(str(tmp_path / 'lfw.bin'))
    listed = FacePairs(str(path), data_prefix=str(faces), folds=10)
    (actual,) = pack.metainfo['test_sets'].values()
    (meant,) = listed.metainfo['test_sets'].values()
    assert actual['folds'].tolist() == meant['folds'].tolist()
    assert actual['same'].tolist() == meant['same'].tolist()
    for side in ('index_a', 'index_b'):
        for p in range(20):
            stored = pack.get_data_info(actual[side][p])['img_bytes']
            file = listed.get_data_info(meant[side][p])['img_path']
            assert stored == Path(file).read_bytes()


def test_the_pairs_of_lfw(convert, tmp_path):
    folds = 2
    names = [f'P{i}' for i in range(folds)]
    for i, name in enumerate(names):
        for k in (1, 2):
            file = tmp_path / 'lfw' / name / f'{name}_{k:04d}.png'
            file.parent.mkdir(parents=True, exist_ok=True)
            image = np.full((6, 5, 3), 2 * i + k, np.uint8)
            file.write_bytes(cv2.imencode('.png', image)[1])
    lines = [f'{folds}\t1']
    for i, name in enumerate(names):
        lines += [f'{name}\t1\t2', f'{name}\t2\t{names[i - 1]}\t1']
    (tmp_path / 'pairs.txt').write_text('\n'.join(lines))
    output = convert(
        *('pairs_to_bin', tmp_path / 'pairs.txt', tmp_path / 'lfw.bin'),
        *('--root', tmp_path / 'lfw', '--extension', 'png'),
    )
    images, same = pickle.loads((tmp_path / 'lfw.bin').read_bytes())
    expected = [
        shade
        for i in range(folds)
        for shade in (2 * i + 1, 2 * i + 2, 2 * i + 2, 2 * ((i - 1) % folds) + 1)
    ]
    assert [pixels(image)[0, 0, 0] for image in images] == expected
    assert same == [True, False] * folds
    assert 'FacePack(folds=2)' in output
    convert(
        *('pairs_to_bin', tmp_path / 'pairs.txt', tmp_path / 'small.bin'),
        *('--root', tmp_path / 'lfw', '--extension', 'png', '--size', 3, 4),
    )
    smaller, _ = pickle.loads((tmp_path / 'small.bin').read_bytes())
    assert {pixels(image).shape for image in smaller} == {(3, 4, 3)}
    pack = FacePack(str(tmp_path / 'lfw.bin'), folds=folds)
    assert pack.metainfo['test_sets']['lfw']['folds'].tolist() == [
        fold for fold in range(folds) for _ in range(2)
    ]


@pytest.mark.parametrize('missing', [False, True])
def test_pairs_with_damaged_images(convert, faces, pairs, tmp_path, missing):
    path = write_pairs(faces, pairs)
    bad = pairs[3][1]
    if missing:
        (faces / bad).unlink()
    else:
        damage(faces / bad)
    arguments = ('pairs_to_bin', path, tmp_path / 'lfw.bin', '--root', faces)
    with pytest.raises(UserError, match=re.escape(bad)):
        convert(*arguments)
    assert not (tmp_path / 'lfw.bin').exists()
    output = convert(*arguments, '--skip-damaged')
    good = [pair for pair in pairs if bad not in pair]
    assert f'pairs with a damaged image, left out: {20 - len(good)};' in output
    assert 'damaged images, left out: 1\n' in output
    assert bad in output
    images, same = pickle.loads((tmp_path / 'lfw.bin').read_bytes())
    assert same == [bool(s) for s, *_ in good]
    assert images == [(faces / name).read_bytes() for _, *both in good for name in both]


# ---- damage, existing outputs, interruption


def test_damaged_images_are_an_error_or_passed_over(convert, faces, tmp_path):
    # All of the second identity, in sorted order, and one of the third.
    bad = sorted((faces / '2').iterdir())
    bad.append(next((faces / 'Ann Lee').iterdir()))
    for file in bad:
        damage(file)
    rec = tmp_path / 'train.rec'
    with pytest.raises(DamagedImage, match=r'2/0 é\.jpg: the JPEG .*--skip-damaged'):
        convert('folder_to_rec', faces, rec)
    assert not any((tmp_path / name).exists() for name in RECORD_FILES)
    output = convert('folder_to_rec', faces, rec, '--skip-damaged')
    assert 'train.rec: 11 images of 3 identities' in output
    assert 'damaged images, left out: 4\n' in output
    assert all(f'{file}: the JPEG is cut off' in output for file in bad)
    # The same as without these files.
    for file in bad:
        file.unlink()
    convert('folder_to_rec', faces, tmp_path / 'without' / 'train.rec')
    assert rec.read_bytes() == (tmp_path / 'without' / 'train.rec').read_bytes()


def test_damaged_records(convert, tmp_path):
    records = insightface_records([[picture(i) for i in range(4)]])
    records[1] = (2, header(0.0, 2) + picture(1)[:-30])
    records[2] = (3, header(9.0, 3) + picture(2))
    path = write(tmp_path, records, 1)
    with pytest.raises(DamagedImage, match='key 2: the JPEG is cut off'):
        convert('rec_to_folder', path, tmp_path / 'out')
    assert not (tmp_path / 'out').exists()
    output = convert('rec_to_folder', path, tmp_path / 'out', '--skip-damaged')
    assert 'out: 2 images' in output
    assert 'damaged images, left out: 2\n' in output
    assert 'key 3: the label 9 is none of the 1 identities' in output
    assert list(files_in(tmp_path / 'out')) == [
        '0000000/00000001.jpg',
        '0000000/00000004.jpg',
    ]


def test_nothing_but_damage(convert, tmp_path):
    path = make_list(tmp_path / 'in', *(f'{i}.jpg\tAnn' for i in range(40)))
    for file in (tmp_path / 'in').glob('*.jpg'):
        damage(file)
    arguments = ('list_to_folder', path, tmp_path / 'out', '--root', tmp_path / 'in')
    with pytest.raises(UserError, match=r'all 40 images are damaged; .*0\.jpg'):
        convert(*arguments, '--skip-damaged')
    (tmp_path / 'in' / '33.jpg').write_bytes(picture(33))
    output = convert(*arguments, '--skip-damaged')
    assert 'damaged images, left out: 39\n' in output
    assert output.count('cut off') == conversion.NAMED
    assert files_in(tmp_path / 'out') == {'Ann/33.jpg': picture(33)}


def test_what_is_there_is_replaced_on_demand_only(convert, faces, pairs, tmp_path):
    rec, listed, out = (tmp_path / name for name in ('train.rec', 'a.txt', 'out'))
    listed_pairs = write_pairs(faces, pairs)
    conversions = [
        ('folder_to_rec', faces, rec),
        ('folder_to_list', faces, listed),
        ('rec_to_folder', rec, out),
        ('list_to_folder', listed, out, '--root', faces, '--overwrite'),
        ('pairs_to_bin', listed_pairs, tmp_path / 'a.bin', '--root', faces),
    ]
    for command in conversions:
        convert(*command)
    before = files_in(tmp_path)
    for command in conversions:
        with pytest.raises(UserError, match='is there already'):
            convert(*(part for part in command if part != '--overwrite'))
    assert files_in(tmp_path) == before
    for command in conversions:
        convert(*command, '--overwrite')
    assert files_in(tmp_path) == before
    # Here the list of pairs is what is there.
    with pytest.raises(UserError, match=r'holds .*, which is no image'):
        convert('rec_to_folder', rec, tmp_path, '--overwrite')
    assert files_in(tmp_path) == before


@pytest.mark.parametrize(
    'arguments',
    ['--workers 0', '--size 0 1', '--size 9', '--size 9 5000', '--quality 101'],
)
def test_options_that_are_none(convert, faces, tmp_path, arguments):
    with pytest.raises(SystemExit, match='2'):
        convert('folder_to_rec', faces, tmp_path / 'train.rec', *arguments.split())


def test_images_are_not_read_far_ahead(faces, monkeypatch):
    """However slowly they are written, few are in memory; and they are in order."""
    monkeypatch.setattr(conversion, 'TASK', 1)
    monkeypatch.setattr(conversion, 'AHEAD', 2)
    ahead = []
    look = conversion.ProcessPoolExecutor.submit

    def submit(pool, *args):
        ahead.append(1)
        return look(pool, *args)

    monkeypatch.setattr(conversion.ProcessPoolExecutor, 'submit', submit)
    folder = FaceFolder(str(faces))
    with conversion.Pictures(folder, workers=2, skip_damaged=False) as pictures:
        for number, one in enumerate(pictures):
            assert one.source == folder.get_data_info(number)['img_path']
            assert len(ahead) <= number + 5
    assert len(ahead) == 15 + 1  # which starts the workers


def stop_midway(faces: Path, target: Path, number: int, tool: str) -> None:
    """Ends its own process in the middle of a conversion, as Ctrl-C or kill do."""
    sys.argv = [tool, str(faces), str(target)]
    module = import_module(tool)

    def stop(*_: object) -> None:
        os.kill(os.getpid(), number)
        time.sleep(60)

    if tool == 'folder_to_rec':
        RecordWriter.add = stop
    else:
        module.put = stop
    with conversion.reported_conversion():
        module.main()


@pytest.mark.parametrize('number', [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize('tool', ['folder_to_rec', 'rec_to_folder'])
def test_what_is_stopped_leaves_nothing(convert, faces, tmp_path, tool, number):
    rec = tmp_path / 'train.rec'
    convert('folder_to_rec', faces, rec)
    source, target = (faces, tmp_path / 'b' / 'b.rec')
    if tool == 'rec_to_folder':
        source, target = rec, tmp_path / 'b' / 'out'
    (tmp_path / 'b').mkdir()
    args = (source, target, number, tool)
    child = get_context('fork').Process(target=stop_midway, args=args)
    child.start()
    child.join(60)
    assert child.exitcode == 128 + number
    assert not os.listdir(tmp_path / 'b')


def test_a_mistake_is_one_message(faces, tmp_path):
    damage(next((faces / '10').iterdir()))
    tool = CONVERTERS / 'folder_to_rec.py'
    done = call(sys.executable, tool, faces, tmp_path / 'train.rec', status=1)
    assert done.stderr.startswith('error: ')
    assert 'the JPEG is cut off' in done.stderr
    assert 'Traceback' not in done.stderr
    assert not [name for name in os.listdir(tmp_path) if 'train' in name]
