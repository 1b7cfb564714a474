"""A trained network put to use: embed, verify and identify faces of any pictures."""

import os
from collections.abc import Iterable, Iterator, Sequence, Sized
from itertools import count, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from mmengine.config import Config
from mmengine.infer import BaseInferencer
from mmpretrain.structures import DataSample
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn

from mmhyperface.evaluation.arrays import check_choice
from mmhyperface.models.recognizers import FaceRecognizer
from mmhyperface.registry import INFERENCERS
from mmhyperface.utils.choices import BATCH_SIZE, MAX_MEGAPIXELS
from mmhyperface.utils.errors import UserError

from .backends import EmbeddingNetwork, open_network
from .crops import MIN_SIDE, Cropper, problem_of
from .detection import CHOICES, LONGEST, SCORE_THRESHOLD, YuNet
from .inputs import Item, arrays_of, expand
from .pictures import read_picture
from .results import (
    Face,
    FaceEmbeddings,
    Identification,
    Verification,
    cosine,
    require_same_network,
)

if TYPE_CHECKING:
    from mmhyperface.gallery import FaceGallery

_CHOICES = ('all', *CHOICES)
_WAYS = {
    'detector': 'found by a detector',
    'landmarks': 'aligned by landmarks',
    'crop': 'taken for aligned crops',
    'resized': 'taken for aligned crops of another size (--resize)',
}
# A detector gives landmarks, too.
_ALIGNED = {'detector', 'landmarks'}


@INFERENCERS.register_module()
class FaceInferencer(BaseInferencer):
    """Embeds faces with a trained network, and compares and identifies them.

    Pictures are aligned crops already, or become such by five landmarks that are given,
    or by those that a detector finds in photographs. What is wrong with one picture is
    told in its result and does not stop the others.

    Args:
        model: A checkpoint, an exported ``.onnx`` or ``.pt2`` model, a model of
            :func:`.get_model`, or a config, with `weights`.
        weights: The checkpoint of a config.
        device: By default a GPU if there is one.
        config: Of a checkpoint that tells no convention.
        detector: Model file for OpenCV's ``FaceDetectorYN`` (YuNet), or a
            :class:`YuNet`.
        resize: True: pictures of any size are aligned crops, which are brought to that
            of the network. False: only those of its own size are. By default also
            those of a size that its training was given.
        choose: Which faces of a picture that the detector finds: ``all``, or the
            ``largest``, the most ``central``, the one of the ``best`` score.
        score_threshold: Least score of a face for the detector.
        detect_size: Pictures are reduced to this longest side for the detector.
        max_megapixels: Larger pictures are refused before they are decoded.
        min_side: Fewest pixels a side of a picture, and of a face within it.
        on_error: What is wrong with a picture: ``report`` it in its result, or
            ``raise`` it.
        show_progress: Whether calls show a progress bar, unless they are asked.

    Attributes:
        network: The :class:`EmbeddingNetwork`.
        convention: What it carries.

    Raises:
        UserError: If there is no such model or detector, or for an unknown option.
    """

    def __init__(
        self,
        model: str | Path | FaceRecognizer | EmbeddingNetwork | Config,
        weights: str | Path | None = None,
        device: str | torch.device | None = None,
        config: str | Path | Config | None = None,
        *,
        detector: str | Path | YuNet | None = None,
        resize: bool | None = None,
        choose: str = 'all',
        score_threshold: float = SCORE_THRESHOLD,
        detect_size: int = LONGEST,
        max_megapixels: float = MAX_MEGAPIXELS,
        min_side: int = MIN_SIDE,
        on_error: str = 'report',
        show_progress: bool = False,
    ) -> None:
        # Not the base class's: it wants a config, and would take other weights.
        check_choice('choose', choose, _CHOICES)
        check_choice('on_error', on_error, ('report', 'raise'))
        self.choose, self.on_error = choose, on_error
        self.max_megapixels = max_megapixels
        self.show_progress = show_progress
        if isinstance(detector, str | Path):
            detector = YuNet(detector, score_threshold, detect_size)
        self.network = open_network(model, weights, device, config)
        self.convention = self.network.convention
        self.cropper = Cropper(
            self.network.crop_size,
            detector,
            bool(resize),
            () if resize is False else self.convention.image_sizes,
            min_side,
        )

    def __call__(  # type: ignore[override]
        self,
        inputs: Any,
        batch_size: int = BATCH_SIZE,
        landmarks: Any = None,
        return_datasamples: bool = False,
        show_progress: bool | None = None,
        out_dir: str | Path | None = None,
    ) -> dict[str, list]:
        """Embed pictures.

        Args:
            inputs, landmarks: See :func:`expand`.
            batch_size: Crops that pass through the network at a time.
            return_datasamples: Give mmpretrain's ``DataSample`` instead of dicts.
            show_progress: Instead of the inferencer's.
            out_dir: Folder for the pictures with the faces marked.

        Returns:
            ``predictions``, one for each face or problem, see :meth:`Face.to_dict`;
            and ``visualization``, the paths of the pictures in `out_dir`.

        Raises:
            UserError: If nothing can be read of `inputs` as a whole.
        """
        faces = self.embed(
            inputs, batch_size, landmarks, show_progress=show_progress
        ).faces
        drawn = self.visualize(inputs, faces, out_dir=out_dir)
        return self.postprocess(faces, drawn, return_datasamples)

    def embed(
        self,
        inputs: Any,
        batch_size: int = BATCH_SIZE,
        landmarks: Any = None,
        choose: str | None = None,
        keep_crops: bool = False,
        show_progress: bool | None = None,
    ) -> FaceEmbeddings:
        """Embeddings of the faces of pictures, in the order of the pictures.

        Args:
            inputs, landmarks: See :func:`expand`.
            batch_size: Crops that pass through the network at a time.
            choose, show_progress: Instead of the inferencer's.
            keep_crops: Keep what the network saw.
        """
        options = (batch_size, landmarks, choose, keep_crops, show_progress)
        faces = list(self.stream(inputs, *options))
        return FaceEmbeddings(faces, self.convention.embedding_size)

    def stream(
        self,
        inputs: Any,
        batch_size: int = BATCH_SIZE,
        landmarks: Any = None,
        choose: str | None = None,
        keep_crops: bool = False,
        show_progress: bool | None = None,
    ) -> Iterator[Face]:
        """The faces of :meth:`embed` one by one, with no more than a batch in memory.

        `inputs` may be a generator that never ends.
        """
        items: Iterable[Item] = expand(inputs, landmarks)
        if self.show_progress if show_progress is None else show_progress:
            items = _with_progress(items, inputs)
        for faces in self.preprocess(items, batch_size, choose):
            yield from self.forward(faces, keep_crops=keep_crops)

    def preprocess(  # type: ignore[override]
        self,
        inputs: Iterable[Item],
        batch_size: int = BATCH_SIZE,
        choose: str | None = None,
    ) -> Iterator[list[Face]]:
        """Faces with their crops, or problems, so many at a time.

        Args:
            inputs: Of :func:`expand`.
        """
        if batch_size < 1:
            raise UserError(
                f'batch_size is at least 1 (--batch-size), got {batch_size}'
            )
        chosen = choose or self.choose
        check_choice('choose', chosen, _CHOICES)
        faces = (face for item in inputs for face in self._faces(item, chosen))
        while batch := list(islice(faces, batch_size)):
            yield batch

    def forward(  # type: ignore[override]
        self, inputs: list[Face], keep_crops: bool = False
    ) -> list[Face]:
        """Embeds the crops of faces, which go unless they are kept."""
        faces = [face for face in inputs if face.crop is not None]
        if faces:
            crops = np.stack([face.crop for face in faces if face.crop is not None])
            for face, row in zip(faces, self.network.embed(crops), strict=True):
                if np.isfinite(row).all() and row.any():
                    face.embedding = row
                    face.fingerprint = self.convention.fingerprint
                else:
                    face.problem = 'the network gives no embedding: zero or not finite'
                if not keep_crops:
                    face.crop = None
        return inputs

    def verify(
        self,
        a: Any,
        b: Any,
        threshold: float | None = None,
        far: float | None = None,
        landmarks: Sequence[Any] = (None, None),
    ) -> Verification:
        """Whether two pictures show the same person.

        Args:
            a, b: One picture each, or a :class:`Face` that was embedded before. Of
                several faces the largest is taken, as a remark tells.
            threshold: Least cosine of one person. By default the model's own from its
                last examination, if it carries any.
            far: Take the one for this false accept rate; by default for the lowest
                that enough pairs stand on.
            landmarks: [5, 2] of each.

        Raises:
            UserError: If one cannot be read, has no face, or is not one picture; for
                a FAR that the model knows no threshold for.
        """
        numbers = count(1)
        first = self.single(a, landmarks[0], numbers)
        other = self.single(b, landmarks[1], numbers)
        return self.compare(first, other, threshold, far)

    def compare(
        self,
        a: Face,
        b: Face,
        threshold: float | None = None,
        far: float | None = None,
    ) -> Verification:
        """Whether two faces that are embedded are of one person; see :meth:`verify`."""
        score = cosine(a, b)
        least, rate, test_set = self.threshold(threshold, far)
        same = None if least is None else score >= least
        return Verification(score, least, same, rate, test_set, (a, b))

    def threshold(
        self, threshold: float | None = None, far: float | None = None
    ) -> tuple[float | None, float | None, str | None]:
        """The least cosine of one person, its FAR and test set: see :meth:`verify`.

        Three times None where no threshold is known.

        Raises:
            UserError: If both are given, the threshold is no cosine, or the network has
                none for this rate.
        """
        if threshold is not None:
            if far is not None:
                raise UserError(
                    'give a threshold or a false accept rate (far), not both'
                )
            if not -1 <= threshold <= 1:
                raise UserError(f'a threshold is a cosine, -1 to 1, got {threshold}')
            return float(threshold), None, None
        point = self.convention.operating_point(far)
        if point is not None:
            return point.threshold, point.far, point.test_set
        if far is not None:
            raise UserError(
                f'{self.network.source} carries no thresholds, so none for a false '
                f'accept rate of {far:g}: give a threshold (threshold=..., '
                '--threshold), or examine the checkpoint with tools/test.py '
                '--save-thresholds'
            )
        return None, None, None

    def single(
        self, given: Any, landmarks: Any = None, numbers: Iterator[int] | None = None
    ) -> Face:
        """The one face, or the largest, of one picture, with its crop.

        Args:
            given: See :meth:`verify`.
            landmarks, numbers: See :func:`expand`.

        Raises:
            UserError: If there is none, or not one picture.
        """
        if isinstance(given, Face):
            return given
        # Of several the number tells which it was that is no picture.
        one = given if isinstance(given, str | os.PathLike) else [given]
        items = list(islice(expand(one, landmarks, numbers), 2))
        if len(items) != 1:
            raise UserError(
                f'expected one picture, got {"several" if items else "none"}: '
                f'{str(given)[:200]}'
            )
        choose = 'largest' if self.choose == 'all' else self.choose
        (face,) = self.forward(self._faces(items[0], choose), keep_crops=True)
        if face.problem:
            raise UserError(f'{face.source}: {face.problem}')
        return face

    def enrol(
        self,
        gallery: 'FaceGallery',
        person: str,
        inputs: Any,
        images: Sequence[str] | None = None,
        batch_size: int = BATCH_SIZE,
        landmarks: Any = None,
    ) -> FaceEmbeddings:
        """Add a person to a gallery; of several faces of a picture the largest.

        Args:
            gallery: Of this model.
            inputs, landmarks: See :func:`expand`, pictures of this person alone.
            images: Their ids in the gallery; by default their paths, and of arrays
                ``array`` with 8 digits of what they hold.

        Returns:
            What was enrolled, and problems: pictures that were not.

        Raises:
            UserError: If none can be enrolled, or an id is in the gallery already.
        """
        self.require_gallery(gallery)
        choose = 'largest' if self.choose == 'all' else self.choose
        items = list(expand(inputs, landmarks))
        result = self.embed(items, batch_size, choose=choose)
        if not result.usable:
            reasons = '; '.join(f'{face.source}: {face.problem}' for face in result)
            raise UserError(
                f'{person}: none of the pictures can be enrolled: {reasons}'
            )
        if images is None:
            # The number of an array is that of one call.
            images = [
                f'array {face.digest[:8]}'
                if isinstance(item.data, np.ndarray)
                else face.source
                for item, face in zip(items, result, strict=True)
            ]
        if len(images) != len(result):
            raise UserError(f'{len(images)} ids are given for {len(result)} pictures')
        both = zip(images, result, strict=True)
        kept = [name for name, face in both if face.embedding is not None]
        add_alignment_remarks(result.usable, gallery)
        origins = [face.origin for face in result.usable]
        gallery.enrol(person, result.embeddings, kept, origins)
        return result

    def identify(
        self,
        inputs: Any,
        gallery: 'FaceGallery',
        top_k: int = 5,
        threshold: float | None = None,
        far: float | None = None,
        index: str = 'exact',
        batch_size: int = BATCH_SIZE,
        landmarks: Any = None,
        show_progress: bool | None = None,
    ) -> list[Identification]:
        """Who of a gallery the faces of pictures are; nobody is an answer.

        A face that was found in another way than those of the gallery has a remark.

        Args:
            inputs, landmarks: See :func:`expand`; or :class:`FaceEmbeddings`.
            gallery: Of this model.
            top_k: At most so many people for each face.
            threshold, far: See :meth:`verify`. The rate is that of one comparison; a
                stranger meets everybody of the gallery. Without any threshold there
                are no strangers, and every face has its `top_k` matches.
            index: See :meth:`.FaceGallery.search`.

        Raises:
            UserError: For a gallery of another model.
        """
        self.require_gallery(gallery)
        least = self.threshold(threshold, far)[0]
        if not isinstance(inputs, FaceEmbeddings):
            options = dict(batch_size=batch_size, landmarks=landmarks)
            inputs = self.embed(inputs, **options, show_progress=show_progress)
        matches: Iterator[Sequence] = iter(())
        for face in inputs.usable:
            require_same_network(face.fingerprint, gallery.fingerprint, face.source)
        add_alignment_remarks(inputs.usable, gallery)
        if inputs.usable:
            matches = iter(gallery.search(inputs.embeddings, top_k, least, index))
        return [
            Identification(face, () if face.embedding is None else next(matches), least)
            for face in inputs
        ]

    def require_gallery(self, gallery: 'FaceGallery') -> None:
        """Refuse a gallery that was made with another model, by ``UserError``."""
        own = self.convention.fingerprint
        require_same_network(own, gallery.fingerprint, self.network.source)

    def visualize(  # type: ignore[override]
        self,
        inputs: Any,
        preds: Sequence[Face],
        show: bool = False,
        out_dir: str | Path | None = None,
    ) -> list[str]:
        """Paths of pictures in `out_dir` with the faces of `preds` marked."""
        if out_dir is None:
            return []
        from .annotation import draw_pictures

        labels = [(face, '') for face in preds]
        return draw_pictures(labels, out_dir, arrays_of(inputs), self.max_megapixels)

    def postprocess(  # type: ignore[override]
        self,
        preds: Sequence[Face],
        visualization: list[str],
        return_datasample: bool = False,
    ) -> dict[str, list]:
        """What a call returns."""
        make = _data_sample if return_datasample else Face.to_dict
        predictions: list[Any] = [make(face) for face in preds]
        return {'predictions': predictions, 'visualization': visualization}

    def _init_pipeline(self, cfg: Any) -> None:
        """There is none: see :class:`.Cropper`."""

    def _faces(self, item: Item, choose: str) -> list[Face]:
        try:
            if item.problem:
                raise UserError(item.problem)
            picture = read_picture(item.data, item.source, self.max_megapixels)
            faces = self.cropper(item, picture, choose)
            for face in faces:
                face.digest = picture.digest
        except UserError as error:
            faces = [Face(item.source, problem=problem_of(error, item.source))]
        if self.on_error == 'raise':
            for face in faces:
                if face.problem:
                    raise UserError(f'{face.source}: {face.problem}')
        return faces


def add_alignment_remarks(faces: Iterable[Face], gallery: 'FaceGallery') -> None:
    """Faces that were found in another way than those of a gallery get a remark."""
    known = gallery.alignments
    for face in faces:
        wanted = _ALIGNED if face.alignment in _ALIGNED else {face.alignment}
        if face.alignment and known and not known & wanted:
            ways = ' or '.join(_WAYS.get(way, way) for way in sorted(known))
            face.remarks += (
                f'{_WAYS[face.alignment]}, but the faces of the gallery were {ways}: '
                'their scores tell little unless all are aligned alike. Enrol and '
                'identify both with --detector (FaceInferencer(detector=...)), or both '
                'without',
            )


def _with_progress(items: Iterable[Item], inputs: Any) -> Iterator[Item]:
    """The items, with a bar on stderr while they are taken."""
    total = None
    # Nobody knows the end of a generator.
    if isinstance(inputs, str | Path | Sized):
        items = list(items)
        total = len(items)
    columns = ('embedding', BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    console = Console(stderr=True)
    with Progress(*columns, transient=True, console=console) as progress:
        bar = progress.add_task('', total=total)
        for item in items:
            yield item
            progress.advance(bar)


def _data_sample(face: Face) -> DataSample:
    """With the embedding as a tensor, as ``FaceRecognizer.predict`` gives it."""
    sample = DataSample()
    facts = face.to_dict()
    del facts['embedding']
    sample.set_metainfo(facts)
    if face.embedding is not None:
        sample.set_field(torch.from_numpy(face.embedding), 'embedding')
    return sample
