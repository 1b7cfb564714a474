"""Registries of mmhyperface: a child of each registry of mmpretrain.

A type is looked up in ours, then in mmpretrain's, then in mmengine's, so with
``default_scope='mmhyperface'`` a config mixes the three freely. From other
scopes ours are ``type='mmhyperface.X'``.
"""

import warnings
from collections.abc import Mapping
from typing import Any

from mmengine import registry as mmengine_registry
from mmengine.registry import Registry
from mmpretrain import registry as mmpretrain_registry

from .compat import checkpoints

checkpoints.apply()
# Importing mmpretrain.models says this with every mmcv-lite; no face needs the op.
warnings.filterwarnings('ignore', 'Fail to import ``MultiScaleDeformableAttention``')


def _child(parent: Registry, *locations: str) -> Registry:
    # A lookup climbs to the parent without importing the parent's modules, so
    # the parent's locations are listed here too.
    registry = Registry(
        parent.name,
        parent=parent,
        scope='mmhyperface',
        locations=[*parent._locations, *locations],
    )
    # mmengine resolves 'mmhyperface.X' from another scope among the direct
    # children of the root only.
    registry.root.children.setdefault('mmhyperface', registry)
    return registry


RUNNERS = _child(mmpretrain_registry.RUNNERS, 'mmhyperface.engine.runner')
RUNNER_CONSTRUCTORS = _child(mmpretrain_registry.RUNNER_CONSTRUCTORS)
LOOPS = _child(mmpretrain_registry.LOOPS)
HOOKS = _child(mmpretrain_registry.HOOKS, 'mmhyperface.engine.hooks')
LOG_PROCESSORS = _child(
    mmpretrain_registry.LOG_PROCESSORS, 'mmhyperface.engine.log_processor'
)
OPTIMIZERS = _child(mmpretrain_registry.OPTIMIZERS)
OPTIM_WRAPPERS = _child(
    mmpretrain_registry.OPTIM_WRAPPERS, 'mmhyperface.engine.optim_wrappers'
)
OPTIM_WRAPPER_CONSTRUCTORS = _child(mmpretrain_registry.OPTIM_WRAPPER_CONSTRUCTORS)
PARAM_SCHEDULERS = _child(mmpretrain_registry.PARAM_SCHEDULERS)
DATASETS = _child(mmpretrain_registry.DATASETS, 'mmhyperface.datasets')
DATA_SAMPLERS = _child(mmpretrain_registry.DATA_SAMPLERS, 'mmhyperface.datasets')
TRANSFORMS = _child(mmpretrain_registry.TRANSFORMS, 'mmhyperface.datasets')
MODELS = _child(mmpretrain_registry.MODELS, 'mmhyperface.models')
MODEL_WRAPPERS = _child(
    mmpretrain_registry.MODEL_WRAPPERS, 'mmhyperface.engine.distributed'
)
WEIGHT_INITIALIZERS = _child(
    mmpretrain_registry.WEIGHT_INITIALIZERS, 'mmhyperface.engine.pretrained'
)
BATCH_AUGMENTS = _child(mmpretrain_registry.BATCH_AUGMENTS)
TOKENIZER = _child(mmpretrain_registry.TOKENIZER)
TASK_UTILS = _child(mmpretrain_registry.TASK_UTILS)
METRICS = _child(mmpretrain_registry.METRICS, 'mmhyperface.evaluation.metrics')
EVALUATORS = _child(mmpretrain_registry.EVALUATORS, 'mmhyperface.evaluation.evaluator')
VISUALIZERS = _child(mmpretrain_registry.VISUALIZERS)
VISBACKENDS = _child(mmpretrain_registry.VISBACKENDS)

# mmpretrain has no child of these; without one of ours mmengine warns that it
# "failed to search registry" under our default scope.
STRATEGIES = _child(mmengine_registry.STRATEGIES)
INFERENCERS = _child(mmengine_registry.INFERENCERS, 'mmhyperface.inference.inferencer')
FUNCTIONS = _child(mmengine_registry.FUNCTIONS, 'mmhyperface.datasets')


def is_a(config: Any, registry: Registry, kind: type | tuple[type, ...]) -> bool:
    """Whether what a config builds is of a class or of one derived from it.

    Args:
        config: Its ``type`` is the class, or its name in the registry, with or without
            a scope. Without a type it is of no class.
        registry: Where it is built.
        kind: The class, or several.
    """
    cls = config.get('type') if isinstance(config, Mapping) else None
    if isinstance(cls, str):
        cls = registry.get(cls)
    return isinstance(cls, type) and issubclass(cls, kind)
