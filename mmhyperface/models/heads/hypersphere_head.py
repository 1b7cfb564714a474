"""The classifier on the hypersphere: geometry, without any margin.

Legend of shapes: B samples, C classes, D dimensions.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from mmengine.dist import broadcast, get_dist_info
from mmengine.model import BaseModule
from mmpretrain.structures import DataSample
from torch import Tensor, nn
from torch.optim import Optimizer

from mmhyperface.centres import Shard
from mmhyperface.centres.rows import (
    AllRows,
    SampledRows,
    Sampling,
    SteppedRows,
    StepRows,
)
from mmhyperface.centres.state import CentreState
from mmhyperface.models.face_samples import FaceSamples, labels_of
from mmhyperface.models.losses import HypersphereLoss
from mmhyperface.models.losses.base import DecoupledLoss
from mmhyperface.models.losses.batch import Batch
from mmhyperface.models.losses.sphereface_plus import hyperspherical_energy
from mmhyperface.ops import Blocked, Fold, clamp_cosine, dense, merge, unit
from mmhyperface.registry import MODELS
from mmhyperface.utils.errors import UserError, require_one_of
from mmhyperface.utils.global_batch import (
    batch_sizes,
    gather_batch,
    send,
    share_of_batch,
)

from .batch_geometry import BatchGeometry
from .decisions import is_dense, splits_centres, updates_some_rows

CENTRES = ('normalize', 'project')
ENGINES = ('auto', 'dense', 'blocked', 'fused')
MATMUL_DTYPES = (None, 'bfloat16', 'float16')
# Initial centres are drawn in pieces of so many classes, each with a seed of its own:
# a rank draws its own pieces only, and gets the same rows as any other would.
PIECE = 4096

Labels = Tensor | Sequence[DataSample] | FaceSamples
"""Classes, int64 [B], or data samples with a ``gt_label`` each."""


def build_loss(loss: dict | nn.Module) -> HypersphereLoss:
    """The loss of a config, or the loss itself."""
    try:
        module = MODELS.build(loss) if isinstance(loss, dict) else loss
    except UserError as error:
        raise UserError(f'{error} (an option of model.head.loss)') from error
    if not isinstance(module, HypersphereLoss):
        raise UserError(
            f'HypersphereHead: {type(module).__name__} is no loss of the cosine; '
            'set model.head.loss to one that is derived from '
            'mmhyperface.models.losses.SoftmaxLoss or DecoupledLoss'
        )
    return module


@MODELS.register_module()
class HypersphereHead(CentreState, BaseModule):
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
        engine: What computes the terms of the other classes. ``dense`` holds all
            cosines, B x C of them, and is the reference; ``blocked`` goes over the
            classes in blocks and holds none, and compiles the loss (torch.compile)
            where there are many classes and a C++ compiler, or Triton on CUDA;
            ``fused`` always does. ``auto`` is dense for few classes, else blocked. Or
            an engine itself, called like :func:`~mmhyperface.ops.dense.dense`.
        sharded: Whether each rank keeps a part of the centres, and sees the features
            of all ranks; else every rank keeps all. ``auto`` splits large ones.
        sample_rate: Share of the centres that take part in a step: those of the
            batch, and others drawn at random. The rest costs nothing in that step,
            and momentum and weight decay pass it by, as in the first code of
            Partial FC.
        catch_up: Whether a centre that was passed by makes up for the momentum and
            weight decay that it missed when it is next drawn, exactly: as if they
            acted on all centres in each step, as in insightface's partial_fc_v2.
        fused_update: Whether the centres take their SGD step within the engine's
            block loop, without a buffer for their gradient. Needs plain SGD without
            accumulation of gradients, and no clipping of theirs
            (``optim_wrapper.clip_centres=False``, or no ``clip_grad``).
        matmul_dtype: Type of the operands of the matrix products, ``bfloat16`` or
            ``float16``; by default that of the cosines. Not for ``dense``.
        lam_mhe: Weight of the minimum hyperspherical energy of the batch's centres,
            which is added to L as :class:`SphereFacePlusLoss` adds it to SphereFace.
        init_cfg: See mmengine's ``BaseModule``.

    Attributes:
        last: Where the samples of the last training batch lay; None before the first
            batch, and after one without samples.

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
        engine: str | Callable[..., Fold] = 'auto',
        sharded: bool | str = 'auto',
        sample_rate: float = 1.0,
        catch_up: bool = False,
        fused_update: bool = False,
        matmul_dtype: str | None = None,
        lam_mhe: float = 0.0,
        init_cfg: dict | None = None,
    ) -> None:
        super().__init__(init_cfg)
        if not isinstance(num_classes, int | np.integer) or num_classes < 2:
            raise UserError(
                'HypersphereHead: num_classes must be a number of at least 2, got '
                f'{num_classes!r}; set model.head.num_classes to the number of '
                "identities ('auto' is for tools/train.py, which counts them)"
            )
        require_one_of(self, 'model.head.centres', centres, CENTRES)
        if isinstance(engine, str):
            require_one_of(self, 'model.head.engine', engine, ENGINES)
        require_one_of(self, 'model.head.sharded', sharded, (True, False, 'auto'))
        require_one_of(self, 'model.head.matmul_dtype', matmul_dtype, MATMUL_DTYPES)
        if not 0 < sample_rate <= 1:
            raise UserError(
                'HypersphereHead: model.head.sample_rate is a share of the classes, '
                f'in (0, 1], got {sample_rate}'
            )
        if not isinstance(engine, str) and matmul_dtype:
            raise UserError(
                'HypersphereHead: an engine of your own chooses the type of its '
                'products, as in Blocked(matmul_dtype=torch.bfloat16); leave '
                'model.head.matmul_dtype out'
            )
        if engine in ('dense', dense) and (fused_update or matmul_dtype):
            raise UserError(
                "HypersphereHead: engine='dense' has neither fused_update nor "
                "matmul_dtype; set model.head.engine to 'blocked', 'fused' or 'auto'"
            )
        if catch_up and (sample_rate == 1 or centres == 'project'):
            raise UserError(
                'HypersphereHead: catch_up makes up for weight decay that sampling '
                'skips; it needs model.head.sample_rate < 1 and model.head.centres='
                "'normalize' (projected centres have their norm restored anyway); "
                'else leave model.head.catch_up out'
            )
        self.num_classes = num_classes
        self.in_channels = in_channels
        self.centres = centres
        self.init_std = init_std
        self.engine = engine
        self.sample_rate = sample_rate
        self.catch_up = catch_up
        self.fused_update = fused_update
        self.matmul_dtype = matmul_dtype
        self.lam_mhe = lam_mhe
        rank, world = get_dist_info()
        split = splits_centres(sharded, num_classes, in_channels, self.some_rows, world)
        self.shard = Shard(num_classes, *((rank, world) if split else ()))
        self.weight = nn.Parameter(torch.empty(len(self.shard), in_channels))
        self.loss_module = build_loss(loss)
        self._mark_parameters()
        self.rows: SampledRows | SteppedRows | None = None
        self._blocked: Blocked | None = None
        self.last: BatchGeometry | None = None
        self.reset_parameters()

    @property
    def some_rows(self) -> bool:
        """See :func:`.updates_some_rows`."""
        return updates_some_rows(self.sample_rate, self.fused_update)

    @property
    def ddp_ignored(self) -> tuple[str, ...]:
        """Parameters that are not the same, or have no gradient, on all ranks."""
        return ('weight',) if self.some_rows or self.shard.world_size > 1 else ()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Draw the centres and initialise the loss for the number of classes."""
        xavier = (2 / (self.num_classes + self.in_channels)) ** 0.5
        std = xavier if self.init_std is None else self.init_std
        seed = torch.randint(2**31, (1,))
        if self.shard.world_size > 1:
            # Ranks may have seeds of their own.
            broadcast(seed)
        start, stop = self.shard.start, self.shard.stop
        if self.weight.device.type != 'meta':
            for piece in range(start // PIECE, -(-stop // PIECE)):
                entropy = [int(seed), piece]
                state = np.random.SeedSequence(entropy).generate_state(1)
                generator = torch.Generator().manual_seed(int(state[0]))
                first = piece * PIECE
                rows = torch.empty(PIECE, self.in_channels, device='cpu')
                rows.normal_(std=std, generator=generator)
                low, high = max(start, first), min(stop, first + PIECE)
                rows = rows[low - first : high - first].to(self.weight)
                self.weight[low - start : high - start] = rows
        self.loss_module.reset_parameters(self.num_classes)

    def __getstate__(self) -> dict[str, Any]:
        # A copy is attached to no optimizer.
        state = dict(self.__dict__)
        return {**state, 'rows': None, '_blocked': None, 'last': None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        # Copies of parameters lose their attributes.
        self._mark_parameters()

    def _mark_parameters(self) -> None:
        """Tell optimizer wrappers which parameters are centres, and which are ours."""
        self.weight.shard = self.shard  # type: ignore[attr-defined]
        for parameter in self.loss_module.parameters():
            parameter.of_classifier = True  # type: ignore[attr-defined]

    def attach(self, optimizer: Optimizer) -> None:
        """Connect centres that are sampled or step in the engine with the optimizer.

        ``CentresHook`` does it in the runner. Without either of them it does nothing.
        From then on the optimizer holds parameters of some rows in the place of all,
        from a forward pass to the end of ``step``: clear and clip gradients by its own
        ``zero_grad`` and ``param_groups``, not by the model's.

        Args:
            optimizer: The optimizer that holds ``weight``.

        Raises:
            UserError: If the optimizer's step could not be made exact.
        """
        sampling = None
        if self.sample_rate < 1:
            sampling = Sampling(self.sample_rate, self.loss_module.additive)
        if self.fused_update:
            self.rows = SteppedRows(self.weight, optimizer, sampling)
        elif sampling is not None:
            self.rows = SampledRows(self.weight, optimizer, sampling)
        if self.rows is not None and self.catch_up:
            self.rows.borrowed.catch_up()

    def flush(self) -> None:
        """Bring all centres up to date with the steps that sampling skipped."""
        if self.rows is not None and self.rows.borrowed.skipped is not None:
            self.rows.borrowed.skipped.flush()

    def forward(
        self, feats: tuple[Tensor, ...] | Tensor, target: Labels | None = None
    ) -> Tensor:
        """The loss of a batch, or its cosines.

        Args:
            feats: Features [B, D], or a tuple of which the last are such.
            target: Classes, int64 [B], or what else :meth:`loss` takes.

        Returns:
            With ``target`` the scalar to minimise; without, cosines [B, C] to all
            centres.

        Raises:
            UserError: For cosines, if the centres are split over several ranks.
        """
        if target is not None:
            return self.loss(feats, target)['loss']
        if self.shard.world_size > 1:
            raise UserError(
                'HypersphereHead: each rank has some of the centres only; compute '
                'cosines to all of them on one process, or with model.head.sharded='
                'False'
            )
        with torch.autocast(self.weight.device.type, enabled=False):
            x, _ = unit(self._embedding(feats))
            centres, _ = unit(self.weight.to(x.dtype))
            return (x @ centres.T).clamp(-1, 1)

    def loss(
        self,
        feats: tuple[Tensor, ...] | Tensor,
        data_samples: Labels,
        **kwargs: object,
    ) -> dict[str, Tensor]:
        """The loss of a batch and what is worth watching.

        Args:
            feats: Features [B, D], or a tuple of which the last are such.
            data_samples: Classes, int64 [B], or samples with a ``gt_label`` each. On
                the host they are checked without waiting for the device.

        Returns:
            ``loss``, and without gradient ``cos_own`` and ``cos_hardest`` (mean
            cosine to the own centre and to the nearest other), ``feature_norm``
            (mean), ``energy`` with ``lam_mhe``, and the loss's own ``monitor`` values.
            The mean of each over the ranks, which DDP takes of gradients, is that over
            all samples, also where ranks have more or fewer of them, or none. A batch
            without any, as the share of one of several heads may be, has a loss of 0.
        """
        with torch.autocast(self.weight.device.type, enabled=False):
            embedding = self._embedding(feats)
            return self._loss(embedding, self._target(data_samples, len(embedding)))

    def _loss(self, feats: Tensor, target: Tensor) -> dict[str, Tensor]:
        loss, shard = self.loss_module, self.shard
        # Where the centres are split, each rank computes the loss of all samples; else
        # of its own, weighted so that the mean over the ranks is that over all samples.
        is_global = shard.world_size > 1
        sizes = batch_sizes(target)
        total = sum(sizes)
        count = total if is_global else len(target)
        weight = float(total > 0) if is_global else share_of_batch(sizes)
        if not total:
            # Parameters of all ranks shall have a gradient.
            feats, target = _placeholder(feats), target.new_zeros(1)
            sizes = [1] * len(sizes)
        labels = gather_batch(target, sizes)
        if is_global:
            target = labels
        elif not len(target):
            feats, target = _placeholder(feats), labels[:1]
        local, norm = unit(feats)
        x, norm = shard.gather(local, sizes), shard.replicate(norm, sizes)

        # All that depends on labels is found on the host, which knows them.
        held, kept = self._kept(target)
        trains = self.training and torch.is_grad_enabled()
        centres = self.centres if trains else 'normalize'
        # Of other ranks too, where each computes its own: a loss may want those.
        classes = (kept if is_global else self._kept(labels)[1]).unique()
        held, kept, classes, target = send((held, kept, classes, target), x.device)
        rows = self._row_source(trains).take(self.weight, classes, centres)
        directions = rows.own.to(x.dtype)
        if centres == 'normalize':
            directions, _ = unit(directions)
        position = torch.searchsorted(rows.classes, kept)
        dots = (x.index_select(0, held) * directions[position]).sum(1, keepdim=True)
        own = x.new_zeros(len(x), 1).index_put((held,), dots)
        own = clamp_cosine(shard.sum(own))

        def distinct_centres() -> Tensor:
            distinct = labels.unique()
            held, kept = send(self._kept(distinct), x.device)
            position = torch.searchsorted(rows.classes, kept)
            gathered = directions.new_zeros(len(distinct), self.in_channels)
            return shard.sum(gathered.index_put((held,), directions[position]))

        batch = Batch(own, norm, sizes, is_global, distinct_centres)
        learns = self.training and total > 0
        if learns and loss.keeps_statistics:
            loss.observe(Batch(batch.gather(own), batch.gather(norm)))
        context = loss.context(batch)
        own_term = loss.target(own, context)
        expected = None
        if type(loss).join is DecoupledLoss.join:
            # The mean of the terms is that of the folds, and more.
            expected = weight * loss.loss_weight / len(x)
        folded, hardest = self._fold(x, held, position, rows, context, expected)
        terms = loss.join(own_term, folded)
        if learns:
            # Now, for the step to come moves margins and biases.
            with torch.no_grad():
                violating = loss.violates_margin(own, hardest, context)

            def seen(values: Tensor) -> Tensor:
                return values.detach().flatten()[:count]

            self.last = BatchGeometry(
                own=seen(own),
                hardest=seen(hardest),
                norm=seen(norm),
                loss=seen(terms),
                violating=seen(violating),
                target=target[:count],
                mean_direction=local.detach().sum(0) / max(len(local), 1),
                of_all_ranks=is_global,
                sizes=sizes,
            )
        elif self.training:
            self.last = None
        values = dict(
            loss=loss.objective(terms.mean(), batch),
            cos_own=own.detach().mean(),
            cos_hardest=hardest.mean(),
            feature_norm=norm.detach().mean(),
            **loss.monitor(own_term.detach(), folded.detach()),
        )
        if self.lam_mhe:
            energy = hyperspherical_energy(distinct_centres())
            values['loss'] = values['loss'] + loss.loss_weight * self.lam_mhe * energy
            values['energy'] = energy.detach()
        if weight == 1:
            return values
        return {name: value * weight for name, value in values.items()}

    def _fold(
        self,
        x: Tensor,
        held: Tensor,
        position: Tensor,
        rows: StepRows,
        context: dict[str, Tensor],
        expected: float | None,
    ) -> Fold:
        """The terms of all other classes, of all subsets and ranks."""
        engine = self._engine()
        partial = {name: self.shard.enter(value) for name, value in context.items()}
        folds = []
        for subset in rows.subsets:
            own_row = held.new_full((len(x),), -1)
            if subset.own is not None:
                own_row[held] = subset.own[position]
            options: dict[str, Any] = {}
            if expected is not None:
                options['expected'] = expected * subset.weight
            if subset.update is not None:
                options['update'] = subset.update
            folded, hardest = engine(
                x,
                subset.rows,
                own_row,
                partial,
                self.loss_module,
                subset.centres,
                **options,
            )
            folds.append(Fold(folded * subset.weight, hardest))
        return merge(folds, self.loss_module, self.shard)

    def _row_source(self, trains: bool) -> AllRows | SampledRows | SteppedRows:
        """Who gives the rows of a step."""
        if trains and self.some_rows and self.rows is None:
            raise UserError(
                'HypersphereHead: sample_rate and fused_update need the optimizer; '
                'call head.attach(optimizer) before training, as CentresHook does '
                '(one of the default_hooks of configs/_base_/default_runtime.py)'
            )
        if trains and self.weight.requires_grad and self.rows is not None:
            return self.rows
        return AllRows()

    def _kept(self, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Positions of the labels whose class is kept here, and their rows."""
        rows = labels - self.shard.start
        if len(self.shard) == self.num_classes:
            return torch.arange(len(rows), device=rows.device), rows
        held = ((rows >= 0) & (rows < len(self.shard))).nonzero().squeeze(1)
        return held, rows[held]

    def _engine(self) -> Callable[..., Fold]:
        if not isinstance(self.engine, str):
            return self.engine
        dtype = self.matmul_dtype
        if is_dense(self.engine, self.num_classes, self.fused_update, dtype):
            return dense
        options: dict[str, Any] = dict(
            matmul_dtype=getattr(torch, dtype) if dtype else None,
            compiled=True if self.engine == 'fused' else None,
        )
        engine = self._blocked
        # It is kept, for it learns from step to step.
        if engine is None or any(getattr(engine, k) != v for k, v in options.items()):
            engine = self._blocked = Blocked(**options)
        return engine

    def predict(
        self,
        feats: tuple[Tensor, ...] | Tensor,
        data_samples: list[DataSample | None] | FaceSamples | None = None,
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

    def _target(self, labels: Labels, count: int) -> Tensor:
        if isinstance(labels, Tensor):
            target: Tensor | None = labels
            if labels.ndim != 1 or labels.is_floating_point():
                raise UserError(
                    'HypersphereHead: labels are numbers of classes, int64 [B], got '
                    f'{labels.dtype} {list(labels.shape)}'
                )
        else:
            labels = labels or ()
            target = labels_of(labels)
        if not count and not len(labels):
            return torch.zeros(0, dtype=torch.int64, device='cpu')
        if target is None or target.shape != (count,):
            raise UserError(
                f'HypersphereHead: {count} embeddings need as many data samples with '
                f'one gt_label each, got {len(labels)} data samples; '
                'PackInputs, or PackFace with a FaceDataPreprocessor, makes them from '
                'gt_label'
            )
        # FaceDataPreprocessor leaves labels on the host; others are waited for here.
        target = target.cpu().to(torch.int64)
        low, high = target.aminmax()
        if low < 0 or high >= self.num_classes:
            wrong = int(low if low < 0 else high)
            raise UserError(
                f'HypersphereHead: label {wrong} is outside [0, {self.num_classes}); '
                'set model.head.num_classes to the number of identities of the '
                'training set'
            )
        return target


def _placeholder(feats: Tensor) -> Tensor:
    """One sample for an empty batch [0, D]."""
    return torch.cat([feats, feats.new_ones(1, feats.shape[1])])
