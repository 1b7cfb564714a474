"""What the page's buttons do: from paths of pictures to HTML.

All run one after another, for networks and galleries are shared by all who look.
"""

import functools
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

import markup
import numpy as np

from mmhyperface.gallery import FaceGallery
from mmhyperface.inference import FaceInferencer
from mmhyperface.inference.detection import turned, turned_box
from mmhyperface.inference.inferencer import add_alignment_remarks
from mmhyperface.inference.inputs import Item
from mmhyperface.inference.pictures import read_picture
from mmhyperface.inference.results import Face
from mmhyperface.utils.errors import UserError
from mmhyperface.weights.convention import Convention, OperatingPoint

OWN, OPEN = 'own', 'open'
#: People listed beside the answer.
NEAREST = 3
#: More people would make the page slow.
LISTED = 500


def answered(method: Callable[..., str]) -> Callable[..., str]:
    """A mistake of the user becomes a message."""

    @functools.wraps(method)
    def wrapped(self: 'Answers', *args: object) -> str:
        try:
            with self.lock:
                return method(self, *args)
        except UserError as error:
            return markup.message(error.brief)

    return wrapped


class Answers:
    """What the page answers.

    Args:
        inferencer: Of the network, with or without a detector.
        gallery: Whom it knows.
        gallery_file: Where the gallery is kept; None: nowhere.
    """

    def __init__(
        self,
        inferencer: FaceInferencer,
        gallery: FaceGallery,
        gallery_file: Path | None = None,
    ) -> None:
        self.inferencer = inferencer
        self.gallery = gallery
        self.gallery_file = gallery_file
        self.lock = threading.Lock()

    @property
    def convention(self) -> Convention:
        return self.inferencer.convention

    # ---- thresholds

    def choices(self) -> list[tuple[str, str]]:
        """How one may decide: in words, and the value that stands for it."""
        points = self.convention.operating_points
        listed = [(_words(point), str(i)) for i, point in enumerate(points)]
        none = [] if points else [('No decision, the score alone', OPEN)]
        return [*listed, *none, ('A threshold of your own', OWN)]

    def first_choice(self) -> str:
        """The one that the inferencer takes by default."""
        point = self.convention.operating_point()
        if point is None:
            return OPEN
        return str(self.convention.operating_points.index(point))

    def first_threshold(self) -> float:
        """What one's own threshold starts from."""
        point = self.convention.operating_point()
        return 0.3 if point is None else round(min(max(point.threshold, -1), 1), 3)

    def _threshold(self, choice: str, own: float | None) -> float | None:
        if choice == OPEN:
            return None
        if choice == OWN:
            if own is None:
                raise UserError('Give a threshold from -1 to 1.')
            return float(own)
        return self.convention.operating_points[int(choice)].threshold

    def _why(self, choice: str, threshold: float | None) -> str:
        if threshold is None:
            return (
                'No threshold is known of this network. Choose one of your own, or '
                'examine the checkpoint with tools/test.py --save-thresholds.'
            )
        if choice == OWN:
            return f'Your threshold is {threshold:.3f}.'
        point = self.convention.operating_points[int(choice)]
        return (
            f'From {point.threshold:.3f} on, two pictures count as one person. In the '
            f'last examination, on {point.test_set}, {_share(point.far)} of the pairs '
            f'of different people got there, and {_share(point.tar)} of the pairs of '
            'one person.'
        )

    # ---- compare

    @answered
    def compare(
        self, first: str | None, second: str | None, choice: str, own: float | None
    ) -> str:
        """How similar two pictures are, and whether they are of one person."""
        if not first or not second:
            return markup.hint('Choose two pictures to see how similar they are.')
        threshold = self._threshold(choice, own)
        paths = (first, second)
        faces = [self._one(path) for path in paths]
        result = self.inferencer.compare(*faces, threshold=threshold)
        verdict = markup.verdict(
            result.score, threshold, result.same, self._why(choice, threshold)
        )
        shown = [
            markup.face(
                f'Picture {number}: {face.source}', _views(path, face), face.remarks
            )
            for number, path, face in zip((1, 2), paths, faces, strict=True)
        ]
        return verdict + markup.faces(shown)

    def _faces(self, path: str, choose: str) -> list[Face]:
        """Faces of an uploaded picture, which goes by the name that it had."""
        # Named as a list or a pattern, it is a picture all the same.
        item = Item(Path(path).name, path)
        return [
            face
            for batch in self.inferencer.preprocess([item], choose=choose)
            for face in self.inferencer.forward(batch, keep_crops=True)
        ]

    def _one(self, path: str) -> Face:
        """The only face, or the largest."""
        (face,) = self._faces(path, 'largest')
        if face.problem:
            raise UserError(f'{face.source}: {face.problem}')
        return face

    # ---- identify

    def enrol(self, person: str | None, files: list[str] | None) -> tuple[str, bool]:
        """Enrols a person with some pictures, all or none of them.

        Returns:
            What to tell, and whether it is done.
        """
        try:
            with self.lock:
                return self._enrol(person, files), True
        except UserError as error:
            return markup.message(error.brief), False

    def _enrol(self, person: str | None, files: list[str] | None) -> str:
        name = (person or '').strip()
        if not name:
            raise UserError('Give the person a name.')
        if not files:
            raise UserError('Choose one or more pictures of the person.')
        faces = [self._one(file) for file in files]
        add_alignment_remarks(faces, self.gallery)
        rows = np.stack([face.embedding for face in faces])
        self.gallery.enrol(
            name,
            rows,
            [_image_id(face) for face in faces],
            [face.origin for face in faces],
        )
        self._save()
        remarks = [text for face in faces for text in face.remarks]
        count = f'{len(files)} picture{"s" * (len(files) != 1)}'
        return markup.message(
            ' '.join([f'{name} is enrolled with {count}.', *_sentences(remarks)]),
            'done',
        )

    @answered
    def remove(self, person: str | None) -> str:
        """Forgets a person."""
        if not person:
            raise UserError('Choose whom to remove.')
        self.gallery.remove(person)
        self._save()
        return markup.message(f'{person} is removed.', 'done')

    def names(self) -> list[str]:
        """Who is enrolled, the first `LISTED` of them."""
        with self.lock:
            return self.gallery.people[:LISTED]

    def people(self) -> str:
        """Likewise, with the numbers of their pictures."""
        with self.lock:
            people = self.gallery.people
            listed = people[:LISTED]
            counts = [(name, len(self.gallery.images(name))) for name in listed]
        return markup.people(counts, len(people) - len(listed))

    @answered
    def identify(self, file: str | None, choice: str, own: float | None) -> str:
        """Who is in a picture."""
        if not file:
            return markup.hint('Choose a picture to see who it is.')
        if not len(self.gallery):
            return markup.hint('Enrol somebody first.')
        threshold = self._threshold(choice, own)
        faces = self._faces(file, 'all')
        if all(face.problem for face in faces):
            raise UserError(f'{faces[0].source}: {faces[0].problem}')
        add_alignment_remarks(faces, self.gallery)
        names, shown = [], []
        for number, face in enumerate(faces, 1):
            several = len(faces) > 1
            title = f'Face {number}' if several else face.source
            name, article = self._who(face, title, threshold)
            names.append(f'{number} {name}' if several else name)
            shown.append(article)
        why = self._why(choice, threshold)
        if choice not in (OWN, OPEN):
            why += (
                f' That is one comparison: a stranger meets {len(self.gallery)} '
                'enrolled pictures, so that false matches are more frequent.'
            )
        return markup.identified(_photo(file, faces, names), shown, why)

    def _who(self, face: Face, title: str, threshold: float | None) -> tuple[str, str]:
        """The name of a face, and what is told of it."""
        if face.embedding is None:
            return '', markup.message(f'{title}: {face.problem}')
        (matches,) = self.gallery.search(face.embedding[None], top_k=NEAREST)
        nearest = [(match.person, match.score) for match in matches]
        kind = _kind(matches[0].score, threshold)
        name = 'unknown' if kind == 'different' else matches[0].person
        aligned = markup.crop(face.crop, f'aligned crop, {title}')
        return name, markup.match(aligned, title, kind, nearest, face.remarks)

    def _save(self) -> None:
        if self.gallery_file is None:
            return
        try:
            self.gallery.save(self.gallery_file)
        except UserError as error:
            raise UserError(
                f'{error.brief}; it is known to this page until the server ends'
            ) from None

    # ---- the model

    def model(self) -> str:
        name = Path(self.inferencer.network.source).name
        return markup.model(name, self.convention)


def _views(path: str, face: Face) -> list[tuple[str, str]]:
    """What was found in a picture, and what the network was given."""
    whole = _photo(path, [face])
    crop = markup.crop(face.crop, f'aligned crop of {face.source}')
    if face.box is None:
        return [(crop, 'An aligned crop, as it is')]
    return [(whole, 'The face that was found'), (crop, 'What the network sees')]


def _photo(path: str, faces: Sequence[Face], names: Sequence[str] = ()) -> str:
    """A picture with its faces."""
    picture = read_picture(path, Path(path).name)
    size = picture.pixels.shape[:2]
    # A crop that is aligned already is taken as it is stored, whatever EXIF tells.
    detected = [face for face in faces if face.box is not None]
    turns = picture.turns if detected else 0
    points = [turned(face.landmarks, -turns, size) for face in detected]
    boxes = [turned_box(face.box, -turns, size) for face in detected]
    count = f'{len(detected)} face{"s" * (len(detected) != 1)} found'
    title = f'{Path(path).name}, {count if detected else "taken as an aligned crop"}'
    return markup.photo(np.rot90(picture.pixels, turns), title, points, boxes, names)


def _image_id(face: Face) -> str:
    """The name of a file and 8 digits of its content: one picture has one id."""
    return f'{face.source} ({face.digest[:8]})'


def _kind(score: float, threshold: float | None) -> str:
    if threshold is None:
        return 'open'
    return 'same' if score >= threshold else 'different'


def _words(point: OperatingPoint) -> str:
    return (
        f'Threshold {point.threshold:.3f}: {_share(point.far)} false accepts on '
        f'{point.test_set}'
    )


def _share(rate: float) -> str:
    """0.001 as one in a thousand; what is no such part, in per cent."""
    if 0 < rate <= 0.1 and abs(round(1 / rate) * rate - 1) < 1e-6:
        return f'1 in {round(1 / rate):,}'
    return f'{100 * rate:.4g} %'


def _sentences(texts: Sequence[str]) -> list[str]:
    return [f'{text[:1].upper()}{text[1:]}.' for text in dict.fromkeys(texts)]
