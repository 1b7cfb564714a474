"""Ends, or rolls back, a training that has gone wrong, and says why."""

import copy
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from mmengine.dist import is_distributed, is_main_process
from mmengine.hooks import CheckpointHook, EMAHook, Hook
from mmengine.hooks.hook import DATA_BATCH
from mmengine.runner import EpochBasedTrainLoop, Runner
from torch import Tensor

from mmhyperface.centres.shared_rows import from_main
from mmhyperface.centres.storage import write_text
from mmhyperface.engine.deferred_history import DeferredHistory
from mmhyperface.engine.divergence import (
    ADVICE,
    CollapseSigns,
    Step,
    explain,
    first_bad,
    is_good,
    not_finite_entry,
    state_of,
)
from mmhyperface.engine.runner import FaceRunner
from mmhyperface.evaluation.metrics.base import not_finite_sets
from mmhyperface.models.face_samples import image_numbers
from mmhyperface.models.heads import HypersphereHead
from mmhyperface.registry import HOOKS
from mmhyperface.utils.errors import UserError

from .checkpoint_hook import saves_now
from .model_parts import bare_model, head_of

ACTIONS = ('stop', 'rollback')
CHECKPOINT_KEY = 'divergence_guard'


class Saved(NamedTuple):
    """A checkpoint of this run."""

    steps: int  # after how many it was saved
    path: str
    signs: CollapseSigns  # with what later ones were compared with then


@HOOKS.register_module()
class DivergenceGuardHook(Hook):
    """Notices a loss that is NaN or infinite, and a network that has collapsed.

    It says which iteration and which sample it was, with that sample's number, path,
    label, loss, cosine to the own centre and feature norm, and with the learning rate,
    the margin and (if gradients are clipped) the norm of the gradient. All ranks decide
    the same.

    The device is asked every `interval` iterations only, and before whatever makes
    something last: a checkpoint is saved, or a validation begins that may choose one.
    No checkpoint is written after a loss that is not finite.

    Signs of a collapse are read every `interval` iterations from the global batch, and
    count only if they are there `patience` times in a row, for a single batch may be
    odd:

    - The mean feature norm leaves `norm_range`. Published trainings have norms between
      1 and a few hundred. At 1e-3 the 512 entries are where half precision begins to
      lose digits (6e-5), and it overflows at 65504; a norm of 0 has no direction.
    - The embeddings are alike: the mean cosine between two samples of the batch, from
      the norm of their mean direction, exceeds `max_cosine`. Different people have a
      mean near 0. Those of an untrained network are alike too, so this counts only
      once they have been apart.
    - The loss rises above its running median over the last 50 times by more than
      `max_rise` times that median, or times the losses' median deviation from it if
      that is larger. Differences, for losses such as SFace's may be negative.

    A validation whose embeddings are zero, NaN or infinite, or all alike, is like a
    loss that is not finite if weights or statistics of the network, or of its moving
    average, are not; else it is a sign that counts in `patience` validations in a row:
    in the first iterations statistics of batch norm lag behind, and a deep network may
    overflow.

    With ``action='rollback'`` model, optimizer, loss scaler and moving average are
    those of the last good checkpoint again: the newest of this run after which a loss
    has been looked at and was good, and in which all is finite (only if there is none,
    a newer one in which all is finite); if going back to it did not help, the one
    before it. Later ones are not gone back to any more, and what the signs are compared
    with is as it was then. If there is no checkpoint yet, ``iter_N.pth``, which nothing
    removes, is written before the first iteration. The learning rate, that is all
    values that its schedulers go on from, is multiplied by `lr_factor` for good, also
    in later checkpoints. The iteration, the schedules and the data go on: the batches
    since the checkpoint are not repeated. It needs :class:`FaceRunner`, and checkpoints
    on a local file system that all processes see, enough of them (``max_keep_ckpts``)
    that one is older than `patience` looks.

    ``--resume`` without a name takes the last good checkpoint, too, after a rollback or
    a stop.

    Args:
        action: ``stop`` or ``rollback``.
        interval: Iterations between two looks.
        max_cosine: Upper limit of the mean cosine; None: not watched.
        norm_range: Lowest and highest mean feature norm; None: not watched.
        max_rise: Limit of the loss's rise; None: not watched.
        patience: How many suspicious looks in a row are a collapse.
        lr_factor: Of the learning rate at each rollback, in (0, 1].
        max_rollbacks: After so many, also over resumed runs, the training stops.

    Raises:
        UserError: For arguments out of range; in training, to stop it.
    """

    # Before the checkpoint is written, and before the log.
    priority = 'VERY_HIGH'

    def __init__(
        self,
        action: str = 'stop',
        interval: int = 50,
        max_cosine: float | None = 0.98,
        norm_range: tuple[float, float] | None = (1e-3, 1e4),
        max_rise: float | None = 10.0,
        patience: int = 4,
        lr_factor: float = 0.5,
        max_rollbacks: int = 3,
    ) -> None:
        low, high = norm_range or (0, 1)
        for rule, good in {
            f'action must be one of {ACTIONS}, got {action!r}': action in ACTIONS,
            f'interval must be at least 1, got {interval}': interval >= 1,
            f'patience must be at least 1, got {patience}': patience >= 1,
            f'norm_range must ascend, got {low} and {high}': low < high,
            f'lr_factor must be in (0, 1], got {lr_factor}': 0 < lr_factor <= 1,
            f'max_rollbacks must not be negative: {max_rollbacks}': max_rollbacks >= 0,
        }.items():
            if not good:
                raise UserError(
                    f'DivergenceGuardHook (default_hooks.divergence_guard): {rule}'
                )
        self.action = action
        self.interval = interval
        self.lr_factor = lr_factor
        self.max_rollbacks = max_rollbacks
        self.signs = CollapseSigns(max_cosine, norm_range, max_rise, patience)
        self.rollbacks = 0
        self.steps: list[Step] = []
        self.before: Step | None = None  # the last one that has been looked at
        self.sane = 0  # the last iteration without a sign of a collapse
        self.not_finite: list[str] = []  # test sets of the validation
        self.bad_validations = 0  # in a row
        self.validated = 0  # the last iteration whose validation was good
        self.saved: list[Saved] = []
        self.tried: list[str] = []  # rolled back to, and nothing good has come since
        self.head: HypersphereHead | None = None
        self._loaded: dict = {}

    def before_train(self, runner: Runner) -> None:
        if self.action == 'rollback' and not isinstance(runner, FaceRunner):
            raise UserError(
                "DivergenceGuardHook: default_hooks.divergence_guard.action='rollback' "
                "needs runner_type='mmhyperface.FaceRunner', got "
                f'{type(runner).__name__}'
            )
        self.head = head_of(runner)
        self.sane = self.validated = runner.iter
        resumed = getattr(runner, 'resumed_from', None)
        if resumed is None:
            return
        self.rollbacks = self._loaded.get('rollbacks', 0)
        if '://' not in str(resumed):
            self._remember(runner.iter, str(resumed))

    def before_train_iter(self, runner: Runner, *args: Any, **kwargs: Any) -> None:
        # Here and not earlier: by now all hooks have done what they do to the model.
        if self.action == 'rollback' and not self.saved:
            name = f'iter_{runner.iter}.pth'
            meta = {'epoch': runner.epoch, 'iter': runner.iter}
            runner.save_checkpoint(runner.work_dir, name, meta=meta, by_epoch=False)
            self._remember(runner.iter, str(Path(runner.work_dir) / name))

    def after_train_iter(
        self,
        runner: Runner,
        batch_idx: int,
        data_batch: DATA_BATCH = None,
        outputs: Mapping | None = None,
    ) -> None:
        if outputs and 'loss' in outputs:
            self.steps.append(_step(runner, self.head, data_batch, outputs))
        saving = [hook for hook in _savers(runner) if saves_now(hook, runner)]
        regular = self.every_n_train_iters(runner, self.interval)
        if self.steps and (regular or saving or self._matters(runner, batch_idx)):
            self._look(runner, regular)
        for hook in saving:
            self._remember(runner.iter + 1, _path(hook, runner.iter + 1))

    def after_train_epoch(self, runner: Runner) -> None:
        # Looked at when the epoch's last iteration was over.
        for hook in _savers(runner):
            if saves_now(hook, runner, epoch_ends=True):
                self._remember(runner.iter, _path(hook, runner.epoch + 1))

    def after_val_epoch(self, runner: Runner, metrics: Any = None) -> None:
        self.not_finite = not_finite_sets(runner.val_loop, metrics or {})

    def after_val(self, runner: Runner) -> None:
        # By now a moving average has given the model its own weights back.
        if self.not_finite:
            self._examine(runner)
        else:
            self.bad_validations = 0
            self.validated = runner.iter

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        checkpoint[CHECKPOINT_KEY] = {'rollbacks': self.rollbacks}

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        self._loaded = checkpoint.get(CHECKPOINT_KEY, {})

    def _matters(self, runner: Runner, batch_idx: int) -> bool:
        """Whether the training ends, validates or saves by epoch after this."""
        if isinstance(runner.train_loop, EpochBasedTrainLoop):
            return self.end_of_epoch(runner.train_dataloader, batch_idx)
        return self.is_last_train_iter(runner) or (
            runner.val_loop is not None
            and self.every_n_train_iters(runner, runner.train_loop.val_interval)
        )

    def _remember(self, steps: int, path: str) -> None:
        self.saved.append(Saved(steps, path, copy.deepcopy(self.signs)))

    def _look(self, runner: Runner, regular: bool) -> None:
        steps, self.steps = self.steps, []
        bad = first_bad(steps)
        if bad is not None:
            step = steps[bad]
            before = steps[bad - 1] if bad else self.before
            what = f'the loss is not finite at iteration {step.iteration}'
            # Where signs of a collapse came first, it began with these.
            since = self.sane + 1 if self.signs.in_a_row else step.iteration
            self._blame(runner, what, step, before, since)
            return
        self.before = steps[-1]
        if not regular:
            return
        what = self.signs.see(state_of(steps[-1])) or ''
        if what:
            what = (
                f'{what}, {self.signs.in_a_row} times in a row up to iteration '
                f'{steps[-1].iteration}'
            )
            self._blame(runner, what, steps[-1], None, self.sane + 1)
        elif not self.signs.in_a_row:
            self.sane = steps[-1].iteration
            self.tried.clear()

    def _examine(self, runner: Runner) -> None:
        """Judge a validation without figures."""
        self.bad_validations += 1
        what = (
            f'the validation after iteration {runner.iter} has no figures of '
            f'{", ".join(self.not_finite)}, for embeddings are zero, NaN or infinite, '
            'or all alike'
        )
        averages = [h.ema_model.module for h in runner.hooks if isinstance(h, EMAHook)]
        broken = not_finite_entry([bare_model(runner), *averages])
        if broken is not None:
            what = f'{what}, and {broken} of the network is not finite'
            # A loss that is finite does not tell of the statistics.
            good = self._first_good(self._existing(before=runner.iter))
            self._act(runner, what, '', [] if good is None else [good])
        elif self.bad_validations >= self.signs.patience:
            what = f'{what}, {self.bad_validations} times in a row'
            self._act(runner, what, '', self._existing(before=self.validated + 1))
        else:
            runner.logger.warning(
                f'DivergenceGuardHook: {what}, though all weights and statistics are '
                'finite. In the first iterations, while statistics of batch norm lag '
                'behind, that may pass; so may an overflow of half precision '
                f'(val_cfg.fp16). It is number {self.bad_validations} in a row of '
                f'{self.signs.patience} that count as a collapse '
                '(default_hooks.divergence_guard.patience)'
            )

    def _blame(
        self, runner: Runner, what: str, step: Step, before: Step | None, since: int
    ) -> None:
        """Stop or roll back for an iteration, of which `before` is the one before.

        `since` is the first iteration whose loss is not known to have been good.
        """
        blame = explain(step, before, runner.train_dataloader.dataset)
        # The loss of iteration k + 1 is that of the weights after k steps.
        good = self._existing(before=since - 1)
        unsure = [path for path in self._existing(before=since) if path not in good]
        self._act(runner, f'{what} ({step.figures()})', blame, good, unsure)

    def _act(
        self,
        runner: Runner,
        what: str,
        blame: str,
        good: Sequence[str],
        unsure: Sequence[str] = (),
    ) -> None:
        """Stop or roll back, to a good checkpoint, else to one that may be good.

        `what` is wrong, and `blame` says by whom. The newest checkpoints come first.
        """
        text = f'{what}. {blame}{ADVICE}'
        if good:
            _let_resume(runner, good[0])
        if self.action == 'stop':
            raise UserError(f'{text}, and {_resumable(good)}')
        if self.rollbacks >= self.max_rollbacks:
            raise UserError(
                f'{text}. It was rolled back {self.rollbacks} times already '
                f'(default_hooks.divergence_guard.max_rollbacks={self.max_rollbacks}); '
                f'{_resumable(good)}'
            )
        path = self._first_good(sorted([*good, *unsure], key=self.tried.count))
        if path is None:
            raise UserError(f'{text}. There is no good checkpoint to roll back to')
        self._roll_back(runner, path)
        _let_resume(runner, path)
        runner.logger.warning(
            f'{text}. Rolled back to {path}, {self.rollbacks} of at most '
            f'{self.max_rollbacks} times; the learning rate is multiplied by '
            f'{self.lr_factor:g} from now on'
        )

    @staticmethod
    def _first_good(paths: Sequence[str]) -> str | None:
        """The first checkpoint in which all is finite; the same on all ranks."""
        first = None
        if is_main_process():
            first = next(filter(is_good, paths), None)
        return from_main(first, is_distributed())

    def _existing(self, before: int) -> list[str]:
        """Checkpoints of fewer steps that are still there, the newest first."""
        return [
            saved.path
            for saved in reversed(self.saved)
            if saved.steps < before and Path(saved.path).exists()
        ]

    def _roll_back(self, runner: Any, path: str) -> None:
        runner.restore(path)
        runner.scale_learning_rate(self.lr_factor)
        self.rollbacks += 1
        self.tried.append(path)
        # Those after it are of the training that went wrong, however finite.
        number = max(i for i, saved in enumerate(self.saved) if saved.path == path)
        del self.saved[number + 1 :]
        self.signs = copy.deepcopy(self.saved[-1].signs)
        self.signs.in_a_row = 0
        self.before = None
        self.sane = runner.iter + 1
        self.bad_validations = 0
        # What is left of the step that went wrong is not to be shown, nor averaged.
        if self.head is not None:
            self.head.last = None
        logged = runner.message_hub.log_scalars
        for name in list(logged):
            if name.startswith('train/'):
                del logged[name]


def _savers(runner: Runner) -> list[CheckpointHook]:
    return [hook for hook in runner.hooks if isinstance(hook, CheckpointHook)]


def _path(hook: CheckpointHook, number: int) -> str:
    return str(Path(hook.out_dir) / hook.filename_tmpl.format(number))


def _let_resume(runner: Runner, path: str) -> None:
    """Let ``--resume`` take this checkpoint, and none that was saved after it."""
    if is_main_process():
        write_text(Path(runner.work_dir) / 'last_checkpoint', path)


def _resumable(good: Sequence[str]) -> str:
    if good:
        return f'resume from the last earlier checkpoint, {good[0]}'
    return 'start anew: there is no earlier checkpoint'


def _step(
    runner: Runner, head: HypersphereHead | None, batch: Any, outputs: Mapping
) -> Step:
    loss = getattr(head, 'loss_module', None)
    margin = getattr(loss, 'm', None)
    norms = runner.message_hub.log_scalars.get('train/grad_norm')
    if norms is not None:
        deferred = isinstance(norms, DeferredHistory)
        norms = norms.latest if deferred else float(norms.current())
    return Step(
        iteration=runner.iter + 1,
        outputs={
            name: value.detach() if isinstance(value, Tensor) else value
            for name, value in outputs.items()
        },
        numbers=image_numbers(batch),
        geometry=None if head is None else head.last,
        lr=next(iter(runner.optim_wrapper.get_lr().values()))[0],
        margin=margin if isinstance(margin, int | float) else None,
        grad_norm=norms,
    )
