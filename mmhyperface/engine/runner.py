"""The runner: checkpoints of class centres that many processes share."""

import logging
import math
import re
from collections import OrderedDict
from collections.abc import Iterable
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from mmengine.device import get_device
from mmengine.dist import all_gather_object, is_main_process
from mmengine.evaluator import Evaluator
from mmengine.fileio import FileClient, LocalBackend, get_file_backend
from mmengine.hooks import EMAHook
from mmengine.logging import MMLogger, print_log
from mmengine.model import is_model_wrapper
from mmengine.optim import OptimWrapper, OptimWrapperDict
from mmengine.runner import BaseLoop, Runner
from mmengine.runner.checkpoint import _load_checkpoint, _load_checkpoint_to_model
from torch import Tensor, nn
from torch.optim import Optimizer

from mmhyperface.centres import storage
from mmhyperface.centres.shared_rows import (
    ClassTensor,
    all_or_none,
    class_tensors,
    collected,
    from_main,
    has_rows,
    saved_as,
    take_placeholders,
)
from mmhyperface.centres.state import (
    MappedRows,
    StoredRows,
    heads_of,
    own_centres_saved,
)
from mmhyperface.datasets.seeded_batches import resumable
from mmhyperface.datasets.wrappers import placed
from mmhyperface.engine import loops
from mmhyperface.engine.config_changes import AsConfigured, take_config
from mmhyperface.engine.fitting import require_training, require_weights
from mmhyperface.engine.load_centres import CHOICES, CheckpointCentres
from mmhyperface.engine.optim_wrappers import has_bfloat16_instructions
from mmhyperface.evaluation.evaluator import FaceEvaluator
from mmhyperface.evaluation.metrics import EmbeddingMetric
from mmhyperface.registry import RUNNERS
from mmhyperface.utils.errors import UserError, interrupted, writing_to
from mmhyperface.weights.state_dicts import replace_tensors

UNITS = {'KB': 1 << 10, 'MB': 1 << 20, 'GB': 1 << 30, 'TB': 1 << 40}


@RUNNERS.register_module()
class FaceRunner(Runner):
    """mmengine's ``Runner`` whose checkpoints know no world size.

    What N processes save, M resume and one tests: the centres, their momentum and
    whatever else the optimizer keeps of them, and their moving average. While the
    centres are small a checkpoint is one file, as one process of mmengine writes it.
    Above a limit it is a folder (see :mod:`mmhyperface.centres.storage`), which
    each process writes its own rows into and reads its own rows from, and which must
    therefore lie where all processes see it. No process ever holds more than its own
    rows and one file of the size of the limit.

    Unlike mmengine's, ``save_checkpoint`` is to be called by all processes when the
    head is sharded. An interrupted save leaves the previous checkpoint whole.

    Args (entries of the config, beside mmengine's):
        centre_parts_above: Size of the centres and what belongs to them, in bytes or
            like '512MB', above which a checkpoint is a folder; by default '1GB',
            None for never.
        load_centres: What ``load_from`` does with the centres of the checkpoint when
            a training begins (not when one is resumed). ``all`` (the default) takes
            them, for the same identities. ``drop`` drops the head, to train another
            set of identities. ``map`` takes those of the identities whose names,
            ``metainfo['classes']`` of the training set, are also among the
            checkpoint's; all others start anew. The same identities in another
            order are mapped by ``all``, too, and by a resumed training.
        load_partial: Let ``load_from`` take what fits of another network. By default
            backbone and neck must fit.
        env_cfg.tf32: Whether GPUs round the inputs of float32 products and
            convolutions to TF32, 10 bits of mantissa instead of 23, which is several
            times as fast from A100 on. By default, as in torch, those of convolutions
            only. Half precision (:class:`.AmpOptimWrapper`) is not concerned, but the
            head's products are, whose cosines then err by some 2e-5 (512 dimensions).

    Raises:
        UserError: For other values of these options, and for checkpoints that are
            missing, damaged, of another network or of other people.
    """

    optim_wrapper: Any
    param_schedulers: Any
    _resume: bool
    _train_dataloader: Any

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        for name in ('train_dataloader', 'val_dataloader', 'test_dataloader'):
            config = getattr(self, f'_{name}')
            setattr(self, f'_{name}', placed(config, name, self.cfg.get('data_root')))
        self.centre_parts_above = _bytes(self.cfg.get('centre_parts_above', '1GB'))
        self.load_centres = self.cfg.get('load_centres', 'all')
        if self.load_centres not in CHOICES:
            raise UserError(
                f'load_centres must be one of {CHOICES}, got '
                f'{self.load_centres!r}: give --cfg-options load_centres=...'
            )
        self.load_partial = bool(self.cfg.get('load_partial', False))
        #: The checkpoint that the training was resumed from.
        self.resumed_from: str | None = None
        self._taken: list[tuple[storage.Key, str]] = []
        self._resuming = self._resumes_optimizer = False
        self._resumed: dict[str, Any] = {}
        # Of a resumed training: where each head's classes are in the checkpoint.
        self._origins: dict[str, Tensor | None] = {}

    def call_hook(self, fn_name: str, **kwargs: Any) -> None:
        # Hooks that keep a copy of the model, such as EMAHook, are about the rows
        # of this process.
        if fn_name == 'before_run':
            _leave_slow_amp('val_cfg', self._val_loop)
            _leave_slow_amp('test_cfg', self._test_loop)
        if fn_name in ('before_train', 'after_train'):
            # A loop of one's own may have no evaluator.
            evaluator = getattr(self.val_loop, 'evaluator', None)
            for metric in getattr(evaluator, 'metrics', ()):
                if isinstance(metric, EmbeddingMetric):
                    # Whether such a validation ends a training is for hooks to say.
                    metric.tolerant = fn_name == 'before_train'
        with own_centres_saved():
            super().call_hook(fn_name, **kwargs)
        if fn_name == 'before_save_checkpoint':
            self._taken = list(take_placeholders(kwargs['checkpoint']))
        if fn_name == 'before_train' and self.iter:
            loops.tell_of_resuming(self.train_loop)
            loops.skip_trained(self.train_loop, self.seed)

    def setup_env(self, env_cfg: dict) -> None:
        """mmengine's, and ``tf32``."""
        super().setup_env(env_cfg)
        tf32 = env_cfg.get('tf32')
        if tf32 is not None:
            torch.backends.cuda.matmul.allow_tf32 = bool(tf32)
            torch.backends.cudnn.allow_tf32 = bool(tf32)

    def build_logger(self, *args: Any, **kwargs: Any) -> MMLogger:
        """mmengine's; a log that cannot be written is an error of its own.

        logging prints a traceback for each line of it instead.
        """
        logger = super().build_logger(*args, **kwargs)
        for handler in logger.handlers:
            if isinstance(handler, logging.FileHandler):
                handler.handleError = _reraise  # type: ignore[method-assign]
        return logger

    # ---- loops, whose parts fit one another

    def build_train_loop(self, loop: BaseLoop | dict) -> BaseLoop:
        """mmengine's, after :func:`.loops.fitting` and before its check."""
        config = self._train_dataloader
        if isinstance(loop, dict):
            loop, config = loops.fitting(loop, config)
            self._train_dataloader = config
            # A loop of one's own may take several loaders, and resume as it likes.
            if isinstance(config, dict) and loops.builds(loop, *loops.KINDS):
                apart = self._randomness_cfg.get('diff_rank_seed', False)
                loader = self.build_dataloader(config, self.seed, apart)
                self._train_dataloader = resumable(loader, self.seed)
        built = super().build_train_loop(loop)
        # Which has the size of a batch in any case.
        self._train_dataloader = config
        if built is not loop:
            loops.check_train_loop(self, built)
        return built

    def build_val_loop(self, loop: BaseLoop | dict) -> BaseLoop:
        """mmengine's; what is wrong with its data says how to train without."""
        try:
            built = super().build_val_loop(loop)
            loops.check_evaluation_loop('val', built)
        except UserError as error:
            raise UserError(
                f'{error.brief}; or train without validation: --no-validate, that is '
                'val_cfg=None val_dataloader=None val_evaluator=None'
            ) from error
        return built

    def build_test_loop(self, loop: BaseLoop | dict) -> BaseLoop:
        """mmengine's, if it ends and sees all images."""
        built = super().build_test_loop(loop)
        loops.check_evaluation_loop('test', built)
        return built

    def build_param_scheduler(self, scheduler: Any) -> Any:
        """mmengine's, if they count what the training loop does."""
        loop = self._train_loop
        loops.check_order(scheduler)
        built = super().build_param_scheduler(loops.converted(scheduler, loop))
        # A resumed training has them built already.
        if any(isinstance(each, dict) for _, each in loops.each(scheduler)):
            loops.check_schedules(built, scheduler, loop)
        return built

    def build_evaluator(self, evaluator: dict | list | Evaluator) -> Evaluator:
        """A :class:`FaceEvaluator`, unless the config names another type.

        Embeddings of a large test set must not be kept by each metric.
        """
        if isinstance(evaluator, dict) and 'metrics' in evaluator:
            if 'type' in evaluator:
                return super().build_evaluator(evaluator)
            return FaceEvaluator(**evaluator)
        if isinstance(evaluator, dict | list):
            return FaceEvaluator(evaluator)
        return super().build_evaluator(evaluator)

    def train(self) -> nn.Module:
        """Train, see mmengine's ``Runner``.

        Raises:
            UserError: If the disk of the work directory is full, or read-only.
            KeyboardInterrupt: With the iteration, and what there is to resume from.
        """
        last = Path(self.work_dir, 'last_checkpoint')
        before = _edition(last)
        try:
            with writing_to(self.work_dir):
                return super().train()
        except BaseException as error:
            if not interrupted(error):
                raise
            saved = self.resumed_from
            if _edition(last) != before:
                saved = last.read_text()
            iteration = getattr(self._train_loop, 'iter', 0)
            what = (
                f'the last checkpoint is {saved}: go on with --resume {saved}'
                if saved
                else 'no checkpoint was saved yet'
            )
            raise KeyboardInterrupt(f'at iteration {iteration}; {what}') from None

    def test(self) -> dict:
        """Test, see mmengine's ``Runner``.

        Raises:
            UserError: If the disk of the work directory is full, or read-only.
        """
        with writing_to(self.work_dir):
            return super().test()

    # ---- saving

    def checkpoint_bytes(self, save_optimizer: bool = True) -> int:
        """About how large a checkpoint is: weights and what an optimizer keeps."""
        whole = {
            id(head.weight): head.shard.num_classes / max(1, len(head.weight))
            for head in heads_of(self.bare_model).values()
        }

        def size(tensors: Iterable[Tensor]) -> float:
            return sum(
                t.numel() * t.element_size() * whole.get(id(t), 1) for t in tensors
            )

        model = self.bare_model
        total = size(model.parameters()) + size(model.buffers())
        for hook in self.hooks:
            if isinstance(hook, EMAHook):
                total += size(hook.ema_model.parameters())
        if save_optimizer and isinstance(self.optim_wrapper, OptimWrapper):
            for group in self._groups():
                kept = 2 if 'betas' in group else bool(group.get('momentum'))
                total += kept * size(p for p in group['params'] if p.requires_grad)
        return int(total)

    def save_checkpoint(
        self,
        out_dir: str,
        filename: str,
        file_client_args: dict | None = None,
        save_optimizer: bool = True,
        save_param_scheduler: bool = True,
        meta: dict | None = None,
        by_epoch: bool = True,
        backend_args: dict | None = None,
    ) -> None:
        """Save a checkpoint, see mmengine's ``Runner`` for the arguments.

        Raises:
            UserError: If a folder is due where processes do not see one another's
                files. What goes wrong on one process is raised on all.
        """
        options: dict[str, Any] = {
            'file_client_args': file_client_args,
            'save_optimizer': save_optimizer,
            'save_param_scheduler': save_param_scheduler,
            'meta': {**(meta or {}), 'world_size': self.world_size},
            'by_epoch': by_epoch,
            'backend_args': backend_args,
        }
        heads = heads_of(self.bare_model).values()
        shared = any(head.shard.world_size > 1 for head in heads)
        for head in heads:
            head.flush()
        if shared or is_main_process():
            self._save(out_dir, filename, options, shared)

    def _save(
        self, out_dir: str, filename: str, options: dict[str, Any], shared: bool
    ) -> None:
        averages = {
            f'average {i} of ': hook.ema_model.module
            for i, hook in enumerate(self.hooks)
            if isinstance(hook, EMAHook)
        }
        optimizers = self.optimizers() if options['save_optimizer'] else ()
        tensors = class_tensors({'': self.bare_model, **averages}, optimizers, shared)
        large = sum(tensor.bytes for tensor in tensors)
        in_parts = large > self.centre_parts_above
        if not _is_local(out_dir, options['file_client_args'], options['backend_args']):
            if in_parts:
                raise UserError(
                    'the centres are too large for one file and cannot be saved in '
                    f'parts to {out_dir}: set default_hooks.checkpoint.out_dir to a '
                    'local folder, or give a larger limit, --cfg-options '
                    'centre_parts_above=64GB'
                )
            with collected(tensors), all_or_none(shared):
                super().save_checkpoint(out_dir, filename, **options)
            return
        path = Path(out_dir, filename)
        with storage.abandoned(path, self.checkpoint_bytes(options['save_optimizer'])):
            if in_parts:
                self._save_parts(path, tensors, options, shared)
                return
            with collected(tensors), all_or_none(shared):
                new = storage.begin(path)
                super().save_checkpoint(str(new.parent), new.name, **options)
                if is_main_process():
                    storage.publish(path)

    def _save_parts(
        self,
        path: Path,
        tensors: list[ClassTensor],
        options: dict[str, Any],
        shared: bool,
    ) -> None:
        # They stand for themselves in the checkpoint, until `call_hook` takes them out.
        with saved_as(tensors, tensors), all_or_none(shared):
            folder = storage.begin(path)
            if is_main_process():
                folder.mkdir()
            super().save_checkpoint(str(folder), storage.MODEL, **options)
        places = from_main(self._taken, shared)
        named = {tensor.name: tensor for tensor in tensors}
        entries: list[dict] = []
        with all_or_none(shared):
            if not folder.is_dir():
                raise UserError(
                    f'process {self.rank} does not see the folder {folder} of process '
                    '0: large centres are saved in parts by all processes. Put '
                    '--work-dir on a file system that they share, or give a larger '
                    'limit, --cfg-options centre_parts_above=64GB'
                )
            entries = [named[name].write(folder, key) for key, name in places]
        of_ranks = all_gather_object(entries) if shared else [entries]
        with all_or_none(shared):
            if is_main_process():
                storage.write_index(folder, of_ranks)
                storage.publish(path)

    # ---- loading

    def load_checkpoint(
        self,
        filename: str,
        map_location: Any = 'cpu',
        strict: bool = False,
        revise_keys: Iterable[tuple[str, str]] = ((r'^module\.', ''),),
    ) -> dict:
        """Load a checkpoint, see mmengine's ``Runner`` for the arguments.

        Args:
            filename: Also a folder.
            map_location: For remote files; local ones are read from where they are.

        Returns:
            The checkpoint, in which :class:`StoredRows` stand for the rows of the
            centres.
        """
        if '://' in filename:
            checkpoint = _load_checkpoint(filename, map_location=map_location)
        else:
            checkpoint = storage.read(filename)
        checkpoint = _with_state_dict(filename, checkpoint, list(revise_keys))
        training = isinstance(self._train_loop, BaseLoop)
        if self._resuming:
            require_training(self, filename, checkpoint, self._resumes_optimizer)
            self._resumed = checkpoint
        elif training:
            # What is deployed of it, and trained on, is `state_dict`, the average.
            checkpoint.pop('ema_state_dict', None)
            require_weights(self, filename, checkpoint['state_dict'])
        for name, head in heads_of(self.bare_model).items():
            centres = CheckpointCentres(
                filename, checkpoint, name, head, lambda: self.train_dataloader.dataset
            )
            if self._resuming:
                self._origins[name] = centres.resume()
            elif training:
                centres.load(self.load_centres)
        if self._resuming:
            # Optimizers keep the very tensors, and these are mapped to the file.
            replace_tensors(checkpoint.get('optimizer'), Tensor.clone)
        self.call_hook('after_load_checkpoint', checkpoint=checkpoint)
        _load_checkpoint_to_model(self.bare_model, checkpoint, strict, revise_keys=[])
        self._has_loaded = True
        self.logger.info(f'Load checkpoint from {filename}')
        return checkpoint

    def resume(
        self,
        filename: str,
        resume_optimizer: bool = True,
        resume_param_scheduler: bool = True,
        map_location: Any = 'default',
    ) -> None:
        """Resume training, see mmengine's ``Runner`` for the arguments."""
        self.optim_wrapper = self.build_optim_wrapper(self.optim_wrapper)
        if self.param_schedulers is not None:
            self.param_schedulers = self.build_param_scheduler(self.param_schedulers)
        configured = AsConfigured(self._wrappers(), self._schedules())
        self._resuming, self._resumes_optimizer = True, resume_optimizer
        try:
            super().resume(
                filename,
                resume_optimizer,
                resume_param_scheduler,
                'cpu' if map_location == 'default' else map_location,
            )
        finally:
            self._resuming = False
        if resume_optimizer:
            self._read_optimizer_rows()
        self.resumed_from = filename
        checkpoint, self._resumed = self._resumed, {}
        wholly = resume_optimizer and resume_param_scheduler
        take_config(self, filename, checkpoint, configured if wholly else None)

    def restore(self, filename: str) -> None:
        """Put model and optimizer back to a checkpoint in the middle of a training.

        Hooks that keep a copy of the model, and the loss scaler, are put back, too.
        The iteration, the schedules and so the optimizer's hyperparameters stay;
        gradients that wait for a step are dropped.

        Args:
            filename: A checkpoint of this training, also a folder, that all processes
                see.
        """
        wrapper = self.optim_wrapper
        wrapper.zero_grad()
        resume = self._resume
        # EMAHook asks for it when it chooses between the model and its average.
        self._resume = self._resuming = self._resumes_optimizer = True
        try:
            saved = self.load_checkpoint(filename)['optimizer']
            for name, optimizer in self.optimizers():
                part = saved[name] if name else saved
                part['param_groups'] = optimizer.state_dict()['param_groups']
            wrapper.load_state_dict(saved)
            self._read_optimizer_rows()
        finally:
            self._resume, self._resuming = resume, False
            self._resumed = {}

    def scale_learning_rate(self, factor: float) -> None:
        """Multiply the learning rate, and all that schedulers compute it from."""
        for group in self._groups():
            for name in group:
                if name == 'lr' or name.endswith('_lr'):
                    group[name] = group[name] * factor
        for scheduler in chain(*self._schedules().values()):
            if scheduler.param_name == 'lr':
                for name in ('base_values', '_last_value'):
                    scaled = [value * factor for value in getattr(scheduler, name)]
                    setattr(scheduler, name, scaled)

    def _read_optimizer_rows(self) -> None:
        """Keep this rank's rows of what the optimizers have loaded of all ranks."""
        for name, head in heads_of(self.bare_model).items():
            origin = self._origins.get(name)
            for _, optimizer in self.optimizers():
                state = optimizer.state.get(head.weight, {})
                for entry, rows in state.items():
                    if has_rows(rows, head.shard.num_classes):
                        rows = StoredRows([(0, rows)])
                    if isinstance(rows, StoredRows):
                        if origin is not None:
                            rows = MappedRows(rows, origin)
                        state[entry] = rows.of_shard(head.shard, head.weight.device)

    def optimizers(self) -> list[tuple[str, Optimizer]]:
        """Each optimizer with its name, which is empty if there is but one."""
        return [(name, each.optimizer) for name, each in self._wrappers().items()]

    def _groups(self) -> list[dict[str, Any]]:
        return [group for _, each in self.optimizers() for group in each.param_groups]

    def _wrappers(self) -> dict[str, OptimWrapper]:
        wrapper = self.optim_wrapper
        if isinstance(wrapper, OptimWrapperDict):
            return dict(wrapper.items())
        return {'': wrapper}

    def _schedules(self) -> dict[str, list]:
        """Of each optimizer."""
        schedulers = self.param_schedulers or []
        return schedulers if isinstance(schedulers, dict) else {'': schedulers}

    @property
    def bare_model(self) -> nn.Module:
        """The model without its wrapper."""
        return self.model.module if is_model_wrapper(self.model) else self.model


def _edition(path: Path) -> tuple[int, int] | None:
    """Differs when a file has been replaced."""
    try:
        stat = path.stat()
    except OSError:
        return None
    return stat.st_ino, stat.st_mtime_ns


def _reraise(record: logging.LogRecord) -> None:
    raise  # logging calls it where it has caught the error


def _leave_slow_amp(option: str, loop: Any) -> None:
    """Let a loop compute in float32 on a CPU that is slow in half precision."""
    if (
        getattr(loop, 'fp16', False)
        and get_device() == 'cpu'
        and not has_bfloat16_instructions()
    ):
        loop.fp16 = False
        print_log(
            f'{option}.fp16: float32, for this CPU has no instructions for bfloat16',
            'current',
        )


def _bytes(size: float | str | None) -> float:
    """512, '512MB' -> bytes; None -> infinity."""
    if size is None:
        return math.inf
    if isinstance(size, str):
        match = re.fullmatch(r'\s*(\d+(?:\.\d+)?)\s*([KMGT]B)\s*', size, re.IGNORECASE)
        if match:
            return float(match[1]) * UNITS[match[2].upper()]
    elif isinstance(size, int | float) and size >= 0:
        return size
    raise UserError(
        f"centre_parts_above must be a number of bytes or like '512MB', got {size!r}"
    )


def _is_local(
    out_dir: str, file_client_args: dict | None, backend_args: dict | None
) -> bool:
    backend = (
        get_file_backend(out_dir, backend_args=backend_args)
        if file_client_args is None
        else FileClient.infer_client(file_client_args, out_dir).client
    )
    return isinstance(backend, LocalBackend)


def _with_state_dict(filename: str, checkpoint: Any, revise_keys: list) -> dict:
    """A checkpoint whose weights are its ``state_dict``, with the model's own names."""
    if not isinstance(checkpoint, dict):
        raise UserError(f'{filename} holds no checkpoint')
    if 'state_dict' not in checkpoint:
        checkpoint = {'state_dict': checkpoint}
    state = checkpoint['state_dict']
    if not isinstance(state, dict):
        raise UserError(f'{filename} is no checkpoint: it holds no weights')
    renamed: Any = OrderedDict((str(key), value) for key, value in state.items())
    for pattern, new in revise_keys:
        renamed = OrderedDict((re.sub(pattern, new, k), v) for k, v in renamed.items())
    renamed._metadata = getattr(state, '_metadata', OrderedDict())
    return {**checkpoint, 'state_dict': renamed}
