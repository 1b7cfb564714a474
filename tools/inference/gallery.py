"""A gallery of people: enrol them, identify faces, list and remove.

    python tools/inference/gallery.py enrol model.pth people.npz photographs
    python tools/inference/gallery.py identify model.pth people.npz party.jpg \\
        --detector face_detection_yunet_2023mar.onnx --far 1e-4 --out-dir named
    python tools/inference/gallery.py list people.npz
    python tools/inference/gallery.py remove people.npz 'Anna Müller'

FOLDER holds a folder for each person, whose name is the person's, with pictures.

Exit status 0: done. 3: done, but for pictures that stderr names. 1: a mistake, which is
told. 2: wrong arguments.
"""

from __future__ import annotations

import argparse
import csv
import io
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich import box
from rich.console import Console
from rich.table import Column, Table

from mmhyperface.apis import report_errors, require_file, require_folder
from mmhyperface.convention import Convention
from mmhyperface.errors import UserError
from mmhyperface.inference import FaceEmbeddings, Identification
from mmhyperface.inference.options import (
    INCOMPLETE,
    add_batches,
    add_choice,
    add_model,
    add_threshold,
    inferencer_from,
    tell,
    tell_problems,
    tell_remarks,
)

if TYPE_CHECKING:
    from mmhyperface.gallery import FaceGallery
    from mmhyperface.inference.drawing import Label

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


def enrol(args: argparse.Namespace) -> int:
    from mmhyperface.inference.inputs import people_below

    people = people_below(args.folder)
    require_file(args.gallery)
    inferencer = inferencer_from(args)
    gallery = _gallery(args, inferencer.convention)
    known = {image for person in gallery.people for image in gallery.images(person)}
    # (person, id, path); ids start from FOLDER, so that it may be moved.
    pictures = [
        (person, Path(os.path.relpath(path, args.folder)).as_posix(), path)
        for person, paths in people.items()
        for path in paths
    ]
    new = [picture for picture in pictures if picture[1] not in known]
    paths = [path for _, _, path in new]
    found = inferencer.embed(paths, args.batch_size, show_progress=True)
    tell_remarks(found.usable)
    tell_problems(found.problems)
    kept = [
        picture
        for picture, face in zip(new, found.faces, strict=True)
        if face.embedding is not None
    ]
    if new and not kept:
        raise UserError(f'none of {len(new)} pictures can be enrolled')
    if kept:
        names, images, _ = zip(*kept, strict=True)
        gallery.enrol_many(names, found.embeddings, images)
        gallery.save(args.gallery)
    print(
        f'{len(kept)} pictures enrolled, {len(pictures) - len(new)} were there '
        f'already, {len(found.problems)} left out: {args.gallery} has '
        f'{len(gallery.people)} people with {len(gallery)} images'
    )
    missing = people.keys() - set(gallery.people)
    if missing:
        tell(f'without any image in the gallery: {", ".join(sorted(missing))}')
    return INCOMPLETE if found.problems else 0


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
    from mmhyperface.inference.drawing import draw_pictures

    if args.out:
        if args.out.suffix not in ('.csv', '.json'):
            raise UserError(f'{args.out}: results are written to .csv or .json')
        require_file(args.out)
    if args.out_dir:
        require_folder(args.out_dir)
    inferencer = inferencer_from(args)
    gallery = FaceGallery.load(args.gallery, inferencer.convention.fingerprint)
    threshold, far, test_set = inferencer.threshold(args.threshold, args.far)
    inputs = args.inputs[0] if len(args.inputs) == 1 else args.inputs
    found = inferencer.identify(
        inputs,
        gallery,
        args.top_k,
        threshold,
        index=args.index,
        batch_size=args.batch_size,
        show_progress=True,
    )
    faces = FaceEmbeddings([one.face for one in found], gallery.dimensions)
    tell_remarks(faces.usable)
    tell_problems(faces.problems)
    if args.out:
        write(args.out, found)
    if args.out_dir:
        labels = [(one.face, label_of(one)) for one in found]
        draw_pictures(labels, args.out_dir, max_megapixels=args.max_megapixels)
    show(found)
    if threshold is None:
        tell(
            'no threshold is known, so nobody is a stranger: the best match is named '
            'however low its score; give --threshold'
        )
    else:
        of = f', for FAR {far:g} on {test_set}' if far is not None else ''
        print(f'threshold {threshold:.6f}{of}')
    if not faces.usable:
        raise UserError(f'none of {len(found)} pictures can be embedded')
    return INCOMPLETE if faces.problems else 0


def label_of(one: Identification) -> Label:
    """What is written at a face."""
    from mmhyperface.inference.drawing import Label

    if one.face.problem:
        return Label(one.face.problem)
    if not one.matches:
        return Label('unknown', False)
    best = one.matches[0]
    name = best.person if len(best.person) <= 28 else f'{best.person[:27]}…'
    return Label(f'{name} {best.score:.3f}', True)


def show(found: Sequence[Identification]) -> None:
    picture = Column('picture', overflow='fold')
    table = Table(picture, 'face', 'person', 'score', 'then', box=box.SIMPLE)
    for one in found[:SHOWN]:
        if one.face.problem:
            continue
        person, score, then = 'unknown', '', ''
        if one.matches:
            best, *others = one.matches
            person, score = best.person, f'{best.score:.4f}'
            then = ', '.join(f'{x.person} {x.score:.3f}' for x in others[:2])
        table.add_row(one.face.source, str(one.face.number), person, score, then)
    console = Console(markup=False, highlight=False)
    console.print(table)
    if len(found) > SHOWN:
        print(f'and {len(found) - SHOWN} more')


def write(path: Path, found: Sequence[Identification]) -> None:
    from mmhyperface.datasets.new_files import new_files

    text = _json(found) if path.suffix == '.json' else _csv(found)
    with new_files([str(path)], overwrite=True) as (file,):
        file.write(text.encode('utf-8', 'backslashreplace'))


def _json(found: Sequence[Identification]) -> str:
    rows = []
    for one in found:
        row = one.face.to_dict()
        del row['embedding']
        row['threshold'] = one.threshold
        row['matches'] = [match._asdict() for match in one.matches]
        rows.append(row)
    return json.dumps(rows, indent=1, ensure_ascii=False)


def _csv(found: Sequence[Identification]) -> str:
    """A line for each match; without a person for a stranger, or a problem."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator='\n')
    writer.writerow(COLUMNS)
    for one in found:
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
        f'values, score by {gallery.score}, model {gallery.fingerprint[:8]}'
    )
    return 0


COMMANDS = {
    'enrol': enrol,
    'identify': identify,
    'remove': remove,
    'list': list_people,
}


def main() -> None:
    args = parse_args()
    raise SystemExit(COMMANDS[args.command](args))


if __name__ == '__main__':
    with report_errors():
        main()
