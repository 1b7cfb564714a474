"""Sheets of pictures whose average colour tells which they are."""

import pickle
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import browse_dataset as tool
import cv2
import numpy as np
import pytest
import record_files
from ijb_files import write_ijb
from megaface_files import write_megaface
from record_files import picture, seed_of
from runs import ROOT

from mmhyperface.datasets import SyntheticFaces
from mmhyperface.utils.errors import UserError

# Image k of identity i is picture 4 * i + k.
PEOPLE, EACH, SIZE = 5, 4, 16
GAP, LINE = 6, 18
LOAD = dict(type='LoadFace', size=SIZE)
# Half of a picture becomes black.
PIPELINE = [
    LOAD,
    dict(type='RandomFaceCrop', prob=1.0, scale=(0.5, 0.5), ratio=(0.5, 0.5)),
    dict(type='mmpretrain.PackInputs'),
]


@pytest.fixture
def browse(call_main, tmp_path) -> Callable[..., np.ndarray]:
    """Calls the tool with a data set's config; gives the sheet."""

    def call(dataset: dict | str, *arguments: object) -> np.ndarray:
        config, sheet = tmp_path / 'config.py', tmp_path / 'new' / 'sheet.png'
        if isinstance(dataset, dict):
            config.write_text(f'train_dataloader = dict(dataset={dataset!r})')
            dataset = str(config)
        call_main('browse_dataset', dataset, '--output', sheet, *arguments)
        return cv2.imread(str(sheet))

    return call


@pytest.fixture
def folder(tmp_path) -> str:
    for i in range(PEOPLE):
        (tmp_path / 'faces' / f'p{i}').mkdir(parents=True)
        for k in range(EACH):
            path = tmp_path / 'faces' / f'p{i}' / f'{k}.jpg'
            path.write_bytes(picture(EACH * i + k, SIZE))
    return str(tmp_path / 'faces')


def cells(sheet: np.ndarray) -> list[list[int | None]]:
    """Which pictures are in the rows of a sheet without gaps; None is white."""
    rows = np.split(sheet, len(sheet) // SIZE)
    return [
        [
            None if (cell == 255).all() else seed_of(cell)
            for cell in np.split(row, row.shape[1] // SIZE, axis=1)
        ]
        for row in rows
    ]


def test_the_quickstart(browse):
    config = 'configs/sface_quickstart.py'
    options = ('--cfg-options', 'train_dataloader.dataset.image_size=40')
    sheet = browse(str(ROOT / config), '--identities', 3, '--images', 2, *options)
    assert sheet.shape == (3 * 40, 2 * 40, 3)
    faces = SyntheticFaces(3, images_per_identity=20, image_size=40)
    for i in range(3):
        for k in range(2):
            cell = sheet[40 * i :, 40 * k :][:40, :40]
            face = faces[20 * i + k]['img']
            assert (cell == face).all() or (cell == face[:, ::-1]).all()


def records(folder: Path) -> str:
    images = [[picture(EACH * i + k) for k in range(EACH)] for i in range(PEOPLE)]
    content = record_files.insightface_records(images)
    return str(record_files.write(folder, content, PEOPLE).parent)


@pytest.mark.parametrize('others', [None, 'FaceSets', 'ConcatDataset', 'RepeatDataset'])
@pytest.mark.parametrize('kind', ['FaceFolder', 'FaceRecord'])
def test_rows_are_people(browse, tmp_path, folder, kind, others):
    options = dict(data_root=folder)
    if kind == 'FaceRecord':
        options = dict(data_root=records(tmp_path / 'records'))
    dataset = dict(type=kind, pipeline=[LOAD, dict(type='PackFace')], **options)
    if others == 'RepeatDataset':
        dataset = dict(type=others, dataset=dataset, times=2)
    elif others:
        dataset = dict(type=others, datasets=[dataset, dataset])
    with pytest.raises(UserError, match=r'name a \.png or \.jpg'):
        browse(dataset, '--output', tmp_path / 'sheet.xyz')
    sheet = browse(dataset, '--identities', 9, '--images', 6)
    rows = [[EACH * i + k for k in range(EACH)] for i in range(PEOPLE)]
    if others == 'FaceSets':
        rows = (rows * 2)[:9]
    elif others:
        rows = [(row * 2)[:6] for row in rows]
    assert cells(sheet) == [(row + [None] * 6)[: len(cells(sheet)[0])] for row in rows]


def test_wrong_labels_are_seen(browse, folder):
    clean = dict(type='FaceFolder', data_root=folder, pipeline=PIPELINE)
    dataset = dict(type='LabelNoise', dataset=clean, share=0.5)
    rows = cells(browse(dataset, '--mode', 'original'))
    seen = sorted(n for row in rows for n in row if n is not None)
    assert seen == list(range(PEOPLE * EACH))
    assert rows != [list(range(EACH * i, EACH * i + EACH)) for i in range(PEOPLE)]


def test_few_labels_are_looked_at_one_by_one(browse, tmp_path, monkeypatch):
    """The others come at once; those of damaged records are passed over."""
    data_root = records(tmp_path)
    path = tmp_path / 'train.rec'
    content = bytearray(path.read_bytes())
    for number in (2, 9):
        key = (number + 1).to_bytes(8, 'little') + bytes(8)
        at = content.index(key)
        content[at - 4 : at] = np.float32(np.nan).tobytes()
    path.write_bytes(content)
    dataset = dict(type='FaceRecord', data_root=data_root, pipeline=[LOAD])
    rows = [[0, 1, 3, None], [4, 5, 6, 7], [8, 10, 11, None]]
    for look in (10_000, 6, 0):
        monkeypatch.setattr(tool, 'LOOK', look)
        assert cells(browse(dataset, '--identities', 3)) == rows


def test_modes(browse, folder):
    dataset = dict(type='FaceFolder', data_root=folder, pipeline=PIPELINE)
    sheet = {
        mode: browse(dataset, '--identities', 2, '--mode', mode, '--seed', 5)
        for mode in ('original', 'transformed', 'concat', 'pipeline')
    }
    people = [[0, 1, 2, 3], [4, 5, 6, 7]]
    assert cells(sheet['original']) == people
    original, transformed = (np.split(sheet[m], 2) for m in ('original', 'transformed'))
    # A part of each is black, the rest is as it was.
    black = (sheet['transformed'] == 0).all(-1)
    assert black.mean() == pytest.approx(0.5, abs=0.05)
    assert (sheet['transformed'] == sheet['original'])[~black].all()
    white = np.full((GAP, EACH * SIZE, 3), 255)
    both = [part for i in range(2) for part in (original[i], transformed[i], white)]
    assert (sheet['concat'] == np.concatenate(both)).all()
    # A line of text above each of two stages.
    groups = np.split(sheet['pipeline'], 2)
    for i, group in enumerate(groups):
        assert len(group) == 2 * (LINE + SIZE) + GAP
        assert (group[:LINE] < 128).any()
        assert (group[LINE : LINE + SIZE] == original[i]).all()
        assert (group[-GAP - SIZE : -GAP] == transformed[i]).all()


def test_aligning_is_loading():
    class LoadNumber:
        def __call__(self, item: dict) -> dict:
            return {**item, 'img': np.zeros(1)}

    class Align(LoadNumber):
        def __call__(self, item: dict) -> dict:
            item['img'] += 1
            return item

    class Change(Align):
        pass

    class PackNumber:
        pass

    steps = [LoadNumber(), Change(), Align(), Change(), Change(), PackNumber()]
    actual = [(name, *image) for name, image in tool.Stages(steps)({})['stages']]
    assert actual == [('original', 2), ('Change', 3), ('Change', 4)]


@pytest.mark.parametrize('seed', [0, 1])
def test_random_people(browse, folder, seed):
    dataset = dict(type='FaceFolder', data_root=folder, pipeline=PIPELINE)
    options = ('--shuffle', '--identities', 3, '--images', 2, '--seed', seed)
    rows = cells(browse(dataset, '--mode', 'original', *options))
    people = [first // EACH for first, _ in rows]
    assert rows == [[EACH * p, EACH * p + 1] for p in people]
    assert people != [0, 1, 2]
    assert len(set(people)) == 3
    # Augmentations, too, depend on the seed alone.
    sheets = [browse(dataset, *options) for _ in range(2)]
    assert (sheets[0] == sheets[1]).all()


def pack(path: Path, first: int) -> None:
    images = [picture(first + i, SIZE) for i in range(12)]
    path.write_bytes(pickle.dumps((images, [True, False, True, True, False, True])))


def pairs_of(sheet: np.ndarray) -> list[list[int]]:
    """The pictures of each row of pairs."""
    height, width = LINE + SIZE + GAP, 2 * SIZE + GAP
    rows = []
    for top in range(0, len(sheet), height):
        assert (sheet[top : top + LINE] < 128).any()
        strip = sheet[top + LINE : top + LINE + SIZE]
        row = [strip[:, x : x + SIZE] for x in range(0, strip.shape[1], width)]
        row += [strip[:, x + SIZE :][:, :SIZE] for x in range(0, strip.shape[1], width)]
        rows.append(sorted(seed_of(cell) for cell in row if (cell < 250).any()))
    return rows


def test_pairs(browse, tmp_path):
    sets = []
    for name, first in (('one', 0), ('two', 100)):
        pack(tmp_path / f'{name}.bin', first)
        path = str(tmp_path / f'{name}.bin')
        pipeline = [LOAD, dict(type='PackFace')]
        sets.append(dict(type='FacePack', ann_file=path, folds=2, pipeline=pipeline))
    same, different = [0, 1, 4, 5], [2, 3, 8, 9]
    rows = pairs_of(browse(sets[0], '--identities', 2, '--images', 4))
    assert rows == [same, different]
    # More pairs of the same person, none of different people are left.
    rows = pairs_of(browse(sets[0], '--identities', 4, '--images', 5))
    assert rows == [same, different, [6, 7, 10, 11]]
    both = dict(type='FaceTestSets', datasets=sets)
    rows = pairs_of(browse(both, '--identities', 2, '--images', 4))
    hundred = [[100 + n for n in row] for row in (same, different)]
    assert rows == [same, different, *hundred]
    (first, *_), _ = pairs_of(
        browse(sets[0], '--identities', 2, '--images', 1, '--shuffle', '--seed', 3)
    )
    assert first in (0, 4, 6, 10)


def test_templates_and_subjects(browse, tmp_path):
    truth = write_ijb(tmp_path / 'IJBC', subjects=3, probes=1, images=(2, 3))
    align = dict(type='AlignFace', size=112)
    data = dict(
        type='IJBTemplates',
        data_root=str(tmp_path / 'IJBC'),
        pipeline=[dict(type='LoadFace', size=None), align, dict(type='PackFace')],
    )
    sheet = browse(data, '--identities', 3, '--images', 2)
    assert sheet.shape[1] == 2 * 112
    assert sheet.shape[0] >= 3 * (112 + LINE)
    first = np.flatnonzero(truth.template_ids == truth.template_ids.min())
    rows = tool.rows_of_test_sets(
        tool.build_dataset(tool.load_config(str(tmp_path / 'config.py')), 'train'),
        SimpleNamespace(identities=2, images=2, shuffle=False, seed=0),
    )
    assert rows[0].pictures == [(number,) for number in first[:2]]
    assert rows[0].caption == f'ijbc: template {truth.template_ids.min()}'

    write_megaface(tmp_path / 'megaface', subjects=2, images=3, distractors=4)
    load = dict(type='LoadFace', size=112)
    data = dict(
        type='MegaFaceImages', data_root=str(tmp_path / 'megaface'), pipeline=[load]
    )
    assert browse(data, '--identities', 2, '--images', 3).shape[1] == 3 * 112
