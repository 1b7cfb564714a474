"""What is kept of each iteration of a run."""

import math
from collections.abc import Mapping
from typing import Any

from mmengine.hooks import Hook
from mmengine.runner import Runner

from mmhyperface.utils.errors import UserError


class Diverged(UserError):
    """The loss is no number any more."""


class Trace(Hook):
    """Keeps the loss and the norm of the gradients of each iteration."""

    def __init__(self) -> None:
        self.loss: list[float] = []
        self.grad_norm: list[float] = []

    def after_train_iter(
        self,
        runner: Runner,
        batch_idx: int,
        data_batch: Any = None,
        outputs: Mapping | None = None,
    ) -> None:
        loss = float((outputs or {})['loss'])
        norm = float(runner.message_hub.get_scalar('train/grad_norm').current())
        if not math.isfinite(loss + norm):
            raise Diverged(f'not finite at iteration {runner.iter + 1}')
        self.loss.append(loss)
        self.grad_norm.append(norm)
