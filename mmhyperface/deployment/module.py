"""A network as it is exported: from what a client feeds to the fused embedding.

What its clients have in common decides how things are written here:

- OpenCV's classic engine gives wrong numbers, without an error, for mirror images that
  are put into the batch and taken apart again, for ``Slice`` with a negative step, and
  for a ``MatMul`` with a constant once the batch has grown. So the network is there
  twice, with the weights once, and the columns of the mirror image are taken apart
  (``Split``) and put together in reverse (``Concat``).
- insightface looks for ``Sub`` and ``Mul`` among the first eight nodes: hence
  ``(x - mean) * (1 / std)``, at the front.
"""

import copy

import cv2
import numpy as np
import torch
from torch import Tensor, nn

from mmhyperface.inference.exported_metadata import Graph
from mmhyperface.models.recognizers import FaceRecognizer
from mmhyperface.weights.convention import Convention

# Of cv2.resize's fixed-point numbers.
_COEFFICIENT_BITS, _FIRST_SHIFT, _SECOND_SHIFT = 11, 4, 16


class Preparation(nn.Module):
    """RGB pixels from 0 to 255, [B, 3, H, W], to the input of a network.

    Args:
        convention: Of the network.
        size: (H, W) of the crops; another than the network's only if both are
            squares.
    """

    mean: Tensor
    scale: Tensor

    def __init__(self, convention: Convention, size: tuple[int, int]) -> None:
        super().__init__()
        self.resize: nn.Module = nn.Identity()
        if size != convention.input_size:
            self.resize = resizing(size[0], convention.input_size[0])
        self.swap = convention.channel_order == 'BGR'
        order = slice(None, None, -1 if self.swap else 1)
        mean, std = np.array(convention.mean)[order], np.array(convention.std)[order]
        for name, values in (('mean', mean), ('scale', 1 / std)):
            tensor = torch.tensor(values.tolist(), dtype=torch.float32)
            self.register_buffer(name, tensor.reshape(3, 1, 1))

    def forward(self, images: Tensor) -> Tensor:
        images = (self.resize(images) - self.mean) * self.scale
        return _reversed(images, 1) if self.swap else images


class Deployable(nn.Module):
    """What a client feeds, float32 [B, 3, H, W], to embeddings, float32 [B, D].

    Args:
        model: Of :func:`get_model`; it stays as it is.
        graph: What the client feeds.
        inside: Whether the preprocessing is to be within.
        half: Compute the embeddings in half precision.
    """

    def __init__(
        self,
        model: FaceRecognizer,
        graph: Graph,
        inside: bool = True,
        half: bool = False,
    ) -> None:
        super().__init__()
        self.flip_fusion = model.flip_fusion
        self.prepare: nn.Module = nn.Identity()
        if inside:
            self.prepare = Preparation(model.convention, graph.size)
        self.network = copy.deepcopy(model).cpu().float()
        self.half_precision = half
        if half:
            self.network.half()
        self.requires_grad_(False).eval()

    def forward(self, images: Tensor) -> Tensor:
        images = self.prepare(images)
        if not self.half_precision:
            return self._fused(images)
        return self._fused(images.half()).float()

    def _fused(self, images: Tensor) -> Tensor:
        embeddings = self.network.extract_feat(images)[-1]
        if self.flip_fusion == 'none':
            return embeddings
        mirrored = self.network.extract_feat(_reversed(images, 3))[-1]
        if self.flip_fusion == 'concat':
            return torch.cat([embeddings, mirrored], dim=1)
        return embeddings + mirrored


def _reversed(images: Tensor, dim: int) -> Tensor:
    if torch.onnx.is_in_onnx_export():
        return torch.cat(images.split(1, dim)[::-1], dim)
    return images.flip(dim)


def resizing(old: int, new: int) -> nn.Module:
    """``LoadFace``'s resizing of square crops, as products of matrices.

    It brings [B, 3, old, old] to [B, 3, new, new], pixels from 0 to 255. OpenCV rounds
    in a way of its own, to which an embedding is not blind: enlarged pixels are lower
    by an eighth of a grey level in the mean. Here all pixels come out as there but a
    few in a thousand of enlarged ones, which differ by one grey level.
    """
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
