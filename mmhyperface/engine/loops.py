"""Whether loop, loader, sampler, schedules and checkpoints fit one another.

mmengine takes each of them as it is. An epoch of an endless sampler has no end, a
loader without a batch trains nothing, a schedule that counts epochs stands still in a
training by iterations.
"""

import contextlib
import copy
import itertools
import logging
from collections.abc import Iterator, Sequence
from typing import Any

from mmengine.dataset.sampler import DefaultSampler, InfiniteSampler
from mmengine.dist import all_gather_object, get_world_size
from mmengine.hooks import CheckpointHook
from mmengine.logging import print_log
from mmengine.optim import _ParamScheduler
from mmengine.runner import (
    BaseLoop,
    EpochBasedTrainLoop,
    IterBasedTrainLoop,
    Runner,
)
from mmengine.runner.loops import _InfiniteDataloaderIterator
from torch.utils.data import DataLoader, IterableDataset

from mmhyperface.datasets.samplers import InfiniteFaceSampler
from mmhyperface.datasets.seeded_batches import ResumableLoader
from mmhyperface.registry import DATA_SAMPLERS, LOOPS, is_a
from mmhyperface.utils.errors import UserError

BY_EPOCHS = 'train_cfg.by_epoch=True train_cfg.max_epochs=EPOCHS'
BY_ITERATIONS = 'train_cfg.by_epoch=False train_cfg.max_iters=ITERATIONS'
#: Loops of mmengine.
KINDS = EpochBasedTrainLoop, IterBasedTrainLoop
# A schedule may go on for one more step than the training, to end at a round value.
_TOLERANCE = 1.01
# Of a schedule: its option, its config and itself.
_Built = tuple[str, Any, _ParamScheduler]


def fitting(loop: dict, dataloader: Any) -> tuple[dict, Any]:
    """Configs of a training loop and its loader, changed where they do not fit.

    A loop by epochs does without the ``max_iters`` of a config that it inherits from,
    and takes ``DefaultSampler`` for a sampler in random order that never ends.

    Args:
        loop: ``train_cfg``.
        dataloader: ``train_dataloader``, or a loader, which stays as it is.

    Raises:
        UserError: If the loop's length is not said, or is nothing.
    """
    loop = copy.deepcopy(loop)
    if 'type' not in loop:
        _require_length(loop)
    if not isinstance(dataloader, dict) or not builds(loop, EpochBasedTrainLoop):
        return loop, dataloader
    sampler: Any = dataloader.get('sampler')
    kind = sampler.get('type') if isinstance(sampler, dict) else None
    if isinstance(kind, str):
        kind = DATA_SAMPLERS.get(kind)
    if kind in (InfiniteSampler, InfiniteFaceSampler):
        options = {key: sampler[key] for key in ('shuffle', 'seed') if key in sampler}
        dataloader = copy.deepcopy(dataloader)
        dataloader['sampler'] = {'type': 'mmengine.DefaultSampler', **options}
        _say(
            f'training by epochs: the sampler is DefaultSampler, for '
            f'{sampler["type"]} (train_dataloader.sampler) never ends',
            logging.INFO,
        )
    return loop, dataloader


def _require_length(loop: dict) -> None:
    if 'by_epoch' not in loop:
        raise UserError(
            f'train_cfg does not say how long to train: set {BY_ITERATIONS}, or '
            f'{BY_EPOCHS}'
        )
    by_epoch = bool(loop['by_epoch'])
    units = [('max_epochs', BY_EPOCHS), ('max_iters', BY_ITERATIONS)]
    (own, wanted), (other, instead) = units if by_epoch else reversed(units)
    length = loop.get(own)
    if length is None:
        raise UserError(
            f'train_cfg.by_epoch={by_epoch} needs train_cfg.{own}: set {wanted}, or '
            f'{instead}'
        )
    if length < 1:
        raise UserError(f'train_cfg.{own}={length} trains nothing: set 1 or more')
    if other not in loop:
        return
    if not by_epoch:
        raise UserError(
            f'train_cfg.{other}={loop[other]} has no meaning with '
            f'train_cfg.by_epoch=False: set {instead}, or leave it out'
        )
    _say(
        f'training by epochs: train_cfg.{other}={loop.pop(other)} is ignored',
        logging.INFO,
    )


def builds(loop: dict, *kinds: type) -> bool:
    """Whether a config builds a loop of one of these kinds."""
    if 'type' in loop:
        return is_a(loop, LOOPS, kinds)
    return (EpochBasedTrainLoop if loop['by_epoch'] else IterBasedTrainLoop) in kinds


def check_train_loop(runner: Runner, loop: BaseLoop) -> None:
    """See that a training loop has batches, and that its epochs end.

    Checkpoint hooks that count iterations in a training by epochs are made to count
    epochs: mmengine resumes those at the beginning of an epoch only.

    Raises:
        UserError: If there is no batch, or an epoch would not end, or not on all
            processes at once.
    """
    if not isinstance(loop, KINDS):
        return  # one's own, that may count in another way, and take several loaders
    loader = loop.dataloader
    if isinstance(loader.dataset, IterableDataset):
        return  # it has no length
    by_epoch = isinstance(loop, EpochBasedTrainLoop)
    endless = _endless(loader)
    if by_epoch and endless is not None:
        raise UserError(
            f'an epoch of {endless} (train_dataloader.sampler) never ends: set '
            'train_dataloader.sampler.type=DefaultSampler, or train by iterations: '
            f'{BY_ITERATIONS}'
        )
    # Of a sampler that never ends the length has no meaning.
    batches = all_gather_object(len(loader) if endless is None else 1)
    images = len(loader.dataset)
    if not images or min(batches) < 1:
        raise UserError(_no_batch(loader, images))
    if by_epoch and len(set(batches)) > 1:
        raise UserError(
            f'the processes have {batches} batches in an epoch, and would wait for one '
            'another for ever: set train_dataloader.sampler.round_up=True'
        )
    if by_epoch and runner._val_loop and loop.val_interval > loop.max_epochs:
        _say(
            f'train_cfg.val_interval={loop.val_interval} counts epochs, of which there '
            f'are {loop.max_epochs}: validation is at the end only. To validate after '
            'each epoch set train_cfg.val_interval=1'
        )
    for hook in runner.hooks:
        if isinstance(hook, CheckpointHook):
            _fit_checkpoints(hook, batches[0] if by_epoch else None)


def check_evaluation_loop(name: str, loop: BaseLoop) -> None:
    """See that a validation or a test, by `name`, looks at each image and ends.

    Raises:
        UserError: If not.
    """
    loader = loop.dataloader
    if not isinstance(loader, DataLoader):
        return  # of a loop of one's own
    endless = _endless(loader)
    if endless is not None:
        raise UserError(
            f'{name}_dataloader.sampler.type={endless} never ends: set '
            f'{name}_dataloader.sampler.type=DefaultSampler'
        )
    # Without a batch_size it has batches of one's own.
    if loader.drop_last and loader.batch_size:
        images = len(loader.sampler)  # type: ignore[arg-type]
        left = sum(all_gather_object(images % loader.batch_size))
        if left:
            raise UserError(
                f'{name}_dataloader.drop_last=True leaves {left} images out: set it to '
                'False'
            )


def _endless(loader: DataLoader) -> str | None:
    """The sampler's name, if it is known never to end."""
    for sampler in (loader.sampler, getattr(loader.batch_sampler, 'sampler', None)):
        if isinstance(sampler, InfiniteSampler):
            return type(sampler).__name__
    return None


def _no_batch(loader: DataLoader, images: int) -> str:
    nothing = 'there is nothing to train on:'
    if not images:
        return f'{nothing} train_dataloader.dataset has no image'
    world = get_world_size()
    among = f' on {world} processes' if world > 1 else ''
    nothing = f'{nothing} {images} images{among} make no batch'
    if not loader.drop_last:
        return f'{nothing}: {world} processes need {world} images or more'
    return (
        f'{nothing} of train_dataloader.batch_size={loader.batch_size}, and '
        'train_dataloader.drop_last=True drops a smaller one: set '
        f'train_dataloader.batch_size={max(1, images // world)} or less, or '
        'train_dataloader.drop_last=False'
    )


def _fit_checkpoints(hook: CheckpointHook, epoch: int | None) -> None:
    """Let a hook count what the loop does; `epoch` is the iterations in one."""
    if epoch is not None and not hook.by_epoch:
        hook.by_epoch = True
        hook.save_begin = hook.save_begin // epoch
        if hook.filename_tmpl == 'iter_{}.pth':
            hook.filename_tmpl = 'epoch_{}.pth'
        before = hook.interval
        if before < 1:
            return
        hook.interval = max(1, before // epoch)
        _say(
            f'training by epochs: a checkpoint every {hook.interval} epochs instead of '
            f'every {before} iterations. To choose: default_hooks.checkpoint.by_epoch='
            'True default_hooks.checkpoint.interval=EPOCHS',
            logging.INFO,
        )
    elif epoch is None and hook.by_epoch:
        _say(
            'default_hooks.checkpoint counts epochs, and a training by iterations has '
            'but one: the only checkpoint is saved at the end. To save more set '
            'default_hooks.checkpoint.by_epoch=False '
            'default_hooks.checkpoint.interval=ITERATIONS'
        )


def converted(schedules: Any, loop: BaseLoop) -> Any:
    """Configs of schedules in epochs, with the length of those in a loop without any.

    mmengine's ``convert_to_iter_based`` takes the length of the loader, which for a
    sampler that never ends is that of one process alone, and lets a schedule end after
    the first epoch. Schedules that are built, which hold their optimizer, stay.
    """
    if isinstance(schedules, Sequence):
        return [converted(each, loop) for each in schedules]
    if not isinstance(schedules, dict) or not isinstance(loop, IterBasedTrainLoop):
        return schedules
    if 'type' not in schedules:
        return {name: converted(each, loop) for name, each in schedules.items()}
    if not schedules.get('convert_to_iter_based'):
        return schedules
    length = len(loop.dataloader)
    if _endless(loop.dataloader) is not None:
        length //= get_world_size()
    length = schedules.get('epoch_length', max(1, length))
    # In epochs, which become whole iterations.
    return {
        'end': (loop.max_iters + 0.5) / length,
        **schedules,
        'epoch_length': length,
    }


def check_order(schedules: Any) -> None:
    """See that configs of schedules end after they begin.

    Raises:
        UserError: If one does not.
    """
    for option, schedule in each(schedules):
        if not isinstance(schedule, dict):
            continue
        begin, end = schedule.get('begin', 0), schedule.get('end')
        if end is not None and end <= begin:
            raise UserError(
                f'{option} ({schedule.get("type")}) begins at {begin} and ends at '
                f'{end}: set {option}.begin to less than {option}.end'
            )


def check_schedules(schedules: Any, configs: Any, loop: BaseLoop) -> None:
    """See that schedules move in a loop, and say which end elsewhere than it does.

    Args:
        schedules: As built, a list or a dict of lists.
        configs: What they were built of.
        loop: The training loop.

    Raises:
        UserError: If one counts epochs and the loop has none.
    """
    if not isinstance(loop, KINDS):
        return
    by_epoch = isinstance(loop, EpochBasedTrainLoop)
    groups: dict[tuple, list[_Built]] = {}
    for option, config, schedule in _built(schedules, configs):
        if getattr(schedule, 'need_val_args', False):
            continue  # it moves when there was a validation
        if schedule.by_epoch and not by_epoch:
            raise UserError(
                f'{option} ({type(schedule).__name__}) counts epochs, and a training '
                f'by iterations has none, so it would never move: set '
                f'{option}.by_epoch=False, and its begin, end and milestones in '
                f'iterations; or train by epochs: {BY_EPOCHS}'
            )
        key = option.partition('.')[2].rpartition('.')[0], schedule.param_name
        groups.setdefault(key, []).append((option, config, schedule))
    for group in groups.values():
        _tell_of_end(group, loop)


def _tell_of_end(group: list[_Built], loop: BaseLoop) -> None:
    """Of schedules that follow one another."""
    option, _, schedule = max(group, key=lambda one: one[2].end)
    unit, length = 'epoch', loop.max_epochs
    if not schedule.by_epoch:
        unit, length = 'iteration', loop.max_iters
    # Those with eta_min fall until their end, others may well stay as they are then.
    early = hasattr(schedule, 'eta_min') and schedule.end * _TOLERANCE < length
    # An end that is not set is a very large one.
    late = length * _TOLERANCE < schedule.end < 10**9
    if early or late:
        if early:
            group = [one for one in group if one[2] is schedule]
            entries: tuple[str, ...] = ('end', 'T_max')
        else:
            group = [one for one in group if one[2].by_epoch == schedule.by_epoch]
            entries = ('begin', 'milestones', 'end', 'step_size', 'T_max')
        options = _scaled(group, entries, length, schedule.end)
        _say(
            f'{option} ({type(schedule).__name__} of {schedule.param_name}) ends at '
            f'{unit} {schedule.end}, the training at {unit} {length}'
            + (f'. To let it end with the training set {options}' if options else '')
        )


def _scaled(group: list[_Built], entries: Sequence[str], length: int, end: int) -> str:
    """The options of schedules that end at `end`, for a training of that length.

    Nothing where a schedule would have less than two steps.
    """
    options: dict[str, None] = {}  # those of several optimizers may be the same
    for option, config, schedule in group:
        converts = isinstance(config, dict) and config.get('convert_to_iter_based')
        if not isinstance(config, dict) or converts:
            return f'{option}.end, which counts epochs' if converts else ''
        # In whole numbers, lest rounding moves an end.
        begins, ends = (-(-x * length // end) for x in (schedule.begin, schedule.end))
        if ends - begins < min(2, schedule.end - schedule.begin):
            return ''
        for name in entries:
            value = config.get(name)
            if value:
                several = value if isinstance(value, Sequence) else [value]
                new = [-(-x * length // end) for x in several]
                text = f'[{",".join(map(str, new))}]' if value is several else new[0]
                if new != list(several):
                    options[f'{option}.{name}={text}'] = None
    return ' '.join(options)


def _built(schedules: Any, configs: Any) -> list[_Built]:
    """Schedules with their options and configs."""
    if not isinstance(schedules, dict):
        pairs = zip(each(configs), schedules or (), strict=True)
        return [(option, config, schedule) for (option, config), schedule in pairs]
    apart = isinstance(configs, dict) and 'type' not in configs
    return [
        one
        for name, several in schedules.items()
        for one in _built(several, {name: configs[name]} if apart else configs)
    ]


def each(schedules: Any, option: str = 'param_scheduler') -> list[tuple[str, Any]]:
    """Schedules, or their configs, with the options that they are."""
    if schedules is None:
        return []
    if isinstance(schedules, Sequence):
        return [(f'{option}.{i}', one) for i, one in enumerate(schedules)]
    if isinstance(schedules, dict) and 'type' not in schedules:
        return [
            pair
            for name, several in schedules.items()
            for pair in each(several, f'{option}.{name}')
        ]
    return [(option, schedules)]


def tell_of_resuming(loop: BaseLoop) -> None:
    """Say what is left of a training, where that is not what one expects."""
    by_epoch = isinstance(loop, EpochBasedTrainLoop)
    if loop.iter >= loop.max_iters or (by_epoch and loop.epoch >= loop.max_epochs):
        more = 'max_epochs' if by_epoch else 'max_iters'
        _say(
            f'nothing is left to train: the checkpoint is of iteration {loop.iter}, '
            f'and train_cfg.{more}={getattr(loop, more)}; set more to go on'
        )
    elif by_epoch and loop.iter != loop.epoch * len(loop.dataloader):
        _say(
            f'the checkpoint is of epoch {loop.epoch} and iteration {loop.iter}, where '
            f'an epoch has {len(loop.dataloader)} iterations: it was saved within an '
            'epoch, or had other batches. The epoch is trained from its beginning'
        )


def skip_trained(loop: BaseLoop, seed: int) -> None:
    """Let a resumed loop go on with its next batch, and decode none before it."""
    loader = loop.dataloader
    if not isinstance(loader, ResumableLoader):
        return  # mmengine's loop takes all batches anew
    loader.resume(loop.iter, seed)
    if isinstance(loop, IterBasedTrainLoop):
        loop.dataloader_iterator = _remaining(loop.dataloader_iterator, loop.iter)


def _remaining(iterator: _InfiniteDataloaderIterator, trained: int) -> Iterator:
    """Batches of a resumed training, after those that mmengine asks for in vain."""
    yield from itertools.repeat(None, trained)
    batches = iterator._dataloader.batch_sampler
    batches.skipped = trained
    if isinstance(batches.sampler, DefaultSampler):
        iterator._epoch, batches.skipped = divmod(trained, len(batches))
        # DistSamplerSeedHook has set another since.
        batches.sampler.set_epoch(iterator._epoch)
    while batches.skipped:
        with contextlib.suppress(StopIteration):  # of an epoch that is passed over
            yield next(iterator)
    yield from iterator


def _say(message: str, level: int = logging.WARNING) -> None:
    print_log(message, 'current', level)
