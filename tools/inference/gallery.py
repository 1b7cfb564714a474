"""A gallery of people: enrol them, identify faces, list and remove.

    YUNET=face_detection_yunet_2023mar.onnx
    python tools/inference/gallery.py enrol model.pth people.npz photographs \\
        --detector $YUNET
    python tools/inference/gallery.py calibrate model.pth people.npz strangers \\
        --detector $YUNET --fpir 0.01
    python tools/inference/gallery.py identify model.pth people.npz party.jpg \\
        --detector $YUNET --threshold 0.35 --out-dir named
    python tools/inference/gallery.py list people.npz
    python tools/inference/gallery.py remove people.npz 'Anna Müller'

FOLDER holds a folder for each person, whose name is the person's, with pictures. The
same command on it enrols what is new, and what was changed, anew; what is not in it any
more stays enrolled without --remove-gone, and is named.

Exit status 0: done. 3: done, but for pictures or people that stderr names. 1: a
mistake, which is told. 2: wrong arguments.
"""

from __future__ import annotations

import argparse
import csv
import io
import json
import math
import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from rich import box
from rich.console import Console
from rich.table import Column, Table

from mmhyperface.inference import Face, FaceEmbeddings, Identification
from mmhyperface.inference.options import (
    add_batches,
    add_choice,
    add_model,
    add_threshold,
    inferencer_from,
    inputs_of,
    require_some,
    tell,
    tell_faces,
)
from mmhyperface.utils.command_line import report_errors
from mmhyperface.utils.errors import INCOMPLETE, UserError, some
from mmhyperface.utils.paths import require_file, require_folder
from mmhyperface.weights.convention import Convention

if TYPE_CHECKING:
    from mmhyperface.gallery import FaceGallery
    from mmhyperface.gallery.storage import Origin
    from mmhyperface.inference.annotation import Label
    from mmhyperface.inference.inputs import Item

# Faces that are shown; files have all of them.
SHOWN = 50
COLUMNS = ('path', 'number', 'rank', 'person', 'score', 'image', 'problem')


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest='command', required=True)
    _add_enrol(commands.add_parser('enrol', help='add the people of a folder'))
    _add_identify(commands.add_parser('identify', help='tell who faces are'))
    _add_calibrate(
        commands.add_parser('calibrate', help='find the threshold by strangers')
    )
    remove = commands.add_parser('remove', help='remove a person or an image')
    remove.add_argument('gallery', metavar='GALLERY', help='its file')
    remove.add_argument('person', metavar='PERSON')
    remove.add_argument('--image', help='only this one, as `list` names it')
    listing = commands.add_parser('list', help='tell who is in it')
    listing.add_argument('gallery', metavar='GALLERY', help='its file')
    listing.add_argument('--images', action='store_true', help='of each person, too')
    return parser.parse_args()


def _add_enrol(parser: argparse.ArgumentParser) -> None:
    add_model(parser)
    parser.add_argument(
        'gallery', metavar='GALLERY', help='.npz file, which is made or added to'
    )
    parser.add_argument('folder', metavar='FOLDER', help='with PERSON/picture')
    parser.add_argument(
        '--score',
        choices=('best', 'mean'),
        help="of a new gallery: a person's score is that of its best image, or of the "
        'mean of its images (best)',
    )
    parser.add_argument(
        '--remove-gone',
        action='store_true',
        help='remove all images that are not in FOLDER; not for a gallery of several '
        'folders',
    )
    add_choice(parser, 'largest')
    add_batches(parser)


def _add_identify(parser: argparse.ArgumentParser) -> None:
    add_model(parser)
    add = parser.add_argument
    add('gallery', metavar='GALLERY', help='its file')
    add('inputs', metavar='INPUT', nargs='+', help='pictures, folders, patterns, lists')
    add_threshold(parser)
    add('--top-k', type=int, default=5, help='at most so many people of a face (5)')
    add(
        '--index',
        choices=('exact', 'faiss', 'auto'),
        default='exact',
        help='how to search (exact)',
    )
    add('--out', type=Path, help='write what is found to this .csv or .json file')
    add('--out-dir', type=Path, help='write the pictures with names and scores here')
    add_choice(parser, 'all')
    add_batches(parser)


def _add_calibrate(parser: argparse.ArgumentParser) -> None:
    add_model(parser)
    add = parser.add_argument
    add('gallery', metavar='GALLERY', help='its file')
    add(
        'inputs',
        metavar='INPUT',
        nargs='+',
        help='pictures, folders, patterns, lists of people who are not in the gallery',
    )
    add(
        '--fpir',
        type=float,
        default=0.01,
        help='share of strangers that may be taken for somebody (0.01); 1 / FPIR of '
        'them are needed',
    )
    add_choice(parser, 'all')
    add_batches(parser)


class PersonPicture(NamedTuple):
    """A picture of a person, in a folder.

    Attributes:
        person: The name.
        image: Its id: the path from FOLDER, so that this may be moved.
        item: What is to be read.
        digest: Of its content; empty where it cannot be read.
    """

    person: str
    image: str
    item: Item
    digest: str


def enrol(args: argparse.Namespace) -> int:
    from mmhyperface.gallery.storage import locked
    from mmhyperface.inference.inputs import people_below

    people = people_below(args.folder)
    require_file(args.gallery)
    inferencer = inferencer_from(args)
    gallery = _gallery(args, inferencer.convention)
    pictures = [
        _picture(person, item, args.folder)
        for person, items in people.items()
        for item in items
    ]
    known = gallery.origins
    ways = _ways(args)
    todo = [one for one in pictures if not _is_known(one, known, ways)]
    unknown = sum(one.image in known and not known[one.image].digest for one in todo)
    if unknown:
        tell(
            f'{unknown} images of {args.gallery} are of an earlier version, which kept '
            'no fingerprint of their content: they are embedded anew'
        )
    items = [one.item for one in todo]
    faces = inferencer.embed(items, args.batch_size, show_progress=True)
    both = zip(todo, faces, strict=True)
    usable = [(one, face) for one, face in both if face.embedding is not None]
    if not usable and len(todo) == len(pictures):
        tell_faces(faces)
        raise UserError(f'none of {len(todo)} pictures can be enrolled')
    # Another process may have changed it in the meantime.
    with locked(args.gallery):
        gallery = _gallery(args, inferencer.convention)
        if gallery.origins != known:
            tell(
                f'{args.gallery} was changed by another process in the meantime; what '
                'is found here is added to that'
            )
        counts = _put(gallery, pictures, usable, ways)
        gone = _gone(gallery, pictures)
        if args.remove_gone:
            for person, images in gone.items():
                gallery.remove(person, images)
        if counts.total() or (gone and args.remove_gone):
            gallery.save(args.gallery)
    tell_faces(faces)
    bad = {face.source for face in faces.problems}
    images = {one.image for one in todo if one.item.source in bad}
    stale = sorted(images & gallery.origins.keys())
    if stale:
        tell(
            f'the former embedding stays of {some(stale)}: mend the picture, or '
            'remove the image'
        )
    if gone:
        names = [image for of_person in gone.values() for image in of_person]
        fate = 'are removed' if args.remove_gone else 'stay enrolled (--remove-gone)'
        tell(f'{len(names)} images are not in {args.folder} and {fate}: {some(names)}')
    done = [f'{counts[kind]} {kind}' for kind in ('new', 'changed', 'renamed')]
    print(
        f'{", ".join(done)}, {len(pictures) - len(todo)} unchanged, '
        f'{len(faces.problems)} left out: {args.gallery} has {len(gallery.people)} '
        f'people with {len(gallery)} images'
    )
    missing = people.keys() - set(gallery.people)
    if missing:
        tell(f'without any image in the gallery: {", ".join(sorted(missing))}')
    return INCOMPLETE if faces.problems or missing else 0


def _picture(person: str, item: Item, folder: str) -> PersonPicture:
    from mmhyperface.inference.pictures import digest_of, read_bytes

    image = Path(os.path.relpath(item.source, folder)).as_posix()
    try:
        digest = digest_of(read_bytes(item.source, item.source))
    except UserError:  # as the inferencer will tell
        digest = ''
    return PersonPicture(person, image, item, digest)


def _ways(args: argparse.Namespace) -> set[str]:
    """How faces are found now, see :class:`.Face`."""
    if args.detector:
        return {'detector'}
    return {'crop', 'resized'} if args.resize else {'crop'}


def _is_known(one: PersonPicture, origins: dict[str, Origin], ways: set[str]) -> bool:
    """Whether a picture of this content is enrolled, with its face found likewise."""
    origin = origins.get(one.image)
    if origin is None or not one.digest:
        return False
    return one.digest == origin.digest and origin.alignment in ways


def _put(
    gallery: FaceGallery,
    pictures: Sequence[PersonPicture],
    usable: Sequence[tuple[PersonPicture, Face]],
    ways: set[str],
) -> Counter[str]:
    """Enrol pictures of a folder with their faces; how many of each kind.

    A picture that is there under its own name was changed, or its face is found in
    another way now (with a detector, or without); one whose content is there under a
    name that the folder no longer has was renamed.
    """
    from mmhyperface.inference.inferencer import add_alignment_remarks

    origins = gallery.origins
    former = {
        (person, origins[image].digest): image
        for person, images in _gone(gallery, pictures).items()
        for image in images
        if origins[image].digest
    }
    counts: Counter[str] = Counter()
    replaced: dict[str, list[str]] = {}
    # What another process has enrolled in the meantime is there.
    todo = [(one, face) for one, face in usable if not _is_known(one, origins, ways)]
    for one, face in todo:
        kind, old = 'new', former.pop((one.person, face.digest), None)
        if one.image in origins:
            kind, old = 'changed', one.image
        elif old is not None:
            kind = 'renamed'
        if old is not None:
            replaced.setdefault(one.person, []).append(old)
        counts[kind] += 1
    for person, images in replaced.items():
        gallery.remove(person, images)
    add_alignment_remarks([face for _, face in todo], gallery)
    if todo:
        gallery.enrol_many(
            [one.person for one, _ in todo],
            np.stack([face.embedding for _, face in todo]),
            [one.image for one, _ in todo],
            [face.origin for _, face in todo],
        )
    return counts


def _gone(
    gallery: FaceGallery, pictures: Sequence[PersonPicture]
) -> dict[str, list[str]]:
    """Images of a gallery that are not among these, by person."""
    there = {one.image for one in pictures}
    gone = {
        person: [image for image in gallery.images(person) if image not in there]
        for person in gallery.people
    }
    return {person: images for person, images in gone.items() if images}


def _gallery(args: argparse.Namespace, convention: Convention) -> FaceGallery:
    from mmhyperface.gallery import FaceGallery

    if not os.path.lexists(args.gallery):
        return FaceGallery.of(convention, args.score or 'best')
    gallery = FaceGallery.load(args.gallery, convention.fingerprint)
    if args.score not in (None, gallery.score):
        raise UserError(
            f'{args.gallery} scores people by {gallery.score}; leave --score out, or '
            'name another file'
        )
    return gallery


def identify(args: argparse.Namespace) -> int:
    from mmhyperface.gallery import FaceGallery
    from mmhyperface.inference.annotation import draw_pictures

    if args.out:
        if args.out.suffix not in ('.csv', '.json'):
            raise UserError(f'{args.out}: results are written to .csv or .json')
        require_file(args.out)
    if args.out_dir:
        require_folder(args.out_dir)
    inferencer = inferencer_from(args)
    gallery = FaceGallery.load(args.gallery, inferencer.convention.fingerprint)
    threshold, far, test_set = inferencer.threshold(args.threshold, args.far)
    results = inferencer.identify(
        inputs_of(args),
        gallery,
        args.top_k,
        threshold,
        index=args.index,
        batch_size=args.batch_size,
        show_progress=True,
    )
    faces = FaceEmbeddings([one.face for one in results], gallery.dimensions)
    _tell_unknown(gallery, args)
    tell_faces(faces)
    if args.out:
        write(args.out, results)
    if args.out_dir:
        labels = [(one.face, label_of(one)) for one in results]
        draw_pictures(labels, args.out_dir, max_megapixels=args.max_megapixels)
    show(results)
    if threshold is None:
        tell(
            'no threshold is known, so nobody is a stranger: the best match is named '
            'however low its score; give --threshold'
        )
    else:
        of = f', for FAR {far:g} on {test_set}' if far is not None else ''
        print(f'threshold {threshold:.6f}{of}')
    require_some(faces)
    return INCOMPLETE if faces.problems else 0


def calibrate(args: argparse.Namespace) -> int:
    from mmhyperface.gallery import FaceGallery
    from mmhyperface.inference.inferencer import add_alignment_remarks

    inferencer = inferencer_from(args)
    gallery = FaceGallery.load(args.gallery, inferencer.convention.fingerprint)
    faces = inferencer.embed(inputs_of(args), args.batch_size, show_progress=True)
    _tell_unknown(gallery, args)
    add_alignment_remarks(faces.usable, gallery)
    tell_faces(faces)
    require_some(faces)
    enrolled = {origin.digest for origin in gallery.origins.values()} - {''}
    known = [face.source for face in faces.usable if face.digest in enrolled]
    if known:
        raise UserError(
            'strangers must not be in the gallery, but these pictures are: '
            f'{some(known)}'
        )
    threshold = max(gallery.calibrate(faces.embeddings, args.fpir), -1)
    # Rounded up: at a lower one there would be one more.
    print(
        f'threshold {math.ceil(threshold * 1e6) / 1e6:.6f} (FPIR {args.fpir:g} of '
        f'{len(faces.usable)} strangers): give it to identify as --threshold'
    )
    return INCOMPLETE if faces.problems else 0


def _tell_unknown(gallery: FaceGallery, args: argparse.Namespace) -> None:
    if len(gallery) and not gallery.alignments:
        tell(
            f'{args.gallery} does not tell how its faces were found (it is of an '
            'earlier version): give --detector or --resize if they were found so, and '
            'only then'
        )


def label_of(one: Identification) -> Label:
    """What is written at a face."""
    from mmhyperface.inference.annotation import Label

    if one.face.problem:
        return Label(one.face.problem)
    if not one.matches:
        return Label('unknown', False)
    best = one.matches[0]
    name = best.person if len(best.person) <= 28 else f'{best.person[:27]}…'
    return Label(f'{name} {best.score:.3f}', True)


def show(results: Sequence[Identification]) -> None:
    picture = Column('picture', overflow='fold')
    table = Table(picture, 'face', 'person', 'score', 'then', box=box.SIMPLE)
    for one in results[:SHOWN]:
        if one.face.problem:
            continue
        person, score, then = 'unknown', '', ''
        if one.matches:
            best, *others = one.matches
            person, score = best.person, f'{best.score:.4f}'
            then = ', '.join(f'{x.person} {x.score:.3f}' for x in others[:2])
        table.add_row(one.face.source, str(one.face.number), person, score, then)
    console = Console(markup=False, highlight=False)
    if not console.is_terminal:  # whoever reads a pipe wants each face in a line
        console.width = 100_000
    console.print(table)
    if len(results) > SHOWN:
        print(f'and {len(results) - SHOWN} more')


def write(path: Path, results: Sequence[Identification]) -> None:
    from mmhyperface.utils.atomic_files import new_files

    text = _json(results) if path.suffix == '.json' else _csv(results)
    with new_files([str(path)], overwrite=True) as (file,):
        file.write(text.encode('utf-8', 'backslashreplace'))


def _json(results: Sequence[Identification]) -> str:
    rows = []
    for one in results:
        row = one.face.to_dict()
        del row['embedding']
        row['threshold'] = one.threshold
        row['matches'] = [match._asdict() for match in one.matches]
        rows.append(row)
    return json.dumps(rows, indent=1, ensure_ascii=False)


def _csv(results: Sequence[Identification]) -> str:
    """A line for each match; without a person for a stranger, or a problem."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator='\n')
    writer.writerow(COLUMNS)
    for one in results:
        face = one.face
        start = (face.source, face.number)
        for rank, match in enumerate(one.matches, start=1):
            score = f'{match.score:.6f}'
            writer.writerow([*start, rank, match.person, score, match.image, ''])
        if not one.matches:
            writer.writerow([*start, '', '', '', '', face.problem])
    return text.getvalue()


def remove(args: argparse.Namespace) -> int:
    from mmhyperface.gallery import FaceGallery
    from mmhyperface.gallery.storage import locked

    with locked(args.gallery):
        gallery = FaceGallery.load(args.gallery)
        count = gallery.remove(args.person, args.image)
        gallery.save(args.gallery)
    print(f'{count} images removed, {len(gallery)} left')
    return 0


def list_people(args: argparse.Namespace) -> int:
    from mmhyperface.gallery import FaceGallery

    gallery = FaceGallery.load(args.gallery)
    for person in gallery.people:
        images = gallery.images(person)
        names = '\t'.join(images) if args.images else str(len(images))
        print(f'{person}\t{names}')
    tell(
        f'{len(gallery.people)} people, {len(gallery)} images, {gallery.dimensions} '
        f'values, score by {gallery.score}, model {gallery.fingerprint[:8]}, faces: '
        f'{", ".join(sorted(gallery.alignments)) or "found in an unknown way"}'
    )
    return 0


COMMANDS = {
    'enrol': enrol,
    'identify': identify,
    'calibrate': calibrate,
    'remove': remove,
    'list': list_people,
}


def main() -> None:
    args = parse_args()
    raise SystemExit(COMMANDS[args.command](args))


if __name__ == '__main__':
    with report_errors():
        main()
