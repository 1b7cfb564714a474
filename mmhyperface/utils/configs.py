"""Parts of a config."""

import copy
from collections.abc import Mapping
from typing import Any

from mmengine.config import Config, ConfigDict
from mmengine.registry import init_default_scope

from .errors import UserError


def dataset_config(cfg: Config, phase: str) -> ConfigDict:
    """A copy of the data set's config of a phase, ``train``, ``val`` or ``test``.

    The config's default scope is set, to build it in.

    Raises:
        UserError: If the phase has no data set.
    """
    loader = cfg.get(f'{phase}_dataloader')
    if loader is None:
        raise UserError(
            f'{cfg.filename}: no {phase}_dataloader; choose another --phase'
        )
    init_default_scope(cfg.get('default_scope', 'mmhyperface'))
    return copy.deepcopy(loader.dataset)


def metrics_of(evaluator: Any) -> list[dict]:
    """The configs of the metrics of an evaluator's config."""
    if isinstance(evaluator, dict):
        evaluator = evaluator.get('metrics', evaluator)
    return list(evaluator) if isinstance(evaluator, list | tuple) else [evaluator]


def type_name(config: Mapping) -> str:
    """The name of a config's type, which may be the class and may have a scope."""
    return getattr(config['type'], '__name__', config['type']).rpartition('.')[2]
