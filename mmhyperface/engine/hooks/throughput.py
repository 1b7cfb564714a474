"""How many images a second, and how much memory, a training takes."""

import resource
import sys
import time
from collections.abc import Mapping
from typing import Any

import torch
from mmengine.device import is_cuda_available
from mmengine.dist import all_reduce
from mmengine.hooks import Hook, LoggerHook
from mmengine.hooks.hook import DATA_BATCH
from mmengine.runner import Runner

from mmhyperface.registry import HOOKS

MEGABYTE = 2**20
# Bytes of ``ru_maxrss``'s unit.
RSS_UNIT = 1 if sys.platform == 'darwin' else 1024


@HOOKS.register_module()
class ThroughputHook(Hook):
    """Logs images per second over all ranks, and peak memory, with mmengine's figures.

    ``images_per_s`` counts the time of loading, forward, backward and step since the
    last line of the log; not what the hooks after it, such as the log, pictures and
    checkpoints, and validation take. Times are those of the first rank: the ranks wait
    for one another in every step.

    ``memory`` is in MB. On CUDA mmengine's log has it already, the most that tensors
    have taken on a device. On the CPU it is the most that the main process has had
    resident since it began, of the rank with the largest; workers of data loaders are
    not counted.
    """

    # After what belongs to a step, such as a moving average, and before the log.
    priority = 55  # type: ignore[assignment]

    def __init__(self) -> None:
        self.images = 0
        self.seconds = 0.0
        self.started: float | None = None

    def before_train(self, runner: Runner) -> None:
        # Whatever hooks do after this one is over when the last of them is called.
        runner.register_hook(_Restart(self), 'LOWEST')

    def before_train_iter(self, *args: Any, **kwargs: Any) -> None:
        # The first time: a resumed run has passed over many batches before.
        if self.started is None:
            self.start()

    def start(self) -> None:
        """Let the clock run from now on."""
        self.started = time.perf_counter()

    def pause(self) -> None:
        """Stop the clock."""
        if self.started is not None:
            self.seconds += time.perf_counter() - self.started
            self.started = None

    def after_train_iter(
        self,
        runner: Runner,
        batch_idx: int,
        data_batch: DATA_BATCH = None,
        outputs: Mapping | None = None,
    ) -> None:
        reports = any(
            self.every_n_inner_iters(batch_idx, hook.interval)
            for hook in runner.hooks
            if isinstance(hook, LoggerHook)
        )
        if reports and is_cuda_available():
            torch.cuda.synchronize()  # what the device has been told so far
        self.pause()
        self.images += count_images(data_batch)
        if reports:
            self._report(runner)

    def after_train_epoch(self, runner: Runner) -> None:
        self.pause()

    def _report(self, runner: Runner) -> None:
        images = torch.tensor(self.images)
        all_reduce(images)  # ranks may have batches of different sizes
        if images and self.seconds:
            rate = int(images) / self.seconds
            runner.message_hub.update_scalar('train/images_per_s', round(rate, 1))
        self.images, self.seconds = 0, 0.0
        if not is_cuda_available():
            peak = torch.tensor(_resident_bytes() / MEGABYTE)
            all_reduce(peak, op='max')
            runner.message_hub.update_scalar('train/memory', round(float(peak)))


class _Restart(Hook):
    """Starts the clock again after all other hooks, and after a validation."""

    def __init__(self, clock: ThroughputHook) -> None:
        self.clock = clock

    def after_train_iter(self, *args: Any, **kwargs: Any) -> None:
        self.clock.start()

    def after_train_epoch(self, runner: Runner) -> None:
        self.clock.start()

    def before_val(self, runner: Runner) -> None:
        self.clock.pause()

    def after_val(self, runner: Runner) -> None:
        self.clock.start()


def count_images(batch: Any) -> int:
    """How many images a batch has, as the data loader gives it."""
    inputs = batch['inputs'] if isinstance(batch, dict) else batch[0]
    return len(inputs)


def _resident_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * RSS_UNIT
