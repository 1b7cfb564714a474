"""Embeddings on their way from the batches of all processes to rank 0."""

import math
from collections.abc import Generator, Sequence

import numpy as np
import torch
from mmengine.dist import (
    all_gather_object,
    gather_object,
    get_world_size,
    is_main_process,
)

from mmhyperface.utils.errors import UserError

from ..functional.arrays import Floats, Ints
from .embeddings import Embeddings

# Embeddings are kept, and travel, in pieces of so many bytes: few enough to be had
# twice, and enough that the memory of each returns to the system when it is freed.
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
        self._free = 0  # rows of the last piece

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
        _check_one_dim({len(one) for one in chosen} | {self._dim or len(chosen[0])})
        self.flip = data_samples[0].get('flip_fusion', self.flip)
        # One transfer for the batch.
        rows = torch.stack(chosen).detach().float().cpu().numpy()
        self._append(numbers[kept], rows)

    def gather(self) -> Embeddings | None:
        """All embeddings, each sample once, on rank 0; None on other ranks.

        To be called by all of them. The store is empty afterwards. None also if no
        process has any.

        Raises:
            UserError: embeddings that differ in their number of dimensions.
        """
        # An own piece travels by as many bytes as all of a round may have.
        limit = PIECE_BYTES // get_world_size()
        told = all_gather_object((self._dim, self._num_pieces(limit)))
        dims = {dim for dim, _ in told if dim is not None}
        if len(dims) != 1:
            self._pieces.clear()
            self._free = 0
            _check_one_dim(dims)
            return None
        numbers = gather_object(self._numbers())
        pieces = self._take(limit)
        if not is_main_process():
            for _ in range(max(count for _, count in told)):
                gather_object(next(pieces, None))
            return None
        known = np.unique(np.concatenate(numbers))
        rows = np.empty((len(known), *dims), np.float32)
        for _ in range(max(count for _, count in told)):
            own = next(pieces, None)
            for piece in (own, *gather_object(None)[1:]):
                if piece is not None:
                    rows[np.searchsorted(known, piece[0])] = piece[1]
        return Embeddings(known, rows, flip=self.flip)

    @property
    def _dim(self) -> int | None:
        return self._pieces[0][1].shape[1] if self._pieces else None

    def _wanted(self, numbers: Ints) -> np.ndarray:
        if self.ranges is None:
            return np.ones(len(numbers), np.bool_)
        wanted = np.zeros(len(numbers), np.bool_)
        for first, end in self.ranges:
            wanted |= (first <= numbers) & (numbers < end)
        return wanted

    def _append(self, numbers: Ints, rows: Floats) -> None:
        while len(rows):
            if not self._free:
                self._free = max(PIECE_BYTES // rows[0].nbytes, 1)
                self._pieces.append(
                    (
                        np.empty(self._free, np.int64),
                        np.empty((self._free, rows.shape[1]), np.float32),
                    )
                )
            count = min(self._free, len(rows))
            at = len(self._pieces[-1][0]) - self._free
            for whole, part in zip(self._pieces[-1], (numbers, rows), strict=True):
                whole[at : at + count] = part[:count]
            self._free -= count
            numbers, rows = numbers[count:], rows[count:]

    def _filled(self) -> list[Piece]:
        pieces = list(self._pieces)
        if pieces and self._free:
            numbers, rows = pieces[-1]
            pieces[-1] = numbers[: -self._free], rows[: -self._free]
        return pieces

    def _numbers(self) -> Ints:
        parts = [numbers for numbers, _ in self._filled()]
        return np.unique(np.concatenate([np.empty(0, np.int64), *parts]))

    def _num_pieces(self, limit: int) -> int:
        return sum(
            math.ceil(len(rows) / _step(rows, limit)) for _, rows in self._filled()
        )

    def _take(self, limit: int) -> Generator[Piece, None, None]:
        """What there is in pieces of at most so many bytes, freed as it is taken."""
        pieces = self._filled()
        self._pieces.clear()
        self._free = 0
        while pieces:
            numbers, rows = pieces.pop(0)
            step = _step(rows, limit)
            for start in range(0, len(rows), step):
                yield numbers[start : start + step], rows[start : start + step]


def _step(rows: Floats, limit: int) -> int:
    return max(limit // rows[0].nbytes, 1)


def _check_one_dim(dims: set[int]) -> None:
    if len(dims) > 1:
        raise UserError(
            f'embeddings differ in their dimensions: {sorted(dims)}; each image needs '
            'one of the same'
        )
