"""The account of damaged images after a training."""

from types import SimpleNamespace

import pytest
from record_files import picture

from mmhyperface.datasets import FaceFolder
from mmhyperface.engine.hooks import SkippedImagesHook
from mmhyperface.engine.hooks import skipped_images as module


class Logger(list):
    def info(self, text: str) -> None:
        self.append(('info', text))

    def warning(self, text: str) -> None:
        self.append(('warning', text))


def logged(dataset) -> list[tuple[str, str]]:
    runner = SimpleNamespace(
        logger=Logger(), train_dataloader=SimpleNamespace(dataset=dataset)
    )
    SkippedImagesHook().after_train(runner)
    return runner.logger


@pytest.fixture
def folder(tmp_path):
    for person in 'ab':
        (tmp_path / person).mkdir()
        for i in range(4):
            (tmp_path / person / f'{i}.jpg').write_bytes(picture(i))
    (tmp_path / 'a' / '2.jpg').write_bytes(b'no image')
    (tmp_path / 'b' / '0.jpg').write_bytes(b'')
    return tmp_path


def faces(folder, **options) -> FaceFolder:
    pipeline = [dict(type='LoadFace', size=16)]
    return FaceFolder(str(folder), pipeline=pipeline, **options)


def test_what_was_met_is_told(folder, monkeypatch):
    data = faces(folder, on_error='skip')
    assert logged(data) == [('info', 'no image was damaged')]
    assert [data[i]['sample_idx'] for i in range(8)] == [0, 1, 3, 3, 5, 5, 6, 7]
    ((level, text),) = logged(data)
    assert level == 'warning'
    assert text.startswith('2 of 8 images of the training set are damaged')
    assert 'a/2.jpg: cannot be decoded' in text
    assert 'b/0.jpg: the file is empty' in text
    monkeypatch.setattr(module, 'MOST_TOLD', 1)
    ((_, text),) = logged(data)
    assert text.endswith('... (2 in all)')


def test_nothing_is_told_where_damage_ends_the_run(folder):
    assert logged(faces(folder)) == []
