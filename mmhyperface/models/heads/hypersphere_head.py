"""The classifier on the hypersphere: geometry, without any margin.

Legend of shapes: B samples, C classes, D dimensions.
"""

import numpy as np
import torch
from mmengine.model import BaseModule
from mmpretrain.structures import DataSample
from torch import Tensor, nn

from mmhyperface.dist import gather_batch
from mmhyperface.errors import UserError
from mmhyperface.models.losses import HypersphereLoss
from mmhyperface.ops import dense, unit
from mmhyperface.registry import MODELS

CENTRES = ('normalize', 'project')


def build_loss(loss: dict | nn.Module) -> HypersphereLoss:
    """The loss of a config, or the loss itself."""
    module = MODELS.build(loss) if isinstance(loss, dict) else loss
    if not isinstance(module, HypersphereLoss):
        raise UserError(
            f'HypersphereHead: {type(module).__name__} is no loss of the cosine; '
            'derive it from mmhyperface.models.losses.SoftmaxLoss or DecoupledLoss'
        )
    return module


@MODELS.register_module()
class HypersphereHead(BaseModule):
    """Class centres on the unit sphere under any loss of the cosine.

    It follows the interface of mmpretrain's heads and works in its
    ``ImageClassifier`` too. Cosines are computed in fp32 (or fp64, for such
    features), also under autocast, and clamped to [-1, 1].

    Args:
        num_classes: Number of identities C, at least 2.
        in_channels: Dimension D of the embedding.
        loss: A :class:`HypersphereLoss` or its config.
        centres: How the centres come to the sphere. ``normalize`` divides by their
            norm in the graph (insightface, SFace): the gradient is tangential and
            weight decay shrinks the norms. ``project`` puts the centres themselves
            back on the sphere before each training step and takes the gradient as
            if they were free (OpenSphere; the published SphereFace, SphereFace-R
            and SphereFace2 recipes): weight decay and momentum then act on unit
            vectors.
        init_std: Standard deviation of the initial centres; by default Xavier
            normal, sqrt(2 / (C + D)). insightface takes 0.01.
        init_cfg: See mmengine's ``BaseModule``.

    Raises:
        UserError: For arguments out of range, features of another dimension or
            labels outside [0, C).
    """

    loss_module: HypersphereLoss

    def __init__(
        self,
        num_classes: int,
        in_channels: int,
        loss: dict | nn.Module,
        centres: str = 'normalize',
        init_std: float | None = None,
        init_cfg: dict | None = None,
    ) -> None:
        super().__init__(init_cfg)
        if not isinstance(num_classes, int | np.integer) or num_classes < 2:
            raise UserError(
                'HypersphereHead: num_classes must be a number of at least 2, got '
                f'{num_classes!r}; set model.head.num_classes to the number of '
                "identities ('auto' is for tools/train.py, which counts them)"
            )
        if centres not in CENTRES:
            raise UserError(
                f'HypersphereHead: centres must be one of {CENTRES}, got {centres!r}'
            )
        self.num_classes = num_classes
        self.in_channels = in_channels
        self.centres = centres
        self.init_std = init_std
        self.weight = nn.Parameter(torch.empty(num_classes, in_channels))
        self.loss_module = build_loss(loss)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the centres and initialise the loss for the number of classes."""
        xavier = (2 / (self.num_classes + self.in_channels)) ** 0.5
        std = xavier if self.init_std is None else self.init_std
        nn.init.normal_(self.weight, std=std)
        self.loss_module.reset_parameters(self.num_classes)

    def forward(self, feats: tuple[Tensor, ...] | Tensor) -> Tensor:
        """Cosines [B, C] of the last feature of the tuple to all centres."""
        with torch.autocast(self.weight.device.type, enabled=False):
            x, _ = unit(self._embedding(feats))
            centres, _ = unit(self.weight.to(x.dtype))
            return (x @ centres.T).clamp(-1, 1)

    def loss(
        self,
        feats: tuple[Tensor, ...] | Tensor,
        data_samples: list[DataSample],
        **kwargs: object,
    ) -> dict[str, Tensor]:
        """The loss of a batch and what is worth watching.

        Returns:
            ``loss``, and without gradient ``cos_own`` and ``cos_hardest`` (mean
            cosine to the own centre and to the nearest other), ``feature_norm``
            (mean) and the loss's own ``monitor`` values.
        """
        with torch.autocast(self.weight.device.type, enabled=False):
            embedding = self._embedding(feats)
            return self._loss(embedding, self._target(data_samples, len(embedding)))

    def _loss(self, feats: Tensor, target: Tensor) -> dict[str, Tensor]:
        if self._on_sphere:
            self._project()
        x, norm = unit(feats)
        own = (x * self._centres(target, x.dtype)).sum(1, keepdim=True).clamp(-1, 1)
        if self.training and self.loss_module.keeps_statistics:
            self.loss_module.observe(gather_batch(own), gather_batch(norm))
        context = self.loss_module.context(own, norm)
        own_term = self.loss_module.target(own, context)
        folded, hardest = dense(
            x, self.weight, self._on_sphere, target, context, self.loss_module
        )
        data_term = self.loss_module.join(own_term, folded).mean()
        loss = self.loss_module.objective(
            data_term,
            norm,
            lambda: self._centres(gather_batch(target).unique(), x.dtype),
        )
        return dict(
            loss=loss,
            cos_own=own.detach().mean(),
            cos_hardest=hardest.mean(),
            feature_norm=norm.detach().mean(),
            **self.loss_module.monitor(own_term.detach(), folded.detach()),
        )

    def predict(
        self,
        feats: tuple[Tensor, ...] | Tensor,
        data_samples: list[DataSample | None] | None = None,
    ) -> list[DataSample]:
        """Closed-set identification among the training identities.

        Returns:
            Data samples with ``pred_score`` (cosines [C]), ``pred_label`` and
            ``embedding`` ([D], not normalised).
        """
        embeddings = self._embedding(feats)
        scores = self(feats)
        samples = data_samples or [None] * len(embeddings)
        predictions = []
        for sample, embedding, score in zip(samples, embeddings, scores, strict=True):
            sample = DataSample() if sample is None else sample
            sample.set_pred_score(score).set_pred_label(score.argmax().view(1))
            sample.set_field(embedding, 'embedding')
            predictions.append(sample)
        return predictions

    def _embedding(self, feats: tuple[Tensor, ...] | Tensor) -> Tensor:
        embedding = feats[-1] if isinstance(feats, tuple | list) else feats
        if embedding.ndim != 2 or embedding.shape[1] != self.in_channels:
            raise UserError(
                f'HypersphereHead: expected embeddings [B, {self.in_channels}], got '
                f'{list(embedding.shape)}; set model.head.in_channels to the '
                "backbone's embedding size, or put an EmbeddingNeck between them"
            )
        return embedding.to(torch.promote_types(embedding.dtype, torch.float32))

    def _target(self, data_samples: list[DataSample], count: int) -> Tensor:
        # Labels are checked where they are: FaceDataPreprocessor leaves them on
        # the host, so that this costs no synchronisation with the device.
        labels = [sample.get('gt_label') for sample in data_samples or ()]
        if any('gt_score' in sample for sample in data_samples or ()):
            raise UserError(
                'HypersphereHead: mixed labels (gt_score) have no class centre of '
                'their own; train without Mixup and CutMix'
            )
        if (
            not labels
            or len(labels) != count
            or any(y is None or y.numel() != 1 for y in labels)
        ):
            raise UserError(
                f'HypersphereHead: {count} embeddings need as many data samples with '
                f'one gt_label each, got {len(labels)} data samples; PackInputs makes '
                'them from gt_label'
            )
        target = torch.cat(labels)
        low, high = target.aminmax()
        if low < 0 or high >= self.num_classes:
            wrong = int(low if low < 0 else high)
            raise UserError(
                f'HypersphereHead: label {wrong} is outside [0, {self.num_classes}); '
                'set model.head.num_classes to the number of identities of the '
                'training set'
            )
        return target.to(self.weight.device, non_blocking=True)

    @property
    def _on_sphere(self) -> bool:
        """Whether the weight has just been projected and is used as it is."""
        return self.training and self.centres == 'project'

    def _centres(self, classes: Tensor, dtype: torch.dtype) -> Tensor:
        """Unit centres of the given classes."""
        rows = self.weight[classes].to(dtype)
        return rows if self._on_sphere else unit(rows)[0]

    @torch.no_grad()
    def _project(self) -> None:
        # Through .data, since an earlier forward of the same step (gradient
        # accumulation) may have saved the weight: its values hardly change.
        self.weight.data.copy_(unit(self.weight.data)[0])
