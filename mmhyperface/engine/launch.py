"""From a config and its overrides to a runner."""

import argparse
import difflib
import inspect
import os
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from string import digits
from typing import TYPE_CHECKING, Any

from mmengine.config import Config, ConfigDict
from mmengine.registry import init_default_scope

from mmhyperface.utils.configs import type_name
from mmhyperface.utils.errors import UserError, writing_to
from mmhyperface.utils.paths import require_folder

from .testing import take_test_sets

if TYPE_CHECKING:
    from mmengine.runner import Runner

#: Entries of a config that one option sets, wherever they are: option -> their names.
SHARED = {
    'lfw_root': ('data_root',),
    'lfw_pairs': ('ann_file',),
    'image_size': ('image_size', 'input_size', 'scale', 'size'),
    'epochs': ('max_epochs', 'val_interval', 'T_max'),
}
#: The loaders of a config.
LOADERS = ('train_dataloader', 'val_dataloader', 'test_dataloader')
# Those which mmengine adds unless they are None.
MMENGINE_HOOKS = (
    'runtime_info',
    'timer',
    'sampler_seed',
    'logger',
    'param_scheduler',
    'checkpoint',
)


def config_from(args: argparse.Namespace, test_sets: Sequence[str] = ()) -> Config:
    """The config that the arguments of :func:`argument_parser` ask for.

    Args:
        test_sets: see :func:`load_config`.
    """
    os.environ.setdefault('LOCAL_RANK', str(args.local_rank))
    cfg = load_config(args.config, args.cfg_options, test_sets)
    cfg.launcher = args.launcher
    if args.work_dir:
        cfg.work_dir = args.work_dir
    elif not cfg.get('work_dir'):
        cfg.work_dir = str(Path('work_dirs') / Path(cfg.filename).stem)
    require_folder(cfg.work_dir)
    return cfg


def load_config(
    path: str, options: dict | None = None, test_sets: Sequence[str] = ()
) -> Config:
    """Read a config and merge ``--cfg-options`` into it.

    The option ``data_root=PATH`` moves every data set that lies in the config's own
    ``data_root``; or, with `test_sets`, in theirs.

    Args:
        path: of a file, or as in ``_base_`` ``PACKAGE::FILE``, a config of an installed
            package.
        test_sets: names or files of test sets that take the place of the config's, see
            :func:`take_test_sets`.

    Raises:
        UserError: If there is no such file, or test sets of several folders are to be
            moved to one.
    """
    file = config_file(path)
    if not file.is_file():
        raise UserError(f'there is no config {path}')
    cfg = Config.fromfile(file)
    options = dict(options or {})
    if test_sets:
        roots = take_test_sets(cfg, test_sets)
    else:
        roots = {cfg.data_root} if 'data_root' in cfg else set()
    if 'data_root' in options:
        if len(roots) > 1:
            raise UserError(
                f'data_root=... moves one folder, but the test sets lie in '
                f'{", ".join(sorted(roots))}; set test_dataloader.dataset.datasets.'
                'NUMBER.data_root=... of each'
            )
        for root in roots:
            _move(cfg._cfg_dict, ('data_root',), root, options['data_root'])
    merge_options(cfg, options)
    return cfg


def merge_options(cfg: Config, options: dict[str, Any]) -> None:
    """Merge options into a config, by paths in which only one thing can be meant.

    What a config says once and uses in several places (``SHARED``) is replaced wherever
    it is.

    Raises:
        UserError: If one leads nowhere, or to several things, or is misspelt.
    """
    for option, names in SHARED.items():
        if option in cfg and option in options:
            _move(cfg._cfg_dict, names, cfg[option], options[option])
    merged: dict[str, Any] = {}
    for option, value in options.items():
        path = _path_of(cfg._cfg_dict, option, value)
        if path in merged:
            raise UserError(f'--cfg-options sets {path} twice, also as {option}')
        if _has_type(value):
            _clear_other_type(cfg._cfg_dict, path, value)
        merged[path] = value
    try:
        cfg.merge_from_dict(merged)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        reason = str(error).splitlines()[0]
        given = ' '.join(f'{option}={value}' for option, value in options.items())
        raise UserError(f'--cfg-options {given}: {reason}') from error


def _path_of(cfg: ConfigDict, option: str, value: Any) -> str:
    """The path of an option, with the number of the entry of a list of one.

    Raises:
        UserError: If it leads nowhere, or to several.
    """
    node: Any = cfg
    names = option.split('.')
    path: list[str] = []
    while names:
        name = names[0]
        if isinstance(node, dict) and _are_test_sets(node, name):
            path.append('datasets')
            node = node['datasets']
        if isinstance(node, list | tuple) and not name.isdigit():
            if len(node) == 1:
                names.insert(0, '0')
                continue
            entries = [
                f'{".".join([*path, str(i), *names])}={value} '
                f'({type_name(each) if _has_type(each) else each})'
                for i, each in enumerate(node)
            ]
            raise UserError(
                f'--cfg-options {option}={value}: {".".join(path)} is a list; set '
                f'{" or ".join(entries) or "the whole of it"}'
            )
        if isinstance(node, list | tuple):
            if int(name) >= len(node):
                raise UserError(
                    f'--cfg-options {option}={value}: {".".join(path)} is a list of '
                    f'{len(node)}, whose entries are counted from 0'
                )
            node = node[int(name)]
        elif isinstance(node, dict):
            if name not in node:
                _refuse_misspelling(node, name, path, option, value)
                # What is new may have any path below.
                return '.'.join([*path, *names])
            node = node[name]
        else:
            raise UserError(
                f'--cfg-options {option}={value}: {".".join(path)} is {node!r}, which '
                f'has no {name}'
            )
        path.append(names.pop(0))
    return '.'.join(path)


def _has_type(node: Any) -> bool:
    return isinstance(node, dict) and 'type' in node


def _clear_other_type(node: Any, path: str, value: dict) -> None:
    """Empty what is there, if of another type, which has other options than `value`."""
    for name in path.split('.'):
        if isinstance(node, list | tuple):
            node = node[int(name)]
        elif name in node:
            node = node[name]
        else:
            return
    if _has_type(node) and type_name(node) != type_name(value):
        node.clear()


def _are_test_sets(node: dict, name: str) -> bool:
    """Whether an option of a single data set is asked of several together."""
    from mmhyperface.datasets import FaceTestSets
    from mmhyperface.registry import DATASETS, is_a

    own = ('type', 'datasets', 'combined', '_delete_', '_scope_')
    return is_a(node, DATASETS, FaceTestSets) and 'datasets' in node and name not in own


def _refuse_misspelling(
    node: dict, name: str, path: list[str], option: str, value: Any
) -> None:
    """An entry that nothing reads would be passed over, or end in a traceback."""
    from mmengine.runner import Runner

    known = set(node)
    if not path:
        known |= set(inspect.signature(Runner.__init__).parameters) - {'self', 'cfg'}
    if name in known or name.startswith('_'):
        return
    # layer10 and layer11 are no misspellings of one another.
    known = {each for each in known if name.strip(digits) != str(each).strip(digits)}
    similar = difflib.get_close_matches(name, known, n=1, cutoff=0.85)
    if similar:
        where = f'{".".join(path)} has' if path else 'the config has'
        raise UserError(
            f'--cfg-options {option}={value}: {where} no {name}; is '
            f'{".".join([*path, similar[0]])} meant?'
        )


def config_file(path: str) -> Path:
    """The file of a config's path, which may be ``PACKAGE::FILE``."""
    package, mark, name = path.partition('::')
    if not mark:
        return Path(path)
    spec = find_spec(package) if package.isidentifier() else None
    if spec is None or spec.origin is None:
        raise UserError(f'there is no package {package} for the config {path}')
    return Path(spec.origin).parent / '.mim' / 'configs' / name


def _move(node: Any, names: Sequence[str], old: Any, new: Any) -> None:
    """Replace each entry of these names below ``node`` that equals ``old``."""
    if isinstance(node, dict):
        node.update({name: new for name in names if node.get(name) == old})
    if isinstance(node, dict | list | tuple):
        for child in node.values() if isinstance(node, dict) else node:
            _move(child, names, old, new)


def require_entries(cfg: Config, names: Sequence[str]) -> None:
    """Raise ``UserError`` for a config without one of these entries."""
    for name in names:
        if not cfg.get(name):
            raise UserError(
                f'{cfg.filename} has no {name}; inherit it from one of configs/_base_'
            )


def require_checkpoint(path: str) -> None:
    """Raise ``UserError`` for a local path that is no checkpoint."""
    from mmhyperface.centres.storage import find

    if '://' not in path:
        find(path)


def _guard_dataloaders(cfg: Config) -> None:
    """Drop what torch's DataLoader or the collate function would refuse."""
    for name in LOADERS:
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


def _drop_disabled_hooks(cfg: Config) -> None:
    """Let ``default_hooks.NAME=None`` switch off our hooks as it does mmengine's."""
    hooks = cfg.get('default_hooks') or {}
    for name in [name for name, hook in hooks.items() if hook is None]:
        if name not in MMENGINE_HOOKS:
            del hooks[name]


def count_classes(cfg: Config) -> None:
    """Fill in ``model.head.num_classes='auto'`` from the training set."""
    from mmhyperface.datasets.face_dataset import building, loader
    from mmhyperface.registry import DATASETS

    head = cfg.model.get('head')
    if not head or head.get('num_classes') != 'auto':
        return
    init_default_scope(cfg.get('default_scope', 'mmhyperface'))
    where = loader('train_dataloader', cfg.get('data_root'))
    with where, building('dataset'):
        dataset = DATASETS.build(ConfigDict(cfg.train_dataloader.dataset))
    if 'num_classes' not in dataset.metainfo:
        raise UserError(
            f'{type(dataset).__name__} does not tell how many identities it has; set '
            'model.head.num_classes'
        )
    count = dataset.metainfo['num_classes']
    if count < 2:
        held = cfg.train_dataloader.dataset.get('holdout')
        keeps = f' (train_dataloader.dataset.holdout keeps {held} apart)'
        raise UserError(
            'training needs two people or more, and train_dataloader.dataset has '
            f'{count}: give it images of more people{keeps if held else ""}'
        )
    head.num_classes = count


def build_runner(cfg: Config) -> 'Runner':
    """The runner of a config, on the processes that the launcher started."""
    from mmhyperface.engine.distributed import init_process_group
    from mmhyperface.engine.runner import FaceRunner
    from mmhyperface.registry import RUNNERS

    _guard_dataloaders(cfg)
    _drop_disabled_hooks(cfg)
    env_cfg = cfg.get('env_cfg') or {}
    init_process_group(cfg.get('launcher', 'none'), env_cfg.get('dist_cfg'))
    with writing_to(cfg.get('work_dir', '')):
        if 'runner_type' in cfg:
            return RUNNERS.build(cfg)
        return FaceRunner.from_cfg(cfg)
