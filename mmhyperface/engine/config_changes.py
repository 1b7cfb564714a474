"""What a config has changed since a checkpoint was made, and how it gets its way."""

import ast
import copy
import warnings
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from mmengine.optim import OptimWrapper
from mmengine.optim.scheduler import (
    OneCycleParamScheduler,
    ReduceOnPlateauParamScheduler,
)
from mmengine.runner import EpochBasedTrainLoop

# The most changed entries that the log lists.
_MOST = 30
#: For an entry that a config does not have.
ABSENT = 'not set'
# Of the run, not of the training.
_ASIDE = (
    *('work_dir', 'experiment_name', 'launcher', 'log_level', 'visualizer'),
    *('vis_backends', 'resume', 'load_from', 'load_centres', 'load_partial'),
)
# What a scheduler's state has beside its settings.
_PROGRESS = ('last_step', '_global_step', '_last_value', 'base_values', 'verbose')

Changes = dict[str, tuple[Any, Any]]


def changes(before: dict[str, Any], after: dict[str, Any]) -> Changes:
    """The :func:`entries` in which two configs differ: of the old and of the new."""
    pairs = {
        name: (before.get(name, ABSENT), after.get(name, ABSENT))
        for name in sorted(before.keys() | after.keys())
        if name.partition('.')[0] not in _ASIDE
    }
    return {name: (old, new) for name, (old, new) in pairs.items() if old != new}


def lines_of(changed: Changes) -> list[str]:
    """A line for each, types first."""
    names = sorted(changed, key=lambda name: not name.endswith('.type'))
    return ['{}: {} -> {}'.format(name, *changed[name]) for name in names]


def entries(text: str) -> dict[str, Any]:
    """The leaves of a config's text by their places, such as ``param_scheduler.0.end``.

    Nothing of the text is executed. Empty if it is not that of a config.
    """
    try:
        body = ast.parse(text).body
    except (SyntaxError, ValueError):
        return {}
    leaves: dict[str, Any] = {}
    for node in body:
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            leaves |= _leaves(node.value, node.targets[0].id)
    return leaves


def _leaves(node: ast.expr, name: str) -> dict[str, Any]:
    leaves: dict[str, Any] = {}
    children: list[tuple[Any, ast.expr]]
    if isinstance(node, ast.Call) and ast.unparse(node.func) == 'dict':
        for mapping in node.args:
            leaves |= _leaves(mapping, name)
        children = [(keyword.arg, keyword.value) for keyword in node.keywords]
    elif isinstance(node, ast.Dict):
        keys = [ast.unparse(key).strip('\'"') if key else '**' for key in node.keys]
        children = list(zip(keys, node.values, strict=True))
    elif isinstance(node, ast.List | ast.Tuple):
        children = list(enumerate(node.elts))
    else:
        try:
            return {name: ast.literal_eval(node)}
        except ValueError:
            return {name: ast.unparse(node)}
    for key, child in children:
        leaves |= _leaves(child, f'{name}.{key}')
    return leaves


def take_config(
    runner: Any,
    filename: str,
    checkpoint: dict,
    configured: 'AsConfigured | None',
) -> None:
    """Let what a config has changed be in force in a resumed training; say what it is.

    Args:
        runner: :class:`.FaceRunner` of the training, which has loaded the checkpoint.
        filename: The checkpoint's.
        checkpoint: Its content.
        configured: Optimizers and schedules by the config; None leaves those of the
            checkpoint.
    """
    meta = checkpoint['meta']
    before, after = entries(str(meta.get('cfg', ''))), entries(runner.cfg.pretty_text)
    if not before:
        runner.logger.info(
            f'{filename} does not tell the config that it was made with: learning '
            'rate, schedule and all else that the optimizer keeps are those of '
            'the checkpoint'
        )
        return
    changed = changes(before, after)
    worlds = meta.get('world_size', runner.world_size), runner.world_size
    batches = [
        (config.get('train_dataloader.batch_size') or 0) * world
        for config, world in zip((before, after), worlds, strict=True)
    ]
    other_batch = batches[0] != batches[1]
    scales = after.get('auto_scale_lr.enable') is True and other_batch
    notes = []
    if configured and (changed or other_batch):
        steps = _steps_of_schedules(runner, not other_batch)
        saved = checkpoint.get('param_schedulers')
        notes = configured.prevail(changed, steps, scales, saved)
    lines = lines_of(changed)
    if worlds[0] != worlds[1]:
        lines.append(f'number of processes: {worlds[0]} -> {worlds[1]}')
    if not lines:
        return
    if 'randomness.seed' in changed:
        notes.append("the seed alone stays the checkpoint's, with the order of images")
    if other_batch:
        notes.append(
            f'a batch of all processes has {batches[1]} images instead of '
            f'{batches[0]}: the data goes on after {runner.iter} batches of the new '
            'size, so that some images come again or not at all, an epoch has '
            'another number of iterations, and the learning rate is '
            f'{"" if scales else "not "}scaled with it (auto_scale_lr.enable)'
        )
    shown = lines[:_MOST]
    if len(lines) > _MOST:
        shown.append(f'... ({len(lines)} in all)')
    runner.logger.warning(
        f'This config is not the one that {filename} was made with. What this config '
        "says is in force; to go on with the checkpoint's, set these entries back:"
        + ''.join(f'\n    {line}' for line in shown)
        + ''.join(f'\n{note}' for note in notes)
    )


def _steps_of_schedules(runner: Any, same_batch: bool) -> list[bool]:
    """Of the training up to here: True for an epoch, False for an iteration."""
    if not isinstance(runner.train_loop, EpochBasedTrainLoop):
        return [False] * runner.iter
    length = len(runner.train_dataloader)
    begun = runner.iter - runner.epoch * length if same_batch else 0
    return ([False] * length + [True]) * runner.epoch + [False] * begun


class AsConfigured:
    """Optimizers and schedules as a config has them, before a checkpoint is loaded.

    Args:
        wrappers: Of each optimizer, by name.
        schedulers: Its schedulers.
    """

    def __init__(
        self,
        wrappers: Mapping[str, OptimWrapper],
        schedulers: Mapping[str, list],
    ) -> None:
        self.wrappers = wrappers
        self.schedulers = schedulers
        self.groups = {
            name: [_without(group, ['params']) for group in wrapper.param_groups]
            for name, wrapper in wrappers.items()
        }
        self.states = {
            name: [copy.deepcopy(each.state_dict()) for each in several]
            for name, several in schedulers.items()
        }

    def prevail(
        self, changed: Changes, steps: Iterable[bool], scales: bool, saved: Any
    ) -> list[str]:
        """Put back what the config has changed; the rest stays the checkpoint's.

        A value with a schedule becomes what it would be here had the config been so
        from the beginning.

        Args:
            changed: Of :func:`changes`.
            steps: The steps of schedules up to here in their order: True after an
                epoch, False after an iteration.
            scales: Whether the learning rate was scaled with another batch.
            saved: State of the schedulers in the checkpoint.

        Returns:
            What stays the checkpoint's all the same, for the log.
        """
        steps = list(steps)
        notes = []
        for name, wrapper in self.wrappers.items():
            groups = list(zip(wrapper.param_groups, self.groups[name], strict=True))
            keys = _hyperparameters(changed, groups, scales)
            for group, wanted in groups:
                for key in keys & wanted.keys():
                    group[key] = wanted[key]
                    if f'initial_{key}' in wanted:
                        group[f'initial_{key}'] = wanted[f'initial_{key}']
            schedulers, fresh = self.schedulers.get(name, []), self.states.get(name, [])
            before = (saved.get(name) if isinstance(saved, dict) else saved) or []
            moved = keys & {each.param_name for each in schedulers}
            if not moved and _settings(before) == _settings(fresh):
                continue
            if any(isinstance(x, ReduceOnPlateauParamScheduler) for x in schedulers):
                notes.append(
                    "the schedule alone stays the checkpoint's: it follows figures "
                    'that are not there any more (ReduceOnPlateau)'
                )
                continue
            former = {state.get('param_name') for state in before}
            _replay(schedulers, fresh, groups, former, steps)
        return notes


def _without(values: dict, names: Sequence[str]) -> dict:
    return {key: value for key, value in values.items() if key not in names}


def _settings(states: Iterable[dict]) -> list[dict]:
    return [_without(state, _PROGRESS) for state in states]


def _hyperparameters(changed: Changes, groups: list, scales: bool) -> set[str]:
    """Which of an optimizer's hyperparameters the config has changed."""
    keys = {'lr'} if scales else set()
    for name in changed:
        path = name.split('.')
        if path[0] == 'auto_scale_lr':
            keys.add('lr')
        elif path[0] == 'optim_wrapper' and 'paramwise_cfg' in path:
            keys |= {key for _, wanted in groups for key in wanted}
        elif path[0] == 'optim_wrapper' and 'optimizer' in path[:-1]:
            keys.add(path[path.index('optimizer') + 1])
    return {key for key in keys if not key.startswith('initial_')}


def _replay(
    schedulers: list,
    fresh: list[dict],
    groups: list[tuple[dict, dict]],
    former: set[str | None],
    steps: list[bool],
) -> None:
    """Begin the schedules anew, and go through all steps that there have been."""
    chooses = any(isinstance(each, OneCycleParamScheduler) for each in schedulers)
    for key in {each.param_name for each in schedulers} | former:
        for group, wanted in groups:
            first = f'initial_{key}'
            # A rate that was lowered on the way stays lower.
            known = wanted if chooses or first not in group else group
            group[key] = known.get(first, wanted.get(key))
            group[first] = group[key]
    with warnings.catch_warnings():
        # That no optimizer has stepped in between.
        warnings.simplefilter('ignore')
        for scheduler, state in zip(schedulers, fresh, strict=True):
            # Those of the class that it was are left by mmengine.
            for name in scheduler.state_dict().keys() - state.keys():
                delattr(scheduler, name)
            scheduler.load_state_dict(copy.deepcopy(state))
            first = f'initial_{scheduler.param_name}'
            scheduler.base_values = [group[first] for group, _ in groups]
            scheduler.last_step = scheduler._global_step = -1
            scheduler.step()
        for epoch_ends in steps:
            for scheduler in schedulers:
                if scheduler.by_epoch == epoch_ends:
                    scheduler.step()
