"""Embeddings on their way from the batches of all processes to rank 0."""

from collections.abc import Sequence

import numpy as np
import torch
from mmengine.dist import (
    all_gather_object,
    gather_object,
    get_world_size,
    is_main_process,
)

from mmhyperface.utils.errors import UserError

from ..arrays import Floats, Ints
from .embeddings import Embeddings

# Embeddings are kept, and travel, in pieces; those of all processes have so many bytes:
# few enough to be had twice, and enough that what is freed returns to the system.
PIECE_BYTES = 2**26

Piece = tuple[Ints, Floats]


class EmbeddingStore:
    """Keeps the embeddings of this process, as float32 on the CPU.

    A process needs the memory of its own embeddings, and rank 0, at the end, that of
    all of them and one piece.

    Attributes:
        ranges: Of numbers of samples, (first, one past the last), whose embeddings
            are kept; None: all.
        flip: How mirror images were fused, as far as samples tell by ``flip_fusion``.
    """

    def __init__(self, ranges: Sequence[tuple[int, int]] | None = None) -> None:
        self.ranges = ranges
        self.flip = 'model'
        self._pieces: list[Piece] = []
        self._open: list[Piece] = []  # of single batches, which will be one
        self._open_bytes = 0

    def add(self, data_samples: Sequence[dict]) -> None:
        """Keep the ``embedding`` [D] of each sample, by its ``sample_idx``.

        A sample may tell of its ``flip_fusion``, see :class:`.FaceRecognizer`.

        Raises:
            UserError: embeddings that differ in their number of dimensions.
        """
        numbers = np.array([int(s['sample_idx']) for s in data_samples], np.int64)
        kept = np.flatnonzero(self._wanted(numbers))
        if not len(kept):
            return
        chosen = [torch.as_tensor(data_samples[i]['embedding']) for i in kept.tolist()]
        for one in chosen:
            if one.ndim != 1:
                raise UserError(f'an embedding must be [D], not {list(one.shape)}')
        before = (self._open or self._pieces)[-1:]
        _check_one_dim({len(x) for x in chosen} | {x.shape[1] for _, x in before})
        self.flip = data_samples[0].get('flip_fusion', self.flip)
        # One transfer for the batch.
        rows = torch.stack(chosen).detach().float().cpu().numpy()
        self._open.append((numbers[kept], rows))
        # A piece of each process travels at a time.
        self._open_bytes += rows.nbytes
        if self._open_bytes * get_world_size() >= PIECE_BYTES:
            self._close_piece()

    def gather(self) -> Embeddings | None:
        """All embeddings, each sample once, on rank 0; None on other ranks.

        To be called by all of them. The store is empty afterwards. None also if no
        process has any.

        Raises:
            UserError: embeddings that differ in their number of dimensions.
        """
        self._close_piece()
        own, self._pieces = self._pieces, []
        sizes = all_gather_object((len(own), own[0][1].shape[1] if own else None))
        dims = {dim for _, dim in sizes if dim is not None}
        _check_one_dim(dims)
        if not dims:
            return None
        numbers = gather_object(
            np.concatenate([np.empty(0, np.int64), *(x for x, _ in own)])
        )
        rounds = max(count for count, _ in sizes)
        if not is_main_process():
            for _ in range(rounds):
                gather_object(own.pop(0) if own else None)
            return None
        known = np.unique(np.concatenate(numbers))
        rows = np.empty((len(known), *dims), np.float32)
        for _ in range(rounds):
            # Each piece is freed as soon as its rows have their places.
            piece = own.pop(0) if own else None
            for each in (piece, *gather_object(None)[1:]):
                if each is not None:
                    rows[np.searchsorted(known, each[0])] = each[1]
        return Embeddings(known, rows, flip=self.flip)

    def _wanted(self, numbers: Ints) -> np.ndarray:
        if self.ranges is None:
            return np.ones(len(numbers), np.bool_)
        wanted = np.zeros(len(numbers), np.bool_)
        for first, end in self.ranges:
            wanted |= (first <= numbers) & (numbers < end)
        return wanted

    def _close_piece(self) -> None:
        if self._open:
            numbers, rows = zip(*self._open, strict=True)
            self._pieces.append((np.concatenate(numbers), np.concatenate(rows)))
            self._open.clear()
            self._open_bytes = 0


def _check_one_dim(dims: set[int]) -> None:
    if len(dims) > 1:
        raise UserError(
            f'embeddings differ in their dimensions: {sorted(dims)}; each image needs '
            'one of the same'
        )
