"""What is in an exported file, and what is refused."""

import dataclasses
import sys
from unittest.mock import Mock

import deployables
import numpy as np
import onnx
import pytest
import torch
from deployables import crops, difference, network, oracle, with_convention
from onnx import numpy_helper

from mmhyperface.deployment import export_onnx, export_torch, onnx_export, plan
from mmhyperface.inference.backends import open_network
from mmhyperface.inference.exported_metadata import KEY, from_json
from mmhyperface.utils.errors import UserError


@pytest.fixture(scope='module')
def model():
    return network()


@pytest.fixture(scope='module')
def file(model, tmp_path_factory):
    path = tmp_path_factory.mktemp('export') / 'new' / 'model.onnx'
    export_onnx(model, path, 'opencv-sface')
    return path


def test_what_the_file_tells(model, file):
    loaded = onnx.load(file)
    properties = {item.key: item.value for item in loaded.metadata_props}
    convention, graph = from_json(properties[KEY], 'model')
    assert convention == model.convention
    assert graph.size == (112, 112)
    assert graph.batch == 1
    assert (graph.target, graph.precision) == ('opencv-sface', 'fp32')
    assert loaded.producer_name == 'mmhyperface'
    assert '112 x 112' in loaded.doc_string
    assert not [node for node in loaded.graph.node if node.op_type == 'Identity']


def test_model_stays_as_it_is(model, file, tmp_path):
    before = {name: value.clone() for name, value in model.state_dict().items()}
    export_onnx(model, tmp_path / 'model.onnx', precision='fp16')
    for name, value in model.state_dict().items():
        assert value.dtype == before[name].dtype
        assert torch.equal(value, before[name])
    assert any(parameter.requires_grad for parameter in model.parameters())


def test_half_precision(model, tmp_path):
    paths = [tmp_path / f'{precision}.onnx' for precision in ('fp32', 'fp16')]
    for path in paths:
        # With the reduction, whose numbers must not be rounded.
        export_onnx(model, path, 'insightface', precision=path.stem)
    graph = onnx.load(paths[1]).graph
    weights = {x.name: x for x in graph.initializer}
    for node in graph.node:
        before = node.name in ('Sub_mean', 'Mul_std', 'Mul_columns')
        for name in node.input:
            if name in weights and weights[name].data_type in (1, 10):
                assert weights[name].data_type == (1 if before else 10) or (
                    node.op_type == 'MatMul'
                )
    assert [x.type.tensor_type.elem_type for x in (*graph.input, *graph.output)] == [
        onnx.TensorProto.FLOAT
    ] * 2
    images = crops(4, (112, 112))
    expected = oracle(model, images)
    assert 1e-6 < difference(open_network(paths[1]).embed(images), expected) < 5e-3


def test_too_large_for_half_precision(tmp_path):
    large = network()
    with torch.no_grad():
        large.backbone.fc.weight[0, 0] = 1e5
    path = tmp_path / 'model.onnx'
    with pytest.raises(UserError, match=r'values up to 1e\+05, too large for half'):
        export_onnx(large, path, precision='fp16')
    assert not path.exists()


def test_without_onnxslim(model, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, 'onnxslim', None)
    path = tmp_path / 'model.onnx'
    with pytest.raises(UserError, match=r'onnxslim.*mmhyperface\[export\]'):
        export_onnx(model, path, 'insightface')
    export_onnx(model, path, 'insightface', simplify=False)
    images = crops(2, (112, 112))
    assert difference(open_network(path).embed(images), oracle(model, images)) < 2e-5
    names = [node.name for node in onnx.load(path).graph.node[:8]]
    assert {'Sub_mean', 'Mul_std'} <= set(names)


def test_files_that_are_there(model, tmp_path):
    path = tmp_path / 'model.onnx'
    path.write_text('precious')
    with pytest.raises(UserError, match='is there already'):
        export_onnx(model, path)
    assert path.read_text() == 'precious'
    export_onnx(model, path, overwrite=True)
    assert onnx.load(path).graph.node


def test_programs_may_move(model, tmp_path):
    """To a GPU; torch's checks of the device would stop them there."""
    deployables.require_torch_export()
    path = tmp_path / 'model.pt2'
    export_torch(model, path, precision='fp16')
    targets = {str(node.target) for node in torch.export.load(path).graph.nodes}
    assert not [target for target in targets if 'assert_tensor' in target]


def test_too_large_for_onnx(model, tmp_path, monkeypatch):
    monkeypatch.setattr(onnx_export, 'MOST_BYTES', 1000)
    with pytest.raises(UserError, match='an ONNX file holds less than 2'):
        export_onnx(model, tmp_path / 'model.onnx')


def test_what_torch_cannot_export(model, tmp_path, monkeypatch):
    for messages, message in (
        ("Exporting 'aten::x' is not supported\nmore", r"'aten::x' is not supported\."),
        ('', r'in opset 13: RuntimeError\.'),
    ):
        fail = Mock(side_effect=RuntimeError(messages))
        monkeypatch.setattr(torch.onnx, 'export', fail)
        with pytest.raises(UserError, match=f'{message} Perhaps'):
            export_onnx(model, tmp_path / 'model.onnx')
    assert not list(tmp_path.iterdir())


def test_wrong_files(model, tmp_path):
    onnx_file = tmp_path / 'model.onnx'
    with pytest.raises(UserError, match='a number from 13 on, got 7'):
        export_onnx(model, onnx_file, opset=7)
    with pytest.raises(UserError, match='torch-export is no ONNX'):
        export_onnx(model, onnx_file, 'torch-export')
    with pytest.raises(UserError, match=r'is a \.pt2 file'):
        export_torch(model, tmp_path / 'model.pt')


def test_old_torch(model, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.export, 'export', lambda f, args, constraints=None: f)
    with pytest.raises(UserError, match='too old to export a program'):
        export_torch(model, tmp_path / 'model.pt2')


OUTSIDE = dict(target='insightface', preprocessing='outside')
HALVES = dict(mean=(127.5,) * 3, std=(127.5,) * 3)
REFUSED = [
    (dict(target='tensorrt'), {}, "no target 'tensorrt': choose from onnxruntime"),
    (dict(precision='int8'), {}, "no precision 'int8'"),
    (dict(preprocessing='beside'), {}, "no preprocessing 'beside'"),
    (dict(batch=0), {}, 'batch is a number of images from 1 on'),
    (dict(target='opencv-sface', batch=2), {}, 'feeds 1 image at a time'),
    (OUTSIDE | dict(target='opencv-sface'), {}, 'from 0 to 255 and cannot be told'),
    (
        dict(target='opencv-sface'),
        dict(input_size=(112, 96)),
        'has square crops only, and the network takes 112 x 96',
    ),
    (OUTSIDE, dict(input_size=(112, 112)), r'\(x - 127.5\) / 127.5 .* mean \(120.0'),
    (OUTSIDE, HALVES, 'gives crops of 112 x 112, and the network takes 32 x 32'),
    (OUTSIDE, HALVES | dict(channel_order='BGR'), 'the network takes BGR'),
]


@pytest.mark.parametrize(('options', 'changes', 'message'), REFUSED)
def test_plans_that_no_client_has(model, tmp_path, options, changes, message):
    other = with_convention(model, **changes)
    options = {'target': 'onnxruntime', **options}
    with pytest.raises(UserError, match=message):
        plan(other.convention, **options)
    path = tmp_path / 'model.onnx'
    with pytest.raises(UserError, match=message):
        export_onnx(other, path, **options)
    assert not path.exists()


def test_plans(model):
    convention = model.convention
    graph = plan(convention, 'onnxruntime', preprocessing='outside')
    assert (graph.size, graph.channel_order) == ((32, 32), 'RGB')
    assert (graph.mean, graph.std) == (deployables.MEAN, deployables.STD)
    graph = plan(dataclasses.replace(convention, channel_order='BGR'), 'opencv-dnn')
    assert (graph.channel_order, graph.mean, graph.std) == ('RGB', (0,) * 3, (1,) * 3)
    sides = {112: 112, 224: 224, 128: 128, 256: 256, 64: 112, 120: 112, 160: 112}
    for side, crop in sides.items():
        other = dataclasses.replace(convention, input_size=(side, side))
        assert plan(other, 'insightface').size == (crop, crop)
        assert plan(other, 'opencv-sface').size == (112, 112)
        assert plan(other, 'opencv-dnn').size == (side, side)


def test_weights_are_there_once(model, file):
    """Though the network is there twice, for the mirror image."""
    graph = onnx.load(file).graph
    large = [x for x in map(numpy_helper.to_array, graph.initializer) if x.size > 100]
    shapes = sorted(x.shape for x in large if x.ndim != 2 or 112 not in x.shape)
    wanted = sorted(
        tuple(x.shape) for x in model.state_dict().values() if x.numel() > 100
    )
    assert shapes == wanted
    assert sum(np.size(x) for x in large) > 0
