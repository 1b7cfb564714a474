"""The figures of each iteration, without a wait for the device."""

from collections.abc import Mapping

from mmengine import hooks
from mmengine.hooks.hook import DATA_BATCH
from mmengine.runner import Runner

from mmhyperface.engine.deferred_history import defer, log_scalar
from mmhyperface.registry import HOOKS


@HOOKS.register_module()
class RuntimeInfoHook(hooks.RuntimeInfoHook):
    """mmengine's ``RuntimeInfoHook``; figures leave the device with the log."""

    def after_train_iter(
        self,
        runner: Runner,
        batch_idx: int,
        data_batch: DATA_BATCH = None,
        outputs: Mapping | None = None,
    ) -> None:
        for name, value in (outputs or {}).items():
            log_scalar(runner.message_hub, f'train/{name}', value)
        defer(runner.message_hub)
