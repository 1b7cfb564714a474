"""State dicts of class centres that are the same whoever keeps which rows.

Legend of shapes: C classes of all ranks, D dimensions.
"""

import math
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor, nn

from .shard import Shard

#: Rows are copied in pieces of at most so many bytes.
CHUNK_BYTES = 64 << 20

_replacement: ContextVar[Callable[['CentreState'], Any] | None] = ContextVar(
    'replacement', default=None
)


def chunks(rows: Tensor, start: int, stop: int) -> Iterator[tuple[int, int]]:
    """[start, stop) in ranges of at most ``CHUNK_BYTES``, of rows like these."""
    step = max(1, CHUNK_BYTES // max(1, row_bytes(rows)))
    for first in range(start, stop, step):
        yield first, min(first + step, stop)


def row_bytes(rows: Tensor) -> int:
    """Size of one of some rows."""
    return math.prod(rows.shape[1:]) * rows.element_size()


class StoredRows:
    """The rows of all classes [C, ...], wherever they lie; read when wanted.

    It takes the place of a tensor in a checkpoint that has been opened.

    Args:
        pieces: Of each piece the class of its first row, and its rows: usually
            tensors that are mapped to files. In order, without gaps.
    """

    def __init__(self, pieces: Sequence[tuple[int, Tensor]]) -> None:
        self.pieces = list(pieces)
        first, rows = self.pieces[-1]
        self.shape = torch.Size([first + len(rows), *rows.shape[1:]])
        self.dtype = rows.dtype

    def __deepcopy__(self, memo: dict) -> 'StoredRows':
        return self  # nobody writes through it

    def copy_to(self, rows: Tensor, start: int) -> None:
        """Fill ``rows`` with those of the classes from ``start`` on."""
        stop = start + len(rows)
        for first, piece in self.pieces:
            low, high = max(start, first), min(stop, first + len(piece))
            for a, b in chunks(piece, low, high):
                rows[a - start : b - start].copy_(piece[a - first : b - first])

    def of_shard(self, shard: Shard, device: torch.device) -> Tensor:
        """The rows of a rank, [len(shard), ...]."""
        shape = (len(shard), *self.shape[1:])
        rows = torch.empty(shape, dtype=self.dtype, device=device)
        self.copy_to(rows, shard.start)
        return rows

    def take(self, classes: Tensor) -> Tensor:
        """The rows [n, ...] of n classes."""
        rows = torch.empty((len(classes), *self.shape[1:]), dtype=self.dtype)
        for first, piece in self.pieces:
            here = (classes >= first) & (classes < first + len(piece))
            rows[here] = piece[classes[here] - first]
        return rows


class MappedRows(StoredRows):
    """Rows for other classes than those they were stored for.

    Args:
        source: The stored rows.
        origin: For each of the classes [C] the one of ``source`` whose row it
            takes, or -1 to keep the row that it has.
    """

    def __init__(self, source: StoredRows, origin: Tensor) -> None:
        self.source = source
        self.origin = origin
        self.shape = torch.Size([len(origin), *source.shape[1:]])
        self.dtype = source.dtype

    def copy_to(self, rows: Tensor, start: int) -> None:
        for a, b in chunks(rows, 0, len(rows)):
            origin = self.origin[start + a : start + b]
            mapped = (origin >= 0).nonzero().flatten()
            taken = self.source.take(origin[mapped]).to(rows.device, rows.dtype)
            rows[a + mapped.to(rows.device)] = taken

    def take(self, classes: Tensor) -> Tensor:
        return self.source.take(self.origin[classes])


@contextmanager
def centres_saved_as(
    replacement: Callable[['CentreState'], Any],
) -> Generator[None, None, None]:
    """Let state dicts hold ``replacement(head)`` for the rows of each head."""
    token = _replacement.set(replacement)
    try:
        yield
    finally:
        _replacement.reset(token)


def own_centres_saved() -> AbstractContextManager[None]:
    """Let state dicts hold the rows of this rank, unless something else is said."""
    return centres_saved_as(_replacement.get() or (lambda head: head.weight.detach()))


class CentreState(nn.Module):
    """A module whose ``weight`` [len(shard), D] is this rank's part of [C, D].

    Its state dict has the ``weight`` if it is whole. A part is left out, lest
    somebody takes it for the whole or gives the part of one rank to another; see
    :func:`centres_saved_as`. Of what is loaded, a tensor [C, D] or
    :class:`StoredRows`, it takes its rows.
    """

    weight: nn.Parameter
    shard: Shard

    def flush(self) -> None:
        """Bring rows up to date whose update has been put off; before saving."""

    def _save_to_state_dict(
        self, destination: dict, prefix: str, keep_vars: bool
    ) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        replacement = _replacement.get()
        if replacement is not None:
            destination[f'{prefix}weight'] = replacement(self)
        elif self.shard.world_size > 1:
            del destination[f'{prefix}weight']

    def _load_from_state_dict(self, state_dict: dict, prefix: str, *args: Any) -> None:
        key = f'{prefix}weight'
        _, _, missing_keys, _, error_msgs = args
        rest = {name: value for name, value in state_dict.items() if name != key}
        super()._load_from_state_dict(rest, prefix, *args)
        rows = state_dict.get(key)
        if rows is None:
            return
        if key in missing_keys:
            missing_keys.remove(key)
        if isinstance(rows, Tensor):
            rows = StoredRows([(0, rows)])
        wanted = (self.shard.num_classes, *self.weight.shape[1:])
        if rows.shape != wanted:
            error_msgs.append(
                f'size mismatch for {key}: {list(rows.shape)} in the checkpoint, '
                f'{list(wanted)} in the model'
            )
            return
        with torch.no_grad():
            rows.copy_to(self.weight, self.shard.start)


def heads_of(model: nn.Module) -> dict[str, CentreState]:
    """The heads with centres, by name."""
    return {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, CentreState)
    }
