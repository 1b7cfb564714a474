"""Reading pictures of any origin: what is wrong with one, and what was done to it.

Pixels are decoded as for training (:func:`.decode_face`). Pillow looks at the header
before that, so that a picture too large is never decoded, and what decoding drops is
told.
"""

import hashlib
import io
import os
import re
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from mmhyperface.datasets.damage import DamagedImage
from mmhyperface.datasets.readers.image_files import is_heic
from mmhyperface.datasets.transforms import LoadFace, decode_face
from mmhyperface.datasets.transforms.loading import heic_reader
from mmhyperface.utils.choices import MAX_MEGAPIXELS
from mmhyperface.utils.errors import UserError

try:
    import simplejpeg
except ImportError:
    simplejpeg = None

Pixels = npt.NDArray[np.uint8]

# Tag of EXIF, and by its value the quarters, counterclockwise, that let a picture stand
# upright. 2, 4, 5 and 7 mirror it besides.
_ORIENTATION = 0x112
_TURNS = {1: 0, 2: 0, 3: 2, 4: 2, 5: 3, 6: 3, 7: 1, 8: 1}
_MIRRORED = (2, 4, 5, 7)
# Pillow tells of the turn of an AVIF as if EXIF told it.
_TURNED_BY_EXIF = ('JPEG', 'MPO', 'PNG', 'WEBP', 'AVIF')
# What decodes a TIFF, or HEIC, turns it; the others are never turned.
_UPRIGHT = ('TIFF', 'HEIF', 'BMP', 'DIB', 'GIF', 'PPM')
_WITH_ALPHA = ('RGBA', 'LA', 'PA', 'RGBa', 'La')
_MAXVAL = re.compile(rb'P[2356]\s+(?:#[^\n]*\s+)*\d+\s+\d+\s+(\d+)\s')

_ALPHA = 'alpha is dropped, not blended'
_UNKNOWN = 'the orientation of a {} is not known; taken as it is stored'


@dataclass(frozen=True)
class Picture:
    """A picture as it is stored.

    Attributes:
        pixels: uint8 [H, W, 3] BGR.
        turns: Quarters, counterclockwise, that let it stand upright, by EXIF.
        remarks: What decoding did to it.
        digest: 32 hexadecimal digits of the SHA-256 of the file, or of the array.
    """

    pixels: Pixels
    turns: int = 0
    remarks: tuple[str, ...] = ()
    digest: str = ''

    @property
    def upright(self) -> Pixels:
        """The pixels as viewers show them."""
        return np.rot90(self.pixels, self.turns)


def read_picture(
    data: str | os.PathLike | npt.NDArray[Any],
    source: str,
    max_megapixels: float = MAX_MEGAPIXELS,
) -> Picture:
    """A picture of a file, or of an array.

    Alpha is dropped, and of several frames all but the first; 16 bits become 8, and
    CMYK becomes RGB without a colour profile. Each of these is a remark.

    Args:
        data: Path, or uint8 [H, W] grey, [H, W, 3] BGR or [H, W, 4] BGRA.
        source: Names it in messages.
        max_megapixels: Larger files are not decoded.

    Raises:
        UserError: If it is missing, damaged, no picture or too large, or an array of
            another kind.
    """
    if isinstance(data, np.ndarray):
        loaded = LoadFace(size=None).transform({'img': data, 'img_path': source})
        has_alpha = data.ndim == 3 and data.shape[2] == 4
        content = f'{data.shape}'.encode() + np.ascontiguousarray(data).tobytes()
        alpha = (_ALPHA,) if has_alpha else ()
        return Picture(loaded['img'], 0, alpha, digest_of(content))
    encoded = read_bytes(data, source)
    turns, remarks, is_deep = _read_header(encoded, source, max_megapixels)
    _require_sound_jpeg(encoded, source)
    pixels = decode_face(encoded, source)
    if is_deep:
        remarks += (
            'more than 8 bits are reduced to 8, and the brightest value left is '
            f'{pixels.max()} of 255',
        )
    return Picture(pixels, turns, remarks, digest_of(encoded))


def digest_of(content: bytes) -> str:
    """What tells an image from others: see :class:`Picture`."""
    return hashlib.sha256(content).hexdigest()[:32]


def orientation_of(data: bytes) -> tuple[int, tuple[str, ...]]:
    """Quarters, counterclockwise, that let an encoded picture stand upright.

    With remarks where these are not all that it takes, or not known.
    """
    if is_heic(data):  # upright when it is decoded
        return 0, ()
    try:
        return _orientation(Image.open(io.BytesIO(data)), data)
    except Exception:  # of many kinds, for what Pillow does not know, or is damaged
        return 0, (_UNKNOWN.format('picture that Pillow cannot read'),)


def read_bytes(path: str | os.PathLike, source: str) -> bytes:
    """What a file holds.

    Raises:
        DamagedImage: If it cannot be read.
    """
    try:
        return Path(path).read_bytes()
    except FileNotFoundError:
        raise DamagedImage(f'{source}: there is no such file') from None
    except (OSError, ValueError) as error:  # a folder, no permission, a NUL byte
        raise DamagedImage(f'{source}: cannot be read: {error}') from None


def _read_header(
    data: bytes, source: str, max_megapixels: float
) -> tuple[int, tuple[str, ...], bool]:
    """Quarters to turn, remarks, and whether values have more than 8 bits."""
    if not data:
        raise DamagedImage(f'{source}: the file is empty')
    if is_heic(data):
        heic_reader(source).register_heif_opener()
    # Of Pillow's warnings each is an error here, or of no account.
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        try:
            image = Image.open(io.BytesIO(data))
            width, height = image.size
            if width * height > max_megapixels * 1e6:
                raise UserError(
                    f'{source}: has {width * height / 1e6:.1f} megapixels '
                    f'({height}x{width}), more than {max_megapixels:g}; reduce it, or '
                    'allow more (max_megapixels=..., --max-megapixels)'
                )
            frames = getattr(image, 'n_frames', 1)
            turns, orientation = _orientation(image, data)
            is_deep = _is_deep(image, data)
        except UserError:
            raise
        except Image.DecompressionBombError as error:
            raise UserError(f'{source}: {error}') from None
        except Exception:  # Pillow raises what its many parts do
            unknown = 'no picture of a known type'
            kind = 'HEIC that cannot be read' if is_heic(data) else unknown
            raise DamagedImage(
                f'{source}: is {kind}, or damaged ({len(data)} '
                f'bytes, starting with {data[:8]!r})'
            ) from None
    remarks = []
    if image.mode == 'CMYK':
        remarks.append('CMYK is converted without a colour profile')
    if image.mode in _WITH_ALPHA or 'transparency' in image.info:
        remarks.append(_ALPHA)
    if frames > 1:
        remarks.append(f'the first of {frames} frames is taken')
    return turns, (*remarks, *orientation), is_deep


def _orientation(image: Any, data: bytes) -> tuple[int, tuple[str, ...]]:
    """See :func:`orientation_of`."""
    if image.format in _UPRIGHT:
        return 0, ()
    if image.format not in _TURNED_BY_EXIF:
        return 0, (_UNKNOWN.format(image.format),)
    # Pillow would decode a PNG to look for what may come after its pixels.
    if image.format == 'PNG' and b'eXIf' not in data:
        return 0, ()
    orientation = image.getexif().get(_ORIENTATION) or 1
    if orientation not in _TURNS:
        return 0, (f'EXIF has an orientation {orientation}; taken as it is stored',)
    mirrored = 'EXIF tells that it is mirrored; taken as it is stored'
    return _TURNS[orientation], (mirrored,) * (orientation in _MIRRORED)


def _is_deep(image: Any, data: bytes) -> bool:
    """Whether values have more than 8 bits; Pillow tells of grey ones only."""
    if image.mode.startswith(('I', 'F')):
        return True
    if image.format == 'PNG':
        return data[24] > 8
    if image.format == 'TIFF':
        return max(image.tag_v2.get(258, (8,))) > 8
    header = _MAXVAL.match(data) if image.format == 'PPM' else None
    return header is not None and int(header[1]) > 255


def _require_sound_jpeg(data: bytes, source: str) -> None:
    """OpenCV makes up what it cannot decode of a JPEG; only simplejpeg tells."""
    if simplejpeg is None or not data.startswith(b'\xff\xd8'):
        return
    try:
        # An eighth of the size: all of the data is read, few pixels are computed.
        simplejpeg.decode_jpeg(data, 'GRAY', min_height=1, min_width=1)
    except ValueError as error:
        raise DamagedImage(f'{source}: the JPEG is damaged: {error}') from None
