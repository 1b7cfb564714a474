"""Parts of the model that hooks look at."""

from mmengine.model import is_model_wrapper
from mmengine.runner import Runner
from torch import nn

from mmhyperface.models.heads import HypersphereHead


def bare_model(runner: Runner) -> nn.Module:
    """The model without what wraps it for several processes."""
    return runner.model.module if is_model_wrapper(runner.model) else runner.model


def head_of(runner: Runner) -> HypersphereHead | None:
    """The head on the hypersphere, if the model has one."""
    for module in bare_model(runner).modules():
        if isinstance(module, HypersphereHead):
            return module
    return None
