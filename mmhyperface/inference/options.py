"""What the command line tools that embed have in common."""

import argparse
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from mmhyperface.utils.choices import BATCH_SIZE, MAX_MEGAPIXELS
from mmhyperface.utils.errors import UserError

from .detection import CHOICES, LONGEST, SCORE_THRESHOLD, quiet_opencv
from .results import Face, FaceEmbeddings

if TYPE_CHECKING:
    from .inferencer import FaceInferencer

#: Exit status of a verification: these are two people.
DIFFERENT = 3


def add_model(parser: argparse.ArgumentParser) -> None:
    """The model, and how pictures become its crops."""
    add = parser.add_argument
    add('model', metavar='MODEL', help='checkpoint, or exported .onnx or .pt2 model')
    add('--config', help='of a checkpoint that tells no convention')
    add('--device', help='such as cpu or cuda:1; by default a GPU if there is one')
    add(
        '--detector',
        metavar='YUNET',
        help='find the faces of photographs with this model for FaceDetectorYN; '
        'without it pictures are aligned crops',
    )
    add(
        '--score-threshold',
        type=float,
        default=SCORE_THRESHOLD,
        help=f'least score of a face for the detector ({SCORE_THRESHOLD})',
    )
    add(
        '--detect-size',
        type=int,
        default=LONGEST,
        help=f'pictures are reduced to this longest side for the detector ({LONGEST})',
    )
    add(
        '--resize',
        action='store_true',
        default=None,
        help='pictures of any size are aligned crops, brought to that of the network; '
        'without it only those of a size that the training was given',
    )
    add(
        '--max-megapixels',
        type=float,
        default=MAX_MEGAPIXELS,
        help=f'larger pictures are refused ({MAX_MEGAPIXELS})',
    )


def add_batches(parser: argparse.ArgumentParser) -> None:
    """How many pictures at a time."""
    parser.add_argument(
        '--batch-size',
        type=int,
        default=BATCH_SIZE,
        help=f'crops that pass through the network at a time ({BATCH_SIZE})',
    )


def add_choice(parser: argparse.ArgumentParser, default: str) -> None:
    """Which of several faces of a picture."""
    parser.add_argument(
        '--choose',
        choices=('all', *CHOICES) if default == 'all' else CHOICES,
        default=default,
        help=f'which of several faces that are found in a picture ({default})',
    )


def add_threshold(parser: argparse.ArgumentParser) -> None:
    """From where on two faces are of one person."""
    group = parser.add_mutually_exclusive_group()
    group.add_argument(
        '--threshold', type=float, help='least cosine of two pictures of one person'
    )
    group.add_argument(
        '--far',
        type=float,
        help="take the model's own threshold for this false accept rate; without "
        'both for the lowest that enough pairs of its last examination stand on',
    )


def inferencer_from(args: argparse.Namespace, **options: Any) -> 'FaceInferencer':
    """The inferencer that the arguments of :func:`add_model` ask for.

    From then on OpenCV is quiet: what is wrong with a picture is told with its name.
    """
    from .inferencer import FaceInferencer

    quiet_opencv(1)
    return FaceInferencer(
        args.model,
        device=args.device,
        config=args.config,
        detector=args.detector,
        score_threshold=args.score_threshold,
        detect_size=args.detect_size,
        resize=args.resize,
        max_megapixels=args.max_megapixels,
        choose=getattr(args, 'choose', 'all'),
        **options,
    )


def inputs_of(args: argparse.Namespace) -> str | list[str]:
    """The one input, which may then be a folder with landmarks, or several."""
    return args.inputs[0] if len(args.inputs) == 1 else args.inputs


def tell_faces(faces: FaceEmbeddings) -> None:
    """Write to stderr what was done to pictures, which are left out, and why."""
    tell_remarks(faces.usable)
    tell_problems(faces.problems)


def tell_problems(faces: Sequence[Face]) -> None:
    """Write to stderr which pictures are left out and why."""
    for face in faces:
        tell(f'left out: {face.source}: {face.problem}')


def require_some(faces: FaceEmbeddings) -> None:
    """Refuse to go on without any embedding, by ``UserError``."""
    if not faces.usable:
        raise UserError(f'none of {len(faces)} pictures can be embedded')


def tell_remarks(faces: Sequence[Face]) -> None:
    """Write to stderr what was done to pictures, the same only once for each kind."""
    sources_of: dict[str, list[str]] = {}
    for face in faces:
        for remark in face.remarks:
            sources_of.setdefault(remark, []).append(face.source)
    for remark, sources in sources_of.items():
        more = f' and {len(sources) - 1} more' if len(sources) > 1 else ''
        tell(f'remark: {sources[0]}{more}: {remark}')


def tell(text: str) -> None:
    """Write a line to stderr; names of files may hold what is not UTF-8."""
    print(text.encode('utf-8', 'backslashreplace').decode(), file=sys.stderr)
