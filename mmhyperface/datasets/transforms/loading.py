"""The first and the last step: an image is read, and goes into a batch."""

import os
import re
from collections.abc import Sequence
from importlib import import_module
from typing import Any

import cv2
import numpy as np
from mmcv.transforms import BaseTransform

from mmhyperface.datasets.damage import DamagedImage
from mmhyperface.datasets.readers.image_files import is_heic
from mmhyperface.registry import TRANSFORMS
from mmhyperface.utils.errors import UserError

try:
    import simplejpeg
except ImportError:
    simplejpeg = None

# Only an even area has more pixels in a byte of JPEG data, or a forged header.
_PIXELS_A_BYTE = 100
# Other bytes after 0xFF belong to what was scanned, or fill the space between segments.
_MARKER = re.compile(rb'\xff[^\x00\x01\xd0-\xd7\xff]')
_REPLACE = 'Replace the file, or take it out of the data set'


def decode_face(data: bytes, source: str) -> np.ndarray:
    """Encoded bytes of any common type to uint8 [H, W, 3] BGR.

    Grey is repeated in the three channels, alpha is dropped (not blended), 16-bit
    values lose their low byte. An EXIF orientation is ignored, and that of an AVIF:
    landmarks, and so the crop, belong to the stored pixels; but OpenCV brings a TIFF
    upright, and HEIC, which needs pillow-heif, is upright when it is decoded. `source`
    names the image in errors.
    """
    if not data:
        raise DamagedImage(f'{source}: the file is empty. {_REPLACE}.')
    if data.startswith(b'\xff\xd8'):
        image = _decode_jpeg(data)
        if image is not None:
            return image
        # OpenCV 4 fills the missing rows of a cut JPEG without a word.
        if not _comes_to_an_end(data):
            raise DamagedImage(
                f'{source}: the JPEG is cut off after {len(data)} bytes. {_REPLACE}.'
            )
    if is_heic(data):
        return _decode_heic(data, source)
    try:
        image = cv2.imdecode(
            np.frombuffer(data, np.uint8),
            cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION,
        )
    except cv2.error:  # for instance a header with absurd sides
        image = None
    if image is None:
        raise DamagedImage(
            f'{source}: cannot be decoded as an image ({len(data)} bytes, starting '
            f'with {data[:8]!r}). {_REPLACE}.'
        )
    return image


def _decode_jpeg(data: bytes) -> np.ndarray | None:
    """Likewise with simplejpeg: the same library as OpenCV's, with less around it.

    None where it is not installed, or OpenCV has to decide: for damage, and headers
    that tell of more pixels than are likely in so few bytes.
    """
    if simplejpeg is None or not data.endswith(b'\xff\xd9'):
        return None
    try:
        height, width, *_ = simplejpeg.decode_jpeg_header(data)
        if height * width > _PIXELS_A_BYTE * len(data):
            return None
        return simplejpeg.decode_jpeg(data, 'BGR')
    except ValueError:
        return None


def heic_reader(source: str) -> Any:
    """The library that reads HEIC.

    Raises:
        DamagedImage: If it is not installed.
    """
    try:
        return import_module('pillow_heif')
    except ImportError:
        raise DamagedImage(
            f'{source}: is HEIC, which OpenCV does not decode: pip install '
            'pillow-heif, or convert it to JPEG, for instance with heif-convert of '
            'libheif'
        ) from None


def _decode_heic(data: bytes, source: str) -> np.ndarray:
    reader = heic_reader(source)
    try:
        image = np.array(reader.open_heif(data, bgr_mode=True))
    except (EOFError, OSError, RuntimeError, ValueError) as error:
        reason = ' '.join(str(error).split())
        raise DamagedImage(
            f'{source}: the HEIC is damaged: {reason}. {_REPLACE}.'
        ) from None
    return _as_bgr(image, source)


def _comes_to_an_end(data: bytes) -> bool:
    """Whether a JPEG has its end marker, which a thumbnail within it has as well."""
    at = 2
    while (marker := _MARKER.search(data, at)) and marker[0] != b'\xff\xd9':
        # A segment with its length, and after that of a scan what was scanned.
        at = marker.end() + int.from_bytes(data[marker.end() : marker.end() + 2], 'big')
    return marker is not None


def encoded_face(results: dict) -> bytes:
    """The bytes of an image: ``img_bytes``, or what the file ``img_path`` holds."""
    if 'img_bytes' in results:
        return results['img_bytes']
    path = os.fspath(results['img_path'])
    try:
        with open(path, 'rb') as file:
            return file.read()
    except FileNotFoundError:
        raise DamagedImage(
            f"{path}: no such image. Check the data set's data_root, or take the "
            'image out of its list'
        ) from None
    except OSError as error:  # a directory, no permission, a dead mount
        raise DamagedImage(
            f'{path}: cannot be read: {error.strerror}. It has to be an image file'
        ) from None


def _as_bgr(image: np.ndarray, source: str) -> np.ndarray:
    channels = image.shape[2] if image.ndim == 3 else 1
    if (
        image.dtype != np.uint8
        or image.ndim not in (2, 3)
        or channels not in (1, 3, 4)
        or image.size == 0
    ):
        raise UserError(
            f'{source}: expected a uint8 array [H, W], or [H, W, C] with C = 1, 3 or '
            f'4, got {image.dtype} {list(image.shape)}'
        )
    if channels == 1:
        return cv2.cvtColor(image, cv2.COLOR_GRAY2BGR)
    return image[:, :, :3]


@TRANSFORMS.register_module()
class LoadFace(BaseTransform):
    """Reads an image and brings it to the size the model expects.

    Takes ``img`` (a uint8 array: grey, BGR or BGRA) if it is there, or the encoded
    ``img_bytes`` (which go), otherwise the file ``img_path``, of any type that OpenCV
    decodes: see :func:`decode_face`. Adds ``img`` (uint8 [H, W, 3] BGR), ``img_shape``
    and ``ori_shape`` ((h, w) after and before resizing).

    Args:
        size: (h, w), or one number for a square. None: each image keeps its own, for
            AlignFace, whose landmarks are in the image's own pixels.
        resize: bring another size to `size`, without regard to its aspect ratio
            (INTER_AREA when neither side grows, else INTER_LINEAR). False: another
            size is an error, for data that must be aligned already.

    Raises:
        DamagedImage: a file that is missing, empty, cut off or no image; another size
            with ``resize=False``.
        UserError: an array of another kind.
    """

    def __init__(
        self, size: int | Sequence[int] | None = (112, 112), resize: bool = True
    ) -> None:
        self.size = None if size is None else _sides(size)
        self.resize = resize

    def transform(self, results: dict) -> dict:
        source = str(results.get('img_path', "results['img']"))
        if 'img' in results:
            image = _as_bgr(results['img'], source)
        else:
            image = decode_face(encoded_face(results), source)
            results.pop('img_bytes', None)

        results['ori_shape'] = image.shape[:2]
        results['img'] = self._resized(image, source)
        results['img_shape'] = results['img'].shape[:2]
        return results

    def _resized(self, image: np.ndarray, source: str) -> np.ndarray:
        height, width = image.shape[:2]
        if self.size is None or (height, width) == self.size:
            return image
        new_height, new_width = self.size
        if not self.resize:
            raise DamagedImage(
                f'{source}: the image is {height}x{width}, expected '
                f'{new_height}x{new_width} (height x width). Align the images to '
                "that size, or set resize=True of LoadFace in the data set's pipeline"
            )
        shrinks = height >= new_height and width >= new_width
        return cv2.resize(
            image,
            (new_width, new_height),
            interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR,
        )

    def __repr__(self) -> str:
        return f'{type(self).__name__}(size={self.size}, resize={self.resize})'


def _sides(size: int | Sequence[int]) -> tuple[int, int]:
    sides = (size, size) if isinstance(size, int) else tuple(size)
    if len(sides) != 2 or not all(isinstance(s, int) and s > 0 for s in sides):
        raise UserError(
            'LoadFace: size is (height, width), one positive number, or None for each '
            f"image's own, got {size}"
        )
    return sides[0], sides[1]


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
