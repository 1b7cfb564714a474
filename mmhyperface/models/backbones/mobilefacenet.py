"""MobileFaceNet: a million parameters, for phones and quick experiments.

Chen et al., MobileFaceNets, CCBR 2018, arXiv:1804.07573, table 1.
"""

from collections import OrderedDict
from typing import Any

from torch import Tensor, nn

from mmhyperface.registry import MODELS

from .base import BatchNorm2d, FaceBackbone


def _conv(
    in_channels: int,
    channels: int,
    kernel: int | tuple[int, int] = 1,
    stride: int = 1,
    padding: int = 0,
    groups: int = 1,
    act: bool = True,
) -> nn.Sequential:
    conv = nn.Conv2d(
        in_channels, channels, kernel, stride, padding, groups=groups, bias=False
    )
    layers = OrderedDict[str, nn.Module](
        conv2d=conv, batchnorm=BatchNorm2d(channels, eps=1e-3)
    )
    if act:
        layers['relu'] = nn.PReLU(channels)
    return nn.Sequential(layers)


class Bottleneck(nn.Module):
    """Widen (1×1), filter each channel (3×3), narrow without activation (1×1).

    The input is added unless the block halves the image.
    """

    def __init__(
        self, in_channels: int, channels: int, hidden: int, stride: int
    ) -> None:
        super().__init__()
        self.conv_sep = _conv(in_channels, hidden)
        self.conv_dw = _conv(hidden, hidden, 3, stride, padding=1, groups=hidden)
        self.conv_proj = _conv(hidden, channels, act=False)
        self.residual = stride == 1

    def forward(self, x: Tensor) -> Tensor:
        out = self.conv_proj(self.conv_dw(self.conv_sep(x)))
        return x + out if self.residual else out


def _residual(channels: int, hidden: int, count: int) -> nn.Sequential:
    blocks = OrderedDict[str, nn.Module](
        (f'block{index}', Bottleneck(channels, channels, hidden, stride=1))
        for index in range(count)
    )
    return nn.Sequential(OrderedDict(model=nn.Sequential(blocks)))


@MODELS.register_module()
class MobileFaceNet(FaceBackbone):
    """MobileFaceNet with a global depthwise convolution in place of a pooling.

    1,201,024 parameters with 512-d embeddings. Parameters are named as in SFace
    (https://github.com/zhongyy/SFace), whose input is (x − 127.5) · 0.078125:
    ``tools/model_converters/sface_to_mmhyperface.py`` puts the factor into the first
    layer. Weights start as PyTorch draws them, as there. insightface's ``mbf`` is
    another, wider net.

    See :class:`FaceBackbone` for the arguments, the shapes and the errors.
    """

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.conv_1 = _conv(self.in_channels, 64, 3, stride=2, padding=1)
        self.conv_2_dw = _conv(64, 64, 3, padding=1, groups=64)
        self.dconv_23 = Bottleneck(64, 64, hidden=128, stride=2)
        self.res_3 = _residual(64, hidden=128, count=4)
        self.dconv_34 = Bottleneck(64, 128, hidden=256, stride=2)
        self.res_4 = _residual(128, hidden=256, count=6)
        self.dconv_45 = Bottleneck(128, 128, hidden=512, stride=2)
        self.res_5 = _residual(128, hidden=256, count=2)
        self.conv_6sep = _conv(128, 512)
        # As large as the map: a learned weight per position, not an average.
        self.conv_6dw7_7 = _conv(512, 512, self.map_size, groups=512, act=False)
        self.pre_fc1 = nn.Linear(512, self.out_channels)
        self.fc1 = nn.BatchNorm1d(self.out_channels, eps=2e-5)
        self.freeze()

    def stages(self) -> list[list[nn.Module]]:
        return [
            [self.conv_1, self.conv_2_dw],
            [self.dconv_23, self.res_3],
            [self.dconv_34, self.res_4],
            [self.dconv_45, self.res_5],
            [self.conv_6sep, self.conv_6dw7_7, self.flatten, self.pre_fc1, self.fc1],
        ]
