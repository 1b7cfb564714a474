"""Augmentations of aligned crops that only this field has.

Others come from mmpretrain: ``RandomErasing``, and ``RandomApply`` of ``ColorJitter``
for what is called photometric.
"""

import math
import random
from collections.abc import Sequence

import cv2
import numpy as np
from mmcv.transforms import BaseTransform
from mmcv.transforms.utils import cache_randomness

from mmhyperface.registry import TRANSFORMS
from mmhyperface.utils.errors import UserError

_INTERPOLATIONS = (
    cv2.INTER_NEAREST,
    cv2.INTER_LINEAR,
    cv2.INTER_AREA,
    cv2.INTER_CUBIC,
    cv2.INTER_LANCZOS4,
)


# As seen in a mirror the left eye is the right one, and so is the corner of the mouth.
_MIRRORED = [1, 0, 2, 4, 3]


@TRANSFORMS.register_module()
class RandomFaceFlip(BaseTransform):
    """Mirrors a share of the images: mmcv's ``RandomFlip`` for faces.

    Changes ``img``, uint8 [H, W, 3], and ``landmarks``, [5, 2], if there are any, whose
    left and right are exchanged.

    Args:
        prob: Share of the images.

    Raises:
        UserError: For a share that is none.
    """

    def __init__(self, prob: float = 0.5) -> None:
        _require_share(self, prob)
        self.prob = prob

    def transform(self, results: dict) -> dict:
        # Without cache_randomness, which takes as long as most of the rest.
        if random.random() < self.prob:
            results['img'] = cv2.flip(results['img'], 1)
            if results.get('landmarks') is not None:
                points = np.array(results['landmarks'], np.float64)[_MIRRORED]
                points[:, 0] = results['img'].shape[1] - 1 - points[:, 0]
                results['landmarks'] = points
        return results

    def __repr__(self) -> str:
        return f'{type(self).__name__}(prob={self.prob})'


@TRANSFORMS.register_module()
class RandomFaceCrop(BaseTransform):
    """Blackens what is outside of a random rectangle: a face that is partly in view.

    The face stays where it is, since it is aligned (AdaFace, arXiv 2204.00964,
    section 4.1, and OpenSphere's ``crop``). Changes ``img``, uint8 [H, W, 3].

    Args:
        prob: Share of the images.
        scale: Least and greatest area of the rectangle, of the image's.
        ratio: Least and greatest width over height of it.

    Raises:
        UserError: For a share or range that is none.
    """

    def __init__(
        self,
        prob: float = 0.2,
        scale: Sequence[float] = (0.2, 1.0),
        ratio: Sequence[float] = (3 / 4, 4 / 3),
    ) -> None:
        _require_share(self, prob)
        _require_range(self, 'scale', scale, 1)
        _require_range(self, 'ratio', ratio, np.inf)
        self.prob = prob
        self.scale = tuple(scale)
        self.ratio = tuple(ratio)

    @cache_randomness
    def _rectangle(self, height: int, width: int) -> tuple[int, int, int, int] | None:
        """Top, bottom, left and right; None for no change."""
        if random.random() >= self.prob:
            return None
        area = height * width * random.uniform(*self.scale)
        ratio = math.exp(random.uniform(*map(math.log, self.ratio)))
        h = min(height, max(1, round((area / ratio) ** 0.5)))
        w = min(width, max(1, round((area * ratio) ** 0.5)))
        top = random.randrange(height - h + 1)
        left = random.randrange(width - w + 1)
        return top, top + h, left, left + w

    def transform(self, results: dict) -> dict:
        image = results['img']
        place = self._rectangle(*image.shape[:2])
        if place is not None:
            top, bottom, left, right = place
            cropped = np.zeros_like(image)
            cropped[top:bottom, left:right] = image[top:bottom, left:right]
            results['img'] = cropped
        return results

    def __repr__(self) -> str:
        options = f'prob={self.prob}, scale={self.scale}, ratio={self.ratio}'
        return f'{type(self).__name__}({options})'


@TRANSFORMS.register_module()
class RandomLowResolution(BaseTransform):
    """Makes an image small and large again, as a face far away is.

    Both ways of interpolation are drawn (AdaFace, arXiv 2204.00964, section 4.1, and
    OpenSphere's ``low_res``). Changes ``img``, uint8 [H, W, 3], not its size.

    Args:
        prob: Share of the images.
        scale: Least and greatest side of the small one, of the image's.

    Raises:
        UserError: For a share or range that is none.
    """

    def __init__(self, prob: float = 0.2, scale: Sequence[float] = (0.2, 1.0)) -> None:
        _require_share(self, prob)
        _require_range(self, 'scale', scale, 1)
        self.prob = prob
        self.scale = tuple(scale)

    @cache_randomness
    def _change(self) -> tuple[float, int, int] | None:
        """Scale, interpolation down and up; None for no change."""
        if random.random() >= self.prob:
            return None
        down, up = random.choices(_INTERPOLATIONS, k=2)
        return random.uniform(*self.scale), down, up

    def transform(self, results: dict) -> dict:
        change = self._change()
        if change is not None:
            scale, down, up = change
            height, width = results['img'].shape[:2]
            size = max(1, round(width * scale)), max(1, round(height * scale))
            small = cv2.resize(results['img'], size, interpolation=down)
            results['img'] = cv2.resize(small, (width, height), interpolation=up)
        return results

    def __repr__(self) -> str:
        return f'{type(self).__name__}(prob={self.prob}, scale={self.scale})'


def _require_share(transform: BaseTransform, prob: float) -> None:
    if not 0 <= prob <= 1:
        raise UserError(
            f'{type(transform).__name__}: prob is a share, 0 to 1, got {prob!r}'
        )


def _require_range(
    transform: BaseTransform, name: str, limits: Sequence[float], most: float
) -> None:
    low, high = limits
    if not 0 < low <= high <= most:
        raise UserError(
            f'{type(transform).__name__}: {name} is a range of positive numbers, up to '
            f'{most}, got {low} to {high}'
        )
