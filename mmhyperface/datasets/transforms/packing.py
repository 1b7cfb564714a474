"""The last step: what of an item goes into a batch."""

import numpy as np
from mmcv.transforms import BaseTransform

from mmhyperface.registry import TRANSFORMS
from mmhyperface.utils.errors import UserError


@TRANSFORMS.register_module()
class PackFace(BaseTransform):
    """Keeps of an item the pixels, the label and the number of the image.

    In the place of mmpretrain's ``PackInputs``, which keeps more and takes longer;
    batches are made by :func:`.collate_faces`. Takes ``img`` (uint8 [H, W, 3]),
    ``sample_idx`` and, if it has one, ``gt_label``. Gives the first as ``inputs``, and
    the others as they are.

    Raises:
        UserError: If the image is of another type.
    """

    def transform(self, results: dict) -> dict:
        image = results['img']
        if image.dtype != np.uint8 or image.ndim != 3:
            raise UserError(
                f'PackFace: expected uint8 [H, W, 3], got {image.dtype} '
                f'{list(image.shape)}; normalisation is for FaceDataPreprocessor'
            )
        packed = {'inputs': image, 'sample_idx': results['sample_idx']}
        if 'gt_label' in results:
            packed['gt_label'] = results['gt_label']
        return packed
