"""The peers' networks, written from their definitions: state dicts and forward passes.

Names and layers are those of the peers' code; of ours nothing is used. Weights are
random, batch norms' statistics too.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

State = dict[str, Tensor]
WIDTHS = (64, 128, 256, 512)


class Draw:
    """Adds random layers to a state dict."""

    def __init__(self, seed: int = 0) -> None:
        self.state: State = {}
        self.generator = torch.Generator().manual_seed(seed)

    def normal(self, *shape: int, std: float = 1.0) -> Tensor:
        return torch.randn(shape, generator=self.generator) * std

    def conv(self, name: str, out: int, inp: int, kernel: int, bias: bool = False):
        std = (inp * kernel**2) ** -0.5
        self.state[f'{name}.weight'] = self.normal(out, inp, kernel, kernel, std=std)
        if bias:
            self.state[f'{name}.bias'] = self.normal(out, std=0.1)

    def linear(self, name: str, out: int, inp: int) -> None:
        self.state[f'{name}.weight'] = self.normal(out, inp, std=inp**-0.5)
        self.state[f'{name}.bias'] = self.normal(out, std=0.1)

    def norm(self, name: str, width: int, affine: bool = True) -> None:
        if affine:
            self.state[f'{name}.weight'] = 1 + self.normal(width, std=0.1)
            self.state[f'{name}.bias'] = self.normal(width, std=0.1)
        self.state[f'{name}.running_mean'] = self.normal(width, std=0.2)
        self.state[f'{name}.running_var'] = 0.5 + self.normal(width).abs()
        self.state[f'{name}.num_batches_tracked'] = torch.tensor(7)

    def prelu(self, name: str, width: int) -> None:
        self.state[f'{name}.weight'] = self.normal(width, std=0.2)


def conv(s: State, name: str, x: Tensor, stride: int = 1) -> Tensor:
    weight = s[f'{name}.weight']
    return F.conv2d(x, weight, s.get(f'{name}.bias'), stride, weight.shape[-1] // 2)


def norm(s: State, name: str, x: Tensor, eps: float = 1e-5) -> Tensor:
    mean, var = s[f'{name}.running_mean'], s[f'{name}.running_var']
    weight, bias = s.get(f'{name}.weight'), s.get(f'{name}.bias')
    return F.batch_norm(x, mean, var, weight, bias, eps=eps)


def prelu(s: State, name: str, x: Tensor) -> Tensor:
    return F.prelu(x, s[f'{name}.weight'])


def linear(s: State, name: str, x: Tensor) -> Tensor:
    return F.linear(x.flatten(1), s[f'{name}.weight'], s[f'{name}.bias'])


def iresnet_state(blocks: tuple[int, ...], positions: int, dim: int) -> State:
    draw = Draw()
    draw.conv('conv1', 64, 3, 3)
    draw.norm('bn1', 64)
    draw.prelu('prelu', 64)
    inp = 64
    for stage, (width, count) in enumerate(zip(WIDTHS, blocks, strict=True), 1):
        for block in range(count):
            name = f'layer{stage}.{block}'
            draw.norm(f'{name}.bn1', inp)
            draw.conv(f'{name}.conv1', width, inp, 3)
            draw.norm(f'{name}.bn2', width)
            draw.prelu(f'{name}.prelu', width)
            draw.conv(f'{name}.conv2', width, width, 3)
            draw.norm(f'{name}.bn3', width)
            if block == 0:
                draw.conv(f'{name}.downsample.0', width, inp, 1)
                draw.norm(f'{name}.downsample.1', width)
            inp = width
    draw.norm('bn2', 512)
    draw.linear('fc', dim, 512 * positions)
    draw.norm('features', dim)
    return draw.state


def iresnet(s: State, x: Tensor) -> Tensor:
    x = prelu(s, 'prelu', norm(s, 'bn1', conv(s, 'conv1', x)))
    for stage in range(1, 5):
        block = 0
        while f'layer{stage}.{block}.conv1.weight' in s:
            name, stride = f'layer{stage}.{block}', 2 if block == 0 else 1
            out = norm(s, f'{name}.bn1', x)
            out = norm(s, f'{name}.bn2', conv(s, f'{name}.conv1', out))
            out = conv(s, f'{name}.conv2', prelu(s, f'{name}.prelu', out), stride)
            if block == 0:
                x = conv(s, f'{name}.downsample.0', x, stride)
                x = norm(s, f'{name}.downsample.1', x)
            x = norm(s, f'{name}.bn3', out) + x
            block += 1
    return norm(s, 'features', linear(s, 'fc', norm(s, 'bn2', x)))


def ir_state(blocks: tuple[int, ...], positions: int, dim: int, tface: bool) -> State:
    """face.evoLVe's and SFace's; with `tface` AdaFace's and CVLface's."""
    draw = Draw()
    draw.conv('input_layer.0', 64, 3, 3)
    draw.norm('input_layer.1', 64)
    draw.prelu('input_layer.2', 64)
    inp = 64
    widths = [w for w, n in zip(WIDTHS, blocks, strict=True) for _ in range(n)]
    for block, width in enumerate(widths):
        name = f'body.{block}'
        layer = iter(range(9))
        draw.norm(f'{name}.res_layer.{next(layer)}', inp)
        draw.conv(f'{name}.res_layer.{next(layer)}', width, inp, 3)
        if tface:
            draw.norm(f'{name}.res_layer.{next(layer)}', width)
        draw.prelu(f'{name}.res_layer.{next(layer)}', width)
        draw.conv(f'{name}.res_layer.{next(layer)}', width, width, 3)
        draw.norm(f'{name}.res_layer.{next(layer)}', width)
        if inp != width:
            draw.conv(f'{name}.shortcut_layer.0', width, inp, 1)
            draw.norm(f'{name}.shortcut_layer.1', width)
        inp = width
    draw.norm('output_layer.0', 512)
    draw.linear('output_layer.3', dim, 512 * positions)
    draw.norm('output_layer.4', dim, affine=not tface)
    return draw.state


def ir(s: State, x: Tensor, blocks: tuple[int, ...], tface: bool) -> Tensor:
    x = norm(s, 'input_layer.1', conv(s, 'input_layer.0', x))
    x = prelu(s, 'input_layer.2', x)
    strides = [2 if i == 0 else 1 for n in blocks for i in range(n)]
    for block, stride in enumerate(strides):
        name = f'body.{block}.res_layer'
        out = conv(s, f'{name}.1', norm(s, f'{name}.0', x))
        at = 2
        if tface:
            out, at = norm(s, f'{name}.2', out), 3
        out = prelu(s, f'{name}.{at}', out)
        out = norm(s, f'{name}.{at + 2}', conv(s, f'{name}.{at + 1}', out, stride))
        short = f'body.{block}.shortcut_layer'
        if f'{short}.0.weight' in s:
            x = norm(s, f'{short}.1', conv(s, f'{short}.0', x, stride))
        else:
            x = x[:, :, ::stride, ::stride]
        x = out + x
    x = linear(s, 'output_layer.3', norm(s, 'output_layer.0', x))
    return norm(s, 'output_layer.4', x)


def sfnet_state(
    blocks: tuple[int, ...], positions: int, dim: int, with_bn: bool
) -> State:
    draw = Draw()
    widths, inp = (8, 12, 16, 20), 3
    for stage, (width, count) in enumerate(zip(widths, blocks, strict=True), 1):
        for block in range(count + 1):
            for layer in (1,) if block == 0 else (1, 2):
                name = f'layer{stage}.{block}'
                draw.conv(f'{name}.conv{layer}', width, inp, 3, bias=not with_bn)
                if with_bn:
                    draw.norm(f'{name}.bn{layer}', width)
                inp = width
    draw.linear('fc', dim, inp * positions)
    if with_bn:
        draw.norm('features', dim)
    return draw.state


def sfnet(s: State, x: Tensor, paper: bool) -> Tensor:
    def layer(x: Tensor, name: str, number: int, stride: int) -> Tensor:
        x = conv(s, f'{name}.conv{number}', x, stride)
        bn = f'{name}.bn{number}'
        return norm(s, bn, x) if f'{bn}.weight' in s else x

    for stage in range(1, 5):
        x = layer(x, f'layer{stage}.0', 1, 2).relu()
        block = 1
        while f'layer{stage}.{block}.conv1.weight' in s:
            name = f'layer{stage}.{block}'
            out = layer(layer(x, name, 1, 1).relu(), name, 2, 1)
            x = out.relu() + x if paper else (out + x).relu()
            block += 1
    x = linear(s, 'fc', x)
    return norm(s, 'features', x) if 'features.weight' in s else x


MOBILE_BLOCKS = (  # name, channels in, hidden, out
    ('dconv_23', 64, 128, 64),
    *((f'res_3.model.block{i}', 64, 128, 64) for i in range(4)),
    ('dconv_34', 64, 256, 128),
    *((f'res_4.model.block{i}', 128, 256, 128) for i in range(6)),
    ('dconv_45', 128, 512, 128),
    *((f'res_5.model.block{i}', 128, 256, 128) for i in range(2)),
)


def mobilefacenet_state(side: int, dim: int) -> State:
    draw = Draw()

    def layer(name: str, out: int, inp: int, kernel: int, act: bool = True) -> None:
        draw.conv(f'{name}.conv2d', out, inp, kernel)
        draw.norm(f'{name}.batchnorm', out)
        if act:
            draw.prelu(f'{name}.relu', out)

    layer('conv_1', 64, 3, 3)
    layer('conv_2_dw', 64, 1, 3)
    for name, inp, hidden, out in MOBILE_BLOCKS:
        layer(f'{name}.conv_sep', hidden, inp, 1)
        layer(f'{name}.conv_dw', hidden, 1, 3)
        layer(f'{name}.conv_proj', out, hidden, 1, act=False)
    layer('conv_6sep', 512, 128, 1)
    layer('conv_6dw7_7', 512, 1, side, act=False)
    draw.linear('pre_fc1', dim, 512)
    draw.norm('fc1', dim)
    return draw.state


def mobilefacenet(s: State, x: Tensor) -> Tensor:
    def layer(name: str, x: Tensor, stride: int = 1, groups: int = 1) -> Tensor:
        weight = s[f'{name}.conv2d.weight']
        pad = 0 if name == 'conv_6dw7_7' else weight.shape[-1] // 2
        x = F.conv2d(x, weight, None, stride, pad, groups=groups)
        x = norm(s, f'{name}.batchnorm', x, eps=1e-3)
        act = f'{name}.relu'
        return prelu(s, act, x) if f'{act}.weight' in s else x

    x = layer('conv_2_dw', layer('conv_1', x, 2), groups=64)
    for name, _, hidden, _ in MOBILE_BLOCKS:
        stride = 2 if name.startswith('dconv') else 1
        out = layer(f'{name}.conv_sep', x)
        out = layer(f'{name}.conv_dw', out, stride, groups=hidden)
        out = layer(f'{name}.conv_proj', out)
        x = out if stride == 2 else x + out
    x = layer('conv_6dw7_7', layer('conv_6sep', x), groups=512)
    return norm(s, 'fc1', linear(s, 'pre_fc1', x), eps=2e-5)
