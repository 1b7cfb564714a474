"""From items to a batch, in memory that a worker shares with the main process.

New shared memory costs a worker more than copying images into it: the system gives it
page by page, each filled with zeros. So a worker keeps its batches and fills them anew
once the main process has let go of them.
"""

import os
import weakref
from collections.abc import Sequence
from typing import ClassVar

import numpy as np
import torch
from mmengine import registry as mmengine_registry
from mmengine.dataset import default_collate
from torch import Tensor
from torch.utils.data import get_worker_info

from mmhyperface.registry import FUNCTIONS
from mmhyperface.utils.errors import UserError

_MOST_FREE = 4


# The runner looks collate functions up in mmengine's registry, whatever the scope.
@mmengine_registry.FUNCTIONS.register_module()
@FUNCTIONS.register_module()
def collate_faces(items: Sequence[dict]) -> dict:
    """A batch of what :class:`.PackFace` gives.

    What mmpretrain's ``PackInputs`` gives is collated as mmengine does it.

    Returns:
        ``inputs``, a uint8 tensor [B, 3, H, W] in channels_last layout (from a worker,
        as soon as it arrives in the main process); ``sample_idx`` and, if all have
        one, ``gt_label``, int64 arrays [B].

    Raises:
        UserError: If the images differ in size.
    """
    if 'data_samples' in items[0]:
        return default_collate(items)
    images = [item['inputs'] for item in items]
    shapes = {image.shape for image in images}
    if len(shapes) > 1:
        sizes = sorted((height, width) for height, width, _ in shapes)
        raise UserError(
            f'collate_faces: images of one batch differ in size: {sizes} (height, '
            "width); give LoadFace a size, in the pipeline of the loader's data set: "
            "dict(type='LoadFace', size=112)"
        )
    inputs: Tensor | _Shared
    if get_worker_info() is None:
        inputs = _channels_first(np.stack(images))
    else:
        inputs = _Shared.of((len(images), *shapes.pop()))
        np.stack(images, out=inputs.images)
    numbers = {
        name: np.array([item[name] for item in items], np.int64)
        for name in ('sample_idx', 'gt_label')
        if all(name in item for item in items)
    }
    return {'inputs': inputs, **numbers}


class _Shared:
    """A batch in a worker that is a tensor [B, 3, H, W] where it arrives.

    The last byte of its memory is 1 from the time it is filled until the tensor, and
    all that is made of its memory, are gone.

    Args:
        shape: [B, H, W, 3].
    """

    #: Those of this process that are on their way, or free to be used again.
    kept: ClassVar[list['_Shared']] = []

    def __init__(self, shape: tuple[int, ...]) -> None:
        self.memory = torch.zeros(int(np.prod(shape)) + 1, dtype=torch.uint8)
        self.memory.share_memory_()
        self.images = self.memory.numpy()[:-1].reshape(shape)

    @classmethod
    def of(cls, shape: tuple[int, ...]) -> '_Shared':
        """A free one. Others that are free go, but for a few of this shape."""
        busy = [batch for batch in cls.kept if batch.memory[-1]]
        free = [
            batch
            for batch in cls.kept
            if not batch.memory[-1] and batch.images.shape == shape
        ][:_MOST_FREE] or [cls(shape)]
        cls.kept = busy + free
        free[0].memory[-1] = 1
        return free[0]

    def __reduce__(self) -> tuple:
        return _arrived, (self.memory, self.images.shape)


def _arrived(memory: Tensor, shape: tuple[int, ...]) -> Tensor:
    whole = memory.numpy()
    images = whole[:-1].reshape(shape)
    # torch's tensor keeps this very array, until nothing is left of its memory.
    weakref.finalize(images, _let_go, whole, os.getpid()).atexit = False
    return _channels_first(images)


def _let_go(whole: np.ndarray, owner: int) -> None:
    # A child of fork has a copy of the tensor, whose end means nothing.
    if os.getpid() == owner:
        whole[-1] = 0


def _channels_first(images: np.ndarray) -> Tensor:
    return torch.from_numpy(images).permute(0, 3, 1, 2)
