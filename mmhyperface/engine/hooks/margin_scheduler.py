"""Annealing of a margin over the iterations."""

from bisect import bisect_right
from collections.abc import Sequence
from typing import Any

from mmengine.hooks import Hook
from mmengine.runner import Runner

from mmhyperface.models.losses import HypersphereLoss
from mmhyperface.registry import HOOKS
from mmhyperface.utils.errors import UserError

from .model_parts import bare_model

POLICIES = ('step', 'linear')


@HOOKS.register_module()
class MarginSchedulerHook(Hook):
    """Sets a margin of the loss before each iteration.

    The margin is a function of the iteration alone, so a resumed run continues
    exactly; it is also written to the checkpoint, and a resumed run whose config
    would have given another margin there says so and follows its config.

    With ``policy='step'`` the margin is ``start + dm * n``, n being the number of
    milestones passed: SphereFace-R's schedule for features that are not or softly
    normalised (arXiv 2109.05565), of which OpenSphere's code calls the milestones
    ``steps``. With ``policy='linear'`` it goes from ``start`` at iteration ``begin`` to
    the loss's own margin at iteration ``end``.

    Args:
        policy: ``step`` or ``linear``.
        start: Margin of the first iteration: that of no margin, 1 for a
            multiplicative one and 0 for an additive one.
        milestones: Iterations, counted from 0, from which the next step holds.
        dm: Step.
        begin: First iteration of the linear part.
        end: Iteration from which the loss's own margin holds.
        param: Name of the margin in the loss, one of its ``margins``.
    """

    def __init__(
        self,
        policy: str = 'step',
        start: float | None = None,
        milestones: Sequence[int] = (),
        dm: float = 0.1,
        begin: int = 0,
        end: int | None = None,
        param: str = 'm',
    ) -> None:
        fault = ''
        if policy not in POLICIES:
            fault = f'policy must be one of {POLICIES}, got {policy!r}'
        elif list(milestones) != sorted(milestones):
            fault = f'milestones must ascend, got {list(milestones)}'
        elif policy == 'linear' and (end is None or end <= begin):
            fault = f'policy linear needs end > begin, got begin={begin}, end={end}'
        elif policy == 'linear' and start is None:
            fault = (
                'policy linear needs start: 1 for a multiplicative margin, 0 for an '
                'additive one'
            )
        if fault:
            raise UserError(f'MarginSchedulerHook: {fault}')
        self.policy = policy
        self.start = 1.0 if start is None else start
        self.milestones = list(milestones)
        self.dm = dm
        self.begin = begin
        self.end = end
        self.param = param
        self.final: float | None = None
        self.saved: dict | None = None

    def margin_at(self, iteration: int) -> float:
        """The margin of an iteration, counted from 0."""
        if self.policy == 'step':
            return self.start + self.dm * bisect_right(self.milestones, iteration)
        assert self.end is not None
        assert self.final is not None, 'the loss is known from before_train on'
        share = (iteration - self.begin) / (self.end - self.begin)
        return self.start + (self.final - self.start) * min(max(share, 0.0), 1.0)

    def before_train(self, runner: Runner) -> None:
        loss = self._loss(runner)
        if not hasattr(loss, self.param):
            raise UserError(
                f'MarginSchedulerHook: {type(loss).__name__} has no margin '
                f'{self.param!r}'
            )
        if self.final is None:  # else this hook has moved it already
            self.final = getattr(loss, self.param)
        # A checkpoint that is only fine-tuned from starts a new schedule.
        if runner.iter and self.saved:
            expected = self.margin_at(self.saved['iter'])
            if expected != self.saved['margin']:
                runner.logger.warning(
                    f'MarginSchedulerHook: the checkpoint was made with margin '
                    f'{self.saved["margin"]} at iteration {self.saved["iter"]}, this '
                    f'config has {expected} there; continuing with the config'
                )

    def before_train_iter(self, runner: Runner, *args: Any, **kwargs: Any) -> None:
        margin = self.margin_at(runner.iter)
        setattr(self._loss(runner), self.param, margin)
        runner.message_hub.update_scalar('train/margin', margin)

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        margin = getattr(self._loss(runner), self.param)
        checkpoint['margin_scheduler'] = {'iter': runner.iter, 'margin': margin}

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        self.saved = checkpoint.get('margin_scheduler')

    @staticmethod
    def _loss(runner: Runner) -> HypersphereLoss:
        model: Any = bare_model(runner)
        return model.head.loss_module
