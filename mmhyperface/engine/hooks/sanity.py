"""Checks that end a run with a clear message instead of a wasted night."""

import math
from collections.abc import Mapping

from mmengine.hooks import Hook
from mmengine.hooks.hook import DATA_BATCH
from mmengine.model import is_model_wrapper
from mmengine.runner import Runner

from mmhyperface.errors import UserError
from mmhyperface.registry import HOOKS


@HOOKS.register_module()
class ClassCountHook(Hook):
    """Compares the head's number of classes with the training set's.

    Raises:
        UserError: Before training, if they differ.
    """

    def before_train(self, runner: Runner) -> None:
        model = runner.model.module if is_model_wrapper(runner.model) else runner.model
        head = getattr(model, 'head', None)
        dataset = runner.train_dataloader.dataset
        metainfo = getattr(dataset, 'metainfo', None) or {}
        found = metainfo.get('num_classes')
        expected = getattr(head, 'num_classes', None)
        if None not in (found, expected) and found != expected:
            raise UserError(
                f'the training set ({type(dataset).__name__}) has {found} identities, '
                f'but model.head.num_classes is {expected}; pass --cfg-options '
                f'model.head.num_classes={found}'
            )


@HOOKS.register_module()
class NonFiniteLossHook(Hook):
    """Stops training when the loss is NaN or infinite.

    It runs before the iteration's checkpoint is written.

    Raises:
        UserError: After the iteration, with what was logged in it.
    """

    priority = 'VERY_HIGH'

    def after_train_iter(
        self,
        runner: Runner,
        batch_idx: int,
        data_batch: DATA_BATCH = None,
        outputs: Mapping | None = None,
    ) -> None:
        values = {name: float(value) for name, value in (outputs or {}).items()}
        if all(math.isfinite(v) for name, v in values.items() if 'loss' in name):
            return
        learning_rates = next(iter(runner.optim_wrapper.get_lr().values()))
        logged = ', '.join(f'{name}={value:.4g}' for name, value in values.items())
        raise UserError(
            f'the loss is not finite at iteration {runner.iter + 1} ({logged}, '
            f'lr={learning_rates[0]:.4g}). Lower the learning rate, warm it up, or '
            'clip gradients (optim_wrapper.clip_grad=dict(max_norm=5)), and resume '
            f'from an earlier checkpoint in {runner.work_dir}'
        )
