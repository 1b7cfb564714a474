"""Identify people: some are enrolled, the rest of their images and strangers searched.

    python tools/benchmarks/identification.py faces model.pth \\
        --people 20 --images 3 --detector face_detection_yunet_2023mar.onnx

FOLDER holds PERSON/image. The first --images of each of the first --people, in the
order of the names, or of people drawn with --seed, are enrolled. Their other images are
searched for, and all of the other people, who are strangers.

The first table has a line for each threshold. Those of the model are from its last
examination, for a false accept rate (FAR) of pairs. Those for a false positive
identification rate (FPIR) are found with a half of the strangers and used on the other
half, and the other way round; the line tells of both together. TPIR is the share of
searches for an enrolled person that find it, first and above the threshold; FPIR that
of searches for strangers that find somebody.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
from rich import box
from rich.console import Console
from rich.table import Column, Table

from mmhyperface.inference import Face
from mmhyperface.inference.options import (
    add_batches,
    add_choice,
    add_model,
    inferencer_from,
    tell_problems,
)
from mmhyperface.utils.command_line import report_errors
from mmhyperface.utils.errors import UserError
from mmhyperface.utils.paths import require_file

if TYPE_CHECKING:
    from mmhyperface.gallery import FaceGallery, Match
    from mmhyperface.inference import FaceInferencer
    from mmhyperface.inference.inputs import Item

Bools = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float64]


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add('folder', metavar='FOLDER', help='with PERSON/image')
    add_model(parser)
    add('--people', type=int, default=20, help='that are enrolled (20)')
    add('--images', type=int, default=3, help='of each that are enrolled (3)')
    add('--seed', type=int, help='draw the people with it')
    add('--fpir', type=float, nargs='*', default=[0.05, 0.1], help='(0.05 0.1)')
    add('--json', type=Path, help='write the figures to this file, too')
    add_choice(parser, 'largest')
    add_batches(parser)
    args = parser.parse_args()
    if min(args.people, args.images) < 1 or (args.seed or 0) < 0:
        parser.error('--people and --images are at least 1, --seed at least 0')
    return args


@dataclass(frozen=True)
class Searches:
    """The best match of each search.

    Attributes:
        scores: [S].
        right: Whether it is the person that was searched for, [S].
        strangers: Whose search it is, where it is a stranger's; -1 otherwise, [S].
    """

    scores: Floats
    right: Bools
    strangers: npt.NDArray[np.int64]


@dataclass(frozen=True)
class Line:
    """Of the table; thresholds are those of both halves."""

    kind: str
    thresholds: list[float]
    tpir: float
    fpir: float


def embedded(
    people: dict[str, list[Item]], inferencer: FaceInferencer, batch_size: int
) -> tuple[dict[str, list[Face]], int]:
    """The faces of each person, and how many pictures have none."""
    items = [item for files in people.values() for item in files]
    embeddings = inferencer.embed(items, batch_size, show_progress=True)
    tell_problems(embeddings.problems)
    faces = iter(embeddings.faces)
    kept = {
        person: [
            face for face in islice(faces, len(files)) if face.embedding is not None
        ]
        for person, files in people.items()
        if files
    }
    return kept, len(embeddings.problems)


def split(
    faces: dict[str, list[Face]], args: argparse.Namespace
) -> tuple[list[str], list[str]]:
    """Who is enrolled and who is a stranger.

    Raises:
        UserError: If there are too few people or images.
    """
    names = list(faces)
    if args.seed is not None:
        names = list(np.random.default_rng(args.seed).permutation(names))
    enrolled = names[: args.people]
    strangers = [name for name in names[args.people :] if faces[name]]
    if len(enrolled) < args.people or len(strangers) < 2:
        raise UserError(
            f'{args.folder} has {len(names)} people: too few to enrol {args.people} '
            'and have 2 strangers'
        )
    for name in enrolled:
        if len(faces[name]) <= args.images:
            raise UserError(
                f'{args.folder}/{name} has {len(faces[name])} faces: too few to enrol '
                f'{args.images} and search for one more'
            )
    return enrolled, strangers


def rows(faces: list[Face]) -> npt.NDArray[np.float32]:
    return np.stack([face.embedding for face in faces if face.embedding is not None])


def search(
    gallery: FaceGallery,
    faces: dict[str, list[Face]],
    enrolled: list[str],
    strangers: list[str],
    images: int,
) -> Searches:
    of = [(name, -1, face) for name in enrolled for face in faces[name][images:]]
    of += [
        (name, number, face)
        for number, name in enumerate(strangers)
        for face in faces[name]
    ]
    best: list[Match] = [
        matches[0] for matches in gallery.search(rows([x[2] for x in of]), 1)
    ]
    return Searches(
        np.array([match.score for match in best]),
        np.array([match.person == x[0] for match, x in zip(best, of, strict=True)]),
        np.array([x[1] for x in of]),
    )


def rates(searches: Searches, thresholds: Floats) -> tuple[float, float]:
    """TPIR and FPIR of searches, each with its threshold."""
    mated = searches.strangers < 0
    accepted = searches.scores >= thresholds
    return (
        float((searches.right & accepted)[mated].mean()),
        float(accepted[~mated].mean()),
    )


def of_halves(
    gallery: FaceGallery,
    faces: dict[str, list[Face]],
    strangers: list[str],
    searches: Searches,
    fpir: float,
) -> Line:
    """Thresholds by one half of the strangers, used on the other.

    Searches for people who are enrolled count with both.
    """
    rates_of, used = [], []
    for half in (0, 1):
        known = [face for name in strangers[half::2] for face in faces[name]]
        least = gallery.calibrate(rows(known), fpir)
        others = (searches.strangers < 0) | (searches.strangers % 2 != half)
        part = Searches(
            searches.scores[others], searches.right[others], searches.strangers[others]
        )
        rates_of.append(rates(part, np.full(others.sum(), least)))
        used.append(least)
    # Each stranger counts once, whatever the sizes of the halves.
    sizes = [
        int(np.sum((searches.strangers >= 0) & (searches.strangers % 2 != half)))
        for half in (0, 1)
    ]
    tpir = float(np.mean([rate for rate, _ in rates_of]))
    wrong = float(np.average([rate for _, rate in rates_of], weights=sizes))
    return Line(f'FPIR {fpir:g} of other strangers', used, tpir, wrong)


def lines_of(
    gallery: FaceGallery,
    faces: dict[str, list[Face]],
    strangers: list[str],
    searches: Searches,
    inferencer: FaceInferencer,
    fpirs: list[float],
) -> list[Line]:
    lines = []
    for point in inferencer.convention.operating_points:
        everywhere = np.full(len(searches.scores), point.threshold)
        kind = f'FAR {point.far:g} of pairs of {point.test_set}'
        lines.append(Line(kind, [point.threshold], *rates(searches, everywhere)))
    for fpir in fpirs:
        lines.append(of_halves(gallery, faces, strangers, searches, fpir))
    return lines


def report(figures: dict) -> None:
    counts = figures['counts']
    print(
        f'{counts["enrolled"]} people enrolled with {counts["images"]} images each; '
        f'{counts["mated"]} searches for them, {counts["unmated"]} for '
        f'{counts["strangers"]} strangers; {counts["left_out"]} pictures left out'
    )
    numbers = [Column(name, justify='right') for name in ('threshold', 'TPIR', 'FPIR')]
    table = Table('score', 'threshold for', *numbers, box=box.SIMPLE)
    for score, result in figures['scores'].items():
        table.add_row(score, 'none: rank 1', '', f'{result["rank_1"]:.2%}', '')
        for line in result['lines']:
            shown = ', '.join(f'{x:.3f}' for x in line['thresholds'])
            of = f'{line["tpir"]:.2%}', f'{line["fpir"]:.2%}'
            table.add_row(score, line['kind'], shown, *of)
    Console(markup=False, highlight=False).print(table)


def main() -> None:
    args = parse_args()

    from mmhyperface.gallery import FaceGallery
    from mmhyperface.inference.inputs import people_below
    from mmhyperface.utils.atomic_files import new_files

    if args.json:
        require_file(args.json)
    people = people_below(args.folder)
    inferencer = inferencer_from(args)
    faces, left_out = embedded(people, inferencer, args.batch_size)
    enrolled, strangers = split(faces, args)
    scores = {}
    for score in ('best', 'mean'):
        gallery = FaceGallery.of(inferencer.convention, score)
        for name in enrolled:
            first = faces[name][: args.images]
            gallery.enrol(name, rows(first), [face.source for face in first])
        searches = search(gallery, faces, enrolled, strangers, args.images)
        mated = searches.strangers < 0
        lines = lines_of(gallery, faces, strangers, searches, inferencer, args.fpir)
        scores[score] = {
            'rank_1': float(searches.right[mated].mean()),
            'lines': [asdict(line) for line in lines],
        }
    figures = {
        'counts': {
            'enrolled': len(enrolled),
            'images': args.images,
            'mated': int(mated.sum()),
            'unmated': int((~mated).sum()),
            'strangers': len(strangers),
            'left_out': left_out,
        },
        'scores': scores,
    }
    report(figures)
    if args.json:
        with new_files([str(args.json)], overwrite=True) as (file,):
            file.write(json.dumps(figures, indent=1).encode())


if __name__ == '__main__':
    with report_errors():
        main()
