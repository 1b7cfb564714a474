"""Backbones against the literature's parameter counts and a functional forward."""

from functools import partial

import pytest
import torch
import torch.nn.functional as F
from mmengine.utils import digit_version
from torch import Tensor, nn

from mmhyperface.models.backbones import IR, IResNet, MobileFaceNet, SFNet
from mmhyperface.models.backbones.base import FaceBackbone
from mmhyperface.registry import MODELS
from mmhyperface.utils.errors import UserError

# Small enough for a laptop, one of each family and variant.
SMALL = {
    'iresnet': dict(type='IResNet', depth=18, embedding_size=32, input_size=32),
    'ir-evolve': dict(type='IR', depth=18, embedding_size=32, input_size=32),
    'ir-tface': dict(
        type='IR', depth=18, variant='tface', embedding_size=32, input_size=32
    ),
    'sfnet-paper': dict(
        type='SFNet', depth=20, widths=(8, 12, 16, 20), embedding_size=32, input_size=64
    ),
    'sfnet-opensphere-bn': dict(
        type='SFNet',
        depth=20,
        variant='opensphere',
        with_bn=True,
        widths=(8, 12, 16, 20),
        embedding_size=32,
        input_size=64,
    ),
    'mobilefacenet': dict(type='MobileFaceNet', embedding_size=32, input_size=64),
}
small = pytest.mark.parametrize('cfg', SMALL.values(), ids=SMALL)


def build(cfg: dict, **kwargs) -> nn.Module:
    torch.manual_seed(0)
    return MODELS.build(dict(cfg, **kwargs))


def images(net: nn.Module, batch: int) -> Tensor:
    torch.manual_seed(1)
    return torch.randn(batch, net.in_channels, *net.input_size)


def randomise(net: nn.Module) -> None:
    """Give every norm and activation values that a mistake could not hide behind."""
    with torch.no_grad():
        for name, value in net.state_dict().items():
            if value.ndim == 1 and value.is_floating_point():
                if name.endswith('bias') or name.endswith('mean'):
                    value.normal_(std=0.3)
                else:
                    value.uniform_(0.5, 1.5)


def assert_same(got: Tensor, expected: Tensor) -> None:
    """Equal up to rounding; without training, embeddings are of any magnitude."""
    scale = expected.abs().max()
    torch.testing.assert_close(got / scale, expected / scale, rtol=0, atol=1e-5)


# ---------------------------------------------------------------- architecture


@pytest.mark.parametrize(
    ('cls', 'kwargs', 'expected'),
    [
        (IResNet, dict(depth=18), 24_025_600),
        (IResNet, dict(depth=34), 34_139_328),
        (IResNet, dict(depth=50), 43_590_848),
        (IResNet, dict(depth=100), 65_156_160),
        (IResNet, dict(depth=200), 118_833_920),
        (IR, dict(depth=50), 43_574_976),
        # The batch norm that evolve's blocks lack, without the last one's weight
        # and bias.
        (
            IR,
            dict(depth=50, variant='tface'),
            43_574_976 + 2 * (3 * 64 + 4 * 128 + 14 * 256 + 3 * 512) - 2 * 512,
        ),
        (MobileFaceNet, dict(embedding_size=128), 1_003_264),
        (MobileFaceNet, dict(embedding_size=512), 1_201_024),
        # Four convolutions with biases, then the FC.
        (
            SFNet,
            dict(depth=4),
            9 * (3 * 64 + 64 * 128 + 128 * 256 + 256 * 512)
            + (64 + 128 + 256 + 512)
            + (512 * 7 * 7 + 1) * 512,
        ),
    ],
)
def test_parameter_counts(cls, kwargs, expected):
    with torch.device('meta'):
        net = cls(**kwargs)
    assert sum(p.numel() for p in net.parameters()) == expected


@pytest.mark.parametrize(
    ('cls', 'depth', 'convolutions'),
    # A ResNet's name counts its stem and its FC, SphereFace's does not count the
    # FC; "101" and "200" are names only.
    [(IResNet, depth, depth - 1) for depth in (18, 34, 50, 100)]
    + [(IResNet, 200, 197)]
    + [(IR, depth, depth - 1) for depth in (18, 34, 50)]
    + [(IR, 101, 99)]
    + [(SFNet, depth, depth) for depth in (4, 10, 20, 36, 64)],
)
def test_depth_counts_the_layers(cls, depth, convolutions):
    with torch.device('meta'):
        net = cls(depth)
    kernels = [m.kernel_size for m in net.modules() if isinstance(m, nn.Conv2d)]
    assert kernels.count((3, 3)) == convolutions


class Weights:
    """A state dict that notes which entries a functional forward has used."""

    def __init__(self, net: nn.Module) -> None:
        self.state = net.state_dict()
        self.used = {k for k in self.state if k.endswith('num_batches_tracked')}

    def get(self, key: str) -> Tensor:
        self.used.add(key)
        return self.state[key]

    def conv(self, x: Tensor, key: str, bias: bool = False, **kwargs) -> Tensor:
        b = self.get(f'{key}.bias') if bias else None
        return F.conv2d(x, self.get(f'{key}.weight'), b, **kwargs)

    def bn(self, x: Tensor, key: str, eps: float = 1e-5, affine: bool = True) -> Tensor:
        mean, var = self.get(f'{key}.running_mean'), self.get(f'{key}.running_var')
        weight = self.get(f'{key}.weight') if affine else None
        bias = self.get(f'{key}.bias') if affine else None
        return F.batch_norm(x, mean, var, weight, bias, eps=eps)

    def prelu(self, x: Tensor, key: str) -> Tensor:
        return F.prelu(x, self.get(f'{key}.weight'))

    def fc(self, x: Tensor, key: str) -> Tensor:
        weight, bias = self.get(f'{key}.weight'), self.get(f'{key}.bias')
        return F.linear(x.flatten(1), weight, bias)


def iresnet18(w: Weights, x: Tensor) -> Tensor:
    x = w.prelu(w.bn(w.conv(x, 'conv1', padding=1), 'bn1'), 'prelu')
    for stage in (1, 2, 3, 4):
        for block in (0, 1):
            key, stride = f'layer{stage}.{block}', 2 - block
            out = w.conv(w.bn(x, f'{key}.bn1'), f'{key}.conv1', padding=1)
            out = w.prelu(w.bn(out, f'{key}.bn2'), f'{key}.prelu')
            out = w.conv(out, f'{key}.conv2', stride=stride, padding=1)
            out = w.bn(out, f'{key}.bn3')
            if block == 0:
                x = w.conv(x, f'{key}.downsample.0', stride=2)
                x = w.bn(x, f'{key}.downsample.1')
            x = x + out
    return w.bn(w.fc(w.bn(x, 'bn2'), 'fc'), 'features')


def ir18(w: Weights, x: Tensor, inner_bn: bool) -> Tensor:
    x = w.conv(x, 'input_layer.0', padding=1)
    x = w.prelu(w.bn(x, 'input_layer.1'), 'input_layer.2')
    for index in range(8):
        key = f'body.{index}'
        stride = 2 if index % 2 == 0 else 1
        out = w.bn(x, f'{key}.res_layer.0')
        out = w.conv(out, f'{key}.res_layer.1', padding=1)
        at = 2
        if inner_bn:
            out = w.bn(out, f'{key}.res_layer.2')
            at = 3
        out = w.prelu(out, f'{key}.res_layer.{at}')
        out = w.conv(out, f'{key}.res_layer.{at + 1}', stride=stride, padding=1)
        out = w.bn(out, f'{key}.res_layer.{at + 2}')
        x = x[:, :, ::stride, ::stride]
        if index in (2, 4, 6):  # where the width doubles
            x = w.conv(x, f'{key}.shortcut_layer.0')
            x = w.bn(x, f'{key}.shortcut_layer.1')
        x = x + out
    x = w.fc(w.bn(x, 'output_layer.0'), 'output_layer.3')
    return w.bn(x, 'output_layer.4', affine=not inner_bn)


def sfnet20(w: Weights, x: Tensor, with_bn: bool, relu_first: bool) -> Tensor:
    def conv_bn(x: Tensor, key: str, number: int, stride: int = 1) -> Tensor:
        name = f'{key}.conv{number}'
        x = w.conv(x, name, bias=not with_bn, stride=stride, padding=1)
        return w.bn(x, f'{key}.bn{number}') if with_bn else x

    for stage, blocks in enumerate((1, 2, 4, 1), start=1):
        x = conv_bn(x, f'layer{stage}.0', 1, stride=2).relu()
        for block in range(1, blocks + 1):
            key = f'layer{stage}.{block}'
            out = conv_bn(conv_bn(x, key, 1).relu(), key, 2)
            x = out.relu() + x if relu_first else (out + x).relu()
    x = w.fc(x, 'fc')
    return w.bn(x, 'features') if with_bn else x


def mobilefacenet(w: Weights, x: Tensor) -> Tensor:
    def conv(x: Tensor, key: str, act: bool = True, **kwargs) -> Tensor:
        x = w.bn(w.conv(x, f'{key}.conv2d', **kwargs), f'{key}.batchnorm', eps=1e-3)
        return w.prelu(x, f'{key}.relu') if act else x

    def bottleneck(x: Tensor, key: str, hidden: int, stride: int) -> Tensor:
        out = conv(x, f'{key}.conv_sep')
        out = conv(out, f'{key}.conv_dw', stride=stride, padding=1, groups=hidden)
        out = conv(out, f'{key}.conv_proj', act=False)
        return x + out if stride == 1 else out

    x = conv(x, 'conv_1', stride=2, padding=1)
    x = conv(x, 'conv_2_dw', padding=1, groups=64)
    stages = [(3, 128, 128, 4), (4, 256, 256, 6), (5, 512, 256, 2)]
    for stage, wide, hidden, blocks in stages:
        x = bottleneck(x, f'dconv_{stage - 1}{stage}', wide, stride=2)
        for block in range(blocks):
            x = bottleneck(x, f'res_{stage}.model.block{block}', hidden, stride=1)
    x = conv(conv(x, 'conv_6sep'), 'conv_6dw7_7', act=False, groups=512)
    return w.bn(w.fc(x, 'pre_fc1'), 'fc1', eps=2e-5)


ORACLES = {
    'iresnet': iresnet18,
    'ir-evolve': partial(ir18, inner_bn=False),
    'ir-tface': partial(ir18, inner_bn=True),
    'sfnet-paper': partial(sfnet20, with_bn=False, relu_first=True),
    'sfnet-opensphere-bn': partial(sfnet20, with_bn=True, relu_first=False),
    'mobilefacenet': mobilefacenet,
}


@pytest.mark.parametrize('name', SMALL)
def test_forward_equals_the_functional_one(name):
    """Also the names of the parameters: published weights go by them."""
    net = build(SMALL[name]).eval()
    randomise(net)
    x = images(net, 3)
    weights = Weights(net)
    with torch.no_grad():
        expected = ORACLES[name](weights, x)
        (got,) = net(x)
    assert weights.used == weights.state.keys()
    assert_same(got, expected)


# --------------------------------------------------------------------- weights


@pytest.mark.parametrize(
    ('cfg', 'layer', 'std'),
    [
        (SMALL['iresnet'], 'layer3.0.conv2', 0.1),
        # Xavier: gain · sqrt(2 / (fan_in + fan_out)); Kaiming: sqrt(2 / fan_out).
        (SMALL['ir-evolve'], 'body.4.res_layer.1', (2 / (9 * (128 + 256))) ** 0.5),
        (SMALL['ir-tface'], 'body.4.res_layer.1', (2 / (9 * 256)) ** 0.5),
        (SMALL['sfnet-paper'], 'layer4.0.conv1', (2 / (9 * (16 + 20))) ** 0.5),
        (SMALL['sfnet-opensphere-bn'], 'layer4.0.conv1', (2 / (9 * 20)) ** 0.5),
    ],
)
def test_initial_weights(cfg, layer, std):
    net = build(cfg)
    assert net.get_submodule(layer).weight.std().item() == pytest.approx(std, rel=0.05)


@pytest.mark.parametrize(
    'cfg', [SMALL['iresnet'], SMALL['sfnet-opensphere-bn']], ids=['iresnet', 'sfnet']
)
@pytest.mark.parametrize(('init', 'freeze'), [(1.0, True), (0.1, False)])
def test_last_norm_starts_and_stays_as_asked(cfg, init, freeze):
    net = build(cfg, features_init=init, freeze_features=freeze)
    weight = net.features.weight
    assert torch.equal(weight, torch.full_like(weight, init))
    assert weight.requires_grad is not freeze
    assert net.features.bias.requires_grad


@pytest.mark.parametrize(
    ('cls', 'own', 'own_last'),
    [
        (IResNet, (18,), (0.1, 0.5, False)),
        (IR, (18, 'tface'), (0.1,)),
        (SFNet, (4, 'paper', False, (8,) * 4), (0.1, 1.0, False)),
        (MobileFaceNet, (), ()),
    ],
)
def test_arguments_by_position(cls, own, own_last):
    with torch.device('meta'):
        net = cls(*own, 1, 32, (64, 48), *own_last, True, 1, True, {})
    assert (net.in_channels, net.out_channels, net.input_size) == (1, 32, (64, 48))
    assert (net.with_cp, net.frozen_stages, net.norm_eval) == (True, 1, True)
    assert net.init_cfg == {}


def test_init_cfg_of_the_config_wins():
    init_cfg = dict(type='Constant', layer='Conv2d', val=0.5)
    net = build(SMALL['iresnet'], init_cfg=init_cfg)
    net.init_weights()
    assert (net.layer1[0].conv1.weight == 0.5).all()


# --------------------------------------------------------------------- forward


@small
def test_returns_a_tuple_of_one_embedding(cfg):
    net = build(cfg).eval()
    x = images(net, 3)
    with torch.no_grad():
        out = net(x)
        (alone,) = net(x[:1])
    assert isinstance(out, tuple)
    assert [embedding.shape for embedding in out] == [(3, net.out_channels)]
    assert net.out_channels == 32
    assert_same(out[0][:1], alone)


def test_a_backbone_that_is_no_sequence():
    class Own(FaceBackbone):
        def __init__(self, **options):
            super().__init__(**options)
            self.fc = nn.Linear(3, self.out_channels)
            self.freeze()

        def stages(self):
            return [[], [self.fc]]

        def embed(self, x):
            return self.run_blocks([self.fc], x.mean((2, 3))).relu()

    net = Own(embedding_size=4, input_size=8)
    x = images(net, 2)
    assert torch.equal(net(x)[0], net.fc(x.mean((2, 3))).clamp(min=0))


@small
@pytest.mark.parametrize('size', [40, (33, 17)])
def test_any_input_size(cfg, size):
    net = build(cfg, input_size=size, in_channels=1).eval()
    with torch.no_grad():
        assert net(images(net, 2))[0].shape == (2, 32)


@small
def test_channels_last(cfg):
    net = build(cfg).eval()
    x = images(net, 2)
    with torch.no_grad():
        (expected,) = net(x)
        net.to(memory_format=torch.channels_last)
        (got,) = net(x.to(memory_format=torch.channels_last))
    assert_same(got, expected)


@small
def test_bf16_autocast(cfg):
    net = build(cfg).train()
    with torch.autocast('cpu', torch.bfloat16):
        (out,) = net(images(net, 4))
    out.float().square().sum().backward()
    assert out.isfinite().all()
    assert all(p.grad.isfinite().all() for p in net.parameters() if p.requires_grad)


def train_step(net: nn.Module, **compile_args) -> dict[str, Tensor]:
    """One step's gradients, and the running statistics after it."""
    if compile_args:
        net.compile(**compile_args)
    (out,) = net.train()(images(net, 4))
    torch.manual_seed(2)
    (out * torch.randn_like(out)).sum().backward()
    grads = {n: p.grad for n, p in net.named_parameters() if p.requires_grad}
    return grads | dict(net.named_buffers())


@small
def test_checkpointing_changes_nothing(cfg):
    """Neither the gradients nor the running statistics."""
    expected = train_step(build(cfg))
    got = train_step(build(cfg, with_cp=True))
    torch.testing.assert_close(got, expected, rtol=0, atol=0)


@pytest.mark.skipif(
    digit_version(torch.__version__) < digit_version('2.3'),
    reason='older torch does not compile a checkpoint',
)
def test_checkpointing_changes_nothing_when_compiled():
    cfg = dict(SMALL['sfnet-opensphere-bn'], depth=10)
    expected = train_step(build(cfg))
    got = train_step(build(cfg, with_cp=True), backend='aot_eager', fullgraph=True)
    torch.testing.assert_close(got, expected)


@small
def test_checkpointing_stores_less(cfg):
    def stored(with_cp: bool) -> int:
        net = build(cfg, with_cp=with_cp).train()
        sizes = {}

        def pack(x: Tensor) -> Tensor:
            sizes[x.data_ptr()] = x.numel()
            return x

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
            out = net(images(net, 8))
        del out
        return sum(sizes.values())

    assert stored(True) < stored(False)


@pytest.mark.parametrize('name', ['ir-tface', 'sfnet-paper'])
def test_export_with_any_batch_size(name):
    net = build(SMALL[name]).eval()
    batch = torch.export.Dim('batch', min=1, max=64)
    program = torch.export.export(
        net, (images(net, 2),), dynamic_shapes={'x': {0: batch}}
    )
    x = images(net, 5)
    with torch.no_grad():
        assert_same(program.module()(x)[0], net(x)[0])


# ---------------------------------------------------------------------- errors


@pytest.mark.parametrize(
    ('cfg', 'message'),
    [
        (dict(type='IResNet', depth=101), 'depth=101: choose from 18, 34, 50, 100'),
        (dict(type='IR', depth=100), 'depth=100: choose from 18, 34, 50, 101'),
        (dict(type='IR', depth=18, variant='ir'), "choose from 'evolve', 'tface'"),
        (dict(type='SFNet', depth=18), 'choose from 4, 10, 20, 36, 64'),
        (
            dict(type='SFNet', depth=4, variant='deprecated'),
            "choose from 'paper', 'opensphere'",
        ),
        (dict(type='SFNet', depth=4, widths=(64, 128)), 'four widths'),
    ],
)
def test_bad_arguments(cfg, message):
    with torch.device('meta'), pytest.raises(UserError, match=message):
        MODELS.build(cfg)


@small
@pytest.mark.parametrize('shape', [(2, 3, 48, 48), (2, 1, 64, 64), (3, 64, 64)])
def test_images_that_do_not_fit(cfg, shape):
    net = build(cfg)
    expected = ', '.join(map(str, net.input_size))
    with pytest.raises(UserError, match=rf'built for \[batch, 3, {expected}\].*resize'):
        net(torch.zeros(shape))


# --------------------------------------------------------------------- freezing


def moved(net: nn.Module) -> set[str]:
    """Names in the state dict that a step of training changes."""
    randomise(net)
    before = {name: value.clone() for name, value in net.state_dict().items()}
    net.eval().train()
    # Weight decay moves what has no gradient by chance.
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, weight_decay=0.1)
    (out,) = net(images(net, 2))
    if out.requires_grad:
        out.square().sum().backward()
    optimizer.step()
    after = net.state_dict()
    return {name for name, value in before.items() if not after[name].equal(value)}


@small
def test_frozen_stages(cfg):
    """What is frozen keeps its weights and its statistics; all else learns."""
    options = dict(freeze_features=False) if cfg['type'] in ('IResNet', 'SFNet') else {}
    free = build(cfg, **options)
    names = {id(module): name for name, module in free.named_modules()}
    stages = [[names[id(module)] for module in stage] for stage in free.stages()]
    everything = moved(free)
    frozen: set[str] = set()
    for number, stage in enumerate(stages):
        frozen |= {
            name
            for name in everything
            if any(name.startswith(f'{module}.') for module in stage)
        }
        if number not in (2, len(stages) - 1):
            continue
        net = build(cfg, frozen_stages=number, with_cp=number == 2, **options)
        assert moved(net) == everything - frozen
        assert not any(
            p.requires_grad for n, p in net.named_parameters() if n in frozen
        )
    # Each layer belongs to a stage.
    assert frozen == everything
    with pytest.raises(UserError, match=r'model\.backbone\.frozen_stages to 0'):
        build(cfg, frozen_stages=len(stages))


@small
def test_norm_eval(cfg):
    net = build(cfg, norm_eval=True)
    statistics = {n for n in net.state_dict() if 'running' in n or 'num_batches' in n}
    changed = moved(net)
    assert not changed & statistics
    assert changed == moved(build(cfg)) - statistics


@pytest.mark.parametrize('options', [{}, {'frozen_stages': 2}, {'with_cp': True}])
def test_batches_are_counted_as_torch_counts_them(options):
    """Of each norm that learns, once a batch, in training only."""
    ours = build(SMALL['ir-tface'], **options)
    theirs = build(SMALL['ir-tface'], **options)
    for module in theirs.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.__class__ = nn.BatchNorm2d
    theirs.train()
    for net in (ours, theirs):
        net(images(net, 4))
        net.eval()(images(net, 4))
        net.train()(images(net, 4))[0].sum().backward()
    expected = theirs.state_dict()
    assert 2 in {n.item() for name, n in expected.items() if 'num_batches' in name}
    for name, value in ours.state_dict().items():
        assert torch.equal(value, expected[name]), name
