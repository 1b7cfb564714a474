"""Whether a checkpoint is of the network, the loss and the optimizer of a training."""

from typing import Any

import torch
from mmengine.hooks import EMAHook
from torch import Tensor, nn

from mmhyperface.centres.state import CentreState, centres_saved_as, heads_of
from mmhyperface.engine.config_changes import changes, entries, lines_of
from mmhyperface.utils.errors import UserError, some
from mmhyperface.weights.shapes import misfit, require_fit, shapes_of

#: Hyperparameters that came with a version of torch.
OF_TORCH = {
    *('foreach', 'maximize', 'capturable', 'differentiable', 'fused'),
    *('decoupled_weight_decay', 'amsgrad'),
}


def require_weights(runner: Any, filename: str, state: dict) -> None:
    """See that a training begins with the weights of its network, and say with which.

    Args:
        runner: :class:`.FaceRunner` of the training.
        filename: The checkpoint's.
        state: Its ``state_dict``.

    Raises:
        UserError: If backbone and neck do not fit; with ``load_partial``, if nothing
            of them does.
    """
    wanted = _state_of(runner.bare_model)
    heads = tuple(f'{name}.' for name in heads_of(runner.bare_model))
    parts = {f'{name.partition(".")[0]}.' for name in wanted}
    network = tuple(parts & {'backbone.', 'neck.'} or parts - {*heads})
    ours, theirs = shapes_of(wanted), shapes_of(state)
    fitting = {name for name in ours if theirs.get(name) == ours[name]}
    advice = _advice(runner, state, filename)
    if not runner.load_partial:
        require_fit(
            wanted,
            state,
            (*network, 'backbone.', 'neck.'),
            filename,
            str(runner.cfg.filename or 'the config'),
            advice,
        )
    elif not any(name.startswith(network) for name in fitting):
        raise UserError(
            f'{filename} has nothing that fits {", ".join(network)} of this config'
            f'{advice}'
        )
    counts = []
    for part in sorted(parts):
        if runner.load_centres != 'all' and part in heads:
            how = {'drop': 'dropped', 'map': 'centres by name'}[runner.load_centres]
            counts.append(f'{part[:-1]}: {how}')
            continue
        names = [name for name in ours if name.startswith(part)]
        taken = len(fitting.intersection(names))
        counts.append(f'{part[:-1]}: {taken} of {len(names)}')
    runner.logger.info(f'entries taken from {filename}: {", ".join(counts)}')


def _advice(runner: Any, state: dict, filename: str) -> str:
    backbone = getattr(runner.bare_model, 'backbone', None)
    if backbone is not None and (
        shapes_of(backbone.state_dict()).items() <= shapes_of(state).items()
    ):
        return (
            '. It holds the backbone alone, and its names lack the prefix "backbone.": '
            'leave load_from out and give --cfg-options '
            'model.backbone.init_cfg.type=Pretrained '
            f'model.backbone.init_cfg.checkpoint={filename}'
        )
    if runner.load_partial or not any(key.startswith('backbone.') for key in state):
        return (
            '. Where its weights have other names, tools/model_converters makes '
            'checkpoints of other programs ours, and model.backbone.init_cfg=dict('
            "type='Pretrained', checkpoint=..., prefix=...) takes those whose names "
            'begin with the prefix'
        )
    return (
        '. To take what fits and let the rest start anew, give --cfg-options '
        'load_partial=True'
    )


def require_training(
    runner: Any, filename: str, checkpoint: dict, with_optimizer: bool
) -> None:
    """See that a training goes on with its network, its loss and its optimizer.

    An average that no hook continues is taken out of the checkpoint.

    Raises:
        UserError: If it does not.
    """
    meta = checkpoint.get('meta')
    if (
        not isinstance(meta, dict)
        or not {'epoch', 'iter'} <= meta.keys()
        or 'message_hub' not in checkpoint
    ):
        raise UserError(
            f'cannot resume from {filename}: it holds weights, but no state of a '
            f'training. {_anew(filename)}'
        )
    state = checkpoint['state_dict']
    average = checkpoint.get('ema_state_dict', {})
    if average and not any(isinstance(hook, EMAHook) for hook in runner.hooks):
        # What was trained lies there, and the average in its place.
        for key in [key for key in average if key.startswith('module.')]:
            state[key.removeprefix('module.')] = average[key]
        del checkpoint['ema_state_dict']
        runner.logger.warning(
            f'{filename} has averaged weights, and this config has no EMAHook: the '
            'training goes on from the weights that were trained, without the '
            'average. To keep it, put the EMAHook back into custom_hooks'
        )
    wanted = shapes_of(_state_of(runner.bare_model))
    stored = shapes_of(state)
    heads = heads_of(runner.bare_model)
    for name in heads:
        # Their number of rows, which is that of the people, has messages of its own.
        for shapes in (wanted, stored):
            shapes.pop(f'{name}.weight', None)
    names, fault = misfit(wanted, stored)
    if names:
        of_losses = tuple(f'{name}.loss_module.' for name in heads)
        of_loss = any(name.startswith(of_losses) for name in names)
        what = 'loss' if of_loss else 'network'
        raise UserError(
            f'cannot resume from {filename}: it is of another {what}, it {fault}'
            f'{_changed(runner, meta, "model.")}. {_anew(filename)}'
        )
    fault = ''
    if 'optimizer' in checkpoint and with_optimizer:
        fault = _misfit_of_optimizers(runner, checkpoint['optimizer'])
    if fault:
        raise UserError(
            f'cannot resume from {filename}: it has the state of {fault}'
            f'{_changed(runner, meta, "optim_wrapper.")}. Set optim_wrapper as it was. '
            f'{_anew(filename)}'
        )


def _misfit_of_optimizers(runner: Any, saved: Any) -> str:
    for name, optimizer in runner.optimizers():
        part = saved.get(name) if name else saved
        if not isinstance(part, dict) or 'param_groups' not in part:
            return 'another number of optimizers'
        groups = part['param_groups']
        lacks = optimizer.defaults.keys() - groups[0].keys() - OF_TORCH
        if lacks:
            kind = type(optimizer).__name__
            return f'another optimizer than {kind}, without {sorted(lacks)}'
        sizes, stored = (
            [len(group['params']) for group in several]
            for several in (optimizer.state_dict()['param_groups'], groups)
        )
        if sizes != stored:
            return (
                f'{sum(stored)} parameters in {len(stored)} groups, where this config '
                f'has {sum(sizes)} in {len(sizes)}'
            )
    return ''


def _anew(filename: str) -> str:
    return (
        'To begin a new training from its weights, leave --resume out and give '
        f'--cfg-options load_from={filename}'
    )


def _changed(runner: Any, meta: dict, beginning: str) -> str:
    """What the config has changed there since the checkpoint, for a message."""
    before = entries(str(meta.get('cfg', '')))
    after = entries(runner.cfg.pretty_text)
    lines = lines_of(changes(before, after)) if before else []
    lines = [line for line in lines if line.startswith(beginning)]
    return f' ({some(lines, 3)})' if lines else ''


def _state_of(model: nn.Module) -> dict:
    with centres_saved_as(_of_all_ranks):
        return model.state_dict()


def _of_all_ranks(head: CentreState) -> Tensor:
    """A tensor of the size of all centres that has no memory."""
    shape = (head.shard.num_classes, *head.weight.shape[1:])
    return torch.empty(shape, device='meta')
