"""What training has gained, with baselines beside it, and the report of a test."""

from collections.abc import Generator, Iterable, Sequence
from contextlib import contextmanager, nullcontext
from itertools import chain, islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.dist import all_reduce, all_reduce_params
from mmengine.evaluator import Evaluator
from mmengine.hooks import Hook
from mmengine.model import BaseModel, is_model_wrapper
from mmengine.runner import Runner
from mmengine.runner.amp import autocast
from torch.nn.modules.batchnorm import _BatchNorm

from mmhyperface.evaluation.metrics import EmbeddingMetric, FaceVerification
from mmhyperface.evaluation.protocols import Result, VerificationResult
from mmhyperface.evaluation.report import (
    plot_verification,
    verification_table,
    write_report,
    write_verification_json,
)
from mmhyperface.registry import HOOKS
from mmhyperface.utils.errors import UserError

from .throughput import count_images

Results = dict[str, VerificationResult]  # by test set

CHECKPOINT_KEY = 'verification_baselines'
ROW_NAMES = {'pixels': 'raw pixels', 'untrained': 'untrained'}
TRAINED = 'trained'
# Of the validation set, whose statistics an untrained network's batch norms take.
STATISTICS_BATCHES = 8


@HOOKS.register_module()
class VerificationReportHook(Hook):
    """Report face verification before and after training, and every test.

    Before training the validation set is evaluated on raw pixels and on the network
    as it was initialised; after training one table per test set compares them with
    the last validation, and a picture and a JSON file go to the work directory;
    several test sets add the set's name to the picture's. Every
    :class:`FaceVerification` of the evaluator takes part.

    After a test the results of every :class:`EmbeddingMetric` make a report, see
    :func:`.write_report`, and its tables go to the log.

    The baselines travel in the checkpoints, so a resumed run and a test show those
    of the beginning, for test sets whose pairs are the same. Nothing is evaluated
    before training when a checkpoint was loaded: that network is not untrained. A run
    that is resumed with nothing left to train, since it was killed in its last
    validation, is validated all the same.

    Batch norm that has seen nothing yet scales nothing, and a deep network overflows.
    So the untrained network takes the statistics of the first batches of the
    validation set; if all of them are of one image, it has no row. Embeddings that are
    zero, NaN or infinite, or all alike, make a row that says so.

    The evaluation leaves the model's mode and its statistics, and torch's random
    state, as they were. Its hooks for validation (EMA, logging, best checkpoint) do
    not run.

    Args:
        baselines: of ``'pixels'`` (the preprocessed image, flattened, is the
            embedding; needs memory for all images as float32 on rank 0) and
            ``'untrained'``.
        out_file: the picture, in ``runner.work_dir``; the JSON file lies beside it
            with suffix ``.json``.
        report_dir: the folder of a test's report, in ``runner.work_dir``; another
            test replaces it.
        draws: of the confidence intervals in that report; 0: none.
    """

    # Reads an evaluation that hooks of normal priority have finished with.
    priority = 'LOW'

    def __init__(
        self,
        baselines: Sequence[str] = ('pixels', 'untrained'),
        out_file: str = 'verification.png',
        report_dir: str = 'report',
        draws: int = 200,
    ) -> None:
        unknown = set(baselines) - set(ROW_NAMES)
        if unknown:
            raise UserError(
                f'default_hooks.report.baselines has {sorted(unknown)}; they can be '
                f'{tuple(ROW_NAMES)}'
            )
        self.names = tuple(baselines)
        self.out_file = out_file
        self.report_dir = report_dir
        self.draws = draws
        self.baselines: dict[str, Results] = {}
        self.trained: Results = {}
        self.begun = 0

    def before_train(self, runner: Runner) -> None:
        self.begun = runner.iter
        if not self.names or runner.val_loop is None:
            return
        if runner._has_loaded or runner.iter > 0:
            return
        if _metrics(runner.val_loop.evaluator):
            runner.logger.info(f'Verification before training: {self.names}')
            self.baselines = _evaluate_baselines(runner, self.names)
            if set(self.names) - set(self.baselines):
                runner.logger.warning(
                    'There is no verification of the untrained network: the statistics '
                    'of its batch norm take validation batches of at least two images '
                    '(val_dataloader.batch_size)'
                )

    def after_val_epoch(self, runner: Runner, metrics: Any = None) -> None:
        self.trained = _results(_metrics(runner.val_loop.evaluator))

    def after_train(self, runner: Runner) -> None:
        if 0 < self.begun == runner.iter and runner.val_loop is not None:
            runner.val_loop.run()
        if not self.trained:
            return
        sets = {name: self._rows(name, x) for name, x in self.trained.items()}
        path = Path(runner.work_dir) / self.out_file
        write_verification_json(sets, path.with_suffix('.json'))
        for name, rows in sets.items():
            picture = path
            if len(sets) > 1:
                label = name.replace('/', '_')
                picture = path.with_name(f'{path.stem}_{label}{path.suffix}')
            plot_verification(rows, picture, f'{name}, 1:1')
            runner.logger.info(
                f'Verification on {name} (picture: {picture})\n'
                f'{verification_table(rows)}'
            )

    def after_test(self, runner: Runner) -> None:
        sets: dict[str, dict[str, dict[str, Result]]] = {}
        for metric in _metrics(runner.test_loop.evaluator, EmbeddingMetric):
            for name, result in _results([metric]).items():
                rows = self._rows(name, result)
                sets.setdefault(name, {})[result.protocol] = rows
        if not sets:
            return
        config = runner.cfg.filename
        report = write_report(
            sets,
            Path(runner.work_dir) / self.report_dir,
            title=f'Test of {Path(config).stem}' if config else 'Test',
            config=config,
            checkpoint=runner._load_from,
            draws=self.draws,
        )
        runner.logger.info(f'Report: {report.folder}\n{report.text()}')

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        checkpoint[CHECKPOINT_KEY] = {
            baseline: {name: result.state_dict() for name, result in results.items()}
            for baseline, results in self.baselines.items()
        }

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        read: Any = VerificationResult.from_state_dict
        self.baselines = {
            baseline: {name: read(state) for name, state in states.items()}
            for baseline, states in checkpoint.get(CHECKPOINT_KEY, {}).items()
        }

    def _rows(self, name: str, trained: Result) -> dict[str, Any]:
        rows = {
            ROW_NAMES[baseline]: results[name]
            for baseline, results in self.baselines.items()
            if name in results and _same_pairs(results[name], trained)
        }
        return {**rows, TRAINED: trained}


def _same_pairs(baseline: VerificationResult, trained: Result) -> bool:
    return isinstance(trained, VerificationResult) and np.array_equal(
        baseline.same, trained.same
    )


def _metrics(evaluator: Evaluator, kind: type = FaceVerification) -> list[Any]:
    return [metric for metric in evaluator.metrics if isinstance(metric, kind)]


def _results(metrics: Iterable[EmbeddingMetric]) -> dict[str, Any]:
    """Results by set name, with the metric's prefix; empty on ranks but the first."""
    return {
        '/'.join(filter(None, (metric.prefix, name))): result
        for metric in metrics
        for name, result in metric.results_by_set.items()
    }


@torch.no_grad()
def _evaluate_baselines(runner: Runner, names: Sequence[str]) -> dict[str, Results]:
    """One pass over the validation set for all baselines, without hooks."""
    loop, model = runner.val_loop, runner.model
    metrics = {
        name: [metric.fresh() for metric in _metrics(loop.evaluator)] for name in names
    }
    embed = {'pixels': _pixels, 'untrained': _embeddings}
    training = model.training
    model.eval()
    try:
        # A data loader draws its workers' seed from the global generator; training
        # must not depend on whether this hook was there.
        with torch.random.fork_rng(devices=[]), autocast(enabled=loop.fp16):
            batches = iter(loop.dataloader)
            first = list(islice(batches, STATISTICS_BATCHES))
            with (
                _statistics(model, first)
                if 'untrained' in names
                else nullcontext(True) as scaled
            ):
                names = [name for name in names if scaled or name != 'untrained']
                for batch in chain(first, batches):
                    for name in names:
                        samples = embed[name](model, batch)
                        for metric in metrics[name]:
                            metric.process(batch, samples)
    finally:
        model.train(training)
    for name in names:
        for metric in metrics[name]:
            metric.tolerant = True
            metric.evaluate(len(loop.dataloader.dataset))
    return {name: _results(metrics[name]) for name in names}


@contextmanager
def _statistics(
    model: BaseModel, batches: Sequence[Any]
) -> Generator[bool, None, None]:
    """Let batch norms that have seen nothing have the statistics of some batches.

    Those of all ranks count alike. Afterwards they have seen nothing again. Yields
    whether batches have statistics: one image at the end of a network has none.
    """
    norms = [
        module
        for module in model.modules()
        if isinstance(module, _BatchNorm) and _has_seen_nothing(module)
    ]
    before = [
        (norm.momentum, [buffer.clone() for buffer in norm.buffers()]) for norm in norms
    ]
    batches = [batch for batch in batches if count_images(batch) > 1]
    try:
        for norm in norms:
            norm.reset_running_stats()
            norm.momentum = None  # the mean of all batches
            norm.train()
        for batch in batches if norms else ():
            model.val_step(batch)
        for norm in norms:
            norm.eval()
        buffers = [b for norm in norms for b in norm.buffers() if b.is_floating_point()]
        yield _average(buffers, len(batches))
    finally:
        for norm, (momentum, values) in zip(norms, before, strict=True):
            norm.momentum = momentum
            for buffer, value in zip(norm.buffers(), values, strict=True):
                buffer.copy_(value)


def _has_seen_nothing(norm: _BatchNorm) -> bool:
    return (
        norm.running_mean is not None
        and norm.running_var is not None
        and not norm.running_mean.any()
        and bool((norm.running_var == 1).all())
    )


def _average(buffers: list[torch.Tensor], count: int) -> bool:
    """The mean over all ranks, each of which has seen so many batches, if any has."""
    if not buffers:
        return True
    total = torch.tensor(float(count), device=buffers[0].device)
    all_reduce(total)
    for buffer in buffers:
        buffer.mul_(count / max(float(total), 1))
    all_reduce_params(buffers)
    return bool(total)


def _embeddings(model: BaseModel, batch: Any) -> list[dict]:
    return [sample.to_dict() for sample in model.val_step(batch)]


def _pixels(model: BaseModel, batch: Any) -> list[dict]:
    recognizer = model.module if is_model_wrapper(model) else model
    data = recognizer.data_preprocessor(batch, False)
    return [
        {
            'sample_idx': sample.sample_idx,
            'embedding': image.flatten(),
            'flip_fusion': 'none',
        }
        for sample, image in zip(data['data_samples'], data['inputs'], strict=True)
    ]
