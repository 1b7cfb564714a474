"""Connects the class centres of a head with the optimizer that steps them."""

from mmengine.hooks import EMAHook, Hook
from mmengine.model import is_model_wrapper
from mmengine.optim import OptimWrapper
from mmengine.runner import Runner

from mmhyperface.engine.distributed import FaceDistributedDataParallel
from mmhyperface.engine.optim_wrappers import OptimWrapper as FaceOptimWrapper
from mmhyperface.engine.runner import FaceRunner
from mmhyperface.models.heads import HypersphereHead
from mmhyperface.registry import HOOKS
from mmhyperface.utils.errors import UserError

from .model_parts import bare_model


@HOOKS.register_module()
class CentresHook(Hook):
    """Attaches sampled or fused centres to the optimizer before training.

    It does nothing for centres that are an ordinary parameter.

    Raises:
        UserError: Before training, where the centres could not be trained exactly:
            split centres under another wrapper or runner than mmhyperface's; a fused
            update together with clipping of the centres, accumulation or a loss scaler.
    """

    # EMAHook swaps the network's weights before validation: bring them up to date
    # before.
    priority = 'HIGH'

    def before_train(self, runner: Runner) -> None:
        for head in _heads(runner):
            self._check(runner, head)
            head.attach(runner.optim_wrapper.optimizer)

    def before_val_epoch(self, runner: Runner) -> None:
        for head in _heads(runner):
            head.flush()

    def after_train(self, runner: Runner) -> None:
        for head in _heads(runner):
            head.flush()

    @staticmethod
    def _check(runner: Runner, head: HypersphereHead) -> None:
        wrapper = runner.optim_wrapper
        if not isinstance(wrapper, OptimWrapper):
            raise UserError(
                'split, sampled or fused centres need one optimizer for the whole '
                f'model, got {type(wrapper).__name__}; set optim_wrapper to one '
                "dict(type='mmhyperface.OptimWrapper', optimizer=...), or "
                'model.head.sharded=False, sample_rate=1.0 and fused_update=False'
            )
        if head.catch_up and any(isinstance(hook, EMAHook) for hook in runner.hooks):
            raise UserError(
                'catch_up and EMAHook exclude each other: the average would see '
                'centres whose skipped steps are yet to be made up for; set '
                'model.head.catch_up=False'
            )
        if is_model_wrapper(runner.model) and not isinstance(
            runner.model, FaceDistributedDataParallel
        ):
            raise UserError(
                f'{type(runner.model).__name__} would average centres that differ '
                'between ranks; set model_wrapper_cfg=dict('
                "type='mmhyperface.FaceDistributedDataParallel')"
            )
        if head.shard.world_size > 1 and not isinstance(wrapper, FaceOptimWrapper):
            raise UserError(
                f'{type(wrapper).__module__}.{type(wrapper).__name__} knows only the '
                'centres of its own rank when it clips or scales gradients; set '
                "optim_wrapper.type to 'mmhyperface.OptimWrapper' or "
                "'mmhyperface.AmpOptimWrapper'"
            )
        if head.shard.world_size > 1 and not isinstance(runner, FaceRunner):
            raise UserError(
                f'{type(runner).__name__} would save the centres of one process only; '
                "set runner_type='mmhyperface.FaceRunner'"
            )
        if head.fused_update:
            _check_fused(wrapper)


def _heads(runner: Runner) -> list[HypersphereHead]:
    """Heads whose centres are no ordinary parameter."""
    return [
        module
        for module in bare_model(runner).modules()
        if isinstance(module, HypersphereHead) and module.ddp_ignored
    ]


def _check_fused(wrapper: OptimWrapper) -> None:
    advice = 'leave it out, or set model.head.fused_update=False'
    if wrapper.clip_grad_kwargs and getattr(wrapper, 'clip_centres', True):
        raise UserError(
            'fused_update lets the centres step before the norm of all gradients is '
            f'known, which optim_wrapper.clip_grad needs: {advice}, or clip the '
            'network alone by optim_wrapper.clip_centres=False of '
            "'mmhyperface.OptimWrapper'"
        )
    if wrapper._accumulative_counts > 1:
        raise UserError(
            'fused_update lets the centres step in every iteration, and '
            f'optim_wrapper.accumulative_counts accumulates several: {advice}'
        )
    scaler = getattr(wrapper, 'loss_scaler', None)
    if scaler is not None and scaler.is_enabled():
        raise UserError(
            'fused_update lets the centres step before a loss scaler can skip the '
            "step: take AmpOptimWrapper with dtype='bfloat16', or set "
            'model.head.fused_update=False'
        )
