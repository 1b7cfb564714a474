"""Five landmarks to the standard place: how every model of this field sees faces."""

from collections.abc import Sequence

import cv2
import numpy as np
from mmcv.transforms import BaseTransform

from mmhyperface.registry import TRANSFORMS
from mmhyperface.utils.errors import UserError

#: Left eye, right eye, nose, left and right corner of the mouth in a crop of 112 x 112
#: pixels, (x, y), as ArcFace has them (arXiv 1801.07698).
TEMPLATE = np.array(
    [
        [38.2946, 51.6963],
        [73.5318, 51.5014],
        [56.0252, 71.7366],
        [41.5493, 92.3655],
        [70.7299, 92.2041],
    ]
)


def template(height: int, width: int) -> np.ndarray:
    """The five points, float64 [5, 2], in a crop of this size.

    96 x 112 (width x height) of the older papers is 112 x 112 without 8 columns on
    either side; other sizes are that of their height, likewise without columns.
    """
    points = TEMPLATE * (height / 112)
    points[:, 0] += (width - height) / 2
    return points


def similarity(source: np.ndarray, target: np.ndarray) -> np.ndarray:
    """The similarity that takes points to others with the least squared error.

    Args:
        source, target: [N, 2], N > 1.

    Returns:
        float64 [2, 3], of rotation, one scale, and translation, without reflection
        (Umeyama, PAMI 13(4), 1991).

    Raises:
        UserError: If the points are not finite, or all one.
    """
    source, target = np.asarray(source, np.float64), np.asarray(target, np.float64)
    if source.shape != target.shape or source.ndim != 2 or source.shape[1] != 2:
        raise UserError(
            f'expected points {list(target.shape)}, got {list(source.shape)}'
        )
    # As complex numbers a similarity is z -> a z + b.
    z, w = (points @ np.array([1, 1j]) for points in (source, target))
    spread = (abs(z - z.mean()) ** 2).sum()
    if not np.isfinite(source).all() or spread == 0:
        raise UserError(f'no face has the landmarks {source.tolist()}')
    a = ((w - w.mean()) * (z - z.mean()).conj()).sum() / spread
    b = w.mean() - a * z.mean()
    return np.array([[a.real, -a.imag, b.real], [a.imag, a.real, b.imag]])


@TRANSFORMS.register_module()
class AlignFace(BaseTransform):
    """Brings a face to the standard place by its five landmarks.

    Takes ``img`` (uint8 [H, W, 3]) and ``landmarks``, [5, 2] as (x, y) in its pixels:
    left eye, right eye, nose, left and right corner of the mouth, left and right as
    one looks at the picture. Replaces ``img`` by the crop and ``landmarks`` by their
    place in it.

    Args:
        size: (height, width) of the crop, or one number for a square.

    Raises:
        UserError: If there are no landmarks, or no face can have them.
    """

    def __init__(self, size: int | Sequence[int] = (112, 112)) -> None:
        self.height, self.width = (size, size) if isinstance(size, int) else size

    def transform(self, results: dict) -> dict:
        source = results.get('img_path', "results['img']")
        if results.get('landmarks') is None:
            raise UserError(f'{source}: has no landmarks, which AlignFace needs')
        points = np.asarray(results['landmarks'], np.float64)
        try:
            matrix = similarity(points, template(self.height, self.width))
        except UserError as error:
            raise UserError(f'{source}: {error}') from None
        results['img'] = cv2.warpAffine(
            results['img'], matrix, (self.width, self.height), flags=cv2.INTER_LINEAR
        )
        results['landmarks'] = points @ matrix[:, :2].T + matrix[:, 2]
        results['img_shape'] = results['img'].shape[:2]
        return results

    def __repr__(self) -> str:
        return f'{type(self).__name__}(size=({self.height}, {self.width}))'
