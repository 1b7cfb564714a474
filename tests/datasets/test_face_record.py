"""RecordIO files: read as they lie, or refused with a reason; never misread."""

import os
import pickle
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from record_files import (
    MAGIC,
    chunk,
    header,
    images,
    insightface_records,
    picture,
    seed_of,
    split,
    write,
)

from mmhyperface.datasets import FaceRecord
from mmhyperface.datasets.damage import DamagedImage
from mmhyperface.datasets.readers.recordio import RecordFile, chunks_of, pack_record
from mmhyperface.utils.errors import UserError

PIPELINE = [dict(type='LoadFace', size=16)]


def dataset(folder: Path, **options) -> FaceRecord:
    return FaceRecord(str(folder), **{'pipeline': PIPELINE, **options})


def check(data: FaceRecord, identities: int, each: int) -> None:
    """All images of :func:`images`, in their order."""
    assert len(data) == identities * each
    assert data.metainfo['num_classes'] == identities
    for i, item in enumerate(data):
        assert seed_of(item['img']) == i
        assert item['gt_label'] == i // each
        assert item['sample_idx'] == i
        assert 'img_bytes' not in item
    assert data.labels().tolist() == [i // each for i in range(len(data))]
    assert data.get_cat_ids(len(data) - 1) == [identities - 1]


@pytest.mark.parametrize('index', [True, False], ids=['index', 'scan'])
@pytest.mark.parametrize('arrays', [False, True], ids=['number', 'array'])
@pytest.mark.parametrize('num_classes', [3, None])
def test_the_layout_of_insightface(tmp_path, index, arrays, num_classes):
    records = insightface_records(images(3, 4), arrays)
    write(tmp_path, records, num_classes, index)
    check(dataset(tmp_path), 3, 4)
    # Then from what was kept.
    check(dataset(tmp_path), 3, 4)


@pytest.mark.parametrize(
    ('keys', 'ids'),
    [
        *((range(first, first + 8), range(first, first + 8)) for first in (0, 1, 7)),
        (range(0, 40, 5), [0] * 8),
    ],
)
@pytest.mark.parametrize('index', [True, False], ids=['index', 'scan'])
def test_without_a_header_every_record_is_an_image(tmp_path, keys, ids, index):
    records = [(keys[i], header(float(i // 2), ids[i]) + picture(i)) for i in range(8)]
    write(tmp_path, records, index=index)
    check(dataset(tmp_path), 4, 2)


def test_records_in_any_order(tmp_path):
    records = insightface_records(images(3, 4))
    order = np.random.default_rng(0).permutation(len(records))
    write(tmp_path, [records[i] for i in order])
    check(dataset(tmp_path), 3, 4)


@pytest.mark.parametrize('at', range(9))
@pytest.mark.parametrize('times', [1, 2, 3])
def test_the_magic_in_a_payload(tmp_path, at, times):
    """Split there or not, the bytes are the same; JPEG data may have a tail."""
    payload = picture(0) + b'x' * at + MAGIC * times + b'y' * (at % 3) + MAGIC
    content = header(0.0, 1) + payload
    write(tmp_path, [(1, content), (2, header(0.0, 2) + picture(1))])
    data = dataset(tmp_path, pipeline=[])
    assert data[0]['img_bytes'] == payload
    assert data[1]['img_bytes'] == picture(1)
    assert chunks_of(content) == split(content)


@settings(max_examples=200, deadline=None)
@given(
    st.lists(
        st.lists(st.sampled_from([MAGIC, b'a', b'bcde', MAGIC[:2]]), max_size=8).map(
            b''.join
        ),
        min_size=1,
        max_size=5,
    )
)
def test_our_chunks_are_those_of_the_definition(tmp_path_factory, payloads):
    contents = [header(1.0, i) + data for i, data in enumerate(payloads)]
    ours = [pack_record(data, 1.0, i) for i, data in enumerate(payloads)]
    assert ours == contents
    assert [chunks_of(c) for c in contents] == [split(c) for c in contents]
    path = tmp_path_factory.mktemp('records') / 'a.rec'
    path.write_bytes(b''.join(map(split, contents)))
    assert [data for _, data in RecordFile(str(path)).records()] == contents


def test_property_with_more_lines_and_without_any(tmp_path):
    write(tmp_path, insightface_records(images(3, 2)))
    (tmp_path / 'property').write_text('3,112,112\nmade by me\n')
    check(dataset(tmp_path), 3, 2)
    (tmp_path / 'property').write_text('three')
    with pytest.raises(UserError, match=r"property:1: expected `num_classes.*'three'"):
        dataset(tmp_path)


def test_labels_out_of_range(tmp_path):
    records = [
        (i, header(label, i) + picture(i))
        for i, label in enumerate([0.0, 1.0, 2.0, -1.0, 0.5, float('nan'), 1e30])
    ]
    write(tmp_path, records, num_classes=2)
    data = dataset(tmp_path)
    assert [data[i]['gt_label'] for i in (0, 1)] == [0, 1]
    for i in range(2, 7):
        with pytest.raises(DamagedImage, match=rf'key {i}: the label .* 2 identities'):
            data[i]
    assert data.labels().tolist() == [0, 1, -1, -1, -1, -1, -1]
    assert dataset(tmp_path, on_error='skip')[2]['gt_label'] == 0
    write(tmp_path, records[3:5])
    (tmp_path / 'property').unlink()
    lazy = dataset(tmp_path, lazy_init=True)
    for _ in range(2):
        with pytest.raises(UserError, match=r'no record of .* has a label'):
            lazy.full_init()


def test_identities_beyond_what_float32_can_count(tmp_path, monkeypatch):
    """The header is off by rounding: images end where records have no image."""
    import mmhyperface.datasets.face_record as module

    monkeypatch.setattr(module, 'MOST_EXACT', 4)
    monkeypatch.setattr(module.np, 'spacing', lambda x: np.float32(3))
    for first in (7.0, 9.0, 11.0):
        folder = tmp_path / str(first)
        records = insightface_records(images(2, 4))
        records[-1] = (0, header([first, first + 2], 0))
        write(folder, records, 2)
        check(dataset(folder), 2, 4)


def test_indices(tmp_path):
    write(tmp_path, insightface_records(images(3, 4)))
    for indices, expected in ((5, range(5)), (-2, (10, 11)), ([7, 1], (7, 1))):
        data = dataset(tmp_path, indices=indices)
        assert [seed_of(item['img']) for item in data] == list(expected)
        assert data.labels().tolist() == [i // 4 for i in expected]


# ---- damage


def test_a_truncated_tail(tmp_path):
    records = [(i, header(float(i // 2), i) + picture(i)) for i in range(8)]
    path = write(tmp_path, records, 4)
    path.write_bytes(path.read_bytes()[:-40])
    data = dataset(tmp_path)
    assert seed_of(data[6]['img']) == 6
    with pytest.raises(DamagedImage, match=r'train\.rec: record at byte .*cut off'):
        data[7]
    os.remove(tmp_path / 'train.idx')
    with pytest.raises(DamagedImage, match='cut off'):
        dataset(tmp_path)
    assert len(dataset(tmp_path, on_error='skip')) == 7


def test_an_index_of_another_file(tmp_path):
    write(tmp_path / 'a', insightface_records(images(3, 4)))
    big = [[picture(i, 24 + i) for i in range(4)] for _ in range(3)]
    write(tmp_path / 'b', insightface_records(big))
    index = (tmp_path / 'b' / 'train.idx').read_text()
    (tmp_path / 'a' / 'train.idx').write_text(index)
    with pytest.raises(UserError, match=r'train\.idx lists.*belongs to another file'):
        dataset(tmp_path / 'a')


def test_an_index_of_other_keys_gives_no_image_under_another_label(tmp_path):
    records = insightface_records(images(3, 4))
    write(tmp_path, records)
    lines = (tmp_path / 'train.idx').read_text().splitlines()
    offsets = [line.split('\t')[1] for line in lines]
    lines[2], lines[9] = f'3\t{offsets[9]}', f'10\t{offsets[2]}'
    (tmp_path / 'train.idx').write_text('\n'.join(lines))
    data = dataset(tmp_path)
    with pytest.raises(DamagedImage, match=r'key 3: .* that of key 10'):
        data[2]


@pytest.mark.parametrize(
    ('text', 'message'),
    [
        ('', 'has no line'),
        ('1\t0\nx\t5\n', r"train\.idx:2: expected `key <tab> byte offset`, got 'x"),
        ('1\t0\n1\t8\n', 'the key 1 comes twice'),
        ('1\t0\t0\n', 'train.idx:1'),
        ('1\t-4\n', 'train.idx:1'),
        ('\0' * 100, 'train.idx:1'),
        ('1\t99999999999999999999999\n', 'train.idx:1'),
        ('1\t3\n2\t5\n', 'belongs to another file'),
        ('1\t999999999999\n', 'belongs to another file'),
    ],
)
def test_a_malformed_index(tmp_path, text, message):
    write(tmp_path, insightface_records(images(2, 2)))
    (tmp_path / 'train.idx').write_text(text)
    with pytest.raises(UserError, match=message):
        dataset(tmp_path)


def test_files_that_are_none(tmp_path):
    with pytest.raises(UserError, match=r'\.rec: cannot be read: No such file.*set'):
        dataset(tmp_path)
    (tmp_path / 'train.rec').mkdir()
    with pytest.raises(UserError, match='Is a directory'):
        dataset(tmp_path)
    (tmp_path / 'train.rec').rmdir()
    (tmp_path / 'train.rec').write_bytes(b'')
    with pytest.raises(UserError, match='the file is empty'):
        dataset(tmp_path)
    (tmp_path / 'train.rec').write_bytes(b'PK\3\4 some other file' * 10)
    with pytest.raises(UserError, match=r'expected the magic 0a 23 d7 ce at byte 0'):
        dataset(tmp_path)
    path = write(tmp_path, insightface_records(images(3, 2)))
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(UserError, match=r'record of key 0, which says .*cut off'):
        dataset(tmp_path)
    write(tmp_path, [(0, header([1.0, 1.0], 0))])
    with pytest.raises(UserError, match='has no image'):
        dataset(tmp_path)
    write(tmp_path, [(0, header([float('inf'), 2.0], 0)), (1, header(0.0, 1) + b'x')])
    with pytest.raises(UserError, match='images end before key inf'):
        dataset(tmp_path)


def test_images_that_are_none(tmp_path):
    bad = [b'', b'no image', picture(1)[:-30]]
    records = [(i, header(0.0, i) + data) for i, data in enumerate([*bad, picture(3)])]
    write(tmp_path, records)
    data = dataset(tmp_path)
    for i, why in enumerate(('empty', 'cannot be decoded', 'cut off')):
        with pytest.raises(DamagedImage, match=f'key {i}: .*{why}'):
            data[i]
    data = dataset(tmp_path, on_error='skip')
    assert [seed_of(item['img']) for item in data] == [3, 3, 3, 3]
    assert list(data.skipped()) == [0, 1, 2]
    assert 'empty' in data.skipped()[0]


def test_nothing_but_damage_ends(tmp_path):
    records = [(i, header(0.0, i) + b'no image') for i in range(5)]
    write(tmp_path, records)
    with pytest.raises(UserError, match='5 images in a row are damaged; the last one'):
        dataset(tmp_path, on_error='skip')[0]


def test_a_forged_length_takes_no_memory(tmp_path):
    whole = [chunk(0, header(0.0, i + 1) + picture(i)) for i in range(5)]
    # A chunk that has half a gigabyte, a record that has four billion labels.
    whole[0] = whole[0][:4] + struct.pack('<I', 2**29 - 1) + whole[0][8:]
    labels = struct.pack('<IfQQ', 2**32 - 1, 0.0, 3, 0)
    whole[2] = chunk(0, labels + picture(2))
    (tmp_path / 'train.rec').write_bytes(b''.join(whole))
    starts = np.cumsum([0, *map(len, whole[:-1])])
    lines = [f'{key}\t{start}\n' for key, start in enumerate(starts, 1)]
    (tmp_path / 'train.idx').write_text(''.join(lines))
    data = dataset(tmp_path, num_classes=1)
    for i, why in ((0, 'end after the file'), (2, '4294967295 labels do not fit')):
        with pytest.raises(DamagedImage, match=why):
            data[i]
    assert [seed_of(data[i]['img']) for i in (1, 3, 4)] == [1, 3, 4]


FILES = ('train.rec', 'train.idx', 'property')


@settings(
    max_examples=150,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    name=st.sampled_from(FILES),
    index=st.booleans(),
    changes=st.lists(
        st.tuples(st.floats(0, 1), st.binary(max_size=4), st.integers(0, 4)),
        min_size=1,
        max_size=4,
    ),
)
def test_any_damage_ends_in_a_right_image_or_an_error(
    tmp_path_factory, name, index, changes
):
    """Bytes are overwritten, put in or taken out. Where the records are whole, what is
    read as an image is that of its key, with its label."""
    folder = tmp_path_factory.mktemp('damage')
    write(folder, insightface_records(images(3, 3)), 3, index)
    path = folder / name
    if not path.exists():
        return
    content = bytearray(path.read_bytes())
    for share, new, gone in changes:
        at = int(share * len(content))
        content[at : at + gone] = new
    path.write_bytes(content)
    try:
        data = dataset(folder, pipeline=[], cache_dir=str(folder))
    except UserError:
        return
    for i in range(len(data)):
        try:
            item = data[i]
        except UserError:
            continue
        assert 0 <= item['gt_label'] < data.metainfo['num_classes']
        key = int(item['img_path'].rsplit(' ', 1)[1])
        if name != 'train.rec' and data._has_ids and 1 <= key <= 9:
            assert item['img_bytes'] == picture(key - 1)
            assert item['gt_label'] == (key - 1) // 3


# ---- memory, processes


@pytest.mark.parametrize('lines', [2, 5, 8, 11])
def test_an_index_that_is_cut_off(tmp_path, lines):
    """Key 0, which says where images end, comes last."""
    write(tmp_path, insightface_records(images(3, 3)), 3)
    index = (tmp_path / 'train.idx').read_text().splitlines(keepends=True)
    (tmp_path / 'train.idx').write_text(''.join(index[:lines]))
    with pytest.raises(UserError, match=r'train\.idx lists ends at byte .*Delete it'):
        dataset(tmp_path)
    (tmp_path / 'train.idx').unlink()
    assert len(dataset(tmp_path)) == 9


def test_what_was_found_is_kept_and_mapped(tmp_path):
    path = write(tmp_path, insightface_records(images(3, 4)))
    data = dataset(tmp_path)
    (kept,) = tmp_path.glob('.train.rec.*.npy')
    before = kept.stat().st_mtime_ns
    assert isinstance(data._places.numbers, np.memmap)
    assert kept.stat().st_mode & 0o444 == 0o444
    # Twelve images, three identities, the header and the first key.
    assert data._places.numbers.nbytes == 8 * (12 + 3 + 1 + 1)
    # The copy of another process maps the same file.
    text = pickle.dumps(data)
    assert len(text) < 2000
    check(pickle.loads(text), 3, 4)
    check(dataset(tmp_path), 3, 4)
    assert kept.stat().st_mtime_ns == before
    # Another file of the same name is another index.
    write(tmp_path, insightface_records(images(2, 5)))
    os.utime(path, ns=(1, 1))
    check(dataset(tmp_path), 2, 5)
    # A damaged one is made anew.
    for kept in tmp_path.glob('.train.rec.*.npy'):
        kept.write_bytes(kept.read_bytes()[:-9])
    check(dataset(tmp_path), 2, 5)


@pytest.mark.skipif(os.geteuid() == 0, reason='root may write anywhere')
def test_a_folder_that_cannot_be_written(tmp_path):
    folder = tmp_path / 'set'
    write(folder, insightface_records(images(3, 4)))
    folder.chmod(0o500)
    try:
        check(dataset(folder), 3, 4)
        assert list((tmp_path / 'cache' / 'mmhyperface').glob('*.npy'))
    finally:
        folder.chmod(0o700)


def test_a_cache_folder_elsewhere(tmp_path):
    write(tmp_path / 'set', insightface_records(images(3, 4)))
    check(dataset(tmp_path / 'set', cache_dir=str(tmp_path / 'kept')), 3, 4)
    assert len(list((tmp_path / 'kept').iterdir())) == 1
    assert not list((tmp_path / 'set').glob('.*'))


@pytest.mark.parametrize('start', ['fork', 'forkserver'])
def test_workers(tmp_path, start):
    records = insightface_records(images(3, 4))
    records[4] = (5, header(1.0, 5) + b'no image')
    write(tmp_path, records)
    data = dataset(tmp_path, on_error='skip')
    loader = torch.utils.data.DataLoader(
        data, 2, num_workers=2, multiprocessing_context=start, collate_fn=list
    )
    seeds = [seed_of(item['img']) for batch in loader for item in batch]
    assert seeds == [0, 1, 2, 3, 5, 5, 6, 7, 8, 9, 10, 11]
    # What workers met, the parent knows.
    assert list(data.skipped()) == [4]
