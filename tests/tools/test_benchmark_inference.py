"""Engines side by side: the same work, whose times are told as they were taken."""

import json
from types import SimpleNamespace

import benchmark_inference as tool
import numpy as np
import pytest
import tiny_network
import torch
from tiny_network import build

from mmhyperface.apis import get_model
from mmhyperface.inference.backends import EmbeddingNetwork, TorchNetwork
from mmhyperface.utils.errors import UserError


class Clock:
    """Time passes only where it is told to."""

    now = 0.0

    def perf_counter(self):
        return self.now


class Sleeper(EmbeddingNetwork):
    """Takes given seconds, of one run after the other."""

    def __init__(self, clock, seconds, embedding=(1.0, 0.0)):
        self.clock, self.seconds, self.runs = clock, list(seconds), 0
        self.embedding = embedding
        self.source, self.crop_size = 'a sleeper', (4, 4)

    def _embed(self, crops):
        self.clock.now += self.seconds[self.runs % len(self.seconds)]
        self.runs += 1
        return np.tile(np.float32(self.embedding), (len(crops), 1))


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(tool, 'time', clock)
    return clock


@pytest.fixture
def config(tmp_path):
    path = tmp_path / 'config.py'
    tiny_network.config().dump(path)
    return path


@pytest.fixture
def benchmark(call_main, tmp_path):
    """Calls the tool; gives what it wrote and printed."""

    def call(*arguments):
        out = tmp_path / 'out.json'
        threads = torch.get_num_threads()
        try:
            options = (*arguments, '--repeats', 3, '--out', out)
            printed = call_main('benchmark_inference', *options)
        finally:
            torch.set_num_threads(threads)
        return {**json.loads(out.read_text()), 'printed': printed}

    return call


def require_export():
    for module in ('onnx', 'onnxruntime', 'onnxslim'):
        pytest.importorskip(module)


def options(repeats=4, seconds=1e9):
    return SimpleNamespace(repeats=repeats, seconds=seconds)


def test_figures_of_known_times(clock):
    # Two runs to be ready, then in each turn one that does not count and one that does.
    first = Sleeper(clock, [9, 9, 9, 2, 9, 4, 9, 6, 9, 20])
    second = Sleeper(clock, [7, 7, 7, 1, 7, 1, 7, 1, 7, 40])
    networks = {'first': first, 'second': second}
    speeds, failed = tool.measure(networks, 8, (4, 4), options())
    assert failed == {}
    a, b = speeds
    assert (a.backend, a.batch_size, a.rounds) == ('first', 8, 4)
    assert a.median == 5
    assert a.p90 == pytest.approx(np.quantile([2, 4, 6, 20], 0.9))
    assert a.faces_per_second == 8 / 5
    assert a.ratio == 1
    assert b.median == 1
    # Of the rounds' own ratios 2, 4, 6 and 0.5.
    assert b.ratio == 3
    assert first.runs == second.runs == 10


def test_they_take_turns(clock):
    order = []

    class Named(Sleeper):
        def _embed(self, crops):
            order.append(self.source)
            return super()._embed(crops)

    networks = {}
    for name in 'ab':
        networks[name] = Named(clock, [1])
        networks[name].source = name
    crops = np.zeros((1, 4, 4, 3), np.uint8)
    tool.take_turns(networks, crops, 3, 1e9)
    assert ''.join(order) == 'aabb' * 3


@pytest.mark.parametrize(
    ('seconds', 'rounds'), [(0.0, 3), (13.0, 4), (1e9, 10)], ids=str
)
def test_time_is_limited(clock, seconds, rounds):
    """A round takes 4 seconds; three there are in any case."""
    networks = {'a': Sleeper(clock, [1]), 'b': Sleeper(clock, [1])}
    crops = np.zeros((1, 4, 4, 3), np.uint8)
    times = tool.take_turns(networks, crops, 10, seconds)
    assert {len(own) for own in times.values()} == {rounds}


def test_other_embeddings_are_an_error(clock):
    networks = {
        'eager': Sleeper(clock, [1]),
        'onnxruntime': Sleeper(clock, [1], embedding=(1.0, 0.2)),
    }
    with pytest.raises(UserError, match='onnxruntime and eager do not give the same'):
        tool.measure(networks, 2, (4, 4), options())
    networks['onnxruntime'].embedding = (np.nan, 0.0)
    with pytest.raises(UserError, match='do not give the same'):
        tool.measure(networks, 2, (4, 4), options())


def test_distance_in_double_precision():
    rng = np.random.default_rng(0)
    a, b = rng.standard_normal((2, 5, 16))
    expected = max(
        1 - x @ y / np.sqrt(x @ x) / np.sqrt(y @ y) for x, y in zip(a, b, strict=True)
    )
    assert tool.largest_distance(a, b) == pytest.approx(expected, rel=1e-12)


def test_a_config_alone(benchmark, config):
    require_export()
    engines = ('--backends', 'eager', 'onnxruntime', '--threads', 1)
    report = benchmark(config, *engines, '--batch-sizes', 1, 3, '--device', 'cpu')
    actual = [(x['batch_size'], x['backend']) for x in report['speeds']]
    names = ('eager', 'onnxruntime')
    assert actual == [(size, name) for size in (1, 3) for name in names]
    assert report['missing'] == {}
    assert 'processor, 1 thread' in report['measured_on']
    for speed in report['speeds']:
        assert 0 < speed['median'] <= speed['p90']
        assert speed['rounds'] == 3
        assert abs(speed['distance']) < 1e-5
        each = speed['faces_per_second'] * speed['median']
        assert each == pytest.approx(speed['batch_size'])
    model = get_model(config, None, 'cpu')
    parameters = sum(x.numel() for x in model.backbone.parameters())
    assert report['network']['backbone']['parameters'] == parameters
    shown = ' '.join(report['printed'].split())
    assert f'{parameters:,} parameters' in shown
    assert 'with the mirror image' in shown


def test_a_compiled_network_computes_the_same(config):
    """Whatever the compiler; here it is one that changes nothing."""
    model = get_model(config, None, 'cpu')
    network = tool.compiled_network(model, 'a model')
    network.compiled = torch.compile(model.embed, dynamic=False, backend='eager')
    crops = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3), np.uint8)
    np.testing.assert_allclose(
        network.embed(crops), TorchNetwork(model).embed(crops), rtol=1e-5, atol=1e-6
    )


def test_a_deep_network_of_chance_gives_numbers():
    """Its activations would grow with each block to nan."""
    backbone = dict(type='IResNet', depth=100, input_size=32, embedding_size=8)
    model = build(backbone=backbone)
    crops = np.zeros((1, 32, 32, 3), np.uint8)
    assert not np.isfinite(TorchNetwork(model).embed(crops)).all()
    actual = TorchNetwork(tool.with_own_statistics(model)).embed(crops)
    assert np.isfinite(actual).all()
    assert 0.01 < np.linalg.norm(actual) < 100
    assert not model.training


def test_without_a_compiler(benchmark, config, monkeypatch):
    def fail(*_, **__):
        def run(_):
            raise RuntimeError('InvalidCxxCompiler: No working C++ compiler found')

        return run

    monkeypatch.setattr(torch, 'compile', fail)
    report = benchmark(config, '--backends', 'eager', 'compiled', '--batch-sizes', 1, 2)
    assert [x['backend'] for x in report['speeds']] == ['eager', 'eager']
    assert 'No working C++ compiler' in report['missing']['compiled']
    assert 'compiled is left out: RuntimeError: Invalid' in report['printed']
    with pytest.raises(UserError, match='none of the engines can run'):
        benchmark(config, '--backends', 'compiled', '--batch-sizes', 1)


def test_an_export_of_another_network(benchmark, config, tmp_path):
    require_export()
    from mmhyperface.deployment import export_onnx

    torch.manual_seed(1)
    export_onnx(get_model(config, None, 'cpu'), tmp_path / 'other.onnx')
    with pytest.raises(UserError, match=r'other\.onnx is an export of other weights'):
        benchmark(config, '--exported', tmp_path / 'other.onnx')


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (['nowhere.py'], 'there is no config nowhere.py'),
        (['nowhere.pth'], 'nowhere.pth'),
        (['{config}', '--config', '{config}'], 'give one'),
        (['{config}', '--batch-sizes', '0'], 'must be at least 1'),
        (['{config}', '--threads', '0'], 'must be at least 1'),
        (['{config}', '--exported', 'x', '--backends', 'eager'], 'leaves out'),
        (['{config}', '--exported', 'no.onnx'], 'there is no model no.onnx'),
        (['{config}', '--device', 'toaster'], r'toaster \(.*--device\) cannot be used'),
    ],
)
def test_mistakes(benchmark, config, arguments, message):
    with pytest.raises(UserError, match=message):
        benchmark(*(word.format(config=config) for word in arguments))
