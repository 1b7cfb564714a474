"""A face embedding on top of any backbone of mmpretrain."""

from collections.abc import Sequence

from mmengine.model import BaseModule
from mmengine.utils import to_2tuple
from torch import Tensor, nn

from mmhyperface.models.backbones.base import keep_statistics
from mmhyperface.registry import MODELS
from mmhyperface.utils.errors import UserError, require_one_of

POOLINGS = ('flatten', 'gap', 'gdc')


@MODELS.register_module()
class EmbeddingNeck(BaseModule):
    """Feature maps of a general backbone to ``(embeddings [B, D],)``.

    BN, dropout, pooling, FC, BN: the end of ArcFace's IResNet
    (arXiv:1801.07698). Of a tuple of features the last is used, as mmpretrain's
    heads do:

    - a map [B, C, H, W]: a CNN, or a transformer's ``out_type='featmap'``;
    - tokens [B, L, C]: ``out_type='raw'`` without class token, L = H · W;
    - a vector [B, C]: ``out_type='cls_token'`` or ``'avg_featmap'``.

    Args:
        in_channels: C.
        embedding_size: D.
        input_size: (H, W) of the incoming map, one number for squares: for a
            ResNet (stride 32) and 112×112 faces it is 4. None where there is no
            map, or where it does not matter ('gap').
        pooling: ``'flatten'`` gives every position its own weights in the FC;
            ``'gdc'``, a global depthwise convolution (MobileFaceNets,
            arXiv:1804.07573), sums them with learned weights per channel, a far
            smaller FC; ``'gap'`` averages them.
        features_init: First value of the last batch norm's weight.
        freeze_features: Keep that weight where it starts, as insightface does.
        norm_eval: Keep the running statistics of the batch norms and use them in
            training too.
    """

    def __init__(
        self,
        in_channels: int,
        embedding_size: int = 512,
        input_size: int | tuple[int, int] | None = None,
        pooling: str = 'flatten',
        dropout: float = 0.0,
        features_init: float = 1.0,
        freeze_features: bool = True,
        norm_eval: bool = False,
        init_cfg: dict | list[dict] | None = None,
    ) -> None:
        super().__init__(init_cfg)
        require_one_of(self, 'model.neck.pooling', pooling, POOLINGS)
        self.in_channels = in_channels
        self.out_channels = embedding_size
        self.input_size = tuple(to_2tuple(1 if input_size is None else input_size))
        self.pooling = pooling
        self.norm_eval = norm_eval

        positions = self.input_size[0] * self.input_size[1]
        # Every input is brought to [B, C, L], so one kind of norm serves all.
        self.bn = nn.BatchNorm1d(in_channels)
        self.dropout = nn.Dropout(dropout)
        self.gdc: nn.Module = nn.Identity()
        if pooling == 'gdc':
            self.gdc = nn.Sequential(
                nn.Conv1d(
                    in_channels, in_channels, positions, groups=in_channels, bias=False
                ),
                nn.BatchNorm1d(in_channels),
            )
        fc_channels = in_channels * (positions if pooling == 'flatten' else 1)
        self.fc = nn.Linear(fc_channels, embedding_size)
        self.features = nn.BatchNorm1d(embedding_size)
        nn.init.constant_(self.features.weight, features_init)
        self.features.weight.requires_grad_(not freeze_features)

    def train(self, mode: bool = True) -> 'EmbeddingNeck':
        """As in any module, but for ``norm_eval``."""
        super().train(mode)
        if mode and self.norm_eval:
            keep_statistics(self)
        return self

    def forward(self, feats: Tensor | Sequence[Tensor]) -> tuple[Tensor]:
        """Raises UserError when the features do not have the shape built for."""
        x = self._channels_first(feats if isinstance(feats, Tensor) else feats[-1])
        x = self.dropout(self.bn(x))
        x = x.mean(-1) if self.pooling == 'gap' else self.gdc(x).flatten(1)
        return (self.features(self.fc(x)),)

    def _channels_first(self, x: Tensor) -> Tensor:
        """A map, tokens or a vector to [B, C, L]."""
        height, width = self.input_size
        if x.ndim == 4:
            flat, fits = x.flatten(2), x.shape[2:] == self.input_size
        elif x.ndim == 3:
            flat, fits = x.transpose(1, 2), x.shape[1] == height * width
        elif x.ndim == 2:
            flat, fits = x.unsqueeze(2), height * width == 1
        else:
            raise UserError(
                f'EmbeddingNeck got features of shape {list(x.shape)}: it takes '
                '[B, C, H, W], [B, L, C] or [B, C].'
            )
        channels = flat.shape[1]
        if channels != self.in_channels:
            raise UserError(
                f'EmbeddingNeck got features of shape {list(x.shape)}, so '
                f'{channels} channels, but was built for in_channels='
                f'{self.in_channels}: set model.neck.in_channels={channels}.'
            )
        if not fits and self.pooling != 'gap':
            raise UserError(
                f'EmbeddingNeck got features of shape {list(x.shape)}, but was built '
                f'for {height} x {width} positions: set model.neck.input_size to the '
                "backbone's map, or model.neck.pooling='gap', which takes any size."
            )
        return flat
