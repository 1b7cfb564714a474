"""``LoadFace``'s resizing of square crops, as products of matrices.

OpenCV rounds in a way of its own, to which an embedding is not blind: enlarged pixels
are lower by an eighth of a grey level in the mean. Here all pixels come out as there
but a few in a thousand of enlarged ones, which differ by one grey level.
"""

import cv2
import numpy as np
import torch
from torch import Tensor, nn

# Of cv2.resize's fixed-point numbers.
_COEFFICIENT_BITS, _FIRST_SHIFT, _SECOND_SHIFT = 11, 4, 16


def resizing(old: int, new: int) -> nn.Module:
    """[B, 3, old, old] to [B, 3, new, new], pixels from 0 to 255."""
    return Shrink(old, new) if new < old else Enlarge(old, new)


class Shrink(nn.Module):
    """``INTER_AREA``: means of areas, rounded."""

    rows: Tensor
    columns: Tensor
    half_level: Tensor

    def __init__(self, old: int, new: int) -> None:
        super().__init__()
        matrix = _weights(old, new, cv2.INTER_AREA)
        _register(self, 'rows', matrix)
        _register(self, 'columns', matrix.T)
        # Four pixels are added up as integers, and halves rounded up.
        self.halves_up = old == 2 * new
        _register(self, 'half_level', np.full(1, 0.5))

    def forward(self, images: Tensor) -> Tensor:
        images = self.rows @ (images @ self.columns)
        return (images + self.half_level).floor() if self.halves_up else images.round()


class Enlarge(nn.Module):
    """``INTER_LINEAR``: two pixels of a row, then two of a column, in fixed point.

    What is shifted out is lost: of a row once, of a column for each of the two.
    """

    columns: Tensor
    rows: Tensor
    sums: Tensor
    half_level: Tensor

    def __init__(self, old: int, new: int) -> None:
        super().__init__()
        weights = _weights(old, new, cv2.INTER_LINEAR)
        weights = np.rint(weights * 2**_COEFFICIENT_BITS)
        first = np.where(np.arange(old) == (weights > 0).argmax(1)[:, None], weights, 0)
        rows = np.concatenate([first, weights - first])
        _register(self, 'columns', weights.T / 2**_FIRST_SHIFT)
        _register(self, 'rows', rows / 2**_SECOND_SHIFT)
        # Two bits are left.
        _register(self, 'sums', np.tile(np.eye(new), 2) / 4)
        _register(self, 'half_level', np.full(1, 0.5))

    def forward(self, images: Tensor) -> Tensor:
        images = (images @ self.columns).floor()
        images = (self.rows @ images).floor()
        return (self.sums @ images + self.half_level).floor()


def _weights(old: int, new: int, way: int) -> np.ndarray:
    """[new, old]."""
    return cv2.resize(np.eye(old, dtype=np.float32), (old, new), interpolation=way)


def _register(module: nn.Module, name: str, values: np.ndarray) -> None:
    tensor = torch.from_numpy(np.ascontiguousarray(values, np.float32))
    module.register_buffer(name, tensor)
