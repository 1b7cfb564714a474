"""From a picture to the crops that a network takes."""

from collections.abc import Collection
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from mmhyperface.datasets.transforms import AlignFace, LoadFace, similarity, template
from mmhyperface.utils.errors import UserError

from .detection import CHOICES, YuNet, choose_face
from .inputs import Item
from .pictures import Picture
from .results import Face

#: Smaller faces are none: there is nothing to be seen of them.
MIN_SIDE = 16
_CHOSEN = {
    'largest': 'the largest',
    'central': 'the most central',
    'best': 'that of the best score',
}


@dataclass
class Cropper:
    """Makes the crops of pictures.

    A picture is aligned by landmarks where they are given; by those that the detector
    finds, if there is one; otherwise it has to be a crop already.

    Args:
        size: (height, width) of a crop.
        detector: Finds faces.
        resize: Whether pictures of any other size are crops that are brought to it.
        sizes: Others that crops come in, which are brought to it as well: those that
            the training was given.
        min_side: Fewest pixels of a picture's sides, and of what becomes a crop's.
    """

    size: tuple[int, int]
    detector: YuNet | None = None
    resize: bool = False
    sizes: Collection[tuple[int, int]] = ()
    min_side: int = MIN_SIDE

    def __post_init__(self) -> None:
        self.align = AlignFace(self.size)
        self.load = LoadFace(self.size)

    def __call__(self, item: Item, picture: Picture, choose: str) -> list[Face]:
        """Faces with their crops, or with a problem.

        Args:
            choose: ``all``, or one of those that are found: see :func:`choose_face`.

        Raises:
            UserError: If the picture as a whole cannot be used.
        """
        height, width = picture.pixels.shape[:2]
        if min(height, width) < self.min_side and (height, width) != self.size:
            raise UserError(
                f'{item.source}: is {height}x{width} (height x width); a picture has '
                f'at least {self.min_side} pixels a side (FaceInferencer(min_side=...))'
            )
        if item.landmarks is not None:
            face = Face(item.source, landmarks=item.landmarks, alignment='landmarks')
            return [self._aligned(face, picture)]
        if self.detector is not None:
            return self._detected(self.detector, item.source, picture, choose)
        if item.needs_landmarks:
            raise UserError(f'{item.source}: no landmarks are given for it')
        return [self._as_it_is(item.source, picture)]

    def _detected(
        self, detector: YuNet, source: str, picture: Picture, choose: str
    ) -> list[Face]:
        detected = detector.detect(picture.pixels, picture.turns)
        if not detected:
            raise UserError(f'{source}: no face: YuNet found none')
        remarks = picture.remarks
        if choose in CHOICES and len(detected) > 1:
            remarks += (f'of {len(detected)} faces {_CHOSEN[choose]} is taken',)
            place = choose_face(detected, choose, picture.pixels.shape[:2])
            detected = [detected[place]]
        return [
            self._aligned(
                Face(
                    source,
                    number,
                    landmarks=face.landmarks,
                    box=face.box,
                    detection_score=face.score,
                    alignment='detector',
                ),
                Picture(picture.pixels, picture.turns, remarks),
            )
            for number, face in enumerate(detected)
        ]

    def _aligned(self, face: Face, picture: Picture) -> Face:
        """The crop at the face's landmarks."""
        face.remarks = picture.remarks
        try:
            assert face.landmarks is not None
            self._require_sound(face.landmarks, picture.pixels, face.source)
            crop = self.align.transform(
                dict(img=picture.pixels, img_path=face.source, landmarks=face.landmarks)
            )['img']
            face.crop = _with_contrast(crop, face.source)
        except (UserError, cv2.error) as error:
            face.problem = problem_of(error, face.source)
        return face

    def _require_sound(
        self, points: npt.NDArray[np.float64], pixels: np.ndarray, source: str
    ) -> None:
        height, width = pixels.shape[:2]
        matrix = similarity(points, template(*self.size))
        x, y = points.mean(0)
        if not (0 <= x < width and 0 <= y < height):
            raise UserError(
                f'{source}: the landmarks lie outside of the picture, which is '
                f'{height}x{width} (height x width)'
            )
        # From eye to eye, and from the eyes to the mouth: clockwise in a face.
        (x, y), (u, v) = points[1] - points[0], points[3:].mean(0) - points[:2].mean(0)
        if x * v - y * u <= 0:
            raise UserError(
                f'{source}: the landmarks are those of a mirrored face, or in another '
                'order. Expected left eye, right eye, nose, left and right corner of '
                'the mouth, left and right as one looks at the picture'
            )
        side = min(self.size) / np.hypot(*matrix[:, 0])
        if side < self.min_side:
            raise UserError(
                f'{source}: the face has only {side:.0f} pixels a side, fewer than '
                f'{self.min_side} (FaceInferencer(min_side=...))'
            )

    def _as_it_is(self, source: str, picture: Picture) -> Face:
        pixels, remarks = picture.pixels, picture.remarks
        if picture.turns:
            remarks += ('EXIF tells to turn it; taken as it is stored',)
        height, width = pixels.shape[:2]
        alignment = 'crop'
        if (height, width) != self.size:
            if (height, width) not in self.sizes:
                if not self.resize:
                    known = [f'{h}x{w}' for h, w in sorted({self.size, *self.sizes})]
                    raise UserError(
                        f'{source}: is {height}x{width} (height x width), but the '
                        f'network takes aligned crops of {" or ".join(known)}. For '
                        'photographs give a detector (detector=..., --detector) or '
                        'landmarks; if it is an aligned crop of another size, '
                        'resize=True (--resize)'
                    )
                alignment = 'resized'
            pixels = self.load.transform(dict(img=pixels, img_path=source))['img']
            remarks += (
                f'resized from {height}x{width} to {self.size[0]}x{self.size[1]} '
                '(height x width), taken for an aligned crop',
            )
        return Face(
            source,
            crop=_with_contrast(pixels, source),
            remarks=remarks,
            alignment=alignment,
        )


def problem_of(error: Exception, source: str) -> str:
    """What is wrong with a picture, in one line and without its name."""
    return ' '.join(str(error).removeprefix(f'{source}: ').split())


def _with_contrast(crop: np.ndarray, source: str) -> np.ndarray:
    if crop.min() == crop.max():
        raise UserError(
            f'{source}: no face: all pixels have the same value, {crop.min()}'
        )
    return crop
