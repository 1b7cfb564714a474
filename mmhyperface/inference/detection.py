"""Faces of a picture, found by OpenCV's YuNet."""

import os
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from threading import Lock

import cv2
import numpy as np
import numpy.typing as npt

from mmhyperface.utils.errors import UserError

Floats = npt.NDArray[np.float64]

CHOICES = ('largest', 'central', 'best')
SCORE_THRESHOLD = 0.6
#: Pictures are reduced to this longest side.
LONGEST = 640


def quiet_opencv(level: int) -> None:
    """Let OpenCV tell of nothing below a level: 1 is fatal errors, 2 errors."""
    # Where it is depends on the version.
    set_level = getattr(cv2, 'setLogLevel', None) or cv2.utils.logging.setLogLevel
    set_level(level)


@contextmanager
def opencv_errors_only() -> Generator[None, None, None]:
    """Let OpenCV tell of errors alone for a while.

    OpenCV 5 warns at every network that its new engine has no choice of targets yet,
    which looks like a failure, and is none.
    """
    get_level = getattr(cv2, 'getLogLevel', None) or cv2.utils.logging.getLogLevel
    level = get_level()
    quiet_opencv(min(level, 2))
    try:
        yield
    finally:
        quiet_opencv(level)


@dataclass(frozen=True)
class DetectedFace:
    """A face, in pixels of the picture as it is stored.

    Attributes:
        box: Left, top, width and height, float64 [4].
        landmarks: Left eye, right eye, nose, left and right corner of the mouth, left
            and right as one looks at the upright picture, float64 [5, 2].
        score: Of the detector, up to 1.
    """

    box: Floats
    landmarks: Floats
    score: float


class YuNet:
    """OpenCV's detector of faces and their landmarks.

    ``cv2.FaceDetectorYN`` gives right eye, left eye, nose, right and left corner of the
    mouth of the person. What is right of a person is left in the picture: our order.

    Args:
        model: Its file.
        score_threshold: Least score of a face.
        longest: Pictures are reduced to this longest side.

    Raises:
        UserError: For a file that is no model for it, or numbers out of range.
    """

    def __init__(
        self,
        model: str | Path,
        score_threshold: float = SCORE_THRESHOLD,
        longest: int = LONGEST,
    ) -> None:
        if longest < 1 or not 0 < score_threshold <= 1:
            raise UserError(
                'a detector needs a longest side (detect_size, --detect-size) of at '
                'least 1 and a score threshold (score_threshold, --score-threshold) '
                f'between 0 and 1, got {longest} and {score_threshold}'
            )
        self.longest = longest
        # Several threads may ask, as those of a server do.
        self.lock = Lock()
        if not os.path.isfile(model):
            raise UserError(f"there is no model '{model}' (detector=..., --detector)")
        try:
            with opencv_errors_only():
                self.detector = cv2.FaceDetectorYN.create(
                    str(model), '', (32, 32), score_threshold
                )
            # Models of before 2023 fail here.
            self.detector.detect(np.zeros((32, 32, 3), np.uint8))
        except (AttributeError, cv2.error):
            raise UserError(
                f"'{model}' is no model that FaceDetectorYN of OpenCV "
                f'{cv2.__version__} can use. Take OpenCV 4.8 or newer, and from '
                'github.com/opencv/opencv_zoo face_detection_yunet_2023mar.onnx (the '
                'file itself, not the few lines that Git LFS has in its place)'
            ) from None

    def detect(self, image: np.ndarray, turns: int = 0) -> list[DetectedFace]:
        """The faces of a picture, the highest score first.

        Args:
            image: uint8 [H, W, 3] BGR.
            turns: Quarters, counterclockwise, that let it stand upright.
        """
        image = np.rot90(image, turns)
        height, width = image.shape[:2]
        scale = min(1, self.longest / max(height, width))
        w, h = max(1, round(width * scale)), max(1, round(height * scale))
        reduced = cv2.resize(image, (w, h), interpolation=cv2.INTER_AREA)
        with self.lock:
            self.detector.setInputSize((w, h))
            _, rows = self.detector.detect(reduced)
        if rows is None:
            return []
        ratio = np.array([width / w, height / h])
        return [
            DetectedFace(
                turned_box(row[:4] * np.tile(ratio, 2), turns, (height, width)),
                turned(row[4:14].reshape(5, 2) * ratio, turns, (height, width)),
                float(row[14]),
            )
            for row in rows.astype(np.float64)
        ]


def turned(points: Floats, quarters: int, size: tuple[int, int]) -> Floats:
    """Where points [N, 2] of a picture lie when it is turned clockwise.

    Args:
        quarters: How far; negative for counterclockwise.
        size: (height, width) of the picture before that.
    """
    height, width = size
    for _ in range(quarters % 4):
        points = np.stack([height - 1 - points[:, 1], points[:, 0]], axis=1)
        height, width = width, height
    return points


def turned_box(box: Floats, quarters: int, size: tuple[int, int]) -> Floats:
    """Where a box lies then: left, top, width and height, [4]."""
    corners = turned(np.stack([box[:2], box[:2] + box[2:]]), quarters, size)
    low, high = corners.min(0), corners.max(0)
    return np.concatenate([low, high - low])


def choose_face(
    faces: Sequence[DetectedFace], choice: str, size: tuple[int, int]
) -> int:
    """Which of several faces: the largest, the most central or that of best score.

    Args:
        size: (height, width) of the picture as it is stored.
    """
    x, y, w, h = np.array([face.box for face in faces]).T
    if choice == 'largest':
        return int(np.argmax(w * h))
    if choice == 'best':
        return int(np.argmax([face.score for face in faces]))
    height, width = size
    away = np.hypot(x + w / 2 - width / 2, y + h / 2 - height / 2)
    return int(np.argmin(away))
