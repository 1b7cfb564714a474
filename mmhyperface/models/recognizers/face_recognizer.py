"""The whole network: pixels to loss in training, to embeddings in testing."""

from typing import Any

import torch
from mmengine.model import BaseModel
from mmpretrain.structures import DataSample
from torch import Tensor, nn

from mmhyperface.models.face_samples import FaceSamples
from mmhyperface.models.heads import HypersphereHead
from mmhyperface.registry import MODELS
from mmhyperface.utils.choices import FLIP_FUSIONS
from mmhyperface.utils.errors import UserError, require_one_of
from mmhyperface.utils.global_batch import mean_over_ranks

# Of red, green and blue: ITU-R BT.601, as OpenCV makes colours grey.
LUMA = (0.299, 0.587, 0.114)


def image_channels(backbone: nn.Module) -> int:
    """The channels of the images that a backbone takes: 3, or 1 for grey ones."""
    # Not its in_channels, which some of mmpretrain's leave at those of the last stage.
    convolutions = (m for m in backbone.modules() if isinstance(m, nn.Conv2d))
    first = next(convolutions, None)
    return 3 if first is None else first.in_channels


def _build(module: dict | nn.Module | None) -> Any:
    return MODELS.build(module) if isinstance(module, dict) else module


def _drop_head(state_dict: dict, prefix: str, *_: object) -> None:
    """A network that only embeds ignores the class centres of a checkpoint."""
    for key in [key for key in state_dict if key.startswith(f'{prefix}head.')]:
        del state_dict[key]


@MODELS.register_module()
class FaceRecognizer(BaseModel):
    """Data preprocessor, backbone, optional neck and head.

    Args:
        backbone: Config of a backbone that gives a tuple whose last entry is the
            embedding [B, D], or whatever the neck takes. One that is built for one
            channel (``in_channels=1``) gets the images' luma.
        head: Config of the head; None for a network that only embeds.
        neck: Config of a neck, such as :class:`EmbeddingNeck`.
        flip_fusion: How ``predict`` fuses an image and its mirror image: ``sum``
            of the two embeddings (the field's protocol), ``none``, or ``concat``.
        data_preprocessor: Config of the preprocessor, by default
            :class:`FaceDataPreprocessor`.
        init_cfg: See mmengine's ``BaseModule``.

    Attributes:
        classifies: Whether ``predict`` also tells who of the training identities each
            face is. ``ClassCountHook`` sets it for metrics of mmpretrain that ask.
    """

    def __init__(
        self,
        backbone: dict | nn.Module,
        head: dict | nn.Module | None = None,
        neck: dict | nn.Module | None = None,
        flip_fusion: str = 'sum',
        data_preprocessor: dict | nn.Module | None = None,
        init_cfg: dict | None = None,
    ) -> None:
        if data_preprocessor is None:
            data_preprocessor = {}
        if isinstance(data_preprocessor, dict):
            data_preprocessor = MODELS.build(
                dict({'type': 'FaceDataPreprocessor'}, **data_preprocessor)
            )
        super().__init__(data_preprocessor, init_cfg)
        require_one_of(self, 'model.flip_fusion', flip_fusion, FLIP_FUSIONS)
        self.flip_fusion = flip_fusion
        self.backbone = _build(backbone)
        if getattr(self.data_preprocessor, 'channels_last', False):
            # Else each convolution would bring its weights into the input's layout.
            self.backbone.to(memory_format=torch.channels_last)
        luma = None
        if image_channels(self.backbone) == 1:
            is_rgb = getattr(self.data_preprocessor, 'to_rgb', True)
            luma = torch.tensor(LUMA if is_rgb else LUMA[::-1]).view(-1, 1, 1)
        self.register_buffer('luma', luma, persistent=False)
        self.neck = _build(neck)
        self.head = _build(head)
        self.classifies = False
        if self.head is None:
            self._register_load_state_dict_pre_hook(_drop_head)

    def forward(
        self,
        inputs: Tensor,
        data_samples: list[DataSample] | FaceSamples | None = None,
        mode: str = 'tensor',
    ) -> Tensor | dict[str, Tensor] | list[DataSample]:
        """Run the network in one of three modes.

        Args:
            inputs: Preprocessed images, [B, 3, H, W].
            data_samples: One per image; ``loss`` needs their ``gt_label``.
            mode: ``loss`` gives the dict of losses; ``predict`` the data samples
                with ``embedding`` set; ``tensor`` the embeddings [B, D] of the
                images as they are, without flip fusion.
        """
        if mode == 'tensor':
            return self.extract_feat(inputs)[-1]
        if mode == 'loss':
            return self.loss(inputs, [] if data_samples is None else data_samples)
        if mode == 'predict':
            return self.predict(inputs, data_samples)
        raise UserError(
            f'FaceRecognizer: mode must be tensor, loss or predict, got {mode!r}'
        )

    def extract_feat(self, inputs: Tensor) -> tuple[Tensor, ...]:
        """Features of backbone and neck; the last is the embedding [B, D]."""
        if self.luma is not None and inputs.shape[1] == 3:
            inputs = (inputs * self.luma).sum(1, keepdim=True)
        try:
            feats = self.backbone(inputs)
            if self.neck is not None:
                feats = self.neck(feats)
        except Exception as error:
            # Of torch's batch norm, or of whoever has compiled it.
            if len(inputs) != 1 or 'more than 1 value per channel' not in str(error):
                raise
            raise UserError(
                'FaceRecognizer: batch norm cannot train on a single image, and this '
                f'batch is one, {list(inputs.shape)}. If it is what is left over at '
                'the end of an epoch, set train_dataloader.drop_last=True; otherwise '
                'set train_dataloader.batch_size, which counts the images of each '
                'process, to 2 or more, or model.backbone.norm_eval=True'
            ) from error
        if not isinstance(feats, tuple | list):
            raise UserError(
                'FaceRecognizer: backbone and neck must give a tuple of features, as '
                f"mmpretrain's do, got {type(feats).__name__}"
            )
        return tuple(feats)

    def loss(
        self, inputs: Tensor, data_samples: list[DataSample] | FaceSamples
    ) -> dict[str, Tensor]:
        """Losses of a batch: see the head's ``loss``."""
        if self.head is None:
            raise UserError('FaceRecognizer: training needs a head; set model.head')
        return self.head.loss(self.extract_feat(inputs), data_samples)

    def parse_losses(
        self, losses: dict[str, Tensor]
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss to minimise, and the logged scalars of the global batch."""
        loss, scalars = super().parse_losses(losses)
        return loss, mean_over_ranks(scalars)

    def embed(self, inputs: Tensor) -> Tensor:
        """Embeddings with flip fusion: fp32 [B, D], [B, 2D] for ``concat``."""
        embeddings = self.extract_feat(inputs)[-1].float()
        if self.flip_fusion == 'none':
            return embeddings
        mirrored = self.extract_feat(inputs.flip(-1))[-1].float()
        if self.flip_fusion == 'sum':
            return embeddings + mirrored
        return torch.cat([embeddings, mirrored], dim=1)

    def predict(
        self, inputs: Tensor, data_samples: list[DataSample] | FaceSamples | None = None
    ) -> list[DataSample]:
        """Data samples with ``embedding`` set: fp32 [D], [2D] for ``concat``.

        They tell how the mirror image was fused, too: ``flip_fusion``. With
        ``classifies``, also ``pred_score``, (1 + cosine) / 2 to all centres of the
        head [C], and ``pred_label``, the nearest.

        Embeddings are not normalised: their norm tells the image's quality, and
        the protocols that need unit vectors normalise.
        """
        embeddings = self.embed(inputs)
        samples = list(data_samples or [DataSample() for _ in embeddings])
        if self.classifies:
            parts = 2 if self.flip_fusion == 'concat' else 1
            self.head.predict((sum(embeddings.chunk(parts, dim=1)),), samples)
            if isinstance(self.head, HypersphereHead):
                for sample in samples:
                    # Accuracy takes a score of 0 or less for no answer at all.
                    sample.set_pred_score((1 + sample.pred_score) / 2)
        for sample, embedding in zip(samples, embeddings, strict=True):
            sample.set_field(embedding, 'embedding')
            sample.set_metainfo({'flip_fusion': self.flip_fusion})
        return samples
