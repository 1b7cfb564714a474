"""Whether the weights of a state dict fit a network."""

import torch

from mmhyperface.utils.errors import UserError, some


def require_fit(
    wanted: dict,
    state: dict,
    parts: tuple[str, ...],
    checkpoint: str,
    config: str,
    advice: str = '',
) -> None:
    """See that a checkpoint is of the network of a config.

    Args:
        wanted: State dict of the model.
        state: That of the checkpoint.
        parts: Beginnings of the names that must fit.
        checkpoint, config: What they are called.
        advice: What to do where a part of it would be enough.

    Raises:
        UserError: If they are of different networks.
    """
    stored, wanted = shapes_of(state, parts), shapes_of(wanted, parts)
    if not stored and not advice:
        advice = '. tools/model_converters makes checkpoints of other programs ours'
    if 'head.weight' not in wanted:
        # A network that only embeds leaves the centres aside.
        stored.pop('head.weight', None)
    names, fault = misfit(wanted, stored)
    if names:
        raise UserError(
            f'{checkpoint} is of another network than {config}: it {fault}{advice}'
        )


def misfit(
    wanted: dict[str, torch.Size], stored: dict[str, torch.Size]
) -> tuple[list[str], str]:
    """Names that are missing or too many, and what to say of them; none if all fit."""
    missing = [name for name in wanted if stored.get(name) != wanted[name]]
    if missing:
        shapes = [f'{name} {list(wanted[name])}' for name in missing]
        return missing, f'has no {some(shapes, 3)}'
    too_much = [name for name in stored if name not in wanted]
    return too_much, f'has {some(too_much, 3)} beside the rest'


def shapes_of(state: dict, parts: tuple[str, ...] = ('',)) -> dict[str, torch.Size]:
    """By name, of the parts that must fit."""
    shapes = {
        name.removeprefix('module.'): getattr(value, 'shape', torch.Size())
        for name, value in state.items()
    }
    return {
        name: shape
        for name, shape in shapes.items()
        # Old versions of torch did not count.
        if name.startswith(parts) and not name.endswith('num_batches_tracked')
    }
