"""Pictures with a coloured dot on each landmark: a crop has them at their places."""

import csv
import os
import struct
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import align_faces
import cv2
import numpy as np
import pytest
from drawn_faces import COLOURS, draw_dots, draw_face, moved, write_model
from runs import ROOT

from mmhyperface.datasets.transforms import template
from mmhyperface.inference.inputs import read_landmarks
from mmhyperface.utils.errors import UserError

TOOL = ROOT / 'tools' / 'dataset_converters' / 'align_faces.py'
COLUMNS = ['path', 'x1', 'y1', 'x2', 'y2', 'x3', 'y3', 'x4', 'y4', 'x5', 'y5']


def assert_dots_at_template(crop: Path, size: tuple[int, int] = (112, 112)) -> None:
    image = cv2.imread(str(crop)).astype(float)
    assert image.shape == (*size, 3)
    for colour, place in zip(COLOURS, template(*size), strict=True):
        ys, xs = np.nonzero(np.abs(image - colour).max(-1) < 60)
        assert np.hypot(xs.mean() - place[0], ys.mean() - place[1]) < 0.5


@pytest.fixture(autouse=True)
def threads_of_opencv():
    threads = cv2.getNumThreads()
    yield
    cv2.setNumThreads(threads)


@pytest.fixture
def run(monkeypatch) -> Callable:
    def call(*arguments: object) -> int:
        """Its exit status: 0, or 3 where some pictures have no crop."""
        monkeypatch.setattr(sys, 'argv', ['align_faces.py', *map(str, arguments)])
        try:
            align_faces.main()
        except SystemExit as stop:
            if stop.code == 3:
                return 3
            raise
        return 0

    return call


@pytest.fixture(scope='module')
def model(tmp_path_factory) -> str:
    return write_model(tmp_path_factory.mktemp('model') / 'blocks.onnx')


def save(path: Path, image: np.ndarray, *options: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(cv2.imencode(path.suffix, image, options)[1].tobytes())


def save_face(path: Path, points: np.ndarray) -> str:
    """A picture with dots, and its line of landmarks but for the path."""
    image = np.zeros((500, 600, 3), np.uint8)
    draw_dots(image, points, radius=np.ptp(points[:, 0]) / 7)
    save(path, image)
    return '\t'.join(map(str, points.ravel()))


def contents(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob('*')
        if path.is_file()
    }


def rows_of(table: Path) -> dict[str, list[str]]:
    with open(table, encoding='utf-8', newline='') as file:
        header, *rows = csv.reader(file, delimiter='\t')
    assert header[0] == 'path'
    by_path = {path: rest for path, *rest in rows}
    assert len(by_path) == len(rows)
    return by_path


@pytest.mark.parametrize(
    ('size', 'format'), [((112, 112), 'jpg'), ((112, 96), 'png'), ((160, 128), 'png')]
)
def test_dots_come_to_their_places(run, tmp_path, capsys, size, format):
    source, crops = tmp_path / 'source', tmp_path / 'crops'
    poses = {
        'a.png': (0, 1.0, (300, 250)),
        'deep/er/b.jpg': (30, 2.5, (320.3, 241.7)),
        'Zoë/ein "Bild", c.png': (-75, 1.7, (200, 300)),
        'd.bmp': (170, 0.9, (301.5, 249.5)),
    }
    with open(tmp_path / 'list.txt', 'w', encoding='utf-8') as file:
        for path, pose in poses.items():
            points = moved(template(112, 112), *pose)
            print(path, save_face(source / path, points), sep='\t', file=file)
    run(
        *(source, crops, '--landmarks', tmp_path / 'list.txt'),
        *('--size', *size, '--format', format),
    )
    assert len(contents(crops)) == len(poses) + 1
    for path in poses:
        crop = (crops / path).with_suffix(f'.{format}')
        assert_dots_at_template(crop, size)
    assert rows_of(crops / 'not_aligned.tsv') == {}
    assert 'aligned now' in capsys.readouterr().out


def write_text(path: Path, delimiter: str) -> None:
    with open(path, 'w', encoding='utf-8-sig', newline='') as file:
        writer = csv.writer(file, delimiter=delimiter)
        writer.writerow([*COLUMNS, 'score'])
        writer.writerow(['a, b/ä "1".jpg', *range(1, 11), 0.9])
        writer.writerow(['c.jpg', *np.arange(1, 11) / 8, 0.8])


def write_parquet(path: Path) -> None:
    arrow = pytest.importorskip('pyarrow')
    parquet = pytest.importorskip('pyarrow.parquet')
    columns = {name: [i, i / 8] for i, name in enumerate(COLUMNS)}
    table = arrow.table({**columns, 'path': ['a, b/ä "1".jpg', 'c.jpg'], 'more': 'xy'})
    parquet.write_table(table, path)


@pytest.mark.parametrize('ending', ['csv', 'tsv', 'parquet', 'txt'])
def test_every_format_of_landmarks_reads_the_same(tmp_path, ending):
    path = tmp_path / f'landmarks.{ending}'
    if ending == 'parquet':
        write_parquet(path)
    elif ending == 'txt':
        first = '\t'.join(['a, b/ä "1".jpg', *map(str, range(1, 11))])
        second = ' '.join(map(str, np.arange(1, 11) / 8))
        path.write_text(f'{first}\r\n\n./c.jpg {second} 0.5\n', encoding='utf-8-sig')
    else:
        write_text(path, ',' if ending == 'csv' else '\t')
    actual = read_landmarks(str(path))
    assert {name: list(points) for name, points in actual.items()} == {
        'a, b/ä "1".jpg': list(range(1, 11)),
        'c.jpg': [i / 8 for i in range(1, 11)],
    }


TEN = '1 2 3 4 5 6 7 8 9 10'


@pytest.mark.parametrize(
    ('name', 'text', 'message'),
    [
        ('l.txt', f'a.jpg {TEN}\nb.jpg 1 2 3', 'l.txt:2: expected `path x1'),
        ('l.txt', f'a b.jpg {TEN}', "l.txt:1: .*'b.jpg'; paths with spaces need tabs"),
        ('l.txt', f'a.jpg {TEN}\n./a.jpg {TEN}', "l.txt:2: './a.jpg' comes a second"),
        ('l.txt', f'/a.jpg {TEN}', 'l.txt:1: expected a path that starts from SOURCE'),
        ('l.txt', f'b/../../a.jpg {TEN}', 'l.txt:1: expected a path that starts'),
        ('l.csv', 'path,x1\n', "l.csv:1: no column 'y1' among"),
        ('l.csv', ','.join(COLUMNS) + '\na.jpg,1,2', 'l.csv:2: expected 11 fields'),
        (None, '', 'cannot read the list'),
    ],
)
def test_malformed_landmarks(run, tmp_path, name, text, message):
    (tmp_path / 'source').mkdir()
    path = tmp_path / (name or 'none.txt')
    if name:
        path.write_bytes(text.encode())
    with pytest.raises(UserError, match=message):
        run(tmp_path / 'source', tmp_path / 'crops', '--landmarks', path)
    assert not (tmp_path / 'crops').exists()


def test_faces_that_are_found(run, model, tmp_path):
    """In our order, in the pixels of the picture, kept for crops of another size."""
    source, crops = tmp_path / 'source', tmp_path / 'crops'
    small = np.zeros((200, 230, 3), np.uint8)
    large = np.zeros((800, 1200, 3), np.uint8)
    points = {
        'small.png': draw_face(small, (3, 5)),
        'sub/large.png': draw_face(large, (10, 4), green=120, scale=4),
    }
    save(source / 'small.png', small)
    save(source / 'sub/large.png', large)
    options = ('--format', 'png', '--detect-size', 300)
    run(source, crops, '--yunet', model, *options)
    for path, row in rows_of(crops / 'landmarks.tsv').items():
        assert_dots_at_template(crops / path)
        *actual, score = map(float, row)
        assert np.abs(np.reshape(actual, (5, 2)) - points[path]).max() < 0.01
        assert score == pytest.approx(0.9, abs=0.01)
    # OpenCV's own alignment takes the detector's points for the same places.
    detector = cv2.FaceDetectorYN.create(model, '', (230, 200), 0.6)
    (face,) = detector.detect(small)[1]
    theirs = cv2.FaceRecognizerSF.create(model, '').alignCrop(small, face)
    assert np.abs(theirs - cv2.imread(str(crops / 'small.png')).astype(float)).max() < 9

    again = tmp_path / 'again'
    run(source, again, '--landmarks', crops / 'landmarks.tsv', *options)
    for path in points:
        assert (again / path).read_bytes() == (crops / path).read_bytes()


@pytest.mark.parametrize('choice', ['largest', 'central', 'best'])
def test_one_of_several_faces(run, model, tmp_path, choice):
    image = np.zeros((448, 640, 3), np.uint8)
    points = {
        'largest': draw_face(image, (1, 2), score=0.8, red=250),
        'central': draw_face(image, (38, 26), score=0.7, red=100),
        'best': draw_face(image, (60, 2), score=0.95, red=100),
    }
    save(tmp_path / 'source' / 'a.png', image)
    crops = tmp_path / 'crops'
    run(tmp_path / 'source', crops, '--yunet', model, '--choose', choice)
    *actual, _ = map(float, rows_of(crops / 'landmarks.tsv')['a.png'])
    assert np.abs(np.reshape(actual, (5, 2)) - points[choice]).max() < 0.01


@pytest.mark.parametrize('turns', [0, 1, 2, 3])
def test_pictures_that_exif_turns(run, model, tmp_path, capsys, turns):
    image = np.zeros((240, 320, 3), np.uint8)
    draw_face(image, (4, 6))
    path = tmp_path / 'source' / 'a.jpg'
    # Colours as sharp as light, so that the block is as large as the model expects.
    sampling = cv2.IMWRITE_JPEG_SAMPLING_FACTOR
    full = cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444
    save(path, np.rot90(image, -turns), sampling, full)
    orientation = (9, 8, 3, 6)[turns]  # there is no 9
    entry = struct.pack('<HHHIHHI', 1, 0x112, 3, 1, orientation, 0, 0)
    exif = b'Exif\0\0II*\0\x08\0\0\0' + entry
    marker = b'\xff\xe1' + struct.pack('>H', len(exif) + 2)
    stored = path.read_bytes()
    path.write_bytes(stored[:2] + marker + exif + stored[2:])
    crops = tmp_path / 'crops'
    run(tmp_path / 'source', crops, '--yunet', model, '--format', 'png')
    assert_dots_at_template(crops / 'a.png')
    output = ' '.join(capsys.readouterr().out.split())
    assert ('now; EXIF has an orientation' in output) == (turns == 0)


def test_what_cannot_be_aligned_is_told_and_tried_again(run, tmp_path, capsys):
    source, crops = tmp_path / 'source', tmp_path / 'crops'
    points = moved(template(112, 112), 10, 2, (300, 250))
    names = ['good.png', 'bad.jpg', 'nan.png', 'gone.png', 'unlisted.png', 'empty.png']
    row = {name: save_face(source / name, points) for name in names}
    (source / 'bad.jpg').write_bytes((source / 'bad.jpg').read_bytes()[:2000])
    (source / 'gone.png').unlink()
    (source / '.hidden.png').write_bytes(b'')
    (source / 'notes.txt').write_text('')
    (source / 'photo').write_bytes((source / 'good.png').read_bytes())
    with open(tmp_path / 'list.csv', 'w') as file:
        print(*COLUMNS, sep=',', file=file)
        for name in set(names) - {'unlisted.png'}:
            numbers = row[name].split('\t')
            if name == 'nan.png':
                numbers[3] = 'nan'
            if name == 'empty.png':
                numbers = [''] * 10
            print(name, *numbers, sep=',', file=file)
    assert run(source, crops, '--landmarks', tmp_path / 'list.csv') == 3
    reasons = {p: why for p, (why,) in rows_of(crops / 'not_aligned.tsv').items()}
    assert reasons.pop('photo').startswith('misnamed: is an image by its content')
    assert list(reasons) == sorted(set(names) - {'good.png'})
    assert reasons['bad.jpg'].startswith('damaged: the JPEG is cut off')
    assert reasons['gone.png'].startswith('damaged: no such image')
    assert reasons['nan.png'].startswith('impossible: no face has the landmarks')
    assert reasons['empty.png'].startswith('impossible: no face has the landmarks')
    assert reasons['unlisted.png'].startswith('no landmarks: ')
    output = capsys.readouterr().out
    for line in ('aligned now', 'not aligned, damaged', 'other files', 'misnamed'):
        assert line in output
    assert sorted(contents(crops)) == ['good.jpg', 'not_aligned.tsv']
    before = (crops / 'good.jpg').stat().st_mtime_ns

    save_face(source / 'bad.jpg', points)
    run(source, crops, '--landmarks', tmp_path / 'list.csv')
    assert sorted(rows_of(crops / 'not_aligned.tsv')) == sorted(
        {'photo', *names} - {'good.png', 'bad.jpg'}
    )
    assert_dots_at_template(crops / 'bad.jpg')
    assert (crops / 'good.jpg').stat().st_mtime_ns == before


def test_no_face_at_all(run, model, tmp_path):
    source, crops = tmp_path / 'source', tmp_path / 'crops'
    image = np.zeros((100, 100, 3), np.uint8)
    save(source / 'black.png', image)
    draw_face(image, (1, 1), score=0.5)
    save(source / 'doubtful.png', image)
    (source / os.fsdecode(b'\xff.png')).write_bytes((source / 'black.png').read_bytes())
    with pytest.raises(SystemExit) as stop:
        run(source, crops, '--yunet', model)
    assert stop.value.code == 1
    reasons = rows_of(crops / 'not_aligned.tsv')
    assert reasons['black.png'] == ['no face: YuNet found none']
    assert reasons['\\udcff.png'][0].startswith('name: not UTF-8')
    # A doubtful face is one with another threshold, and then again is none.
    run(source, crops, '--yunet', model, '--score-threshold', 0.4)
    assert list(rows_of(crops / 'landmarks.tsv')) == ['doubtful.png']
    assert (crops / 'doubtful.jpg').exists()
    with pytest.raises(SystemExit):
        run(source, crops, '--yunet', model, '--overwrite')
    assert sorted(contents(crops)) == ['landmarks.tsv', 'not_aligned.tsv']
    assert rows_of(crops / 'landmarks.tsv') == {}


def test_other_options_want_another_destination(run, model, tmp_path):
    source, crops = tmp_path / 'source', tmp_path / 'crops'
    image = np.zeros((200, 200, 3), np.uint8)
    draw_face(image, (1, 1))
    save(source / 'a.png', image)
    run(source, crops, '--yunet', model, '--format', 'png')
    with pytest.raises(UserError, match=r"a\.png' is 112x112 .* or --overwrite"):
        run(source, crops, '--yunet', model, '--format', 'png', '--size', 112, 96)
    with pytest.raises(UserError, match=r"a\.png' is a crop of another format"):
        run(source, crops, '--yunet', model, '--overwrite')
    options = ('--format', 'png', '--size', 112, 96, '--overwrite')
    run(source, crops, '--yunet', model, *options)
    assert_dots_at_template(crops / 'a.png', (112, 96))
    assert list(rows_of(crops / 'landmarks.tsv')) == ['a.png']


def many_faces(source: Path, count: int) -> list[str]:
    names = [f'{i // 10}/{i:03}.png' for i in range(count)]
    for i, name in enumerate(names):
        image = np.zeros((160, 160, 3), np.uint8)
        draw_face(image, (i % 4, i % 3), green=80 + i % 20)
        save(source / name, image)
    return names


def test_two_workers_do_as_one(run, model, tmp_path):
    many_faces(tmp_path / 'source', 70)
    (tmp_path / 'source' / '5' / '053.png').write_bytes(b'no image')
    for workers in (1, 2):
        run(
            *(tmp_path / 'source', tmp_path / str(workers)),
            *('--yunet', model, '--workers', workers),
        )
    assert len(contents(tmp_path / '1')) == 69 + 2
    assert contents(tmp_path / '1') == contents(tmp_path / '2')


def is_alive(process: int) -> bool:
    try:
        stat = Path(f'/proc/{process}/stat').read_text()
    except OSError:
        return False
    return stat.rpartition(')')[2].split()[0] != 'Z'


def wait_for(condition: Callable[[], bool], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


@pytest.mark.skipif(not Path('/proc').is_dir(), reason='looks at processes in /proc')
def test_a_run_that_is_killed_is_continued(run, model, tmp_path):
    source, crops = tmp_path / 'source', tmp_path / 'crops'
    names = many_faces(source, align_faces.TASK + 12)
    # A worker waits at a pipe, in the second task.
    stuck = source / names[align_faces.TASK + 10]
    picture = stuck.read_bytes()
    stuck.unlink()
    os.mkfifo(stuck)
    command = [sys.executable, TOOL, source, crops, '--yunet', model, '--workers', '2']
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as process:
        table = crops / 'landmarks.tsv'
        last = (crops / names[align_faces.TASK + 9]).with_suffix('.jpg')
        wait_for(lambda: last.exists() and len(rows_of(table)) >= align_faces.TASK)
        children = Path(f'/proc/{process.pid}/task/{process.pid}/children')
        workers = list(map(int, children.read_text().split()))
        assert len(workers) == 2
        process.kill()
    wait_for(lambda: not any(map(is_alive, workers)))
    assert len(list(crops.rglob('*.jpg'))) == align_faces.TASK + 10
    assert len(rows_of(table)) == align_faces.TASK
    # The kill may also come within a line.
    os.truncate(table, table.stat().st_size - 3)
    (crops / '.123.part').write_bytes(b'')

    stuck.unlink()
    stuck.write_bytes(picture)
    run(source, crops, '--yunet', model)
    run(source, tmp_path / 'at_once', '--yunet', model)
    continued, at_once = contents(crops), contents(tmp_path / 'at_once')
    lines = [sorted(c.pop('landmarks.tsv').splitlines()) for c in (continued, at_once)]
    assert lines[0] == lines[1]
    assert continued == at_once


def test_mistakes_are_told_before_anything_is_done(run, model, tmp_path, capsys):
    source, crops = tmp_path / 'source', tmp_path / 'crops'
    image = np.zeros((20, 20, 3), np.uint8)
    save(source / 'sub' / 'a.png', image)
    for pictures, place in (
        (source, source / '..' / 'source'),
        (source, source / 'sub' / 'crops'),
        (source / 'sub', source),
    ):
        with pytest.raises(UserError, match='one folder, or one lies in the other'):
            run(pictures, place, '--yunet', model)
    with pytest.raises(UserError, match=r"cannot list '.*none': No such file"):
        run(tmp_path / 'none', crops, '--yunet', model)
    (tmp_path / 'empty').mkdir()
    with pytest.raises(UserError, match='no image below'):
        run(tmp_path / 'empty', crops, '--yunet', model)
    save(source / 'sub' / 'a.jpg', image)
    with pytest.raises(UserError, match=r"'sub/a.jpg' and 'sub/a.png' would give the"):
        run(source, crops, '--yunet', model)
    (source / 'sub' / 'a.jpg').unlink()
    with pytest.raises(UserError, match='there is no model'):
        run(source, crops, '--yunet', tmp_path / 'none.onnx')
    for content in (b'version https://git-lfs.github.com', b'<!DOCTYPE html>'):
        (tmp_path / 'wrong.onnx').write_bytes(content)
        with pytest.raises(UserError, match=r"wrong.onnx' is no model that"):
            run(source, crops, '--yunet', tmp_path / 'wrong.onnx')
    for arguments in ([], ['--yunet', model, '--landmarks', 'a.txt']):
        with pytest.raises(SystemExit):
            run(source, crops, *arguments)
    for arguments in (['--workers', 0], ['--score-threshold', 0], ['--size', 0, 9]):
        with pytest.raises(SystemExit):
            run(source, crops, '--yunet', model, *arguments)
    assert not crops.exists()
    assert 'not allowed with argument' in capsys.readouterr().err


def test_an_old_model_is_one_message(run_tool, tmp_path):
    """That of 2022 has other outputs."""
    old = write_model(tmp_path / 'old.onnx', ('conf', 'iou', 'loc', 'kps'))
    source, crops = tmp_path / 'source', tmp_path / 'crops'
    save(source / 'a.png', np.zeros((20, 20, 3), np.uint8))
    arguments = (source, crops, '--yunet', old)
    done = run_tool('dataset_converters/align_faces.py', *arguments)
    assert done.status == 1
    assert done.err.startswith(f"error: '{old}' is no model that FaceDetectorYN")
    assert not crops.exists()
