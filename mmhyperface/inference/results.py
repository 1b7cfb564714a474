"""What an inferencer gives: faces, and what was decided of them."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from mmhyperface.utils.errors import UserError

if TYPE_CHECKING:
    from mmhyperface.gallery import Match
    from mmhyperface.gallery.storage import Origin

Floats = npt.NDArray[np.float32]
Points = npt.NDArray[np.float64]


@dataclass(repr=False)
class Face:
    """A face of a picture, or what is wrong with the picture.

    Attributes:
        source: Path of the picture, or the name of an array.
        number: Of the face in the picture, from 0.
        embedding: Fused, not normalised, float32 [D]; None with a `problem`.
        landmarks: float64 [5, 2] in pixels of the picture as it is stored; None for a
            crop that was aligned already.
        box: Left, top, width and height there, float64 [4], of a face that was found.
        detection_score: Of the detector.
        crop: What the network sees, uint8 [H, W, 3] BGR, where it is kept.
        remarks: What was done to the picture.
        problem: Why there is no embedding.
        fingerprint: Of the network that the embedding is of.
        digest: Of the picture's content, see :class:`.Picture`.
        alignment: How the crop came about: by a ``detector``, by ``landmarks`` that
            were given, the picture as a ``crop``, or ``resized`` to one of another size
            than the training was given.
    """

    source: str
    number: int = 0
    embedding: Floats | None = None
    landmarks: Points | None = None
    box: Points | None = None
    detection_score: float | None = None
    crop: npt.NDArray[np.uint8] | None = None
    remarks: tuple[str, ...] = ()
    problem: str = ''
    fingerprint: str = ''
    digest: str = ''
    alignment: str = ''

    def __repr__(self) -> str:
        state = self.problem or 'not embedded'
        if self.embedding is not None:
            state = f'{len(self.embedding)} values, norm {self.quality:.4g}'
        return f'Face({self.source!r}, {self.number}: {state})'

    @property
    def origin(self) -> 'Origin':
        """What a gallery keeps of where the embedding is from."""
        from mmhyperface.gallery.storage import Origin

        return Origin(self.digest, self.alignment)

    @property
    def quality(self) -> float | None:
        """The norm of the embedding: low for faces that are hard to tell."""
        if self.embedding is None:
            return None
        return float(np.linalg.norm(self.embedding.astype(np.float64)))

    def to_dict(self) -> dict[str, Any]:
        """Only numbers, strings and lists, without the crop."""
        return {
            'source': self.source,
            'number': self.number,
            'embedding': _listed(self.embedding),
            'quality': self.quality,
            'landmarks': _listed(self.landmarks),
            'box': _listed(self.box),
            'detection_score': self.detection_score,
            'remarks': list(self.remarks),
            'problem': self.problem,
        }


@dataclass(frozen=True, repr=False)
class FaceEmbeddings:
    """Faces in the order of the pictures; those without an embedding have a problem.

    Attributes:
        faces: All of them.
        dimensions: D of an embedding.
    """

    faces: list[Face]
    dimensions: int

    @cached_property
    def usable(self) -> list[Face]:
        """Those with an embedding, N of them."""
        return [face for face in self.faces if face.embedding is not None]

    @cached_property
    def problems(self) -> list[Face]:
        """Those without."""
        return [face for face in self.faces if face.embedding is None]

    @cached_property
    def embeddings(self) -> Floats:
        """float32 [N, D]."""
        rows = [face.embedding for face in self.faces if face.embedding is not None]
        return np.stack(rows) if rows else np.empty((0, self.dimensions), np.float32)

    @property
    def sources(self) -> list[str]:
        """Of each of the N."""
        return [face.source for face in self.usable]

    @property
    def numbers(self) -> npt.NDArray[np.int64]:
        """In the picture, [N]."""
        return np.array([face.number for face in self.usable], np.int64)

    def __repr__(self) -> str:
        return (
            f'FaceEmbeddings({len(self.usable)} of {self.dimensions} values, '
            f'{len(self.problems)} problems)'
        )

    def __len__(self) -> int:
        return len(self.faces)

    def __iter__(self) -> Iterator[Face]:
        return iter(self.faces)


@dataclass(frozen=True, repr=False)
class Verification:
    """Whether two faces are of one person.

    Attributes:
        score: Their cosine.
        threshold: The least score of one person; None if none is known.
        same: The decision; None without a threshold.
        far: False accept rate of the threshold on `test_set`, where it is the model's.
        test_set: Name of what the threshold was found on.
        faces: Both.
    """

    score: float
    threshold: float | None
    same: bool | None
    far: float | None
    test_set: str | None
    faces: tuple[Face, Face]

    def __repr__(self) -> str:
        least = '' if self.threshold is None else f', threshold {self.threshold:.4f}'
        return f'Verification(score {self.score:.4f}{least}: {self.decision})'

    @property
    def decision(self) -> str:
        """In words."""
        if self.same is None:
            return 'no threshold is known'
        return 'the same person' if self.same else 'different people'


@dataclass(frozen=True)
class Identification:
    """Who a face is.

    Attributes:
        face: The one that was searched for.
        matches: People of the gallery, the best first; none for a stranger.
        threshold: Least score of a match; None: all are given.
    """

    face: Face
    matches: Sequence['Match'] = field(default_factory=tuple)
    threshold: float | None = None

    @property
    def person(self) -> str | None:
        """The best match."""
        return self.matches[0].person if self.matches else None


def cosine(one: Face, other: Face) -> float:
    """The cosine of two embeddings, in float64.

    Raises:
        UserError: If a face has none, it is zero or not finite, or they are of
            different networks.
    """
    rows = []
    for face in (one, other):
        if face.embedding is None:
            raise UserError(f'{face.source}: {face.problem}')
        row = face.embedding.astype(np.float64)
        length = float(np.linalg.norm(row))
        if not np.isfinite(length) or length == 0:
            raise UserError(f'{face.source}: the embedding is zero or not finite')
        rows.append(row / length)
    if one.fingerprint != other.fingerprint or rows[0].shape != rows[1].shape:
        raise UserError(
            f'the embeddings of {one.source} and {other.source} are of different '
            'networks; embed both with one'
        )
    return float(np.clip(rows[0] @ rows[1], -1, 1))


def require_same_network(own: str, gallery: str, source: str) -> None:
    """Refuse a gallery of another network, by ``UserError``.

    Args:
        own: Fingerprint of the network of an embedding.
        gallery: That of the gallery.
        source: Whose embedding, or the network.
    """
    if own != gallery:
        raise UserError(
            f'the gallery was made with another model than {source} (fingerprints '
            f'{gallery[:8]} and {own[:8]}): enrol its people anew'
        )


def _listed(array: npt.NDArray[Any] | None) -> list | None:
    return None if array is None else array.tolist()
