"""IResNet, the improved residual network of ArcFace.

Deng et al., ArcFace, CVPR 2019, arXiv:1801.07698, section 3.1; the block is
that of Han et al., Deep Pyramidal Residual Networks, arXiv:1610.02915.
"""

from collections.abc import Iterable
from typing import Any

from torch import Tensor, nn

from mmhyperface.registry import MODELS

from .base import BatchNorm2d, FaceBackbone, choose

BLOCKS = {
    18: (2, 2, 2, 2),
    34: (3, 4, 6, 3),
    50: (3, 4, 14, 3),
    100: (3, 13, 30, 3),
    200: (6, 26, 60, 6),
}
WIDTHS = (64, 128, 256, 512)


class IBasicBlock(nn.Module):
    """BN, conv, BN, PReLU, strided conv, BN; nothing after the addition."""

    def __init__(self, in_channels: int, channels: int, stride: int) -> None:
        super().__init__()
        self.bn1 = BatchNorm2d(in_channels)
        self.conv1 = nn.Conv2d(in_channels, channels, 3, padding=1, bias=False)
        self.bn2 = BatchNorm2d(channels)
        self.prelu = nn.PReLU(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, stride, padding=1, bias=False)
        self.bn3 = BatchNorm2d(channels)
        self.downsample: nn.Module = nn.Identity()
        if stride != 1 or in_channels != channels:
            self.downsample = nn.Sequential(
                nn.Conv2d(in_channels, channels, 1, stride, bias=False),
                BatchNorm2d(channels),
            )

    def forward(self, x: Tensor) -> Tensor:
        out = self.prelu(self.bn2(self.conv1(self.bn1(x))))
        return self.bn3(self.conv2(out)) + self.downsample(x)


@MODELS.register_module()
class IResNet(FaceBackbone):
    """IResNet-18, 34, 50, 100 or 200.

    Parameters are named as in insightface's arcface_torch, whose weights load as
    they are: https://github.com/deepinsight/insightface. Weights start as
    there: convolutions from N(0, 0.1²).

    Args:
        features_init: First value of the last batch norm's weight: what an
            embedding's norm starts from, in units of sqrt(embedding_size).
        freeze_features: Keep that weight where it starts, as insightface does;
            OpenSphere's newer recipes train it from 0.1.

    See :class:`FaceBackbone` for the other arguments, the shapes and the errors.
    """

    def __init__(
        self,
        depth: int,
        in_channels: int = 3,
        embedding_size: int = 512,
        input_size: int | tuple[int, int] = 112,
        dropout: float = 0.0,
        features_init: float = 1.0,
        freeze_features: bool = True,
        *args: Any,
        **options: Any,
    ) -> None:
        super().__init__(in_channels, embedding_size, input_size, *args, **options)
        blocks = choose('IResNet', 'depth', depth, BLOCKS)
        self.conv1 = nn.Conv2d(self.in_channels, 64, 3, padding=1, bias=False)
        self.bn1 = BatchNorm2d(64)
        self.prelu = nn.PReLU(64)
        self.layer1 = _stage(64, WIDTHS[0], blocks[0])
        self.layer2 = _stage(WIDTHS[0], WIDTHS[1], blocks[1])
        self.layer3 = _stage(WIDTHS[1], WIDTHS[2], blocks[2])
        self.layer4 = _stage(WIDTHS[2], WIDTHS[3], blocks[3])
        self.bn2 = BatchNorm2d(WIDTHS[3])
        self.dropout = nn.Dropout(dropout)
        height, width = self.map_size
        self.fc = nn.Linear(WIDTHS[3] * height * width, self.out_channels)
        self.features = nn.BatchNorm1d(self.out_channels)

        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.normal_(module.weight, std=0.1)
        nn.init.constant_(self.features.weight, features_init)
        self.features.weight.requires_grad_(not freeze_features)
        self.freeze()

    def stages(self) -> list[Iterable[nn.Module]]:
        return [
            [self.conv1, self.bn1, self.prelu],
            self.layer1,
            self.layer2,
            self.layer3,
            self.layer4,
            [self.bn2, self.flatten, self.dropout, self.fc, self.features],
        ]


def _stage(in_channels: int, channels: int, blocks: int) -> nn.Sequential:
    first = IBasicBlock(in_channels, channels, stride=2)
    rest = [IBasicBlock(channels, channels, stride=1) for _ in range(blocks - 1)]
    return nn.Sequential(first, *rest)
