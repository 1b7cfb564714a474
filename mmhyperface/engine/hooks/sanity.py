"""Checks that end a run with a clear message instead of a wasted night."""

from collections.abc import Mapping
from typing import Any

from mmengine.evaluator import Evaluator
from mmengine.hooks import Hook
from mmengine.runner import BaseLoop, Runner

from mmhyperface.registry import HOOKS
from mmhyperface.utils.errors import UserError

from .model_parts import bare_model


@HOOKS.register_module()
class ClassCountHook(Hook):
    """Compares the head's number of classes with the training set's.

    It also lets a :class:`.FaceRecognizer` give the scores of the training identities
    where mmpretrain's metrics of a classifier, such as ``mmpretrain.Accuracy``, are to
    examine it, and the images examined are of the same identities.

    Raises:
        UserError: Before training, if the numbers differ; before training and before
            a test by such a metric, if the identities do, or if there is no head with
            all of them.
    """

    def before_train(self, runner: Runner) -> None:
        dataset = runner.train_dataloader.dataset
        count, expected = _num_classes(dataset), _head_classes(runner)
        if None not in (count, expected) and count != expected:
            raise UserError(
                f'the training set ({type(dataset).__name__}) has {count} identities, '
                f'but model.head.num_classes is {expected}; pass --cfg-options '
                f'model.head.num_classes={count}'
            )
        if runner.val_loop is not None:  # what it would refuse after the training
            self._prepare(runner, runner.val_loop, 'val')

    def before_val(self, runner: Runner) -> None:
        self._prepare(runner, runner.val_loop, 'val')

    def before_test(self, runner: Runner) -> None:
        self._prepare(runner, runner.test_loop, 'test')

    @staticmethod
    def _prepare(runner: Runner, loop: Any, part: str) -> None:
        model: Any = bare_model(runner)
        evaluator = getattr(loop, 'evaluator', None)
        if evaluator is None or not hasattr(model, 'classifies'):
            return
        dataset = loop.dataloader.dataset
        metric = _classification_metric(evaluator)
        model.classifies = metric is not None
        if metric is None:
            return
        shard = getattr(model.head, 'shard', None)
        if model.head is None or (shard is not None and shard.world_size > 1):
            raise UserError(
                f'{part}_evaluator: {metric} needs the cosines to the centres of all '
                'training identities on each process; set model.head.sharded=False, '
                'or examine by FaceVerification, which needs none'
            )
        known, count = _head_classes(runner), _num_classes(dataset)
        same = count in (None, known)
        # Not runner.train_loop, which would build the training of a mere test.
        if same and isinstance(getattr(runner, '_train_loop', None), BaseLoop):
            sets = runner.train_dataloader.dataset, dataset
            trained, examined = (_metainfo(each).get('classes') for each in sets)
            same = None in (trained, examined) or trained == examined
        if not same:
            raise UserError(
                f'{part}_evaluator: {metric} tells how often the right training '
                f'identity is found, of which model.head has {known}, but the images '
                f'of {part}_dataloader.dataset are of {count} others; give it images '
                'of the same identities, or examine by FaceVerification'
            )


def _metainfo(dataset: Any) -> Mapping:
    return getattr(dataset, 'metainfo', None) or {}


def _num_classes(dataset: Any) -> int | None:
    return _metainfo(dataset).get('num_classes')


def _head_classes(runner: Runner) -> int | None:
    return getattr(getattr(bare_model(runner), 'head', None), 'num_classes', None)


def _classification_metric(evaluator: Evaluator) -> str | None:
    """The name of the first metric that asks who a face is of those in training."""
    from mmpretrain.evaluation import Accuracy, ConfusionMatrix, SingleLabelMetric

    kinds = Accuracy, ConfusionMatrix, SingleLabelMetric
    return next(
        (type(m).__name__ for m in evaluator.metrics if isinstance(m, kinds)), None
    )
