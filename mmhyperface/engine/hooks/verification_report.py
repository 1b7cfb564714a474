"""What training has gained: raw pixels and the untrained network beside the result."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.dist import is_main_process
from mmengine.evaluator import Evaluator
from mmengine.hooks import Hook
from mmengine.model import BaseModel, is_model_wrapper
from mmengine.runner import Runner
from mmengine.runner.amp import autocast

from mmhyperface.errors import UserError
from mmhyperface.evaluation.metrics import FaceVerification, VerificationResult
from mmhyperface.evaluation.report import (
    plot_verification,
    verification_table,
    write_verification_json,
)
from mmhyperface.registry import HOOKS

Results = dict[str, VerificationResult]  # by test set

CHECKPOINT_KEY = 'verification_baselines'
ROW_NAMES = {'pixels': 'raw pixels', 'untrained': 'untrained'}
TRAINED = 'trained'


@HOOKS.register_module()
class VerificationReportHook(Hook):
    """Report face verification before and after training, and after a test.

    Before training the validation set is evaluated on raw pixels and on the network
    as it was initialised; after training one table per test set compares them with
    the last validation, and a picture and a JSON file go to the work directory. A
    test adds ``_test`` to their names; several test sets add the set's name to the
    picture's. Every :class:`FaceVerification` of the evaluator takes part.

    The baselines travel in the checkpoints, so a resumed run and a test show those
    of the beginning, for test sets whose pairs are the same. Nothing is evaluated
    before training when a checkpoint was loaded: that network is not untrained.

    The evaluation leaves the model's mode and its statistics, and torch's random
    state, as they were. Its hooks for validation (EMA, logging, best checkpoint) do
    not run.

    Args:
        baselines: of ``'pixels'`` (the preprocessed image, flattened, is the
            embedding; needs memory for all images as float32 on rank 0) and
            ``'untrained'``.
        out_file: the picture, in ``runner.work_dir``; the JSON file lies beside it
            with suffix ``.json``.
    """

    # Reads an evaluation that hooks of normal priority have finished with.
    priority = 'LOW'

    def __init__(
        self,
        baselines: Sequence[str] = ('pixels', 'untrained'),
        out_file: str = 'verification.png',
    ) -> None:
        unknown = set(baselines) - set(ROW_NAMES)
        if unknown:
            raise UserError(
                f'unknown baselines {sorted(unknown)}; they can be {tuple(ROW_NAMES)}'
            )
        self.names = tuple(baselines)
        self.out_file = out_file
        self.baselines: dict[str, Results] = {}
        self.trained: Results = {}

    def before_train(self, runner: Runner) -> None:
        if not self.names or runner.val_loop is None:
            return
        if runner._has_loaded or runner.iter > 0:
            return
        if _metrics(runner.val_loop.evaluator):
            runner.logger.info(f'Verification before training: {self.names}')
            self.baselines = _evaluate_baselines(runner, self.names)

    def after_val_epoch(
        self, runner: Runner, metrics: dict[str, float] | None = None
    ) -> None:
        self.trained = _results(_metrics(runner.val_loop.evaluator))

    def after_train(self, runner: Runner) -> None:
        self._report(runner, self.trained, self.out_file)

    def after_test(self, runner: Runner) -> None:
        path = Path(self.out_file)
        tested = _results(_metrics(runner.test_loop.evaluator))
        self._report(runner, tested, f'{path.stem}_test{path.suffix}')

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        checkpoint[CHECKPOINT_KEY] = {
            baseline: {name: result.state_dict() for name, result in results.items()}
            for baseline, results in self.baselines.items()
        }

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        self.baselines = {
            baseline: {
                name: VerificationResult.from_state_dict(state)
                for name, state in states.items()
            }
            for baseline, states in checkpoint.get(CHECKPOINT_KEY, {}).items()
        }

    def _report(self, runner: Runner, trained: Results, out_file: str) -> None:
        if not trained or not is_main_process():
            return
        sets = {name: self._rows(name, result) for name, result in trained.items()}
        path = Path(runner.work_dir) / out_file
        for name, rows in sets.items():
            picture = path
            if len(sets) > 1:
                label = name.replace('/', '_')
                picture = path.with_name(f'{path.stem}_{label}{path.suffix}')
            plot_verification(rows, picture)
            runner.logger.info(
                f'Verification on {name} (picture: {picture})\n'
                f'{verification_table(rows)}'
            )
        write_verification_json(sets, path.with_suffix('.json'))

    def _rows(self, name: str, trained: VerificationResult) -> Results:
        rows = {
            ROW_NAMES[baseline]: results[name]
            for baseline, results in self.baselines.items()
            if name in results and np.array_equal(results[name].same, trained.same)
        }
        return {**rows, TRAINED: trained}


def _metrics(evaluator: Evaluator) -> list[FaceVerification]:
    return [
        metric for metric in evaluator.metrics if isinstance(metric, FaceVerification)
    ]


def _results(metrics: Iterable[FaceVerification]) -> Results:
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
            for batch in loop.dataloader:
                for name in names:
                    samples = embed[name](model, batch)
                    for metric in metrics[name]:
                        metric.process(batch, samples)
    finally:
        model.train(training)
    for name in names:
        for metric in metrics[name]:
            metric.evaluate(len(loop.dataloader.dataset))
    return {name: _results(metrics[name]) for name in names}


def _embeddings(model: BaseModel, batch: Any) -> list[dict]:
    return [sample.to_dict() for sample in model.val_step(batch)]


def _pixels(model: BaseModel, batch: Any) -> list[dict]:
    recognizer = model.module if is_model_wrapper(model) else model
    data = recognizer.data_preprocessor(batch, False)
    return [
        {'sample_idx': sample.sample_idx, 'embedding': image.flatten()}
        for sample, image in zip(data['data_samples'], data['inputs'], strict=True)
    ]
