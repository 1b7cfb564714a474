"""A check that ends a run with a clear message instead of a wasted night."""

from mmengine.hooks import Hook
from mmengine.runner import Runner

from mmhyperface.errors import UserError
from mmhyperface.registry import HOOKS

from .model_parts import bare_model


@HOOKS.register_module()
class ClassCountHook(Hook):
    """Compares the head's number of classes with the training set's.

    Raises:
        UserError: Before training, if they differ.
    """

    def before_train(self, runner: Runner) -> None:
        head = getattr(bare_model(runner), 'head', None)
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
