"""Counts against those of the papers, and against arithmetic."""

import pytest
import torch
from get_complexity import speed_of
from mmengine.config import Config
from torch import nn

from mmhyperface.inference.complexity import build_modules, complexity_of
from mmhyperface.utils.errors import UserError


def config(backbone, neck=None, **head):
    loss = dict(type='SphereFace2Loss')
    head = dict(type='HypersphereHead', in_channels=512, loss=loss, **head)
    return Config(dict(model=dict(backbone=backbone, neck=neck, head=head)))


@pytest.mark.parametrize(
    ('backbone', 'millions', 'billions'),
    [
        # The MobileFaceNets paper tells of 0.99 M and 221 M multiply-adds.
        (dict(type='MobileFaceNet', embedding_size=128), 1.003264, 0.221),
        # insightface tells of 6.3 and 12.1 G.
        (dict(type='IResNet', depth=50), 43.590848, 6.309),
        pytest.param(
            dict(type='IResNet', depth=100), 65.15616, 12.09, marks=pytest.mark.slow
        ),
    ],
)
def test_published_sizes(backbone, millions, billions):
    actual = complexity_of(config(backbone, num_classes=1000))
    assert actual.backbone.parameters == round(millions * 1e6)
    assert actual.backbone.macs / 1e9 == pytest.approx(billions, abs=0.005)
    assert actual.input_size == (112, 112)


@pytest.mark.parametrize('channels', [3, 1])
def test_every_part_is_counted(channels):
    """SFNet-4: four convolutions of stride 2, and a last layer; on a wide image."""
    widths = channels, 5, 7, 9, 11
    sides = [(32, 48), (16, 24), (8, 12), (4, 6), (2, 3)]
    sizes = dict(widths=widths[1:], input_size=(32, 48), embedding_size=13)
    backbone = dict(type='SFNet', depth=4, in_channels=channels, **sizes)
    actual = complexity_of(config(backbone, num_classes=100_000_000))
    parameters = macs = 0
    for i in range(1, 5):
        weights = 9 * widths[i - 1] * widths[i]
        parameters += weights + widths[i]
        macs += weights * sides[i][0] * sides[i][1]
    parameters += 2 * 3 * 11 * 13 + 13
    macs += 2 * 3 * 11 * 13
    assert (actual.backbone.parameters, actual.backbone.macs) == (parameters, macs)
    assert actual.neck is None
    # The centres and the bias.
    assert actual.head.parameters == 512 * 100_000_000 + 1
    assert actual.head.macs == 512 * 100_000_000
    # The image and what each convolution gives, in bytes.
    maps = [w * h * x for w, (h, x) in zip(widths[1:], sides[1:], strict=True)]
    assert actual.activations == 4 * (channels * 32 * 48 + sum(maps))


@pytest.mark.parametrize('classes', ['auto', None])
def test_an_unknown_number_of_people(classes):
    backbone = dict(type='SFNet', depth=4, widths=(2, 2, 2, 2), input_size=16)
    assert complexity_of(config(backbone, num_classes=classes)).head is None


@pytest.mark.parametrize('model', [None, {}, dict(backbone=None)])
def test_no_backbone(model):
    with pytest.raises(UserError, match=r'no model\.backbone'):
        complexity_of(Config(dict(model=model)))


def test_speed_is_the_median(monkeypatch):
    """Of the batches after those that warm up, by a clock that tells what we say."""
    ticks = iter([0, 0, 0, 0, 3, 0, 50, 0, 1])
    monkeypatch.setattr('time.perf_counter', lambda: next(ticks))
    seen = []

    class Watch(nn.Module):
        def forward(self, x):
            seen.append((x.shape, self.training, torch.is_inference_mode_enabled()))
            return (x,)

    speed = speed_of([Watch()], 4, (5, 6), torch.device('cpu'), repeats=3)
    assert (speed.seconds, speed.images_per_second) == (3, 4 / 3)
    assert seen == [(torch.Size([4, 3, 5, 6]), False, True)] * 6


def test_a_neck_is_measured_on_what_it_gets():
    backbone = dict(type='SFNet', depth=4, widths=(2, 2, 2, 2), input_size=16)
    cfg = config(backbone, dict(type='LinearNeck', in_channels=512, out_channels=3))
    actual = complexity_of(cfg)
    assert actual.neck.macs == 512 * 3
    assert [type(module).__name__ for module in build_modules(cfg, 'meta')] == [
        'SFNet',
        'LinearNeck',
    ]
