"""SFNet, the plain residual networks of SphereFace.

Liu et al., SphereFace, CVPR 2017, arXiv:1704.08063, table 2; as implemented in
https://github.com/ydwen/opensphere, which has ReLU where the paper has PReLU.
"""

from collections.abc import Iterable, Sequence
from functools import partial
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from mmhyperface.registry import MODELS
from mmhyperface.utils.errors import UserError

from .base import BatchNorm2d, FaceBackbone, choose

BLOCKS = {
    4: (0, 0, 0, 0),
    10: (0, 1, 2, 0),
    20: (1, 2, 4, 1),
    36: (2, 4, 8, 2),
    64: (3, 8, 16, 3),
}

# variant: (ReLU before the addition, initial weights of the convolutions)
VARIANTS = {
    'paper': (True, nn.init.xavier_normal_),
    'opensphere': (False, partial(nn.init.kaiming_normal_, mode='fan_out')),
}


def _conv_bn(
    in_channels: int, channels: int, stride: int, with_bn: bool
) -> tuple[nn.Module, nn.Module]:
    conv = nn.Conv2d(in_channels, channels, 3, stride, padding=1, bias=not with_bn)
    return conv, BatchNorm2d(channels) if with_bn else nn.Identity()


class ConvBlock(nn.Module):
    """The strided convolution that opens a stage."""

    def __init__(self, in_channels: int, channels: int, with_bn: bool) -> None:
        super().__init__()
        self.conv1, self.bn1 = _conv_bn(in_channels, channels, 2, with_bn)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.bn1(self.conv1(x)), inplace=True)


class ResidualBlock(nn.Module):
    """Two convolutions and the identity; the last ReLU before or after adding it."""

    def __init__(self, channels: int, with_bn: bool, relu_before_add: bool) -> None:
        super().__init__()
        self.conv1, self.bn1 = _conv_bn(channels, channels, 1, with_bn)
        self.conv2, self.bn2 = _conv_bn(channels, channels, 1, with_bn)
        self.relu_before_add = relu_before_add

    def forward(self, x: Tensor) -> Tensor:
        out = F.relu(self.bn1(self.conv1(x)), inplace=True)
        out = self.bn2(self.conv2(out))
        if self.relu_before_add:
            return F.relu(out, inplace=True) + x
        return F.relu(out + x, inplace=True)


@MODELS.register_module()
class SFNet(FaceBackbone):
    """SFNet-4, 10, 20, 36 or 64.

    Parameters are named as in OpenSphere, whose weights load as they are.

    Args:
        variant: ``'paper'``, the net of the published tables (OpenSphere's
            ``sfnet*_deprecated``): ReLU before the addition, Xavier-normal
            weights. ``'opensphere'``, its newer ``sfnet*``: ReLU after the
            addition, Kaiming-normal weights.
        with_bn: A batch norm after every convolution (which then has no bias) and
            after the last layer. OpenSphere has it in the newer variant only.
        features_init: First value of the last batch norm's weight, where there
            is one; OpenSphere's older revision starts at 1, its newer at 0.1.
        freeze_features: Keep that weight where it starts.
        widths: Channels of the four stages.

    See :class:`FaceBackbone` for the other arguments, the shapes and the errors.
    """

    def __init__(
        self,
        depth: int,
        variant: str = 'paper',
        with_bn: bool = False,
        widths: Sequence[int] = (64, 128, 256, 512),
        in_channels: int = 3,
        embedding_size: int = 512,
        input_size: int | tuple[int, int] = 112,
        dropout: float = 0.0,
        features_init: float = 1.0,
        freeze_features: bool = False,
        *args: Any,
        **options: Any,
    ) -> None:
        super().__init__(in_channels, embedding_size, input_size, *args, **options)
        blocks = choose('SFNet', 'depth', depth, BLOCKS)
        relu_before_add, init = choose('SFNet', 'variant', variant, VARIANTS)
        if len(widths) != 4:
            raise UserError(
                f'SFNet has four stages, so four widths, not {widths!r}: set '
                'model.backbone.widths.'
            )

        def stage(in_channels: int, index: int) -> nn.Sequential:
            width = widths[index]
            residual = (
                ResidualBlock(width, with_bn, relu_before_add)
                for _ in range(blocks[index])
            )
            return nn.Sequential(ConvBlock(in_channels, width, with_bn), *residual)

        self.layer1 = stage(self.in_channels, 0)
        self.layer2 = stage(widths[0], 1)
        self.layer3 = stage(widths[1], 2)
        self.layer4 = stage(widths[2], 3)
        self.dropout = nn.Dropout(dropout)
        height, width = self.map_size
        self.fc = nn.Linear(widths[3] * height * width, self.out_channels)
        self.features: nn.Module = nn.Identity()
        if with_bn:
            self.features = nn.BatchNorm1d(self.out_channels)
            nn.init.constant_(self.features.weight, features_init)
            self.features.weight.requires_grad_(not freeze_features)

        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                init(module.weight)
        self.freeze()

    def stages(self) -> list[Iterable[nn.Module]]:
        # Without a stem.
        return [
            [],
            self.layer1,
            self.layer2,
            self.layer3,
            self.layer4,
            [self.flatten, self.dropout, self.fc, self.features],
        ]
