import dataclasses

import numpy as np
import pytest
import torch
from tiny_network import build, by_hand

from mmhyperface.inference.backends import (
    ExportedNetwork,
    OnnxNetwork,
    TorchNetwork,
    open_network,
)
from mmhyperface.inference.exported_metadata import (
    KEY,
    PT2_FILE,
    Graph,
    from_json,
    to_json,
)
from mmhyperface.utils.errors import UserError

MEAN, STD = (10.0, 20.0, 30.0), (2.0, 4.0, 8.0)
OUTSIDE = Graph((4, 5), 'RGB', MEAN, STD, None, 'fp32', 'onnxruntime')


@pytest.fixture(scope='module')
def model():
    preprocessor = dict(mean=[100, 110, 120], std=[50, 60, 70], channels_last=True)
    return build(data_preprocessor=preprocessor)


def crops(*shape):
    return np.random.default_rng(0).integers(0, 256, (*shape, 3), np.uint8)


def sums_model(path, metadata, batch=None):
    """An ONNX model that adds up each channel, which shows what it was fed."""
    onnx = pytest.importorskip('onnx')
    pytest.importorskip('onnxruntime')
    helper, kind = onnx.helper, onnx.TensorProto.FLOAT
    node = helper.make_node('ReduceSum', ['x', 'axes'], ['y'], keepdims=0)
    axes = helper.make_tensor('axes', onnx.TensorProto.INT64, [2], [2, 3])
    graph = helper.make_graph(
        [node],
        'sums',
        [helper.make_tensor_value_info('x', kind, [batch or 'n', 3, 4, 5])],
        [helper.make_tensor_value_info('y', kind, [batch or 'n', 3])],
        [axes],
    )
    opset = [helper.make_opsetid('', 13)]
    built = helper.make_model(graph, opset_imports=opset, ir_version=8)
    if metadata is not None:
        helper.set_model_props(built, {KEY: metadata})
    onnx.save(built, path)


def expected(images, graph):
    images = images.astype(np.float64)
    if graph.channel_order == 'RGB':
        images = images[..., ::-1]
    scaled = (images - np.array(graph.mean)) / np.array(graph.std)
    return scaled.sum((1, 2))


def test_torch(model):
    images = crops(3, 32, 32)
    network = TorchNetwork(model)
    actual = network.embed(images)
    np.testing.assert_allclose(actual, by_hand(model, images), rtol=1e-4, atol=1e-5)
    assert actual.dtype == np.float32
    assert network.embed(images[:0]).shape == (0, 8)
    # What was cut out of a larger picture need not lie in one piece.
    strided = np.zeros((3, 40, 40, 3), np.uint8)[:, 2:34, 4:36]
    strided[:] = images
    np.testing.assert_array_equal(network.embed(strided), actual)


@pytest.mark.parametrize(
    'images',
    [crops(1, 32, 31), crops(32, 32), crops(1, 32, 32).astype(float), np.zeros(0)],
)
def test_other_crops_are_refused(model, images):
    with pytest.raises(UserError, match=r'takes crops uint8 \[B, 32, 32, 3\], got'):
        TorchNetwork(model).embed(images)


@pytest.mark.parametrize('order', ['RGB', 'BGR'])
@pytest.mark.parametrize('batch', [None, 1, 2])
def test_onnx_is_fed_as_it_tells(model, tmp_path, order, batch):
    graph = dataclasses.replace(OUTSIDE, channel_order=order, batch=batch)
    path = tmp_path / 'x.onnx'
    sums_model(path, to_json(model.convention, graph), batch)
    network = open_network(path)
    assert isinstance(network, OnnxNetwork)
    assert network.crop_size == (4, 5)
    assert network.convention == model.convention
    images = crops(5, 4, 5)
    wanted = expected(images, graph)
    np.testing.assert_allclose(network.embed(images), wanted, rtol=1e-5, atol=1e-3)


def test_programs_of_torch_export(model, tmp_path):
    if not hasattr(torch.export, 'Dim'):
        pytest.skip('torch has no torch.export.Dim')

    class Sums(torch.nn.Module):
        def forward(self, x):
            return x.sum((2, 3))

    path = tmp_path / 'x.pt2'
    program = torch.export.export(
        Sums(),
        (torch.zeros(2, 3, 4, 5),),
        dynamic_shapes=({0: torch.export.Dim('batch')},),
    )
    metadata = {PT2_FILE: to_json(model.convention, OUTSIDE)}
    torch.export.save(program, str(path), extra_files=metadata)
    network = open_network(str(path))
    images = crops(3, 4, 5)
    wanted = expected(images, OUTSIDE)
    np.testing.assert_allclose(network.embed(images), wanted, rtol=1e-5, atol=1e-3)
    torch.export.save(program, str(path))
    with pytest.raises(UserError, match='not one of our exported models'):
        ExportedNetwork(path)
    path.write_bytes(b'no program')
    with pytest.raises(UserError, match=r'no program of torch\.export'):
        ExportedNetwork(path)


def test_foreign_and_damaged_onnx(tmp_path):
    path = tmp_path / 'x.onnx'
    for metadata, message in (
        (None, 'not one of our exported models'),
        ('{"convention": {}}', 'damaged'),
    ):
        sums_model(path, metadata)
        with pytest.raises(UserError, match=message):
            open_network(path)
    for device in ('mps', 'cuda:x'):
        with pytest.raises(UserError, match='cpu or cuda'):
            open_network(path, device=device)
    path.write_text('no model')
    with pytest.raises(UserError, match='no ONNX model that onnxruntime can run'):
        open_network(path)
    with pytest.raises(UserError, match='there is no model'):
        open_network(tmp_path / 'none.onnx')


def test_nothing_that_is_given_is_passed_over(model, tmp_path):
    network = open_network(model)
    assert open_network(network) is network
    checkpoint, config = tmp_path / 'a.pth', 'mmhyperface::sface_quickstart.py'
    weights = dict(weights='b.pth')
    for given, options, message in (
        *((x, weights, r'b\.pth is too much') for x in (model, network, checkpoint)),
        (tmp_path / 'x.onnx', weights, r'b\.pth is too much'),
        (config, {}, 'give the weights'),
        (config, dict(weights=checkpoint, config=config), 'one too many'),
        (tmp_path / 'x.onnx', dict(config=config), 'leave the config out'),
        (None, {}, 'tells no convention'),
    ):
        with pytest.raises(UserError, match=message):
            open_network(given, **options)


@pytest.mark.parametrize('text', ['', '[]', '{}', '{"convention": 3}'])
def test_damaged_descriptions(text):
    with pytest.raises(UserError, match=r'x\.onnx: '):
        from_json(text, 'x.onnx')
