"""One set of batch norm statistics for all ranks, where it is looked at."""

from typing import Any

from mmengine.dist import all_reduce_params, is_distributed
from mmengine.hooks import CheckpointHook, EMAHook, Hook
from mmengine.runner import Runner
from torch.nn.modules.batchnorm import _BatchNorm

from mmhyperface.registry import HOOKS
from mmhyperface.utils.errors import some

from .checkpoint_hook import saves_now
from .model_parts import bare_model


@HOOKS.register_module()
class SyncStatisticsHook(Hook):
    """Averages running statistics over the ranks before validating and saving.

    Each rank's batch norm follows its own share of the batch. Without this hook a
    validation would mix the statistics of all ranks, the checkpoint would hold those
    of rank 0, and testing it would give other figures. (mmengine's SyncBuffersHook
    acts after epochs only, which training by iteration does not have.)

    Before training it warns of batch norms whose weights do not learn and whose
    statistics move all the same.
    """

    priority = 'LOW'  # before CheckpointHook

    def before_train(self, runner: Runner) -> None:
        moving = _moving_norms(runner)
        if moving:
            runner.logger.warning(
                f'The weights of {len(moving)} batch norms have a learning rate of 0 '
                '(for instance by lr_mult=0 in optim_wrapper.paramwise_cfg), but '
                f'training moves their running statistics: {some(moving, 3)}. To keep '
                'these too, set model.backbone.frozen_stages or '
                'model.backbone.norm_eval=True (model.neck.norm_eval=True)'
            )

    def before_val_epoch(self, runner: Runner) -> None:
        self._average(runner)

    def after_train_epoch(self, runner: Runner) -> None:
        self._average(runner)

    def after_train_iter(self, runner: Runner, *args: Any, **kwargs: Any) -> None:
        savers = [hook for hook in runner.hooks if isinstance(hook, CheckpointHook)]
        if any(saves_now(hook, runner) for hook in savers):
            self._average(runner)

    @staticmethod
    def _average(runner: Runner) -> None:
        if not is_distributed():
            return
        # An averaged model keeps, and saves, a copy of the buffers.
        averaged = [h.ema_model for h in runner.hooks if isinstance(h, EMAHook)]
        for model in (runner.model, *averaged):
            buffers = [b for b in model.buffers() if b.is_floating_point()]
            all_reduce_params(buffers, op='mean')


def _moving_norms(runner: Runner) -> list[str]:
    """Names of batch norms in training mode whose weights stay as they are."""
    # As the loop is about to do.
    runner.model.train()
    optimizer = getattr(runner.optim_wrapper, 'optimizer', None)
    still = {
        id(parameter)
        for group in getattr(optimizer, 'param_groups', ())
        # A warmup may begin at 0.
        if group.get('initial_lr', group['lr']) == 0
        for parameter in group['params']
    }
    still_moving = []
    for name, module in bare_model(runner).named_modules():
        if isinstance(module, _BatchNorm) and module.training and module.affine:
            weights = list(module.parameters())
            learns = any(p.requires_grad and id(p) not in still for p in weights)
            if not learns and any(id(p) in still for p in weights):
                still_moving.append(name)
    return still_moving
