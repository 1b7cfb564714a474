"""EmbeddingNeck: the end of insightface's IResNet, on any backbone of mmpretrain."""

import pytest
import torch
import torch.nn.functional as F
from mmengine.registry import init_default_scope
from torch import Tensor, nn

from mmhyperface.models.backbones import IResNet
from mmhyperface.models.necks import EmbeddingNeck
from mmhyperface.registry import MODELS
from mmhyperface.utils.errors import UserError

VIT = dict(
    type='mmpretrain.VisionTransformer',
    arch=dict(embed_dims=24, num_layers=2, num_heads=2, feedforward_channels=48),
    img_size=112,
    patch_size=16,
)


@pytest.fixture(autouse=True)
def _scope():
    init_default_scope('mmhyperface')


def randomise(net: nn.Module) -> None:
    torch.manual_seed(0)
    with torch.no_grad():
        for name, value in net.state_dict().items():
            if value.ndim == 1 and value.is_floating_point():
                value.uniform_(0.5, 1.5)
                if name.endswith(('bias', 'mean')):
                    value.sub_(1)


def bn(x: Tensor, norm: nn.Module) -> Tensor:
    """A norm's definition, channels in dimension 1."""
    mean, var, weight, bias = (
        value.view(-1, *[1] * (x.ndim - 2))
        for value in (norm.running_mean, norm.running_var, norm.weight, norm.bias)
    )
    return (x - mean) / (var + 1e-5).sqrt() * weight + bias


# ------------------------------------------------------- on mmpretrain's nets


@pytest.mark.parametrize('pooling', ['flatten', 'gap', 'gdc'])
def test_on_resnet50(pooling):
    backbone = MODELS.build(dict(type='mmpretrain.ResNet', depth=50))
    neck = MODELS.build(
        dict(type='EmbeddingNeck', in_channels=2048, input_size=4, pooling=pooling)
    )
    with torch.no_grad():
        out = neck(backbone(torch.randn(3, 3, 112, 112)))
    assert isinstance(out, tuple)
    assert [x.shape for x in out] == [(3, 512)]
    assert neck.out_channels == 512


@pytest.mark.parametrize(
    ('backbone', 'neck'),
    [
        (dict(out_type='cls_token'), dict()),
        (dict(out_type='cls_token'), dict(pooling='gap')),
        (dict(out_type='avg_featmap'), dict()),
        (dict(out_type='featmap'), dict(input_size=7)),
        (dict(out_type='featmap'), dict(input_size=(7, 7), pooling='gdc')),
        (dict(out_type='featmap'), dict(pooling='gap')),
        (dict(out_type='raw', with_cls_token=False), dict(input_size=7)),
        (dict(out_type='raw', with_cls_token=True), dict(pooling='gap')),
    ],
)
def test_on_vision_transformer(backbone, neck):
    net = MODELS.build(dict(VIT, **backbone))
    head = EmbeddingNeck(in_channels=24, embedding_size=16, **neck)
    (out,) = head(net(torch.randn(2, 3, 112, 112)))
    assert out.shape == (2, 16)
    out.square().sum().backward()
    assert net.patch_embed.projection.weight.grad.isfinite().all()


# ------------------------------------------------------------ what it computes


def test_equals_the_end_of_iresnet():
    net = IResNet(18, embedding_size=16, input_size=(64, 48)).eval()
    neck = EmbeddingNeck(512, embedding_size=16, input_size=(4, 3)).eval()
    randomise(net)
    names = {'bn': 'bn2', 'fc': 'fc', 'features': 'features'}
    for ours, theirs in names.items():
        neck.get_submodule(ours).load_state_dict(net.get_submodule(theirs).state_dict())
    x = torch.randn(3, 512, 4, 3)
    with torch.no_grad():
        expected = net.features(net.fc(net.bn2(x).flatten(1)))
        (got,) = neck((torch.randn(1), x))
    torch.testing.assert_close(got, expected)


@pytest.mark.parametrize('pooling', ['flatten', 'gap', 'gdc'])
def test_map_and_tokens_against_the_definition(pooling):
    neck = EmbeddingNeck(6, 5, input_size=(2, 3), pooling=pooling).eval()
    randomise(neck)
    x = torch.randn(4, 6, 2, 3)
    with torch.no_grad():
        expected = bn(x, neck.bn)
        if pooling == 'gap':
            expected = expected.mean((2, 3))
        elif pooling == 'gdc':
            kernel, norm = neck.gdc[0].weight.view(6, 2, 3), neck.gdc[1]
            expected = bn((expected * kernel).sum((2, 3)), norm)
        expected = F.linear(expected.flatten(1), neck.fc.weight, neck.fc.bias)
        expected = bn(expected, neck.features)
        (from_map,) = neck((x,))
        (from_tokens,) = neck((x.flatten(2).transpose(1, 2),))
    torch.testing.assert_close(from_map, expected)
    torch.testing.assert_close(from_tokens, expected)


def test_batch_norm_sees_every_position():
    """As BatchNorm2d would: the statistics are over batch and positions."""
    neck = EmbeddingNeck(6, 5, input_size=2)
    norm = nn.BatchNorm2d(6)
    x = torch.randn(4, 6, 2, 2)
    neck((x,))
    norm(x)
    torch.testing.assert_close(neck.bn.running_var, norm.running_var)


@pytest.mark.parametrize('pooling', ['flatten', 'gap', 'gdc'])
def test_bf16_autocast_and_channels_last(pooling):
    neck = EmbeddingNeck(8, 4, input_size=3, pooling=pooling, dropout=0.4)
    x = torch.randn(5, 8, 3, 3).to(memory_format=torch.channels_last)
    with torch.autocast('cpu', torch.bfloat16):
        (out,) = neck((x,))
    out.float().square().sum().backward()
    assert out.isfinite().all()
    neck.eval()
    torch.testing.assert_close(neck((x,)), neck((x.contiguous(),)))


@pytest.mark.parametrize(('init', 'freeze'), [(1.0, True), (0.1, False)])
def test_last_norm_starts_and_stays_as_asked(init, freeze):
    weight = EmbeddingNeck(
        8, 4, features_init=init, freeze_features=freeze
    ).features.weight
    assert torch.equal(weight, torch.full_like(weight, init))
    assert weight.requires_grad is not freeze


# ---------------------------------------------------------------------- errors


@pytest.mark.parametrize(
    ('shape', 'message'),
    [
        ((2, 8, 4, 4), 'built for 3 x 3 positions: set model.neck.input_size'),
        ((2, 16, 8), 'built for 3 x 3 positions'),
        ((2, 8), 'built for 3 x 3 positions'),
        ((2, 6, 3, 3), '6 channels, but was built for in_channels=8'),
        ((2, 8, 1, 3, 3), r'takes \[B, C, H, W\], \[B, L, C\] or \[B, C\]'),
    ],
)
def test_features_that_do_not_fit(shape, message):
    neck = EmbeddingNeck(8, 4, input_size=3)
    with pytest.raises(UserError, match=message):
        neck((torch.zeros(shape),))


def test_a_map_without_input_size():
    with pytest.raises(UserError, match=r'set model\.neck\.input_size'):
        EmbeddingNeck(8, 4)((torch.zeros(2, 8, 3, 3),))


def test_unknown_pooling():
    with pytest.raises(UserError, match=r"neck\.pooling must be one of \('flatten', "):
        EmbeddingNeck(8, 4, pooling='max')
