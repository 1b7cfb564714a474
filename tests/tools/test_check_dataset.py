import pickle
import subprocess
import sys
from pathlib import Path

import pytest
import record_files

ROOT = Path(__file__).parent.parent.parent
CONFIG = 'configs/sphereface2_r100_ms1m.py'


def check(*arguments: object) -> subprocess.CompletedProcess:
    command = [sys.executable, 'tools/check_dataset.py', *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)


def figure(told: str, what: str) -> str:
    (line,) = (line for line in told.splitlines() if line.startswith(f'│ {what} '))
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


def test_what_is_wrong_is_counted_and_named(tmp_path, records):
    records[3] = (4, records[3][1][:-40])
    # Equal to image 1, of the same and of another identity.
    records[4] = (5, record_files.header(1.0, 5) + record_files.picture(4, 112))
    records[5] = (6, record_files.header(2.0, 6) + record_files.picture(4, 112))
    records[7] = (8, record_files.header(9.0, 8) + record_files.picture(50, 112))
    records[8] = (9, record_files.header(2.0, 9) + record_files.picture(51, 64))
    record_files.write(tmp_path, records, 4)
    done = check(CONFIG, '--cfg-options', f'data_root={tmp_path}')
    assert done.returncode == 1, done.stderr
    told = done.stdout
    assert 'FaceRecord: 13 images' in told
    assert figure(told, 'damaged') == '2'
    assert 'train.rec: key 4: the JPEG is cut off' in told
    assert 'train.rec: key 8: the label 9 is none of the 4 identities' in told
    assert figure(told, 'equal to an earlier one') == '2'
    assert figure(told, 'equal, of different identities') == '3'
    assert 'equal, of different identities: images 1, 4, 5' in told
    assert figure(told, 'alone of their identity') == '1'
    assert 'alone of their identity: identity 0' in told
    assert figure(told, '112 x 112 (height x width)') == '10'
    assert figure(told, '64 x 64 (height x width)') == '1'
    assert figure(told, 'of another size than LoadFace takes') == '1'
    assert 'of another size than LoadFace takes: image 8' in told


def test_a_good_set(tmp_path, records):
    record_files.write(tmp_path, records, 4)
    done = check(CONFIG, '--cfg-options', f'data_root={tmp_path}')
    assert done.returncode == 0, done.stdout
    assert figure(done.stdout, 'damaged') == '0'
    assert figure(done.stdout, 'identities with images') == '4'
    assert figure(done.stdout, 'images of one') == '1 to 4, median 4'


def test_packs(tmp_path):
    pack = [record_files.picture(i, 112) for i in range(8)]
    pack[3] = b'no image'
    for name in ('lfw', 'cfp_fp', 'agedb_30'):
        content = pickle.dumps((pack, [True, False, False, True]))
        (tmp_path / f'{name}.bin').write_bytes(content)
    folds = ['val_dataloader.dataset.folds=2']
    done = check(
        *(CONFIG, '--phase', 'val', '--cfg-options', f'data_root={tmp_path}', *folds)
    )
    assert done.returncode == 1, done.stderr
    assert figure(done.stdout, 'damaged') == '3'
    assert 'cfp_fp.bin: image 3: cannot be decoded' in done.stdout


def test_mistakes_are_told(tmp_path):
    done = check(CONFIG, '--cfg-options', f'data_root={tmp_path}')
    assert done.returncode == 1
    assert done.stderr.startswith('error: ')
    assert 'train.rec: cannot be read' in done.stderr
    assert check(CONFIG, '--workers', 0).returncode == 2
