"""From a collated batch of pixels to the network's input, on the device."""

from collections.abc import Sequence

import numpy as np
import torch
from mmengine.model import BaseDataPreprocessor
from torch import Tensor

from mmhyperface.models.face_samples import FaceSamples
from mmhyperface.registry import MODELS
from mmhyperface.utils.errors import UserError


@MODELS.register_module()
class FaceDataPreprocessor(BaseDataPreprocessor):
    """Moves uint8 images to the device, then RGB and (x - mean) / std.

    Only bytes cross to the device. The data samples and their labels stay on the
    host, where the head checks them without waiting for the device.

    Args:
        mean: Pixel mean, one number or one per channel (R, G, B).
        std: Pixel standard deviation, likewise.
        to_rgb: Whether images come as BGR, as OpenCV reads them.
        channels_last: Give the network its input in channels_last layout, which is
            faster on tensor cores and on most CPUs.
        non_blocking: Copy pinned memory without waiting.
        batch_augments: What mmpretrain's ``ImageClassifier`` hands over; there must be
            none, since mixed labels have no class centre.

    Raises:
        UserError: For batch augmentations.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        mean: float | Sequence[float] = 127.5,
        std: float | Sequence[float] = 127.5,
        to_rgb: bool = True,
        channels_last: bool = False,
        non_blocking: bool = True,
        batch_augments: dict | None = None,
    ) -> None:
        super().__init__(non_blocking)
        if batch_augments:
            raise UserError(
                'FaceDataPreprocessor: mixed labels have no class centre of their own; '
                'train without Mixup and CutMix: leave model.train_cfg.augments out'
            )
        self.to_rgb = to_rgb
        self.channels_last = channels_last
        for name, value in (('mean', mean), ('std', std)):
            tensor = torch.as_tensor(value, dtype=torch.float32).view(-1, 1, 1)
            self.register_buffer(name, tensor, persistent=False)

    def forward(self, data: dict, training: bool = False) -> dict:
        """Preprocess one batch.

        Args:
            data: ``inputs``, BGR uint8 [B, 3, H, W], or a list of B tensors
                [3, H, W] or arrays [H, W, 3]; and ``data_samples``, passed on as
                they are, or ``sample_idx`` and ``gt_label``, which they are made of.
            training: Without effect.

        Returns:
            ``inputs``, float32 [B, 3, H, W], RGB, and ``data_samples``.

        Raises:
            UserError: If the images of the batch differ in size or are not
                [3, H, W].
        """
        inputs = data['inputs']
        if not isinstance(inputs, Tensor):
            inputs = self._stack(inputs)
        if inputs.ndim != 4 or inputs.shape[1] != 3:
            raise UserError(
                'FaceDataPreprocessor: expected images [B, 3, H, W], got '
                f'{list(inputs.shape)}; LoadFace gives any image 3 channels, grey ones '
                'too (a network with model.backbone.in_channels=1 makes them one), and '
                'collate_faces brings what PackFace gives into this order'
            )
        inputs = self.cast_data(inputs)
        if self.to_rgb:
            inputs = inputs.flip(1)
        # Bytes are quicker to bring into another layout than floats.
        layout = torch.channels_last if self.channels_last else torch.contiguous_format
        inputs = inputs.contiguous(memory_format=layout)
        inputs = torch.sub(inputs, self.mean).div_(self.std)
        samples = data.get('data_samples')
        if 'sample_idx' in data:
            samples = FaceSamples(data['sample_idx'], data.get('gt_label'))
        return {'inputs': inputs, 'data_samples': samples}

    @staticmethod
    def _stack(images: Sequence[Tensor | np.ndarray]) -> Tensor:
        tensors = [
            torch.from_numpy(image).permute(2, 0, 1)
            if isinstance(image, np.ndarray)
            else image
            for image in images
        ]
        sizes = {tuple(image.shape) for image in tensors}
        if len(sizes) > 1:
            raise UserError(
                f'FaceDataPreprocessor: images of one batch differ in size: '
                f'{sorted(sizes)}; give LoadFace a size, in the pipeline of the data '
                "set: dict(type='LoadFace', size=112)"
            )
        return torch.stack(tensors)
