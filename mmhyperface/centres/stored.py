"""Which centres of a checkpoint a training takes, and for whom."""

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from mmhyperface.centres.identities import Identities, mapped, places, strangers
from mmhyperface.centres.state import CentreState, MappedRows, StoredRows, emitting
from mmhyperface.utils.errors import UserError, some

if TYPE_CHECKING:
    from mmhyperface.engine.runner import FaceRunner

_OTHERS = (
    "Set load_centres='map' to keep the centres of identities with the same name, or "
    "load_centres='drop' to start them all anew (--cfg-options load_centres=map)"
)
_ANEW = 'let all start anew by --cfg-options load_centres=drop'


def open_rows(checkpoint: dict, name: str) -> None:
    """Put :class:`StoredRows` for the centres of a head, and for their average."""
    state, average = checkpoint['state_dict'], checkpoint.get('ema_state_dict', {})
    key = f'{name}.weight'
    for rows, its_key in ((state, key), (average, f'module.{key}')):
        if isinstance(rows.get(its_key), Tensor):
            rows[its_key] = StoredRows([(0, rows[its_key])])


def resume_centres(
    runner: 'FaceRunner', filename: str, checkpoint: dict, name: str, head: CentreState
) -> Tensor | None:
    """Let a training go on with the centres of its identities.

    Returns:
        For each class [C] that of the checkpoint, if they are not the same.

    Raises:
        UserError: If they are of others.
    """
    origin = _same_people(runner, filename, checkpoint, name, head, resumes=True)
    if origin is not None:
        key = f'{name}.weight'
        state, average = checkpoint['state_dict'], checkpoint.get('ema_state_dict', {})
        for rows, its_key in ((state, key), (average, f'module.{key}')):
            if its_key in rows:
                rows[its_key] = MappedRows(rows[its_key], origin)
    return origin


def load_centres(
    runner: 'FaceRunner', filename: str, checkpoint: dict, name: str, head: CentreState
) -> None:
    """Let a new training begin with those that its ``load_centres`` asks for.

    Raises:
        UserError: If it cannot have them.
    """
    state, key = checkpoint['state_dict'], f'{name}.weight'
    rows = state.get(key)
    kept, how = 0, ''
    if runner.load_centres == 'drop':
        _leave(state, name, head)
    elif runner.load_centres == 'map':
        state[key], how = _by_name(runner, filename, checkpoint, head, rows)
        kept = int((state[key].origin >= 0).sum())
    elif rows is not None:
        same = _same_people(runner, filename, checkpoint, name, head, resumes=False)
        if same is not None:
            state[key] = MappedRows(rows, same)
        kept = rows.shape[0]
    total = head.shard.num_classes
    stored = 0 if rows is None else rows.shape[0]
    told = f'centres: kept all {total} of the checkpoint{how}'
    if not kept == total == stored:
        told = (
            f'centres: kept {kept} of {total} identities{how}, {total - kept} start '
            f'anew; {stored - kept} of the checkpoint are not used'
        )
    runner.logger.info(told)


def _leave(state: dict, name: str, head: CentreState) -> None:
    """Leave the head, and a hook's copy of it, as it is."""
    for key in [key for key in state if key.startswith(f'{name}.')]:
        del state[key]
    with emitting(_untouched):
        state.update(head.state_dict(prefix=f'{name}.'))


def _untouched(head: CentreState) -> MappedRows:
    """Rows of which a head takes none."""
    rows = StoredRows([(0, head.weight.detach())])
    return MappedRows(rows, torch.full((head.shard.num_classes,), -1))


def _same_people(
    runner: 'FaceRunner',
    filename: str,
    checkpoint: dict,
    name: str,
    head: CentreState,
    resumes: bool,
) -> Tensor | None:
    """Where the centres of the very same people are, if not in this order.

    Raises:
        UserError: If they are not the same.
    """
    begins = f'cannot resume from {filename}: it' if resumes else filename
    advice = _OTHERS
    if resumes:
        advice = (
            'To train other identities from its weights, leave --resume out and give '
            f'--cfg-options load_from={filename} load_centres=map (which keeps the '
            'centres of identities with the same name) or load_centres=drop'
        )
    rows = checkpoint['state_dict'].get(f'{name}.weight')
    count = head.shard.num_classes
    if rows is None or rows.shape != (count, *head.weight.shape[1:]):
        found = 'no centres'
        if rows is not None:
            found = f'centres of {rows.shape[0]} identities'
            found = f'{found} in {rows.shape[-1]} dimensions'
        raise UserError(
            f'{begins} has {found}, where {name} of this config has {count} in '
            f'{head.weight.shape[-1]}. {advice}'
        )
    here, there = _identities(runner, filename, checkpoint, head, count)
    if here.names is None or there.names is None:
        owner = here if here.names is None else there
        told = (
            f'centres: {owner.owner} does not tell the names of its identities: each '
            'class takes the centre of its number'
        )
        if resumes:
            runner.logger.info(told)
        else:
            runner.logger.warning(
                f'{told}. If they are other people, give --cfg-options '
                'load_centres=drop'
            )
    origin = places(here, there)
    if origin is None:
        return None
    others = strangers(origin, here)
    if others:
        raise UserError(
            f'{begins} has centres of other people: {len(others)} of {count} are not '
            f'among them ({some(others, 3)}). {advice}'
        )
    runner.logger.info(
        'centres: the identities are those of the checkpoint in another order, and are '
        'mapped by name'
    )
    return origin


def _by_name(
    runner: 'FaceRunner',
    filename: str,
    checkpoint: dict,
    head: CentreState,
    rows: StoredRows | None,
) -> tuple[MappedRows, str]:
    if rows is None:
        raise UserError(f"load_centres='map': {filename} has no centres; {_ANEW}")
    if rows.shape[1:] != head.weight.shape[1:]:
        raise UserError(
            f"load_centres='map': {filename} has centres of {rows.shape[1]} "
            f'dimensions, the head of {head.weight.shape[1]}; {_ANEW}'
        )
    people = _identities(runner, filename, checkpoint, head, rows.shape[0])
    origin, how = mapped(*people)
    return MappedRows(rows, origin), how


def _identities(
    runner: 'FaceRunner',
    filename: str,
    checkpoint: dict,
    head: CentreState,
    stored: int,
) -> tuple[Identities, Identities]:
    """Those of the training set, and those of a checkpoint."""
    dataset = runner.train_dataloader.dataset
    here = Identities.of(
        f'the training set ({type(dataset).__name__})',
        getattr(dataset, 'metainfo', None),
        head.shard.num_classes,
    )
    meta = (checkpoint.get('meta') or {}).get('dataset_meta')
    return here, Identities.of(filename, meta, stored)
