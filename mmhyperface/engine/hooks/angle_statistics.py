"""Where training samples lie on the hypersphere, while training goes on."""

from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from mmengine.dist import get_rank, is_main_process
from mmengine.hooks import Hook
from mmengine.hooks.hook import DATA_BATCH
from mmengine.runner import Runner
from torch import Tensor

from mmhyperface.models.face_samples import image_numbers
from mmhyperface.models.heads import BatchGeometry, HypersphereHead
from mmhyperface.registry import HOOKS
from mmhyperface.utils.errors import UserError
from mmhyperface.utils.global_batch import gather_batch

from .angle_histograms import as_image, draw_angles, draw_norms
from .model_parts import head_of

QUANTILES = {'q05': 0.05, 'median': 0.5, 'q95': 0.95}
GROUP = 'angles'
# Of the mean norm of all centres: one below has lost its direction to weight decay.
VANISHED = 1e-3


class Samples(NamedTuple):
    """N samples of several iterations, of all ranks, each once; arrays are [N]."""

    own: npt.NDArray[np.float64]  # angles to the own centre in degrees
    nearest: npt.NDArray[np.float64]  # and to the nearest other one
    norm: npt.NDArray[np.float64]  # of the raw features
    violating: npt.NDArray[np.bool_]  # whether they violate the margin
    target: npt.NDArray[np.int64]
    # Whether the label is wrong, 0 or 1; NaN where that is not known.
    wrong: npt.NDArray[np.float64] | None = None

    def finite(self) -> 'Samples':
        """Those of which all is finite."""
        good = np.isfinite(self.own + self.nearest + self.norm)
        return Samples._make(x if x is None else x[good] for x in self)

    def own_by_label(self) -> dict[str, npt.NDArray[np.float64]]:
        """``own`` of the ``clean`` and of the ``wrong`` labels, if some are known."""
        if self.wrong is None:
            return {}
        parts = {'clean': self.own[self.wrong == 0], 'wrong': self.own[self.wrong == 1]}
        return {name: values for name, values in parts.items() if len(values)}

    def dead_centres(self) -> tuple[int, int]:
        """How many classes have no sample nearer to their centre than to another.

        The second number is that of all classes here.
        """
        classes, number = np.unique(self.target, return_inverse=True)
        alive = np.bincount(number, self.own < self.nearest, len(classes))
        return int((alive == 0).sum()), len(classes)


@HOOKS.register_module()
class AngleStatisticsHook(Hook):
    """Shows the angles and norms of the training samples of the last iterations.

    Every `interval` iterations a line of the log and, for all backends of the
    visualizer, scalars under ``angles/``: mean, median and 5 and 95 % quantiles of
    θ, the angle to the own centre (``own``) and to the nearest other one
    (``nearest``), in degrees, and of the feature norm (``norm``);

    - ``violating``, the share of the samples that are not where the loss wants them
      (see :meth:`.HypersphereLoss.violates_margin`), and ``nearer_to_another``, the
      share of those that lie at least as near to another centre as to their own;
    - ``bias`` of a loss that learns one, as SphereFace2's does;
    - ``dead_centres``: classes, of the ``classes_seen`` in the window, of which all
      samples in the window lie at least as near to another centre as to their own.
      The fewer samples per class a window has, the more classes are dead by chance
      alone; early in training nearly all are;
    - ``vanished_centres``, with ``centres='normalize'``: centres whose norm, which
      weight decay shrinks, is below 1/1000 of the mean norm. Gradients grow as norms
      shrink.
    - ``own_clean`` and ``own_wrong``, as ``own``, of the samples whose label is right
      and of those to which a :class:`.LabelNoise` in the training set gave a wrong
      one; the histogram has them apart.

    Every `picture_interval` iterations and at the end of a training of at least one
    window come histograms, ``angles`` and ``norms``, in the backends too
    (LocalVisBackend: PNG files in ``vis_data/vis_image``).

    All is about the samples as the loss met them, augmented and with the weights of
    their iteration, of all ranks. With ``sample_rate`` < 1 the nearest other centre is
    the nearest of those drawn. Samples whose figures are not finite are left out.
    Between two reports the device is not waited for.

    Args:
        interval: Iterations between two reports.
        window: Iterations whose samples make a report; by default `interval`.
        picture_interval: Iterations between two pictures, a multiple of `interval`;
            0: none.

    Raises:
        UserError: For arguments out of range.
    """

    priority = 'LOW'  # after the log's own line

    def __init__(
        self,
        interval: int = 100,
        window: int | None = None,
        picture_interval: int = 1000,
    ) -> None:
        window = interval if window is None else window
        if interval < 1 or window < 1:
            raise UserError(
                'default_hooks.angles.interval and default_hooks.angles.window must be '
                f'at least 1, got {interval} and {window}'
            )
        if picture_interval < 0 or picture_interval % interval:
            raise UserError(
                'AngleStatisticsHook: default_hooks.angles.picture_interval must be a '
                f'multiple of interval={interval}, or 0, got {picture_interval}'
            )
        self.interval = interval
        self.picture_interval = picture_interval
        self.window: deque[BatchGeometry] = deque(maxlen=window)
        self.noise: npt.NDArray[np.bool_] | None = None
        self.wrong: deque[Tensor] = deque(maxlen=window)
        self.head: HypersphereHead | None = None

    def before_train(self, runner: Runner) -> None:
        self.head = head_of(runner)
        dataset: Any = runner.train_dataloader.dataset
        self.noise = getattr(dataset, 'wrong_labels', lambda: None)()
        if self.head is None:
            runner.logger.warning(
                'AngleStatisticsHook: the model has no HypersphereHead, so there are '
                'no angles to show; default_hooks.angles=None switches this off'
            )

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        self.window.clear()
        self.wrong.clear()

    def after_train_iter(
        self,
        runner: Runner,
        batch_idx: int,
        data_batch: DATA_BATCH = None,
        outputs: Mapping | None = None,
    ) -> None:
        if self.head is None or self.head.last is None:
            return
        self.window.append(self.head.last)
        if self.noise is not None:
            count = self.head.last.sizes[get_rank()]
            self.wrong.append(_wrong(self.noise, image_numbers(data_batch), count))
        full = len(self.window) == self.window.maxlen
        last = full and self.is_last_train_iter(runner)
        if last or self.every_n_train_iters(runner, self.interval):
            draws = self.picture_interval and (
                last or self.every_n_train_iters(runner, self.picture_interval)
            )
            self._report(runner, self.head, outputs or {}, bool(draws))

    def _report(
        self, runner: Runner, head: HypersphereHead, outputs: Mapping, draws: bool
    ) -> None:
        samples = gather_samples(list(self.window), list(self.wrong))
        vanished = _vanished(head) if head.centres == 'normalize' else None
        if not is_main_process():
            return
        samples = samples.finite()
        if not len(samples.own):
            runner.logger.warning('angles: no sample has a finite cosine and norm')
            return
        figures = statistics(samples)
        if vanished is not None:
            figures['vanished_centres'] = int(vanished)
        if 'bias' in outputs:
            figures['bias'] = float(outputs['bias'])
        step = runner.iter + 1
        runner.visualizer.add_scalars(
            {f'{GROUP}/{name}': value for name, value in figures.items()}, step=step
        )
        runner.logger.info(_line(figures))
        if draws:
            title = f'{len(samples.own):,} training samples up to iteration {step:,}'
            parts = samples.own_by_label()
            own = {f'own centre, {name} labels': x for name, x in parts.items()}
            own = own or {'own centre': samples.own}
            pictures = {
                'angles': draw_angles(own, samples.nearest, title),
                'norms': draw_norms(samples.norm, title),
            }
            for name, picture in pictures.items():
                runner.visualizer.add_image(name, as_image(picture), step)


def _wrong(noise: npt.NDArray[np.bool_], numbers: list[int], count: int) -> Tensor:
    """Whether the labels of a rank's samples are wrong, float64 [count]."""
    if len(numbers) != count:  # as where one of several heads has a part of them
        return torch.full((count,), torch.nan, dtype=torch.float64)
    # What has no number kept its label: an image in the place of a damaged one.
    known = np.array(numbers, np.int64)
    return torch.from_numpy((noise[known] & (known >= 0)).astype(np.float64))


def gather_samples(
    batches: list[BatchGeometry], wrong: Sequence[Tensor] = ()
) -> Samples:
    """The samples of some batches, of all ranks, on all ranks and on the host.

    Args:
        batches: Their geometry.
        wrong: Of each batch whether the labels of this rank's samples are wrong,
            float64 [b]; by default nobody knows.
    """
    numbers = torch.stack(
        [
            torch.cat([getattr(batch, name).double() for batch in batches])
            for name in ('own', 'hardest', 'norm', 'violating', 'target')
        ],
        dim=1,
    )  # float64 holds class numbers exactly
    if wrong:
        if batches[0].of_all_ranks:
            pairs = zip(wrong, batches, strict=True)
            wrong = [gather_batch(part, batch.sizes) for part, batch in pairs]
        column = torch.cat(list(wrong)).to(numbers)
        numbers = torch.cat([numbers, column[:, None]], dim=1)
    if not batches[0].of_all_ranks:
        numbers = gather_batch(numbers)
    own, nearest, norm, violating, target, *rest = numbers.cpu().numpy().T
    own, nearest = (np.degrees(np.arccos(cos.clip(-1, 1))) for cos in (own, nearest))
    classes = target.astype(np.int64)
    return Samples(own, nearest, norm, violating.astype(bool), classes, *rest)


def statistics(samples: Samples) -> dict[str, float]:
    """The figures of at least one sample, by name."""
    figures: dict[str, float] = {}
    shown = {name: getattr(samples, name) for name in ('own', 'nearest', 'norm')}
    parts = samples.own_by_label().items()
    shown |= {f'own_{name}': values for name, values in parts}
    for name, values in shown.items():
        figures[f'{name}_mean'] = float(values.mean())
        for suffix, share in QUANTILES.items():
            figures[f'{name}_{suffix}'] = float(np.quantile(values, share))
    figures['violating'] = float(samples.violating.mean())
    figures['nearer_to_another'] = float((samples.own >= samples.nearest).mean())
    figures['dead_centres'], figures['classes_seen'] = samples.dead_centres()
    return figures


@torch.no_grad()
def _vanished(head: HypersphereHead) -> Tensor:
    """How many centres of all ranks have lost their norm."""
    # With dtype=float64 the norm would take a copy of all centres at twice their size.
    norms = torch.linalg.vector_norm(head.weight, dim=1).double()
    total = head.shard.sum(norms.sum())
    least = VANISHED * total / head.shard.num_classes
    return head.shard.sum((norms < least).sum())


def _line(figures: Mapping[str, Any]) -> str:
    text = (
        'angles (mean, 5 to 95 %): own {own_mean:.1f}° ({own_q05:.1f} to '
        '{own_q95:.1f}), nearest other {nearest_mean:.1f}° ({nearest_q05:.1f} to '
        '{nearest_q95:.1f}), norm {norm_mean:.4g}; violating {violating:.1%}, '
        'dead centres {dead_centres} of {classes_seen} seen'
    ).format(**figures)
    if 'vanished_centres' in figures:
        text += ', vanished centres {vanished_centres}'.format(**figures)
    for part in ('clean', 'wrong'):
        if f'own_{part}_mean' in figures:
            low, mean, high = (
                figures[f'own_{part}_{name}'] for name in ('q05', 'mean', 'q95')
            )
            text += f', own of {part} labels {mean:.1f}° ({low:.1f} to {high:.1f})'
    return text
