"""RecordIO against MXNet itself, in both directions.

MXNET names a Python that has it, and OpenCV for the images that it encodes:

    python3.11 -m venv mx && mx/bin/pip install -U pip "setuptools<70" wheel
    mx/bin/pip install --no-build-isolation mxnet==1.9.1 "numpy<1.24" \\
        "opencv-python-headless<4.9"
"""

import json
import os
import struct
import subprocess
from collections.abc import Sequence
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from record_files import MAGIC, header, images, insightface_records, split

from mmhyperface.datasets import FaceRecord
from mmhyperface.datasets.readers.record_index import read_index_file
from mmhyperface.datasets.readers.recordio import RecordFile, chunks_of, pack_record
from mmhyperface.datasets.record_writer import RecordWriter
from mmhyperface.datasets.transforms import decode_face

MXNET = 'MMHYPERFACE_MXNET_PYTHON'

# Reads what to write and to read from its input; bytes are in hexadecimal.
SIDE = """
import json, sys
import numpy as np
from mxnet import recordio
from mxnet.tools import im2rec

def read(path):
    file = recordio.MXIndexedRecordIO(path + '.idx', path + '.rec', 'r')
    found = []
    for key in file.keys:
        head, data = recordio.unpack(file.read_idx(key))
        labels = np.asarray(head.label, '<f4').tobytes().hex()
        found.append([key, head.flag, labels, head.id, head.id2, data.hex()])
    return found

def in_turn(path):
    file, found = recordio.MXRecordIO(path + '.rec', 'r'), []
    while True:
        record = file.read()
        if record is None:
            return found
        found.append(record.hex())

def write(path, records):
    file = recordio.MXIndexedRecordIO(path + '.idx', path + '.rec', 'w')
    for key, label, data in records:
        head = recordio.IRHeader(0, label, key, 0)
        file.write_idx(key, recordio.pack(head, bytes.fromhex(data)))
    file.close()

def write_images(path, pixels, ending):
    file = recordio.MXIndexedRecordIO(path + '.idx', path + '.rec', 'w')
    for key, image in enumerate(pixels):
        head = recordio.IRHeader(0, float(key // 2), key, 0)
        image = np.array(image, np.uint8)
        file.write_idx(key, recordio.pack_img(head, image, 3, ending))
    file.close()

def listed(path):
    return list(im2rec.read_list(path + '.lst'))

tasks = json.load(sys.stdin)
json.dump([globals()[name](*arguments) for name, *arguments in tasks], sys.stdout)
"""


@pytest.fixture(scope='module')
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp('records')


def mxnet(*tasks: Sequence) -> list:
    """What functions of SIDE give, called by the other Python."""
    python = os.environ.get(MXNET)
    if not python:
        pytest.skip(f'set {MXNET} to a Python that has mxnet 1.9.1')
    done = subprocess.run(
        [python, '-c', SIDE],
        input=json.dumps(tasks),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def cases() -> list[tuple[int, float | list[float], bytes]]:
    """Key, label(s) and payload: magic numbers at all places, once and often."""
    (magic_label,) = struct.unpack('<f', MAGIC)
    around = (b'', b'x', b'xy', b'xyz', b'wxyz', b'vwxyz')
    payloads = [
        *(
            before + MAGIC * times + after
            for before, times, after in product(around, (1, 2, 3), around)
        ),
        *((MAGIC + gap) * 2 + MAGIC for gap in around),
        *(MAGIC[:3] + MAGIC, MAGIC[:2] + MAGIC[2:] * 2, MAGIC[1:] + MAGIC[:1]),
        *(b'', b'\0', bytes(range(256)) * 400),
    ]
    labels: list[float | list[float]] = [
        3.0,
        [4.0],
        [1.0, 2.0],
        [magic_label, 5.0],
        magic_label,
        [],
    ]
    return [
        # Keys, too, may be the magic number.
        (int.from_bytes(MAGIC, 'little') if i == 7 else i, labels[i % 6], payload)
        for i, payload in enumerate(payloads)
    ]


def layout(arrays: bool) -> list[tuple[int, float | list[float], bytes]]:
    """insightface's, of three identities with four images each."""
    items = []
    for key, record in insightface_records(images(3, 4), arrays):
        (length,) = struct.unpack_from('<I', record)
        start = 24 + 4 * length
        values = struct.unpack_from(f'<{length}f', record, 24)
        label = list(values) if length else struct.unpack_from('<f', record, 4)[0]
        items.append((key, label, record[start:]))
    return items


def as_json(records: Sequence[tuple]) -> list[tuple]:
    return [(key, label, data.hex()) for key, label, data in records]


@pytest.fixture(scope='module')
def theirs(folder) -> Path:
    """What MXNet writes."""
    path = str(folder / 'theirs')
    os.makedirs(path)
    noise = np.random.default_rng(0).integers(0, 256, (4, 9, 7, 3)).tolist()
    mxnet(
        ('write', f'{path}/cases', as_json(cases())),
        ('write', f'{path}/numbers', as_json(layout(False))),
        ('write', f'{path}/arrays', as_json(layout(True))),
        ('write_images', f'{path}/png', noise, '.png'),
        ('write_images', f'{path}/jpg', noise, '.jpg'),
    )
    return folder / 'theirs'


def test_we_read_any_record_of_theirs(theirs):
    file = RecordFile(str(theirs / 'cases.rec'))
    meant = {key: header(label, key) + data for key, label, data in cases()}
    assert [data for _, data in file.records()] == list(meant.values())
    keys, offsets = read_index_file(str(theirs / 'cases.idx'))
    assert keys.tolist() == sorted(meant)
    for key, offset in zip(keys.tolist(), offsets.tolist(), strict=True):
        assert file.read(offset) == meant[key]


def test_we_write_the_same_bytes(theirs):
    records = [pack_record(data, label, key) for key, label, data in cases()]
    assert b''.join(map(chunks_of, records)) == (theirs / 'cases.rec').read_bytes()
    # So do the files that other tests expect.
    assert b''.join(map(split, records)) == (theirs / 'cases.rec').read_bytes()


@pytest.mark.parametrize('index', [True, False], ids=['index', 'scan'])
@pytest.mark.parametrize('name', ['numbers', 'arrays'])
def test_we_read_a_training_set_of_theirs(theirs, tmp_path, name, index):
    (tmp_path / 'train.rec').symlink_to(theirs / f'{name}.rec')
    if index:
        (tmp_path / 'train.idx').symlink_to(theirs / f'{name}.idx')
    data = FaceRecord(str(tmp_path), cache_dir=str(tmp_path))
    assert data.metainfo['num_classes'] == 3
    items = [data.get_data_info(i) for i in range(len(data))]
    assert [info['gt_label'] for info in items] == [i // 4 for i in range(12)]
    meant = [image for of_one in images(3, 4) for image in of_one]
    assert [info['img_bytes'] for info in items] == meant


@pytest.mark.parametrize('ending', ['png', 'jpg'])
def test_we_read_images_that_they_encode(theirs, tmp_path, ending):
    data = FaceRecord(ann_file=str(theirs / f'{ending}.rec'), cache_dir=str(tmp_path))
    items = [data.get_data_info(i) for i in range(len(data))]
    assert [info['gt_label'] for info in items] == [0, 0, 1, 1]
    noise = np.random.default_rng(0).integers(0, 256, (4, 9, 7, 3))
    for info, meant in zip(items, noise, strict=True):
        image = decode_face(info['img_bytes'], 'image')
        assert image.shape == meant.shape
        if ending == 'png':
            assert (image == meant).all()


# ---- what MXNet reads of ours


def as_read(key: int, label: float | Sequence[float], data: bytes) -> list:
    """What `read` of SIDE gives of a record."""
    length = 0 if isinstance(label, float) else len(label)
    labels = np.atleast_1d(np.array(label, '<f4')).tobytes().hex()
    return [key, length, labels, key, 0, data.hex()]


@pytest.fixture(scope='module')
def read_by_mxnet(folder) -> dict[str, list]:
    """Our files: images with magic numbers, three of each identity."""
    path = str(folder / 'ours')
    with RecordWriter(f'{path}/train.rec', size=(1, 1)) as writer:
        for i, (*_, data) in enumerate(cases()):
            writer.add(data, i // 3, f'Zoë {i // 3}/{i}.jpg')
    names = ('read', 'in_turn', 'listed')
    items = mxnet(*((name, f'{path}/train') for name in names))
    return dict(zip(names, items, strict=True))


def test_they_read_any_record_of_ours(read_by_mxnet):
    payloads = [data for *_, data in cases()]
    count = len(payloads)
    classes = -(-count // 3)
    end = count + classes + 1
    meant = [
        *(as_read(i + 1, float(i // 3), data) for i, data in enumerate(payloads)),
        *(
            as_read(
                count + 1 + label,
                [3.0 * label + 1, min(3.0 * label + 4, count + 1.0)],
                b'',
            )
            for label in range(classes)
        ),
        as_read(0, [count + 1.0, float(end)], b''),
    ]
    assert read_by_mxnet['read'] == meant
    assert len(read_by_mxnet['in_turn']) == len(meant)
    for record, (*_, data) in zip(read_by_mxnet['in_turn'], meant, strict=True):
        assert record.endswith(data)


def test_they_read_our_list(read_by_mxnet):
    assert read_by_mxnet['listed'] == [
        [i + 1, f'Zoë {i // 3}/{i}.jpg', float(i // 3)] for i in range(len(cases()))
    ]
