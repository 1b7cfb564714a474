"""IR, the sibling of IResNet that SFace, AdaFace, TFace and CVLface train.

It comes from https://github.com/ZhaoJ9014/face.evoLVe, and its residual block
from Deng et al., ArcFace, CVPR 2019, arXiv:1801.07698. Against IResNet, a
shortcut has no parameters where the width stays, and one of two variants has no
batch norm between a block's convolutions.
"""

from functools import partial
from itertools import islice
from typing import Any

from torch import Tensor, nn

from mmhyperface.registry import MODELS

from .base import BatchNorm2d, FaceBackbone, choose

BLOCKS = {
    18: (2, 2, 2, 2),
    34: (3, 4, 6, 3),
    50: (3, 4, 14, 3),
    101: (3, 13, 30, 3),
}
WIDTHS = (64, 128, 256, 512)

# variant: (batch norm between a block's convolutions, affine last batch norm,
# initial weights)
VARIANTS = {
    'evolve': (False, True, nn.init.xavier_uniform_),
    'tface': (True, False, partial(nn.init.kaiming_normal_, mode='fan_out')),
}


class IRBlock(nn.Module):
    """BN, conv, (BN,) PReLU, strided conv, BN; nothing after the addition."""

    def __init__(
        self, in_channels: int, channels: int, stride: int, inner_bn: bool
    ) -> None:
        super().__init__()
        if in_channels == channels:
            # A window of one pixel: it only subsamples.
            self.shortcut_layer: nn.Module = nn.MaxPool2d(1, stride)
        else:
            self.shortcut_layer = nn.Sequential(
                nn.Conv2d(in_channels, channels, 1, stride, bias=False),
                BatchNorm2d(channels),
            )
        self.res_layer = nn.Sequential(
            BatchNorm2d(in_channels),
            nn.Conv2d(in_channels, channels, 3, padding=1, bias=False),
            *([BatchNorm2d(channels)] if inner_bn else []),
            nn.PReLU(channels),
            nn.Conv2d(channels, channels, 3, stride, padding=1, bias=False),
            BatchNorm2d(channels),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.res_layer(x) + self.shortcut_layer(x)


@MODELS.register_module()
class IR(FaceBackbone):
    """IR-18, 34, 50 or 101.

    Parameters are named as in the repositories below. Where the input of their
    authors is not ours, (x − 127.5) / 127.5 in RGB, their converters in
    ``tools/model_converters`` change the first layer: SFace feeds (x − 127.5) ·
    0.078125 (its forward pass holds this), AdaFace BGR, as do some of CVLface.

    Args:
        variant: ``'evolve'`` for face.evoLVe and SFace
            (https://github.com/zhongyy/SFace): no batch norm between a block's
            convolutions, Xavier-uniform weights. ``'tface'`` for TFace, AdaFace
            and CVLface (https://github.com/mk-minchul/CVLface): with it, last
            batch norm without weight and bias, Kaiming-normal weights.
        dropout: SFace was trained with 0.5, AdaFace with 0.4.

    See :class:`FaceBackbone` for the other arguments, the shapes and the errors.
    """

    def __init__(
        self,
        depth: int,
        variant: str = 'evolve',
        in_channels: int = 3,
        embedding_size: int = 512,
        input_size: int | tuple[int, int] = 112,
        dropout: float = 0.0,
        *args: Any,
        **options: Any,
    ) -> None:
        super().__init__(in_channels, embedding_size, input_size, *args, **options)
        stages = choose('IR', 'depth', depth, BLOCKS)
        self.depth = depth
        inner_bn, affine, init = choose('IR', 'variant', variant, VARIANTS)
        self.input_layer = nn.Sequential(
            nn.Conv2d(self.in_channels, 64, 3, padding=1, bias=False),
            BatchNorm2d(64),
            nn.PReLU(64),
        )
        self.body = nn.Sequential()
        channels = 64
        for width, blocks in zip(WIDTHS, stages, strict=True):
            for index in range(blocks):
                stride = 2 if index == 0 else 1
                self.body.append(IRBlock(channels, width, stride, inner_bn))
                channels = width
        height, width = self.map_size
        self.output_layer = nn.Sequential(
            BatchNorm2d(channels),
            nn.Dropout(dropout),
            nn.Flatten(),
            nn.Linear(channels * height * width, self.out_channels),
            nn.BatchNorm1d(self.out_channels, affine=affine),
        )

        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                init(module.weight)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        self.freeze()

    def stages(self) -> list[list[nn.Module]]:
        blocks = iter(self.body)
        return [
            [self.input_layer],
            *(list(islice(blocks, count)) for count in BLOCKS[self.depth]),
            [self.output_layer],
        ]
