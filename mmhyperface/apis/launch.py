"""What the command line tools have in common."""

import os
import sys
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mmengine.config import Config, ConfigDict
from mmengine.registry import init_default_scope
from mmengine.runner import Runner

from mmhyperface.errors import UserError
from mmhyperface.registry import DATASETS, RUNNERS

# Those which mmengine adds unless they are None.
MMENGINE_HOOKS = (
    'runtime_info',
    'timer',
    'sampler_seed',
    'logger',
    'param_scheduler',
    'checkpoint',
)


@contextmanager
def report_errors() -> Generator[None, None, None]:
    """Print a ``UserError`` as one message and exit with status 1."""
    try:
        yield
    except UserError as error:
        rank = os.environ.get('RANK')
        where = f' (rank {rank})' if rank not in (None, '0') else ''
        print(f'error{where}: {error.brief}', file=sys.stderr, flush=True)
        # Not raised further, so that no traceback buries the message.
        sys.exit(1)


def load_config(path: str, options: dict | None = None) -> Config:
    """Read a config and merge ``--cfg-options`` into it.

    The option ``data_root=PATH`` moves every data set that lies in the config's own
    ``data_root``.

    Raises:
        UserError: If there is no such file.
    """
    if '::' not in path and not Path(path).is_file():
        raise UserError(f'there is no config {path}')
    cfg = Config.fromfile(path)
    options = dict(options or {})
    if 'data_root' in cfg and 'data_root' in options:
        _move(cfg._cfg_dict, cfg.data_root, options['data_root'])
    cfg.merge_from_dict(options)
    return cfg


def _move(node: Any, old: str, new: str) -> None:
    """Replace each ``data_root`` below ``node`` that equals ``old``."""
    if isinstance(node, dict):
        if node.get('data_root') == old:
            node['data_root'] = new
        for child in node.values():
            _move(child, old, new)
    elif isinstance(node, list | tuple):
        for child in node:
            _move(child, old, new)


def guard_dataloaders(cfg: Config) -> None:
    """Drop what torch's DataLoader or the collate function would refuse."""
    for name in ('train_dataloader', 'val_dataloader', 'test_dataloader'):
        loader = cfg.get(name)
        if not isinstance(loader, dict):
            continue
        if not loader.get('num_workers', 0):
            loader.pop('persistent_workers', None)
            loader.pop('prefetch_factor', None)
        # mmengine marks every `type` of a config inherited by `package::` with its
        # scope, and then calls the collate function with the mark.
        collate = loader.get('collate_fn')
        if isinstance(collate, dict):
            collate.pop('_scope_', None)


def drop_disabled_hooks(cfg: Config) -> None:
    """Let ``default_hooks.NAME=None`` switch off our hooks as it does mmengine's."""
    hooks = cfg.get('default_hooks') or {}
    for name in [name for name, hook in hooks.items() if hook is None]:
        if name not in MMENGINE_HOOKS:
            del hooks[name]


def count_classes(cfg: Config) -> None:
    """Fill in ``model.head.num_classes='auto'`` from the training set."""
    head = cfg.model.get('head')
    if not head or head.get('num_classes') != 'auto':
        return
    init_default_scope(cfg.get('default_scope', 'mmhyperface'))
    dataset = DATASETS.build(ConfigDict(cfg.train_dataloader.dataset))
    if 'num_classes' not in dataset.metainfo:
        raise UserError(
            f'{type(dataset).__name__} does not tell how many identities it has; set '
            'model.head.num_classes'
        )
    head.num_classes = dataset.metainfo['num_classes']


def build_runner(cfg: Config) -> Runner:
    """The runner of a config, on the processes that the launcher started."""
    from mmhyperface.compat.distributed import init_process_group

    guard_dataloaders(cfg)
    drop_disabled_hooks(cfg)
    init_process_group(cfg.get('launcher', 'none'), cfg.env_cfg.get('dist_cfg'))
    if 'runner_type' in cfg:
        return RUNNERS.build(cfg)
    return Runner.from_cfg(cfg)
