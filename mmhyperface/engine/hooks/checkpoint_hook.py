"""When checkpoints are saved, and when old ones go."""

import os
from pathlib import Path

from mmengine.dist import is_distributed, is_main_process
from mmengine.fileio import LocalBackend
from mmengine.hooks import CheckpointHook as _CheckpointHook
from mmengine.runner import Runner

from mmhyperface.centres.shared_rows import from_main
from mmhyperface.centres.storage import MODEL, write_text
from mmhyperface.engine.runner import FaceRunner
from mmhyperface.evaluation.metrics.base import not_finite_sets
from mmhyperface.registry import HOOKS
from mmhyperface.utils.errors import UserError, free_space, size_of


def saves_now(hook: _CheckpointHook, runner: Runner, epoch_ends: bool = False) -> bool:
    """Whether a hook saves after the iteration, or epoch, that is being finished."""
    every, is_last = hook.every_n_train_iters, hook.is_last_train_iter
    if epoch_ends:
        every, is_last = hook.every_n_epochs, hook.is_last_train_epoch
    return hook.by_epoch == epoch_ends and (
        every(runner, hook.interval, hook.save_begin)
        or (hook.save_last and is_last(runner))
    )


@HOOKS.register_module()
class CheckpointHook(_CheckpointHook):
    """mmengine's ``CheckpointHook`` that removes an old checkpoint last.

    mmengine removes it before it saves the new one: with ``max_keep_ckpts=1``, or for
    the best checkpoint, an interrupted save loses both. ``last_checkpoint`` too always
    names a checkpoint that is there.

    Of checkpoints in parts, ``published_keys`` publishes what is not in parts, into
    their folder.
    """

    def before_train(self, runner: Runner) -> None:
        super().before_train(runner)
        if isinstance(runner, FaceRunner) and isinstance(
            self.file_backend, LocalBackend
        ):
            self._look_for_space(runner)

    def _look_for_space(self, runner: FaceRunner) -> None:
        """Warn of a disk that is too small for all checkpoints.

        Raises:
            UserError: On all processes, if there is no space for a single checkpoint.
        """
        size = runner.checkpoint_bytes(self.save_optimizer)
        length = runner.max_epochs if self.by_epoch else runner.max_iters
        count = int(self.save_last)
        if self.interval > 0:
            count = max(count, length // self.interval)
        if self.max_keep_ckpts > 0:
            # The oldest goes when the newest is there.
            count = min(count, self.max_keep_ckpts + 1)
        # As the process sees it that writes them, lest one alone should stop.
        free = from_main(free_space(self.out_dir), is_distributed())
        if not count or count * size <= free:
            return
        message = (
            f'{self.out_dir} has {size_of(free)} free, and {count} checkpoints of '
            f'about {size_of(size)} are to be saved there: make room, or set '
            'default_hooks.checkpoint.out_dir=FOLDER, '
            'default_hooks.checkpoint.interval or '
            'default_hooks.checkpoint.max_keep_ckpts'
        )
        if size > free:
            raise UserError(message)
        runner.logger.warning(message)

    def _save_checkpoint_with_step(self, runner: Runner, step: int, meta: dict) -> None:
        expired = self._enlist(runner, step)
        name = self.filename_tmpl.format(step)
        self.last_ckpt = self.file_backend.join_path(self.out_dir, name)
        runner.message_hub.update_info('last_ckpt', self.last_ckpt)
        runner.save_checkpoint(
            self.out_dir,
            name,
            self.file_client_args,
            save_optimizer=self.save_optimizer,
            save_param_scheduler=self.save_param_scheduler,
            meta=meta,
            by_epoch=self.by_epoch,
            backend_args=self.backend_args,
            **self.args,
        )
        if not is_main_process():
            return
        write_text(Path(runner.work_dir) / 'last_checkpoint', str(self.last_ckpt))
        if expired is not None:
            name = self.filename_tmpl.format(expired)
            self._remove(self.file_backend.join_path(self.out_dir, name))

    def _enlist(self, runner: Runner, step: int) -> int | None:
        """Add to the checkpoints to be kept; give the one that is not any more."""
        # The best checkpoint saves the last one of the same step again.
        if self.max_keep_ckpts <= 0 or (self.keep_ckpt_ids or [None])[-1] == step:
            return None
        full = len(self.keep_ckpt_ids) == self.max_keep_ckpts
        expired = self.keep_ckpt_ids.popleft() if full else None
        self.keep_ckpt_ids.append(step)
        runner.message_hub.update_info('keep_ckpt_ids', list(self.keep_ckpt_ids))
        return expired

    def _save_best_checkpoint(self, runner: Runner, metrics: dict) -> None:
        if not self.save_best:
            return
        # Of a network that has no embedding of some images no figure makes the best.
        if not_finite_sets(runner.val_loop, metrics):
            return
        # mmengine removes what it does not find None here.
        before = self._best()
        self._set_best(dict.fromkeys(before))
        super()._save_best_checkpoint(runner, metrics)
        after = self._best()
        self._set_best({name: after[name] or before.get(name) for name in after})
        if not is_main_process():
            return
        for name, path in before.items():
            if path and after[name] not in (None, path):
                self._remove(path)
                runner.logger.info(f'The previous best checkpoint {path} is removed')

    def _best(self) -> dict:
        if len(self.key_indicators) == 1:
            return {'': self.best_ckpt_path}
        return dict(self.best_ckpt_path_dict)

    def _set_best(self, paths: dict) -> None:
        if len(self.key_indicators) == 1:
            self.best_ckpt_path = paths['']
        else:
            self.best_ckpt_path_dict = paths

    def _publish_model(self, runner: Runner, ckpt_path: str) -> None:
        if os.path.isdir(ckpt_path):
            ckpt_path = os.path.join(ckpt_path, MODEL)
        super()._publish_model(runner, ckpt_path)

    def _remove(self, path: str) -> None:
        if self.file_backend.isfile(path):
            self.file_backend.remove(path)
        elif self.file_backend.isdir(path):
            self.file_backend.rmtree(path)
