"""One set of batch norm statistics for all ranks, where it is looked at."""

from collections.abc import Mapping

from mmengine.dist import all_reduce_params, is_distributed
from mmengine.hooks import CheckpointHook, EMAHook, Hook
from mmengine.hooks.hook import DATA_BATCH
from mmengine.runner import Runner

from mmhyperface.registry import HOOKS

from .checkpoint import saves_now


@HOOKS.register_module()
class SyncStatisticsHook(Hook):
    """Averages running statistics over the ranks before validating and saving.

    Each rank's batch norm follows its own share of the batch. Without this hook a
    validation would mix the statistics of all ranks, the checkpoint would hold those
    of rank 0, and testing it would give other figures. (mmengine's SyncBuffersHook
    acts after epochs only, which training by iteration does not have.)
    """

    priority = 'LOW'  # before CheckpointHook

    def before_val_epoch(self, runner: Runner) -> None:
        self._average(runner)

    def after_train_epoch(self, runner: Runner) -> None:
        self._average(runner)

    def after_train_iter(
        self,
        runner: Runner,
        batch_idx: int,
        data_batch: DATA_BATCH = None,
        outputs: Mapping | None = None,
    ) -> None:
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
