"""Which centres of a checkpoint a training takes, and for whom."""

import logging
from collections.abc import Callable

import torch
from mmengine.logging import print_log
from torch import Tensor

from mmhyperface.centres.state import (
    CentreState,
    MappedRows,
    StoredRows,
    centres_saved_as,
)
from mmhyperface.engine.identities import START_ANEW, Identities, mapped, places
from mmhyperface.utils.errors import UserError, some

#: Of the option ``load_centres``.
CHOICES = ('all', 'drop', 'map')
_OTHERS = (
    "Set load_centres='map' to keep the centres of identities with the same name, or "
    "load_centres='drop' to start them all anew (--cfg-options load_centres=map)"
)


class CheckpointCentres:
    """The centres of a head, and their average, in a checkpoint that was opened.

    They become :class:`StoredRows` there, of which a head reads its own.

    Args:
        filename: The checkpoint's, for messages.
        checkpoint: Its content; changed.
        name: The head's in the model.
        head: The head.
        dataset: Gives the training set, where a training takes the centres.
    """

    def __init__(
        self,
        filename: str,
        checkpoint: dict,
        name: str,
        head: CentreState,
        dataset: Callable[[], object],
    ) -> None:
        self.filename, self.name, self.head = filename, name, head
        self.dataset = dataset
        self.meta = (checkpoint.get('meta') or {}).get('dataset_meta')
        self.count, self.dims = head.shard.num_classes, head.weight.shape[1]
        self.state = checkpoint['state_dict']
        self.key = f'{name}.weight'
        average = checkpoint.get('ema_state_dict', {})
        both = (self.state, self.key), (average, f'module.{self.key}')
        #: Where they are, with their keys.
        self.places = [(state, key) for state, key in both if key in state]
        for state, key in self.places:
            if isinstance(state[key], Tensor):
                state[key] = StoredRows([(0, state[key])])
        #: All centres [C, D]; None if there are none.
        self.rows: StoredRows | None = self.state.get(self.key)

    def resume(self) -> Tensor | None:
        """Let a training go on with the centres of its identities.

        Returns:
            For each class [C] that of the checkpoint, if they are not the same.

        Raises:
            UserError: If they are of others.
        """
        return self._same_people(
            f'cannot resume from {self.filename}: it',
            'To train other identities from its weights, leave --resume out and give '
            f'--cfg-options load_from={self.filename} load_centres=map (which keeps '
            'the centres of identities with the same name) or load_centres=drop',
        )

    def load(self, load_centres: str) -> None:
        """Let a new training begin with those that it asks for.

        Args:
            load_centres: One of :data:`CHOICES`.

        Raises:
            UserError: If it cannot have them.
        """
        rows = self.rows
        stored = 0 if rows is None else rows.shape[0]
        kept, how = 0, ''
        if load_centres == 'drop':
            self._drop()
        elif load_centres == 'map':
            kept, how = self._map_by_name()
        elif rows is not None:
            self._same_people(self.filename)
            kept = stored
        message = f'centres: kept all {self.count} of the checkpoint{how}'
        if not kept == self.count == stored:
            message = (
                f'centres: kept {kept} of {self.count} identities{how}, '
                f'{self.count - kept} start anew; {stored - kept} of the checkpoint '
                'are not used'
            )
        print_log(message, 'current')

    def _drop(self) -> None:
        """Leave the head, and a hook's copy of it, as it is."""
        prefix = f'{self.name}.'
        for key in [key for key in self.state if key.startswith(prefix)]:
            del self.state[key]
        with centres_saved_as(_untouched):
            self.state.update(self.head.state_dict(prefix=prefix))

    def _same_people(self, begins: str, to_resume: str = '') -> Tensor | None:
        """Map the centres of the very same people, if they are in another order.

        Messages begin with `begins`, and end with `to_resume` where a training is
        resumed.
        """
        advice = to_resume or _OTHERS
        rows = self.rows
        if rows is None or rows.shape != (self.count, self.dims):
            has = 'no centres'
            if rows is not None:
                count, dims = rows.shape[0], rows.shape[-1]
                has = f'centres of {count} identities in {dims} dimensions'
            raise UserError(
                f'{begins} has {has}, where {self.name} of this config has '
                f'{self.count} in {self.dims}. {advice}'
            )
        here, there = self._identities(self.count)
        if here.names is None or there.names is None:
            owner = here if here.names is None else there
            message = (
                f'centres: {owner.owner} does not tell the names of its identities: '
                'each class takes the centre of its number'
            )
            if not to_resume:
                message += (
                    '. If they are other people, give --cfg-options load_centres=drop'
                )
            level = logging.INFO if to_resume else logging.WARNING
            print_log(message, 'current', level)
        origin = places(here, there)
        if origin is None:
            return None
        others = [(here.names or ())[i] for i in (origin < 0).nonzero().flatten()]
        if others:
            raise UserError(
                f'{begins} has centres of other people: {len(others)} of {self.count} '
                f'are not among them ({some(others, 3)}). {advice}'
            )
        print_log(
            'centres: the identities are those of the checkpoint in another order, and '
            'are mapped by name',
            'current',
        )
        for state, key in self.places:
            state[key] = MappedRows(state[key], origin)
        return origin

    def _map_by_name(self) -> tuple[int, str]:
        """Map what has the same name; how many that are, and for the log how."""
        begins = f"load_centres='map': {self.filename} has"
        if self.rows is None:
            raise UserError(f'{begins} no centres; {START_ANEW}')
        count, dims = self.rows.shape[0], self.rows.shape[1:]
        if dims != (self.dims,):
            raise UserError(
                f'{begins} centres of {dims[0]} dimensions, the head of {self.dims}; '
                f'{START_ANEW}'
            )
        origin, how = mapped(*self._identities(count))
        self.state[self.key] = MappedRows(self.rows, origin)
        return int((origin >= 0).sum()), how

    def _identities(self, stored: int) -> tuple[Identities, Identities]:
        """Those of the training set, and the ``stored`` ones of the checkpoint."""
        dataset = self.dataset()
        owner = f'the training set ({type(dataset).__name__})'
        metainfo = getattr(dataset, 'metainfo', None)
        return (
            Identities.of(owner, metainfo, self.count),
            Identities.of(self.filename, self.meta, stored),
        )


def _untouched(head: CentreState) -> MappedRows:
    """Rows of which a head takes none."""
    rows = StoredRows([(0, head.weight.detach())])
    return MappedRows(rows, torch.full((head.shard.num_classes,), -1))
