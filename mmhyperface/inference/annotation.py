"""Pictures with their faces marked, and two faces side by side."""

import os
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import matplotlib
import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont, ImageOps

from mmhyperface.utils.atomic_files import new_files
from mmhyperface.utils.choices import MAX_MEGAPIXELS
from mmhyperface.utils.errors import UserError
from mmhyperface.utils.figures import COLORS, require_picture
from mmhyperface.utils.paths import require_folder

from .detection import turned, turned_box
from .pictures import Picture, read_picture
from .results import Face, Verification

FORMATS = ('.png', '.jpg', '.jpeg', '.webp')
#: Smaller pictures are enlarged to this longest side, so that text has room.
LEAST_SIDE = 480
#: Larger ones are reduced.
MOST_SIDE = 1600
# Of the faces of a picture: blue, green and orange of Okabe and Ito, and so on.
_KNOWN, _UNKNOWN, _PLAIN = COLORS[2], COLORS[1], COLORS[0]
_SHEET_SIDE = 256
_MARGIN = 16

Pixels = npt.NDArray[np.uint8]


class Label(NamedTuple):
    """What is written at a face.

    Attributes:
        text: One line.
        known: Whether it names a person; None where nobody was asked for.
    """

    text: str
    known: bool | None = None


def draw_faces(picture: Picture, faces: Sequence[tuple[Face, Label]]) -> Image.Image:
    """An upright picture with boxes, landmarks and labels.

    Text stands on a ground of its own, so it can be read on any picture. A face
    without a place (a crop that was aligned already) has its label below the picture.
    """
    canvas, scale = _canvas(picture)
    size = picture.pixels.shape[:2]
    font = _font(max(14, round(max(canvas.size) / 45)))
    placed = [one for one in faces if one[0].landmarks is not None]
    whole = [label for face, label in faces if face.landmarks is None and label.text]
    pen = ImageDraw.Draw(canvas)
    width = max(2, round(max(canvas.size) / 320))
    for face, label in placed:
        points = turned(np.asarray(face.landmarks), -picture.turns, size) * scale
        radius = 1.2 * width
        for x, y in points:
            around = (x - radius, y - radius, x + radius, y + radius)
            pen.ellipse(around, fill='white', outline='black')
        pen.rectangle(_box(face, picture, scale), outline=_color(label), width=width)
    # Over all boxes.
    for face, label in placed:
        left, top, _, bottom = _box(face, picture, scale)
        _write(pen, label, (left, top, bottom), font, canvas.size)
    return _with_lines(canvas, whole, font)


def draw_verification(result: Verification) -> Image.Image:
    """Both crops side by side, with score and decision.

    Raises:
        UserError: If a face has no crop; see ``keep_crops``.
    """
    crops = [_enlarged(face) for face in result.faces]
    height = max(crop.height for crop in crops)
    width = 2 * _SHEET_SIDE + 3 * _MARGIN
    large, small = _font(26), _font(15)
    sheet = Image.new('RGB', (width, height + 150), 'white')
    pen = ImageDraw.Draw(sheet)
    for number, (crop, face) in enumerate(zip(crops, result.faces, strict=True)):
        centre = round(width * (2 * number + 1) / 4)
        sheet.paste(crop, (centre - crop.width // 2, _MARGIN))
        place = (centre, height + _MARGIN + 14)
        pen.text(place, _short(Path(face.source).name, 32), 'black', small, 'mm')
    score = f'score {result.score:.4f}'
    if result.threshold is not None:
        score += f' {"≥" if result.same else "<"} {result.threshold:.4f}'
    color = {True: _KNOWN, False: _UNKNOWN, None: 'black'}[result.same]
    lines = [(result.decision, color, large), (score, 'black', small)]
    if result.far is not None:
        rate = f'threshold for FAR {result.far:g} on {result.test_set}'
        lines.append((rate, '#555555', small))
    for number, (text, fill, font) in enumerate(lines):
        place = (width // 2, height + _MARGIN + 52 + 32 * number)
        pen.text(place, text, fill, font, 'mm')
    return sheet


def draw_pictures(
    faces: Sequence[tuple[Face, Label | str]],
    folder: str | Path,
    arrays: Mapping[str, npt.NDArray[Any]] | None = None,
    max_megapixels: float = MAX_MEGAPIXELS,
) -> list[str]:
    """Write a picture for each source that can be read, and tell their paths.

    They are numbered in the order of the sources: ``00001_NAME.png``. Pictures are
    read anew, one at a time.

    Args:
        faces: With their labels, those of one picture one after the other.
        folder: Is made.
        arrays: By source, of pictures that are no files.

    Raises:
        UserError: If nothing can be written there.
    """
    require_folder(folder)
    of_source: dict[str, list[tuple[Face, Label]]] = {}
    for face, label in faces:
        text = label if isinstance(label, Label) else Label(label)
        of_source.setdefault(face.source, []).append((face, text))
    paths = []
    for number, (source, labelled) in enumerate(of_source.items(), start=1):
        data = (arrays or {}).get(source, source)
        try:
            picture = read_picture(data, source, max_megapixels)
        except UserError:
            continue  # as the results tell
        # Of a name as long as a file system takes there must be room for more.
        path = os.path.join(folder, f'{number:05}_{Path(source).stem[:50]}.png')
        save_picture(draw_faces(picture, labelled), path)
        paths.append(path)
    return paths


def save_picture(image: Image.Image, path: str | Path) -> None:
    """The file appears complete or not at all; its ending says the format.

    Raises:
        UserError: If it cannot be written, or the ending is of no picture.
    """
    require_picture(path, FORMATS)
    kind = Image.registered_extensions()[Path(path).suffix.lower()]
    with new_files([str(path)], overwrite=True) as (file,):
        image.save(file, kind)


def _canvas(picture: Picture) -> tuple[Image.Image, float]:
    pixels = picture.upright
    height, width = pixels.shape[:2]
    longest = max(height, width)
    scale = max(1, LEAST_SIDE / longest) * min(1, MOST_SIDE / longest)
    size = max(1, round(width * scale)), max(1, round(height * scale))
    kind = cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
    resized = cv2.resize(np.ascontiguousarray(pixels), size, interpolation=kind)
    return Image.fromarray(cv2.cvtColor(resized, cv2.COLOR_BGR2RGB)), scale


def _box(
    face: Face, picture: Picture, scale: float
) -> tuple[float, float, float, float]:
    """Left, top, right, bottom in the canvas; around the landmarks without a box."""
    size = picture.pixels.shape[:2]
    box = face.box
    if box is None:
        points = np.asarray(face.landmarks)
        low, extent = points.min(0), np.ptp(points, axis=0)
        margin = 0.4 * extent.max()
        box = np.concatenate([low - margin, extent + 2 * margin])
    left, top, width, height = turned_box(box, -picture.turns, size) * scale
    return left, top, left + width, top + height


def _write(
    pen: ImageDraw.ImageDraw,
    label: Label,
    place: tuple[float, float, float],
    font: ImageFont.FreeTypeFont,
    size: tuple[int, int],
) -> None:
    """A label above a box, or below it where there is no room, within the picture."""
    if not label.text:
        return
    text = _fitting(label.text, font, size[0] - 8)
    left, top, bottom = place
    height = font.size * 1.4
    width = font.getlength(text) + 8
    y = top - height if top >= height else min(bottom, size[1] - height)
    x = min(max(left, 0), size[0] - width)
    pen.rectangle((x, y, x + width, y + height), fill=_color(label))
    pen.text((x + 4, y + height / 2), text, 'white', font, anchor='lm')


def _with_lines(
    canvas: Image.Image, labels: Sequence[Label], font: ImageFont.FreeTypeFont
) -> Image.Image:
    """A picture and below it lines of text."""
    if not labels:
        return canvas
    step = round(font.size * 1.6)
    taller = Image.new(
        'RGB', (canvas.width, canvas.height + step * len(labels) + 6), 'white'
    )
    taller.paste(canvas)
    pen = ImageDraw.Draw(taller)
    for number, label in enumerate(labels):
        y = canvas.height + 3 + step * (number + 0.5)
        text = _fitting(label.text, font, canvas.width - 8)
        pen.text((4, y), text, _color(label), font, anchor='lm')
    return taller


def _enlarged(face: Face) -> Image.Image:
    if face.crop is None:
        raise UserError(f'{face.source}: its crop was not kept (keep_crops=True)')
    crop = cv2.cvtColor(np.ascontiguousarray(face.crop), cv2.COLOR_BGR2RGB)
    return ImageOps.contain(Image.fromarray(crop), (_SHEET_SIDE, _SHEET_SIDE))


def _color(label: Label) -> str:
    return {True: _KNOWN, False: _UNKNOWN, None: _PLAIN}[label.known]


@lru_cache
def _font(size: int) -> ImageFont.FreeTypeFont:
    """DejaVu Sans, which comes with matplotlib and has most alphabets."""
    path = Path(matplotlib.get_data_path(), 'fonts', 'ttf', 'DejaVuSans.ttf')
    return ImageFont.truetype(str(path), size)


def _fitting(text: str, font: ImageFont.FreeTypeFont, width: float) -> str:
    """As much of a text as fits."""
    for length in range(len(text), 1, -1):
        short = _short(text, length)
        if font.getlength(short) <= width:
            return short
    return text[:1]


def _short(text: str, length: int) -> str:
    # What no font has would be an error.
    text = text.encode('utf-8', 'replace').decode()
    return text if len(text) <= length else f'{text[: length - 1]}…'
