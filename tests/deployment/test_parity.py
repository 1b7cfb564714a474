"""How far an export is from its checkpoint, and the tools that tell it."""

import json

import cv2
import numpy as np
import pytest
import torch
from deployables import MEAN, STD, crops, network
from mmengine.config import Config
from mmengine.registry import init_default_scope
from tiny_network import BACKBONE

from mmhyperface.deployment.parity import (
    compare,
    crops_of_folder,
    dataset_of,
    rendered_crops,
    resize_crops,
    verify,
)
from mmhyperface.inference.backends import TorchNetwork, open_network
from mmhyperface.utils.errors import UserError

PAIRS = dict(
    type='SyntheticFacePairs',
    name='drawn',
    num_identities=9,
    images_per_identity=3,
    num_pairs=40,
    image_size=32,
    pipeline=[dict(type='PackFace')],
)


class Answers:
    """A client that says what it is told to say."""

    crop_size = 8, 8

    def __init__(self, rows):
        self.rows, self.at = rows, 0

    def embed(self, crops):
        assert crops.shape[1:] == (8, 8, 3)
        self.at += len(crops)
        return self.rows[self.at - len(crops) : self.at]


@pytest.fixture(scope='module')
def trained(tmp_path_factory):
    """Config and checkpoint of a tiny network."""
    folder = tmp_path_factory.mktemp('trained')
    preprocessor = dict(type='FaceDataPreprocessor', mean=MEAN, std=STD)
    cfg = Config(
        dict(
            model=dict(
                type='FaceRecognizer', backbone=BACKBONE, data_preprocessor=preprocessor
            ),
            test_dataloader=dict(dataset=PAIRS),
            test_evaluator=[dict(type='FaceVerification'), dict(type='Other')],
        )
    )
    cfg.dump(folder / 'config.py')
    state = {'state_dict': network().state_dict()}
    torch.save(state, folder / 'model.pth')
    return folder / 'config.py', folder / 'model.pth'


@pytest.fixture
def tool(run_tool, monkeypatch):
    """Runs a tool; its tables have room."""
    monkeypatch.setenv('COLUMNS', '160')
    yield lambda name, *arguments: run_tool(f'deployment/{name}.py', *arguments)
    init_default_scope('mmhyperface')


def test_differences_by_hand():
    a = np.array([[3, 4, 0], [0, 2, 0], [0, 0, 1]], np.float32)
    b = np.array([[3, 4, 0], [0, 3, 0], [0, 1, 1]], np.float32)
    parity = compare(Answers(a), Answers(b), crops(3, (20, 20)))
    assert parity.images == 3
    # Of the third image; of the second and the third; of the third.
    assert parity.cosine_distance == pytest.approx(1 - 0.5**0.5)
    assert parity.pair_difference == pytest.approx(0.5**0.5)
    assert parity.relative_difference == pytest.approx(1)


def test_embeddings_without_direction():
    rows = np.ones((3, 4), np.float32)
    bad = rows.copy()
    bad[1] = np.nan
    with pytest.raises(UserError, match='zero or not finite of image 1 of 3'):
        compare(Answers(rows), Answers(bad), crops(3, (8, 8)))


def test_images_of_a_folder(tmp_path):
    for number, image in enumerate(crops(7, (20, 30))):
        (tmp_path / 'a[1]').mkdir(exist_ok=True)
        cv2.imwrite(str(tmp_path / 'a[1]' / f'{number}.png'), image)
    (tmp_path / 'notes.txt').write_text('no image')
    got = crops_of_folder(str(tmp_path), (10, 12), most=3)
    expected = resize_crops(crops(7, (20, 30))[[0, 3, 6]], (10, 12))
    np.testing.assert_array_equal(got, expected)
    (tmp_path / 'empty').mkdir()
    with pytest.raises(UserError, match='has 0 images; at least two'):
        crops_of_folder(str(tmp_path / 'empty'), (10, 12), most=3)
    with pytest.raises(UserError, match='cannot list'):
        crops_of_folder(str(tmp_path / 'nothing'), (10, 12), most=3)


def test_drawn_faces():
    assert rendered_crops((24, 24), 5).shape == (5, 24, 24, 3)
    assert rendered_crops((24, 20), 2).shape == (2, 24, 20, 3)


def test_pixels_of_landmarks():
    """Images that are to be aligned keep their size until then."""
    pipeline = [dict(type='LoadFace', size=None), dict(type='AlignFace', size=112)]
    cfg = Config(dict(test_dataloader=dict(dataset=dict(PAIRS, pipeline=pipeline))))
    load, _ = dataset_of(cfg, (48, 48)).pipeline.transforms
    assert load.size is None


def test_verification(trained):
    """By the config's own figures, and the clients' own cosine."""
    config, checkpoint = trained
    cfg = Config.fromfile(config)
    ours = open_network(checkpoint, config=config, device='cpu')

    class Flattering(TorchNetwork):
        def cosine(self, a, b):
            return float(a @ b / np.linalg.norm(a) / np.linalg.norm(b)) + 0.25

    dataset = dataset_of(cfg, (48, 48))
    assert dataset[0]['inputs'].shape == (48, 48, 3)
    both = {'ours': ours, 'other': Flattering(ours.model)}
    actual = verify(cfg, dataset, both, 'ours')
    # Few pairs resolve no FAR.
    np.testing.assert_equal(actual['ours'].figures, actual['other'].figures)
    assert 0 < actual['ours'].figures['drawn/accuracy'] <= 1
    assert [x.pairs for x in actual.values()] == [40, 40]
    assert actual['ours'].difference == 0
    assert actual['other'].difference == pytest.approx(0.25, abs=1e-6)
    cfg.test_evaluator = [dict(type='Other')]
    with pytest.raises(UserError, match='has no FaceVerification'):
        verify(cfg, dataset, both, 'ours')


def test_export_tool(trained, tool, tmp_path):
    pytest.importorskip('onnxslim')
    config, checkpoint = trained
    out, report = tmp_path / 'model.onnx', tmp_path / 'report.json'
    options = ('--config', config, '--num-images', 4)
    status, printed, _ = tool(
        'export',
        *(checkpoint, out, *options),
        *('--target', 'opencv-sface', '--test', '--report', report),
    )
    assert status == 0
    assert 'largest cosine distance' in printed
    assert 'drawn' in printed
    content = json.loads(report.read_text())
    assert content['parity']['pair_difference'] < 1e-4
    assert content['verification']['opencv-sface']['difference'] < 1e-4
    assert content['graph']['size'] == [112, 112]
    network = open_network(out)
    assert network.convention.fingerprint == content['fingerprint']

    # A file that is there, and one that differs too much, are left alone.
    before = out.read_bytes()
    strict = (*options, '--overwrite', '--precision', 'fp16', '--tolerance', 1e-12)
    for arguments, wanted, message in (
        ((out, *options), 1, 'is there already'),
        ((out, *strict), 1, 'is not written: cosines differ by up to'),
        ((tmp_path / 'a.onnx',), 1, 'tells no convention'),
        ((tmp_path / 'a.pt2', '--opset', 17), 2, 'not for torch-export'),
        ((tmp_path / 'a.pt', *options), 1, 'the file ends with .onnx'),
    ):
        status, _, error = tool('export', checkpoint, *arguments)
        assert (status, message in error) == (wanted, True), error
    assert out.read_bytes() == before
    assert sorted(tmp_path.iterdir()) == [out, report]


def test_comparison_of_clients(trained, tool, tmp_path, monkeypatch):
    monkeypatch.setenv('COLUMNS', '80')
    pytest.importorskip('onnxslim')
    config, checkpoint = trained
    report = tmp_path / 'report.json'
    options = ('--config', config, '--out-dir', tmp_path / 'files')
    targets = ('--targets', 'onnxruntime', 'opencv-dnn', 'opencv-sface')
    status, printed, _ = tool(
        'compare_clients', checkpoint, *options, *targets, '--report', report
    )
    assert status == 0
    clients = json.loads(report.read_text())['clients']
    assert len(clients) == 4
    for name, each in clients.items():
        assert name in printed
        assert each['file'] in printed
        assert each['difference'] < 1e-4
        assert each['pairs'] == 40
    accuracies = {each['figures']['drawn/accuracy'] for each in clients.values()}
    assert len(accuracies) == 1
    assert len(list((tmp_path / 'files').iterdir())) == 3
    strict = (*options, '--targets', 'onnxruntime', '--tolerance', 0)
    status, _, error = tool('compare_clients', checkpoint, *strict)
    assert status == 1
    assert 'cosines differ by up to' in error
