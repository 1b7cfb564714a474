import pickle
from functools import partial
from pathlib import Path

import check_dataset
import cv2
import numpy as np
import pytest
import record_files
from mmengine.config import ConfigDict
from PIL import Image
from runs import ROOT

from mmhyperface.datasets.transforms import LoadFace

CONFIG = 'configs/sphereface2_r100_ms1m.py'
FOLDER = 'configs/sphereface2_facefolder.py'


@pytest.fixture
def check(run_tool, monkeypatch):
    """Runs the tool."""
    monkeypatch.chdir(ROOT)
    threads = cv2.getNumThreads()
    yield partial(run_tool, 'check_dataset.py')
    cv2.setNumThreads(threads)


def figure(output: str, what: str) -> str:
    (line,) = (line for line in output.splitlines() if line.startswith(f'│ {what} '))
    return line.split('│')[2].strip()


@pytest.fixture
def records() -> list[tuple[int, bytes]]:
    """Four identities, of 1, 4, 4 and 4 images."""
    return record_files.insightface_records(
        [
            [record_files.picture(4 * i + k, 112) for k in range(4 if i else 1)]
            for i in range(4)
        ]
    )


def test_what_is_wrong_is_counted_and_named(check, tmp_path, records):
    records[3] = (4, records[3][1][:-40])
    # Equal to image 1, of the same and of another identity.
    records[4] = (5, record_files.header(1.0, 5) + record_files.picture(4, 112))
    records[5] = (6, record_files.header(2.0, 6) + record_files.picture(4, 112))
    records[7] = (8, record_files.header(9.0, 8) + record_files.picture(50, 112))
    records[8] = (9, record_files.header(2.0, 9) + record_files.picture(51, 64))
    record_files.write(tmp_path, records, 4)
    done = check(CONFIG, '--cfg-options', f'data_root={tmp_path}', '--phase', 'train')
    assert done.status == 1, done.err
    output = done.out
    assert 'train: FaceRecord: 13 images' in output
    assert figure(output, 'damaged') == '2'
    assert 'train.rec: key 4: the JPEG is cut off' in output
    assert 'train.rec: key 8: the label 9 is none of the 4 identities' in output
    assert figure(output, 'equal to an earlier one') == '2'
    assert figure(output, 'equal, of different identities') == '3'
    assert 'equal, of different identities: images 1, 4, 5' in output
    assert figure(output, 'alone of their identity') == '1'
    assert 'alone of their identity: identity 0' in output
    assert figure(output, '112 x 112 (height x width)') == '10'
    assert figure(output, '64 x 64 (height x width)') == '1'
    assert figure(output, 'of another size than LoadFace takes') == '1'
    assert f'LoadFace takes: image 8, {tmp_path}/train.rec: key 9 (64 x 64)' in output


def test_a_good_set(check, tmp_path, records):
    record_files.write(tmp_path, records, 4)
    done = check(CONFIG, '--cfg-options', f'data_root={tmp_path}', '--phase', 'train')
    assert done.status == 0, done.out
    assert 'looked at 13 images (train 13)' in done.out
    assert figure(done.out, 'damaged') == '0'
    assert figure(done.out, 'identities with images') == '4'
    assert figure(done.out, 'images of one') == '1 to 4, median 4'


def test_packs(check, tmp_path):
    pack = [record_files.picture(i, 112) for i in range(8)]
    pack[3] = b'no image'
    for name in ('lfw', 'cfp_fp', 'agedb_30'):
        content = pickle.dumps((pack, [True, False, False, True]))
        (tmp_path / f'{name}.bin').write_bytes(content)
    folds = ['val_dataloader.dataset.folds=2']
    done = check(
        *(CONFIG, '--phase', 'val', '--cfg-options', f'data_root={tmp_path}', *folds)
    )
    assert done.status == 1, done.err
    assert figure(done.out, 'damaged') == '3'
    assert 'cfp_fp.bin: image 3: cannot be decoded' in done.out


def test_mistakes_are_told(check, tmp_path, records):
    done = check(CONFIG, '--cfg-options', f'data_root={tmp_path}')
    assert done.status == 1
    assert done.err.startswith('error: train: ')
    assert 'train.rec: cannot be read' in done.err
    assert check(CONFIG, '--workers', 0).status == 2
    # What can be read has been looked at.
    record_files.write(tmp_path, records, 4)
    done = check(CONFIG, '--cfg-options', f'data_root={tmp_path}')
    assert done.status == 1
    assert 'looked at 13 images (train 13)' in done.out
    assert done.err.startswith("error: val and test: cannot read the pack '")


PEOPLE, EACH = 7, 3


def folder_of(path: Path, size_of, turned: bool = False) -> None:
    exif = Image.Exif()
    exif[0x112] = 6 if turned else 1
    chance = np.random.default_rng(0)
    for number in range(PEOPLE * EACH):
        file = path / f'p{number // EACH}' / f'{number}.jpg'
        file.parent.mkdir(parents=True, exist_ok=True)
        pixels = chance.integers(0, 256, (*size_of(number), 3), np.uint8)
        Image.fromarray(pixels).save(file, exif=exif)


@pytest.mark.parametrize(
    ('size_of', 'shown', 'bad'),
    [
        (lambda n: (64, 64), {}, False),
        (lambda n: (112, 112), {'resized by LoadFace': 21}, False),
        # As those of LFW before they are aligned.
        (lambda n: (250, 250), {'not like aligned crops': 21}, True),
        # Nearly the aspect ratio, or not, or not all of them.
        (lambda n: (112, 92), {'resized by LoadFace': 21}, False),
        (lambda n: (112, 88), {'not like aligned crops': 21}, True),
        (lambda n: (112, 92 + n % 2), {'not like aligned crops': 21}, True),
        (lambda n: (70 + n, 70 + n), {'not like aligned crops': 21}, True),
    ],
)
def test_photographs_are_told_from_crops_in_all_data_sets(
    check, tmp_path, size_of, shown, bad
):
    folder_of(tmp_path, size_of)
    done = check(FOLDER, '--cfg-options', f'data_root={tmp_path}')
    assert done.status == bad, done.out
    counts = 'looked at 21 images (train 6, val and test 15)'
    assert counts in done.out
    assert ('are aligned with tools/dataset_converters/align_' in done.out) == bad
    if bad:
        assert 'set train_dataloader.dataset.pipeline.0.size=(HEIGHT,W' in done.out
        assert f'aligned crops: image 0, {tmp_path}/p' in done.out
    tables = done.out.split('FaceFolderPairs: 15 images')
    for what in ('resized by LoadFace', 'not like aligned crops'):
        assert sum(int(figure(one, what)) for one in tables) == shown.get(what, 0)


def test_a_load_face_of_ones_own():
    class Own(LoadFace):
        pass

    steps = [dict(type=Own, size=64)]
    config = ConfigDict(dataset=dict(pipeline=steps))
    ((option, loading),) = check_dataset.loadings(config, 'a')
    assert (option, loading.size) == ('a.dataset.pipeline.0', (64, 64))
    steps.append(dict(type='mmhyperface.AlignFace', size=64))
    assert not list(check_dataset.loadings(ConfigDict(pipeline=steps), 'a'))


def test_images_that_exif_turns_and_repetitions(check, tmp_path):
    folder_of(tmp_path, lambda n: (64, 64), turned=True)
    config = tmp_path / 'config.py'
    config.write_text(
        'train_dataloader = dict(dataset=dict(type="RepeatDataset", times=9, dataset='
        f'dict(type="FaceFolder", data_root={str(tmp_path)!r}, '
        'pipeline=[dict(type="LoadFace", size=64)])))'
    )
    done = check(config)
    assert done.status == 1
    assert 'looked at 21 images (train 21)' in done.out
    assert figure(done.out, 'turned by EXIF, which LoadFace does not follow') == '21'
    assert figure(done.out, 'equal to an earlier one') == '0'
