"""Galleries in files: what is saved is loaded, and nothing else is."""

import io
import json
import multiprocessing
import os
import pickle
import signal
import time
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from tiny_network import build

from mmhyperface.gallery import FaceGallery
from mmhyperface.gallery.storage import Origin, locked
from mmhyperface.utils.errors import UserError

FINGERPRINT = 'b' * 64


def gallery_of(count: int = 7, width: int = 5, score: str = 'best') -> FaceGallery:
    gallery = FaceGallery(FINGERPRINT, width, score)
    rows = np.random.default_rng(0).standard_normal((count, width))
    for place, row in enumerate(rows):
        gallery.enrol(f'Zoë {place % 3}', row[None], [f'山/{place}.png'])
    return gallery


def same(one: FaceGallery, other: FaceGallery) -> None:
    assert one.people == other.people
    assert [one.images(x) for x in one.people] == [other.images(x) for x in one.people]
    facts = [(x.fingerprint, x.dimensions, x.score, len(x)) for x in (one, other)]
    assert facts[0] == facts[1]
    queries = np.random.default_rng(1).standard_normal((9, one.dimensions))
    assert one.search(queries, 99) == other.search(queries, 99)


@pytest.mark.parametrize('score', ['best', 'mean'])
@pytest.mark.parametrize('count', [0, 1, 7])
def test_a_gallery_comes_back(tmp_path, score, count):
    path = tmp_path / 'new' / 'faces.npz'
    gallery = gallery_of(count, score=score)
    gallery.save(path)
    loaded = FaceGallery.load(str(path), FINGERPRINT)
    same(loaded, gallery)
    for one in (gallery, loaded):
        one.enrol('another', np.ones((2, 5)), ['x', 'y'])
        if count == 7:
            one.remove('Zoë 1', '山/4.png')
            one.remove('Zoë 0')
    same(loaded, gallery)
    loaded.save(path)
    same(FaceGallery.load(path), gallery)
    assert os.listdir(path.parent) == ['faces.npz']


def test_the_file_holds_plain_arrays(tmp_path):
    gallery_of().save(tmp_path / 'g.npz')
    with np.load(tmp_path / 'g.npz', allow_pickle=False) as archive:
        header = json.loads(archive['header'].tobytes())
        assert header['format'] == 'mmhyperface gallery'
        assert header['fingerprint'] == FINGERPRINT
        assert json.loads(archive['people'].tobytes()) == ['Zoë 0', 'Zoë 1', 'Zoë 2']
        assert archive['rows'].shape == (7, 5)
        lengths = np.linalg.norm(archive['rows'], axis=1)
    np.testing.assert_allclose(lengths, 1, atol=1e-7)


def test_where_images_are_from(tmp_path):
    path = tmp_path / 'g.npz'
    gallery = gallery_of(2)
    gallery.save(path)
    with np.load(path) as archive:  # as of a version that kept no origins
        assert 'origins' not in archive.files
    gallery = FaceGallery.load(path)
    assert set(gallery.origins.values()) == {Origin()}
    assert gallery.alignments == set()
    origins = [Origin('12', 'crop'), Origin('34', 'detector')]
    gallery.enrol('Zoë 0', np.ones((2, 5)), ['x', 'y'], origins)
    gallery.remove('Zoë 0', ['山/0.png', 'x'])
    gallery.save(path)
    loaded = FaceGallery.load(path)
    assert loaded.origins == {'山/1.png': Origin(), 'y': Origin('34', 'detector')}
    assert loaded.alignments == {'detector'}
    with pytest.raises(UserError, match="no image 'a', 'b' in the gallery"):
        loaded.remove('Zoë 0', ['b', 'y', 'a'])
    with pytest.raises(UserError, match='origins'):
        loaded.enrol('Anna', np.ones((1, 5)), ['z'], origins)
    assert len(loaded) == 2


# ---- two who change one file


def test_what_another_has_saved_is_not_lost(tmp_path):
    path = tmp_path / 'g.npz'
    gallery_of().save(path)
    first, second = FaceGallery.load(path), FaceGallery.load(path)
    first.enrol('first', np.ones((1, 5)), ['1'])
    first.save(path)
    second.enrol('second', np.ones((1, 5)), ['2'])
    with pytest.raises(UserError, match=r'g\.npz was changed by another .*Load it ag'):
        second.save(path)
    same(FaceGallery.load(path), first)
    second.save(tmp_path / 'mine.npz')
    first.remove('first')  # which knows the file as it is
    first.save(path)
    assert sorted(os.listdir(tmp_path)) == ['g.npz', 'mine.npz']


def enrol_one_by_one(path: Path, name: str) -> None:
    for number in range(12):
        with locked(path):
            gallery = FaceGallery.load(path)
            gallery.enrol(name, np.ones((1, 5)), [f'{name}{number}'])
            gallery.save(path)


@pytest.mark.skipif(
    'fork' not in multiprocessing.get_all_start_methods(), reason='POSIX only'
)
def test_processes_that_change_one_file_take_turns(tmp_path):
    path = tmp_path / 'g.npz'
    gallery_of(1).save(path)
    context = multiprocessing.get_context('fork')
    processes = [
        context.Process(target=enrol_one_by_one, args=(path, name)) for name in 'abc'
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
        assert process.exitcode == 0
    assert len(FaceGallery.load(path)) == 1 + 3 * 12
    assert os.listdir(tmp_path) == ['g.npz']


def test_what_is_there_already(tmp_path):
    path, link = tmp_path / 'g.npz', tmp_path / 'link.npz'
    path.write_text('mine')
    path.chmod(0o600)
    link.symlink_to(path)
    with pytest.raises(UserError, match='is there already; to replace it'):
        gallery_of().save(path, overwrite=False)
    assert path.read_text() == 'mine'
    gallery_of().save(link)
    # The link and the rights of the file stay.
    assert link.is_symlink()
    assert path.stat().st_mode & 0o777 == 0o600
    assert len(FaceGallery.load(path)) == 7
    with pytest.raises(UserError, match='cannot be written'):
        gallery_of().save(tmp_path)


def test_a_gallery_is_of_one_model(tmp_path):
    gallery_of().save(tmp_path / 'g.npz')
    with pytest.raises(
        UserError, match=r'g\.npz is a gallery of another model.* bbbbbbbb, .* cc;'
    ):
        FaceGallery.load(tmp_path / 'g.npz', 'cc')
    convention = build().convention
    gallery = FaceGallery.of(convention, 'mean')
    facts = (gallery.fingerprint, gallery.dimensions, gallery.score)
    assert facts == (convention.fingerprint, 8, 'mean')
    for missing in (dict(fingerprint=''), dict(embedding_size=0)):
        with pytest.raises(UserError, match='a gallery needs a model with weights'):
            FaceGallery.of(replace(convention, **missing))


# ---- what is no gallery


def saved(tmp_path: Path, count: int = 7) -> tuple[Path, bytes]:
    path = tmp_path / 'g.npz'
    gallery_of(count).save(path)
    return path, path.read_bytes()


def test_a_file_that_is_cut_off_anywhere(tmp_path):
    path, content = saved(tmp_path)
    for length in [*range(0, len(content), 7), len(content) - 1]:
        path.write_bytes(content[:length])
        with pytest.raises(UserError, match=r'g\.npz'):
            FaceGallery.load(path)


def test_a_byte_that_is_damaged_anywhere(tmp_path):
    """It is told, or it was of no importance: never another gallery."""
    path, content = saved(tmp_path)
    sound, refused = gallery_of(), 0
    for place in range(0, len(content), 3):
        damaged = bytearray(content)
        damaged[place] ^= 0x55
        path.write_bytes(damaged)
        try:
            loaded = FaceGallery.load(path)
        except UserError:
            refused += 1
        else:
            same(loaded, sound)
    assert refused > len(content) / 6


def others() -> dict[str, bytes]:
    archive, bare = io.BytesIO(), io.BytesIO()
    np.savez(archive, a=np.eye(3))
    with zipfile.ZipFile(bare, 'w') as file:
        file.writestr('header', b'{}')
    return {
        'empty': b'',
        'a pickle': pickle.dumps({'people': ['a']}),
        'an archive of arrays': archive.getvalue(),
        'an archive of files': bare.getvalue(),
        'the beginning of an archive': b'PK',
    }


@pytest.mark.parametrize('kind', others())
def test_files_of_another_kind(tmp_path, kind):
    path = tmp_path / 'g.npz'
    path.write_bytes(others()[kind])
    with pytest.raises(UserError, match=r'g\.npz (is|cannot be read)'):
        FaceGallery.load(path)
    for path in (tmp_path / 'none.npz', tmp_path):
        with pytest.raises(UserError, match='there is no gallery'):
            FaceGallery.load(path)


class Evil:
    def __reduce__(self):
        return (os.mkdir, (self.folder,))


def text(value: object) -> np.ndarray:
    return np.frombuffer(json.dumps(value).encode(), np.uint8)


def header(**changes: object) -> np.ndarray:
    facts = dict(
        format='mmhyperface gallery', version=1, fingerprint=FINGERPRINT, score='best'
    )
    return text({**facts, **changes})


WRONG = {
    'version': (dict(header=header(version=2)), 'is a gallery of version 2'),
    'format': (dict(header=header(format='x')), 'not of a gallery'),
    'header': (dict(header=text([1])), 'not of a gallery'),
    'no bytes': (dict(header=np.zeros(3)), 'cannot be read'),
    'no JSON': (dict(people=np.frombuffer(b'["a"', np.uint8)), 'is damaged'),
    'deep': (dict(people=np.frombuffer(b'[' * 9999, np.uint8)), 'is damaged'),
    'score': (dict(header=header(score='x')), "its score is 'x'"),
    'fingerprint': (dict(header=header(fingerprint=3)), 'parts do not fit'),
    'fewer people': (dict(people=text(['a', 'b'])), 'parts do not fit'),
    'people twice': (dict(people=text(['a', 'b', 'a'])), 'parts do not fit'),
    'no people': (dict(people=text({'a': 1})), 'parts do not fit'),
    'fewer images': (dict(images=text(['a'] * 6)), 'parts do not fit'),
    'images of numbers': (dict(images=text([*range(7)])), 'must be a string'),
    'control': (dict(people=text(['a', 'b', '\x1b[2J'])), 'control character'),
    'fewer origins': (dict(origins=text([['', '']])), 'not as many'),
    'origins of numbers': (dict(origins=text([[1, 2]] * 7)), 'no pair of strings'),
    'NaN': (dict(rows=np.full((7, 5), np.nan, np.float32)), 'parts do not fit'),
    'one dimension': (dict(rows=np.ones(7, np.float32)), 'parts do not fit'),
    'lengths': (dict(rows=np.ones((7, 5), np.float32)), 'parts do not fit'),
    'another type': (dict(rows=np.eye(7)), 'parts do not fit'),
    'owners': (dict(owners=np.full(7, -1, np.int32)), 'parts do not fit'),
    'shape': (dict(owners=np.zeros((7, 1), np.int32)), 'parts do not fit'),
}


def rewrite(path: Path, **changes: np.ndarray | None) -> None:
    """Other arrays in an archive; None: without it."""
    with np.load(path) as archive:
        arrays = {**archive, **changes}
    np.savez(path, **{name: x for name, x in arrays.items() if x is not None})


@pytest.mark.parametrize('kind', WRONG)
def test_archives_whose_parts_do_not_fit(tmp_path, kind):
    path, _ = saved(tmp_path)
    changes, message = WRONG[kind]
    rewrite(path, **changes)
    with pytest.raises(UserError, match=rf'g\.npz.*{message}'):
        FaceGallery.load(path)


@pytest.mark.parametrize('part', ['header', 'rows'])
def test_nothing_is_unpickled(tmp_path, part):
    path, _ = saved(tmp_path)
    evil = Evil()
    evil.folder = str(tmp_path / 'evil')
    rewrite(path, **{part: np.array([evil], object)})
    with pytest.raises(UserError, match='cannot be read as a gallery'):
        FaceGallery.load(path)
    assert not (tmp_path / 'evil').exists()


def test_an_archive_without_a_part(tmp_path):
    path, _ = saved(tmp_path)
    rewrite(path, owners=None)
    with pytest.raises(UserError, match=r'cannot be read as a gallery.*KeyError'):
        FaceGallery.load(path)


# ---- a process that is killed

# 15 MB: it takes some time to write.
ROWS, WIDTH = 30_000, 128


def save_over_and_over(path: Path) -> None:
    old, new = FaceGallery.load(path), FaceGallery.load(path)
    new.enrol('new', np.ones((1, old.dimensions)), ['new'])
    while True:
        new.save(path)
        old.save(path)


@pytest.fixture(scope='module')
def large(tmp_path_factory) -> Path:
    gallery = FaceGallery(FINGERPRINT, WIDTH)
    rows = np.random.default_rng(0).standard_normal((ROWS, WIDTH), np.float32)
    people = [f'p{i // 4}' for i in range(ROWS)]
    gallery.enrol_many(people, rows, [f'{i}.png' for i in range(ROWS)])
    path = tmp_path_factory.mktemp('killed') / 'gallery.npz'
    gallery.save(path)
    return path


def is_whole(path: Path) -> bool:
    """Whether it is the new gallery; the old one else."""
    gallery = FaceGallery.load(path, FINGERPRINT)
    new = len(gallery) - ROWS
    assert new in (0, 1)
    assert ('new' in gallery.people) == bool(new)
    row = np.random.default_rng(0).standard_normal((1, WIDTH), np.float32)
    assert gallery.search(row, 1)[0][0].image == '0.png'
    return bool(new)


def part_size(folder: Path) -> int:
    """Bytes of the file that is being written, 0 if there is none."""
    for part in folder.glob('.*.part'):
        try:
            return part.stat().st_size
        except FileNotFoundError:
            continue
    return 0


def killed(path: Path, share: float, whole: int) -> int:
    """Kill a process that saves over and over, when it has written so much of a file.

    Returns the bytes of the temporary file that it leaves.
    """
    context = multiprocessing.get_context('fork')
    saving = context.Process(target=save_over_and_over, args=(path,), daemon=True)
    saving.start()
    try:
        until = time.monotonic() + 60
        while part_size(path.parent) <= share * whole:
            assert time.monotonic() < until
            assert saving.is_alive()
    finally:
        saving.kill()
        saving.join()
    assert saving.exitcode == -signal.SIGKILL
    return part_size(path.parent)


@pytest.mark.skipif(
    'fork' not in multiprocessing.get_all_start_methods(), reason='POSIX only'
)
@pytest.mark.parametrize('share', [0.0, 0.3, 0.9])
def test_a_killed_save_leaves_the_old_gallery_or_the_new_one(large, share):
    whole = large.stat().st_size
    left = killed(large, share, whole)
    is_whole(large)
    # It was killed in the middle of writing, or (rarely) just after renaming.
    assert 0 <= left <= whole + 2**10
    # What is left of it disturbs neither loading nor saving.
    gallery = FaceGallery.load(large)
    if 'new' in gallery.people:
        gallery.remove('new')
    gallery.save(large)
    assert not is_whole(large)
    for part in large.parent.glob('.*.part'):
        part.unlink()
