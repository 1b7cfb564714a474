"""What is written, byte by byte, and that nothing is there before it is complete."""

import io
import os
import pickle
import pickletools
import signal
import tracemalloc
from collections.abc import Iterable
from multiprocessing import get_context
from pathlib import Path

import cv2
import numpy as np
import pytest
from conversion import new_folder
from hypothesis import given, settings
from hypothesis import strategies as st
from pairs_to_bin import write_pack
from record_files import MAGIC, images, insightface_records, picture, seed_of, write

from mmhyperface.datasets import FacePack, FaceRecord
from mmhyperface.datasets import record_writer as module
from mmhyperface.datasets.record_writer import RecordWriter
from mmhyperface.utils.atomic_files import new_files
from mmhyperface.utils.errors import UserError

FILES = ('property', 'train.idx', 'train.lst', 'train.rec')


def write_records(folder: Path, by_identity: list[list[bytes]], **options) -> None:
    with RecordWriter(str(folder / 'train.rec'), **options) as writer:
        for label, of_one in enumerate(by_identity):
            for i, image in enumerate(of_one):
                writer.add(image, label, f'{label}/{i}.jpg')


def write_labels(path: Path, labels: Iterable[float], **options) -> None:
    with RecordWriter(str(path), **options) as writer:
        for label in labels:
            writer.add(picture(0), label, 'x y.jpg')


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def check_files(folder: Path, by_identity: list[list[bytes]], size: str) -> None:
    """The files against those of record_files.py, which knows no code of ours."""
    expected = folder.parent / f'{folder.name}.expected'
    write(expected, insightface_records(by_identity))
    actual = contents(folder)
    assert sorted(actual) == sorted(FILES)
    for name in ('train.rec', 'train.idx'):
        assert actual[name] == (expected / name).read_bytes()
    assert actual['property'].decode() == f'{len(by_identity)},{size}\n'
    names = [
        (label, f'{label}/{i}.jpg')
        for label, of_one in enumerate(by_identity)
        for i in range(len(of_one))
    ]
    assert actual['train.lst'].decode().split('\n') == [
        *(f'{key}\t{label}\t{name}' for key, (label, name) in enumerate(names, 1)),
        '',
    ]


# ---- records


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.lists(
            st.lists(
                st.sampled_from([MAGIC, b'a', b'bcde', MAGIC[:2], b'']), max_size=6
            ).map(b''.join),
            min_size=1,
            max_size=3,
        ),
        min_size=1,
        max_size=3,
    )
)
def test_any_payload(tmp_path_factory, by_identity):
    """The magic number at multiples of 4 and elsewhere, several times, or nothing."""
    folder = tmp_path_factory.mktemp('any') / 'set'
    write_records(folder, by_identity, size=(7, 5))
    check_files(folder, by_identity, '7,5')


def test_the_size_is_that_of_the_first_image(tmp_path):
    tall = cv2.imencode('.png', np.zeros((9, 5, 3), np.uint8))[1].tobytes()
    write_records(tmp_path / 'a', [[tall, picture(0)]])
    check_files(tmp_path / 'a', [[tall, picture(0)]], '9,5')
    with pytest.raises(UserError, match=r'0/0\.jpg: cannot be decoded'):
        write_records(tmp_path / 'b', [[b'no image']])


@pytest.mark.parametrize(
    ('labels', 'message'),
    [
        ([1], 'the label is 1, expected 0: images'),
        ([-1], 'the label is -1, expected 0: '),
        ([0, 2], 'the label is 2, expected 0 or 1: images of one identity come tog'),
        ([0, 1, 0], 'the label is 0, expected 1 or 2: '),
        ([0, 0.5], r'the label is 0\.5'),
    ],
)
def test_images_of_an_identity_come_together(tmp_path, labels, message):
    with pytest.raises(UserError, match=rf'x y\.jpg: {message}'):
        write_labels(tmp_path / 'train.rec', labels)
    assert not contents(tmp_path)


def test_labels_that_float32_cannot_hold(tmp_path, monkeypatch):
    monkeypatch.setattr(module, 'MOST_EXACT', 2)
    write_records(tmp_path / 'a', images(3, 1))
    with pytest.raises(UserError, match=r'3/0\.jpg: the label 3 is beyond 2, the last'):
        write_records(tmp_path / 'b', images(4, 1))


@pytest.mark.parametrize('more', range(4))
def test_keys_that_float32_cannot_hold(tmp_path, more):
    """They are rounded; the reader knows what an image is nevertheless."""
    with RecordWriter(str(tmp_path / 'train.rec')) as writer:
        writer._key = (1 << 24) + more
        for label in range(3):
            writer.add(picture(label), label, 'a.jpg')
    data = FaceRecord(str(tmp_path), pipeline=[dict(type='LoadFace', size=16)])
    assert [seed_of(item['img']) for item in data] == [0, 1, 2]
    assert [item['gt_label'] for item in data] == [0, 1, 2]


@pytest.mark.parametrize('name', ['a\tb', 'a\nb', 'a\rb', ' a', 'a ', ''])
def test_names_that_no_list_can_hold(tmp_path, name):
    with (
        pytest.raises(UserError, match='a list cannot hold'),
        RecordWriter(str(tmp_path / 'train.rec')) as writer,
    ):
        writer.add(picture(0), 0, name)
    assert not contents(tmp_path)


def test_other_names(tmp_path):
    with RecordWriter(str(tmp_path / 'train.rec')) as writer:
        writer.add(picture(0), 0, 'Zoë 张/1 .jpg')
    actual = contents(tmp_path)['train.lst']
    assert actual == '1\t0\tZoë 张/1 .jpg\n'.encode()
    with (
        pytest.raises(UserError, match='no UTF-8'),
        RecordWriter(str(tmp_path / 'b' / 'train.rec')) as writer,
    ):
        writer.add(picture(0), 0, os.fsdecode(b'\xff.jpg'))


def test_memory_does_not_grow_with_the_images(tmp_path):
    image = bytes(100_000)
    with RecordWriter(str(tmp_path / 'train.rec'), size=(1, 1)) as writer:
        writer.add(image, 0, 'a')
        tracemalloc.start()
        for _ in range(200):
            writer.add(image, 0, 'a')
        write_pack(str(tmp_path / 'a.bin'), (image for _ in range(200)), [True] * 100)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert peak < 10 * len(image)


# ---- packs

SAME = [True, False, False, True]
IMAGES = [picture(i) for i in range(8)]


def test_a_pack_is_what_python_would_pickle(tmp_path):
    path = tmp_path / 'lfw.bin'
    write_pack(str(path), IMAGES, SAME)
    for options in ({}, dict(encoding='bytes')):
        assert pickle.loads(path.read_bytes(), **options) == (IMAGES, SAME)
    pickletools.dis(path.read_bytes(), out=io.StringIO())
    pipeline = [dict(type='LoadFace', size=16)]
    data = FacePack(str(path), folds=2, pipeline=pipeline)
    assert [seed_of(item['img']) for item in data] == list(range(8))
    assert data.metainfo['test_sets']['lfw']['same'].tolist() == SAME


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.binary(), st.binary(), st.booleans()), min_size=1))
def test_any_pack(tmp_path_factory, pairs):
    path = tmp_path_factory.mktemp('any') / 'a.bin'
    data = [image for pair in pairs for image in pair[:2]]
    same = [pair[2] for pair in pairs]
    # Other types of the same values, and what can be gone through only once.
    write_pack(str(path), map(bytearray, data), iter(np.array(same)))
    actual = pickle.loads(path.read_bytes())
    assert actual == (data, same)
    assert all(type(image) is bytes for image in actual[0])
    assert all(type(flag) is bool for flag in actual[1])


@pytest.mark.parametrize('count', [0, 7, 9])
def test_two_images_for_each_pair(tmp_path, count):
    with pytest.raises(UserError, match=f'{count} images and 4 pairs'):
        write_pack(str(tmp_path / 'lfw.bin'), (IMAGES * 2)[:count], SAME)
    with pytest.raises(UserError, match='0 images and 0 pairs'):
        write_pack(str(tmp_path / 'lfw.bin'), [], [])
    assert not contents(tmp_path)


# ---- whole or not at all


def write_both(folder: Path, overwrite: bool = False) -> None:
    write_records(folder, images(2, 2), overwrite=overwrite)
    write_pack(str(folder / 'lfw.bin'), IMAGES, SAME, overwrite)


@pytest.mark.parametrize('error', [KeyboardInterrupt, SystemExit, RuntimeError])
def test_an_error_leaves_nothing(tmp_path, error):
    def half(thing):
        yield thing
        raise error

    with pytest.raises(error):
        write_labels(tmp_path / 'train.rec', half(0))
    with pytest.raises(error):
        write_pack(str(tmp_path / 'lfw.bin'), half(IMAGES[0]), SAME)
    assert not contents(tmp_path)


@pytest.mark.parametrize('overwrite', [False, True])
def test_the_property_of_other_records_stays(tmp_path, overwrite):
    write_labels(tmp_path / 'a.rec', [0, 1])
    content = (tmp_path / 'property').read_bytes()
    with pytest.raises(UserError, match=r'tells of a\.rec, and can tell of one'):
        write_labels(tmp_path / 'b.rec', [0, 1], overwrite=overwrite)
    assert (tmp_path / 'property').read_bytes() == content
    assert not (tmp_path / 'b.rec').exists()
    write_labels(tmp_path / 'a.rec', [0, 1], overwrite=True)


def test_an_error_leaves_what_was_there(tmp_path):
    write_both(tmp_path)
    before = contents(tmp_path)
    with pytest.raises(UserError, match='there is no image to write'):
        write_records(tmp_path, [], overwrite=True)
    with pytest.raises(UserError, match='the label is 7'):
        write_labels(tmp_path / 'train.rec', [0, 0, 1, 7], overwrite=True)
    with pytest.raises(UserError, match='1 images and 4 pairs'):
        write_pack(str(tmp_path / 'lfw.bin'), IMAGES[:1], SAME, overwrite=True)
    assert contents(tmp_path) == before


@pytest.mark.parametrize('number', [signal.SIGKILL, signal.SIGTERM])
def test_a_killed_process_leaves_what_was_there(tmp_path, number):
    write_both(tmp_path)
    before = contents(tmp_path)

    def half() -> None:
        with RecordWriter(str(tmp_path / 'train.rec'), overwrite=True) as writer:
            for i in range(9):
                writer.add(picture(i), i, 'a.jpg')
            os.kill(os.getpid(), number)

    child = get_context('fork').Process(target=half)
    child.start()
    child.join(60)
    assert child.exitcode == -number
    actual = contents(tmp_path)
    assert {name: actual[name] for name in before} == before
    assert all(name.startswith('.') for name in actual.keys() - before.keys())


@pytest.mark.parametrize('name', FILES)
def test_files_are_replaced_on_demand_only(tmp_path, name):
    (tmp_path / name).write_bytes(b'precious')
    with pytest.raises(UserError, match=f'{name} is there already.*overwrite'):
        write_records(tmp_path, images(2, 2))
    assert contents(tmp_path) == {name: b'precious'}
    write_records(tmp_path, images(2, 2), overwrite=True)
    check_files(tmp_path, images(2, 2), '16,16')


def test_what_cannot_be_written(tmp_path):
    (tmp_path / 'file').write_bytes(b'')
    with pytest.raises(UserError, match=r'cannot be written: .*Not a directory'):
        write_both(tmp_path / 'file' / 'folder')
    (tmp_path / 'train.idx').mkdir()
    with pytest.raises(UserError, match=r'cannot be written: .*Is a directory'):
        write_both(tmp_path, overwrite=True)
    with pytest.raises(UserError, match=r'ends with \.rec'):
        RecordWriter('train.bin')


def test_the_files_have_usual_permissions(tmp_path):
    write_both(tmp_path)
    (tmp_path / 'other').write_bytes(b'')
    assert len({path.stat().st_mode for path in tmp_path.iterdir()}) == 1


def test_a_full_disk(tmp_path):
    with (
        pytest.raises(UserError, match=r'a\.bin cannot be written: .*No space left'),
        new_files([str(tmp_path / 'a.bin')]),
        open('/dev/full', 'wb') as full,
    ):
        full.write(b'a')
    assert not contents(tmp_path)


# ---- folders


def put(path: Path, *names: str) -> None:
    for name in names:
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(b'an image')


def names_in(folder: Path) -> list[str]:
    return sorted(str(p.relative_to(folder)) for p in folder.rglob('*') if p.is_file())


def make_folder(path: Path, *names: str, overwrite: bool = False) -> None:
    """With an error at a name that is empty."""
    with new_folder(str(path), overwrite) as folder:
        for name in names:
            if not name:
                raise KeyError
            put(Path(folder), name)


def test_a_folder_is_whole_or_not_there(tmp_path):
    path = tmp_path / 'faces'
    with pytest.raises(KeyError):
        make_folder(path, 'a/1.jpg', '')
    assert not list(tmp_path.iterdir())
    path.mkdir()
    with new_folder(str(path)) as folder:
        put(Path(folder), 'a/1.jpg')
        assert not list(path.iterdir())
    assert names_in(tmp_path) == ['faces/a/1.jpg']


def test_a_folder_is_replaced_as_a_whole(tmp_path):
    path = tmp_path / 'faces'
    put(path, 'a/1.jpg', 'b/2.PNG')
    with pytest.raises(UserError, match='there already'):
        make_folder(path, 'c/1.jpg')
    with pytest.raises(KeyError):
        make_folder(path, 'c/1.jpg', '', overwrite=True)
    assert names_in(tmp_path) == ['faces/a/1.jpg', 'faces/b/2.PNG']
    link = tmp_path / 'link'
    link.symlink_to(path)
    make_folder(link, 'c/1.jpg', overwrite=True)
    assert link.is_symlink()
    assert names_in(path) == ['c/1.jpg']
    assert sorted(os.listdir(tmp_path)) == ['faces', 'link']


def test_a_folder_of_something_else_is_not_replaced(tmp_path, monkeypatch):
    home = tmp_path / 'home'
    put(home, 'a/1.jpg', 'a/thesis.tex')
    with pytest.raises(UserError, match=r'holds .*thesis\.tex, which is no image'):
        make_folder(home, 'b/1.jpg', overwrite=True)
    with pytest.raises(UserError, match='is no folder'):
        make_folder(home / 'a' / '1.jpg', 'b/1.jpg', overwrite=True)
    monkeypatch.setattr(os.path, 'ismount', lambda path: path == str(home))
    with pytest.raises(UserError, match='a file system is mounted'):
        make_folder(home, 'b/1.jpg', overwrite=True)
    assert names_in(tmp_path) == ['home/a/1.jpg', 'home/a/thesis.tex']


def test_the_old_folder_returns_if_the_new_one_cannot_have_its_name(
    tmp_path, monkeypatch
):
    put(tmp_path / 'faces', 'a/1.jpg')
    rename = os.rename

    def fail_once(old: str, new: str) -> None:
        if old.endswith('.part'):
            raise OSError('no luck')
        rename(old, new)

    monkeypatch.setattr(os, 'rename', fail_once)
    with pytest.raises(UserError, match='no luck'):
        make_folder(tmp_path / 'faces', 'b/1.jpg', overwrite=True)
    assert names_in(tmp_path) == ['faces/a/1.jpg']
