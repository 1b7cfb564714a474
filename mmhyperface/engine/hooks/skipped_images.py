"""An account of the images that a training passed over."""

from typing import Any

from mmengine.dist import all_gather_object, is_main_process
from mmengine.hooks import Hook
from mmengine.runner import Runner

from mmhyperface.registry import HOOKS

MOST_TOLD = 20


@HOOKS.register_module()
class SkippedImagesHook(Hook):
    """Tells after training which images were damaged, and how many.

    Those are the images that a training set with ``on_error='skip'`` replaced by
    others.
    """

    def after_train(self, runner: Runner) -> None:
        dataset: Any = runner.train_dataloader.dataset
        if getattr(dataset, 'on_error', 'raise') != 'skip':
            return
        damaged: dict[int, str] = {}
        for of_rank in all_gather_object(dataset.skipped()):
            damaged.update(of_rank)
        if not is_main_process():
            return
        if not damaged:
            runner.logger.info('no image was damaged')
            return
        lines = [
            f'  {number}: {damaged[number]}' for number in sorted(damaged)[:MOST_TOLD]
        ]
        if len(damaged) > MOST_TOLD:
            lines.append(f'  ... ({len(damaged)} in all)')
        runner.logger.warning(
            f'{len(damaged)} of {len(dataset)} images of the training set are damaged '
            'and were passed over:\n' + '\n'.join(lines)
        )
