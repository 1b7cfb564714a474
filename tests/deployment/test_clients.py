"""Every client, as it is, gives what the network gives."""

import cv2
import deployables
import numpy as np
import pytest
from deployables import crops, difference, network, oracle, reduced
from tiny_network import BACKBONE

from mmhyperface.deployment import TARGETS, export_onnx, export_torch
from mmhyperface.deployment.clients import OpencvDnnClient, open_client
from mmhyperface.models.backbones import iresnet
from mmhyperface.utils.errors import UserError

TOLERANCE = {'fp32': 2e-5, 'fp16': 5e-3}
ENGINES = [
    getattr(cv2.dnn, name)
    for name in ('ENGINE_CLASSIC', 'ENGINE_NEW')
    if hasattr(cv2.dnn, name)
] or [None]
# The hard ones: channels that are exchanged or one, mirror images fused in each way.
NETWORKS = {
    'rgb, sum': dict(),
    'bgr, concat': dict(to_rgb=False, flip_fusion='concat'),
    'grey, no mirror images, no scaling': dict(
        backbone={**BACKBONE, 'in_channels': 1},
        flip_fusion='none',
        mean=0.0,
        std=1.0,
    ),
}


@pytest.fixture(scope='module')
def networks():
    return {name: network(**options) for name, options in NETWORKS.items()}


def exported(model, folder, target, **options):
    pytest.importorskip('onnxslim')
    if target == 'insightface':
        pytest.importorskip('insightface')
    path = folder / f'model{TARGETS[target].suffix}'
    if target == 'torch-export':
        deployables.require_torch_export()
        export_torch(model, path, **options)
    else:
        export_onnx(model, path, target, **options)
    return open_client(target, path)


def embedded(client, images):
    return client.embed(reduced(images, client.crop_size))


def _combinations():
    for target in TARGETS:
        for name in NETWORKS:
            yield target, name, 'fp32'
        yield target, 'bgr, concat', 'fp16'


@pytest.mark.parametrize(('target', 'name', 'precision'), _combinations())
def test_embeddings(networks, tmp_path, target, name, precision):
    model = networks[name]
    client = exported(model, tmp_path, target, precision=precision)
    images = crops(5, (112, 112))
    expected = oracle(model, images)
    assert expected.std() > 0.1
    # Another number of images each time, and growing.
    for count in (1, 2, 5):
        got = embedded(client, images[:count])
        assert difference(got, expected[:count]) < TOLERANCE[precision]
    a, b = expected[:2] / np.linalg.norm(expected[:2], axis=1, keepdims=True)
    assert client.cosine(got[0], got[1]) == pytest.approx(a @ b, abs=1e-2)
    if precision == 'fp32':
        assert client.cosine(got[0], got[1]) == pytest.approx(a @ b, abs=2e-6)


def test_engines_of_opencv(networks, tmp_path):
    """A batch that grows made the classic engine of OpenCV 5 compute garbage."""
    model = networks['bgr, concat']
    path = tmp_path / 'model.onnx'
    export_onnx(model, path, 'opencv-dnn')
    images = crops(5, (32, 32))
    expected = oracle(model, images)
    for engine in ENGINES:
        client = OpencvDnnClient(path, engine)
        for count in (1, 2, 5, 3):
            assert difference(client.embed(images[:count]), expected[:count]) < 2e-5


@pytest.mark.parametrize(
    'backbone',
    [
        dict(type='IResNet', depth=18, input_size=16, embedding_size=16),
        dict(BACKBONE, variant='opensphere', with_bn=True),
    ],
    ids=lambda backbone: backbone['type'],
)
def test_norms_and_slopes(tmp_path, monkeypatch, backbone):
    """Batch norms before convolutions, slopes that both branches share."""
    monkeypatch.setattr(iresnet, 'WIDTHS', (8, 8, 16, 16))
    model = network(backbone)
    path = tmp_path / 'model.onnx'
    export_onnx(model, path, 'opencv-dnn')
    clients = [OpencvDnnClient(path, engine) for engine in ENGINES]
    clients.append(open_client('onnxruntime', path))
    images = crops(2, model.convention.input_size)
    expected = oracle(model, images)
    for client in clients:
        assert difference(client.embed(images), expected) < 5e-5
    # The weights are there once, for both branches.
    weights = sum(each.numel() * 4 for each in model.state_dict().values())
    assert path.stat().st_size < 1.1 * weights + 200_000


@pytest.mark.parametrize('target', ['onnxruntime', 'opencv-dnn', 'torch-export'])
def test_preprocessing_outside_and_a_fixed_batch(networks, tmp_path, target):
    model = networks['bgr, concat']
    options = dict(preprocessing='outside', batch=2)
    client = exported(model, tmp_path, target, **options)
    images = crops(5, (32, 32))
    assert client.graph.mean == model.convention.mean
    assert (client.graph.channel_order, client.graph.batch) == ('BGR', 2)
    # What is left over is filled up, and dropped.
    assert difference(client.embed(images), oracle(model, images)) < 2e-5


@pytest.mark.parametrize('size', [112, 128, 144])
def test_sizes_of_insightface(tmp_path, size):
    """Its alignment gives multiples of 112 or 128, and nothing else."""
    model = network(dict(BACKBONE, input_size=size))
    client = exported(model, tmp_path, 'insightface')
    assert client.crop_size == ((112, 112) if size == 144 else (size, size))
    images = crops(2, client.crop_size)
    got = client.embed(images)
    if size == 144:
        images = np.stack([cv2.resize(image, (size, size)) for image in images])
    # A few enlarged pixels are rounded in another way.
    assert difference(got, oracle(model, images)) < (1e-3 if size == 144 else 2e-5)


@pytest.mark.parametrize('preprocessing', ['inside', 'outside'])
def test_insightface_finds_the_scale(tmp_path, preprocessing):
    """By the names of the first eight nodes."""
    arcface_onnx = pytest.importorskip('insightface.model_zoo.arcface_onnx')
    model = network(dict(BACKBONE, input_size=112), mean=127.5, std=127.5)
    images = crops(2, (112, 112))
    for target in ('insightface', 'onnxruntime'):
        path = tmp_path / f'{target}.onnx'
        export_onnx(model, path, target, preprocessing=preprocessing)
        theirs = arcface_onnx.ArcFaceONNX(str(path))
        inside = preprocessing == 'inside'
        assert (theirs.input_mean, theirs.input_std) == (
            (0.0, 1.0) if inside else (127.5, 127.5)
        )
        assert difference(theirs.get_feat(list(images)), oracle(model, images)) < 2e-5


def test_insightface_takes_photographs(tmp_path):
    """Its own alignment by five landmarks, then the network: a face's embedding."""
    zoo = pytest.importorskip('insightface.model_zoo')
    from insightface.app.common import Face
    from insightface.utils.face_align import norm_crop

    model = network()
    path = tmp_path / 'model.onnx'
    export_onnx(model, path, 'insightface')
    recognizer = zoo.get_model(str(path), providers=['CPUExecutionProvider'])
    assert type(recognizer).__name__ == 'ArcFaceONNX'
    photograph = crops(1, (150, 170))[0]
    points = np.array([[60, 60], [110, 58], [86, 85], [65, 110], [108, 109]], float)
    got = recognizer.get(photograph, Face(kps=points))
    crop = norm_crop(photograph, points, 112)[None]
    assert difference(got[None], oracle(model, crop)) < 2e-5


def test_opencv_does_not_speak_of_its_engine(networks, tmp_path, capfd):
    """Version 5 warns of each network, as if it could not be read."""
    exported(networks['bgr, concat'], tmp_path, 'opencv-sface')
    assert 'engine' not in capfd.readouterr().err


def test_opencv_aligns_and_compares(networks, tmp_path):
    """``alignCrop``, ``feature`` and ``match`` of cv2.FaceRecognizerSF."""
    model = networks['bgr, concat']
    path = tmp_path / 'model.onnx'
    export_onnx(model, path, 'opencv-sface')
    recognizer = cv2.FaceRecognizerSF.create(str(path), '')
    photograph = crops(1, (150, 170))[0]
    points = [60, 60, 110, 58, 86, 85, 65, 110, 108, 109]
    face = np.array([[30, 30, 100, 110, *points, 0.9]], np.float32)
    crop = recognizer.alignCrop(photograph, face)
    got = recognizer.feature(crop).copy()
    other = recognizer.feature(crop[:, ::-1].copy()).copy()
    expected = oracle(model, np.stack([crop, crop[:, ::-1]]))
    assert difference(np.concatenate([got, other]), expected) < 2e-5
    a, b = expected / np.linalg.norm(expected, axis=1, keepdims=True)
    assert recognizer.match(got, other, 0) == pytest.approx(a @ b, abs=1e-6)
    assert recognizer.match(got, other, 1) == pytest.approx(
        np.linalg.norm(a - b), abs=1e-5
    )


@pytest.mark.parametrize('target', ['opencv-dnn', 'opencv-sface', 'insightface'])
def test_foreign_files(tmp_path, target):
    """Those of onnxruntime and torch.export are among the tests of the backends."""
    path = tmp_path / 'foreign.onnx'
    path.write_text('no model')
    with pytest.raises(UserError, match=r'foreign\.onnx is no ONNX model'):
        open_client(target, path)
