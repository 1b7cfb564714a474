"""Write a contact sheet of a data set: a row per identity, pictures side by side.

Of a test set it shows pairs, rows of the same person and of different people by turns,
or templates or subjects, one in a row.
"""

import argparse
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
from mmengine.config import Config

from mmhyperface.engine.launch import load_config
from mmhyperface.utils.command_line import Overrides, report_errors
from mmhyperface.utils.configs import dataset_config
from mmhyperface.utils.errors import UserError

# White pixels between rows of different pictures, and between pairs.
GAP = 6
# Height of a line of text.
LINE = 18
# So many images are asked for their labels one by one. Where those of a person follow
# each other that is enough; all labels at once touch every record of a file.
LOOK = 10_000
#: What is shown of the stages of an image, from loading to the end of the pipeline.
MODES: dict[str, Callable[[list], list]] = {
    'original': lambda stages: stages[:1],
    'transformed': lambda stages: stages[-1:],
    'concat': lambda stages: [stages[0], stages[-1]],
    'pipeline': lambda stages: stages,
}


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    add = parser.add_argument
    add('config', help='config file with the data set')
    add('--output', default='sheet.png', help='picture to write')
    add('--phase', default='train', choices=('train', 'val', 'test'), help='which one')
    add(
        '--mode',
        default='transformed',
        choices=tuple(MODES),
        help='pictures as loaded and aligned, at the end of the pipeline, the former '
        'above the latter, or after each step of the pipeline',
    )
    add('--identities', type=int, default=8, help='rows, in all or of each test set')
    add('--images', type=int, default=8, help='pictures in a row')
    add('--shuffle', action='store_true', help='random identities or pairs')
    add('--seed', type=int, default=0, help='of these and of the augmentations')
    add('--cfg-options', nargs='+', action=Overrides, help='overrides, key=value')
    args = parser.parse_args()
    if args.identities < 1 or args.images < 1:
        parser.error('--identities and --images must be at least 1')
    return args


class Stages:
    """In the place of a pipeline: adds ``stages``, names and images after its steps.

    The first is the image as it is loaded, which takes all steps up to the last that
    loads or aligns. Packing turns an image into a tensor; it ends the stages.
    """

    def __init__(self, steps: Sequence[Callable]) -> None:
        names = [type(step).__name__ for step in steps]
        end = next((i for i, n in enumerate(names) if n.startswith('Pack')), len(names))
        loading = [i for i, n in enumerate(names) if n.startswith(('Load', 'Align'))]
        start = max(loading, default=-1) + 1
        self.loading, self.changing = steps[:start], steps[start:end]

    def __call__(self, item: dict) -> dict:
        for step in self.loading:
            item = step(item)
        stages = [('original', np.array(item['img']))]
        for step in self.changing:
            item = step(item)
            stages.append((type(step).__name__, np.array(item['img'])))
        return {**item, 'stages': stages}


def build_dataset(config: Config, phase: str) -> Any:
    """The data set of a phase, whose images tell of their stages."""
    from mmhyperface.datasets.face_dataset import building, loader
    from mmhyperface.datasets.wrappers import numbered
    from mmhyperface.registry import DATASETS

    where = loader(f'{phase}_dataloader', config.get('data_root'))
    with where, building('dataset'):
        dataset = DATASETS.build(dataset_config(config, phase))
    # One that is repeated is there several times.
    for single in {id(part): part for part in _parts(dataset)}.values():
        single.pipeline = Stages(single.pipeline.transforms)
    return numbered(dataset)


def _parts(dataset: Any) -> Iterator[Any]:
    """The data sets that others are made of."""
    inner = getattr(dataset, 'datasets', None) or [getattr(dataset, 'dataset', None)]
    for part in inner:
        yield from [dataset] if part is None else _parts(part)


class Row(NamedTuple):
    """Numbers of the images of a row, one or two for each of its pictures."""

    pictures: list[tuple[int, ...]]
    caption: str = ''


def rows_of_people(dataset: Any, args: argparse.Namespace) -> list[Row]:
    from mmhyperface.datasets.wrappers import labels_of

    if args.shuffle:
        labels = labels_of(dataset)
        people = np.unique(labels[labels >= 0])
        chosen = np.random.default_rng(args.seed).permutation(people)[: args.identities]
        groups = [np.flatnonzero(labels == p)[: args.images].tolist() for p in chosen]
    else:
        groups = first_people(labels_in_order(dataset), args.identities, args.images)
    return [Row([(number,) for number in numbers]) for numbers in groups]


def labels_in_order(dataset: Any) -> Iterator[int]:
    """Labels from the first image on, -1 for what is damaged."""
    from mmhyperface.datasets.damage import DamagedImage
    from mmhyperface.datasets.wrappers import labels_of

    for number in range(min(LOOK, len(dataset))):
        try:
            yield dataset.get_cat_ids(number)[0]
        except DamagedImage:
            yield -1
    if len(dataset) > LOOK:
        yield from labels_of(dataset)[LOOK:].tolist()


def first_people(
    labels: Iterator[int], identities: int, images: int
) -> list[list[int]]:
    """Numbers of the first `images` pictures of the first `identities` people."""
    rows: dict[int, list[int]] = {}
    for number, label in enumerate(labels):
        if label < 0 or (label not in rows and len(rows) == identities):
            continue
        row = rows.setdefault(label, [])
        if len(row) < images:
            row.append(number)
        if len(rows) == identities and all(len(r) == images for r in rows.values()):
            break
    return list(rows.values())


def rows_of_test_sets(dataset: Any, args: argparse.Namespace) -> list[Row]:
    """Rows of each test set."""
    chance = np.random.default_rng(args.seed)
    rows = []
    for name, test_set in dataset.metainfo['test_sets'].items():
        rows_of = rows_of_pairs if test_set['kind'] == 'pairs' else rows_of_groups
        rows += rows_of(name, test_set, args, chance)
    return rows


def rows_of_pairs(
    name: str, test_set: dict, args: argparse.Namespace, chance: np.random.Generator
) -> list[Row]:
    """Rows of the same person and of different people by turns."""
    each = max(1, args.images // 2)
    pairs = np.stack([test_set['index_a'], test_set['index_b']], axis=1)
    pairs += test_set['offset']
    of_kind = [pairs[test_set['same']], pairs[~test_set['same']]]
    if args.shuffle:
        of_kind = [chance.permutation(of_one) for of_one in of_kind]
    rows = []
    for number in range(args.identities):
        start = number // 2 * each
        chosen = of_kind[number % 2][start : start + each]
        who = 'different people' if number % 2 else 'the same person'
        if len(chosen):
            rows.append(Row(list(map(tuple, chosen.tolist())), f'{name}: {who}'))
    return rows


def rows_of_groups(
    name: str, test_set: dict, args: argparse.Namespace, chance: np.random.Generator
) -> list[Row]:
    """Rows of one template or one subject of the probes."""
    what, key = {
        'templates': ('template', 'template_ids'),
        'megaface': ('subject', 'subjects'),
    }[test_set['kind']]
    ids = test_set[key]
    known = np.unique(ids[ids >= 0])
    if args.shuffle:
        known = chance.permutation(known)
    rows = []
    for one in known[: args.identities].tolist():
        numbers = np.flatnonzero(ids == one)[: args.images] + test_set['offset']
        pictures = [(number,) for number in numbers.tolist()]
        rows.append(Row(pictures, f'{name}: {what} {one}'))
    return rows


class Strip(NamedTuple):
    """Images side by side, with a line of text above if there is one."""

    images: list[np.ndarray]
    caption: str = ''


def strips_of(dataset: Any, row: Row, mode: str) -> list[Strip]:
    """What is shown of a row: a strip for each stage of its images."""
    pictures = [
        [MODES[mode](dataset[number]['stages']) for number in numbers]
        for numbers in row.pictures
    ]
    strips = []
    for s, (step, _) in enumerate(pictures[0][0]):
        images = [side_by_side([sides[s][1] for sides in p]) for p in pictures]
        captions = [row.caption] * (s == 0) + [step] * (mode == 'pipeline')
        strips.append(Strip(images, ', '.join(filter(None, captions))))
    return strips


def side_by_side(images: list[np.ndarray]) -> np.ndarray:
    """A single image as it is; a pair, which a gap sets apart from the next one."""
    if len(images) == 1:
        return images[0]
    return np.concatenate([*images, white(len(images[0]), GAP)], axis=1)


def contact_sheet(groups: list[list[Strip]]) -> np.ndarray:
    """Strips below each other, on white, with pictures of one size.

    Groups are set apart, unless a group is one strip that needs no caption.
    """
    height, width = groups[0][0].images[0].shape[:2]
    columns = max(len(strip.images) for group in groups for strip in group)
    parts: list[np.ndarray] = []
    for group in groups:
        for strip in group:
            if strip.caption:
                parts.append(line_of(strip.caption, columns * width))
            part = white(height, columns * width)
            for c, image in enumerate(strip.images):
                part[:, c * width :][:, :width] = cv2.resize(image, (width, height))
            parts.append(part)
        if len(group) > 1 or group[0].caption:
            parts.append(white(GAP, columns * width))
    return np.concatenate(parts)


def white(height: int, width: int) -> np.ndarray:
    return np.full((height, width, 3), 255, np.uint8)


def line_of(text: str, width: int) -> np.ndarray:
    line = white(LINE, width)
    font = cv2.FONT_HERSHEY_SIMPLEX
    return cv2.putText(line, text, (2, LINE - 6), font, 0.4, (0, 0, 0), 1, cv2.LINE_AA)


def main() -> None:
    args = parse_args()

    from mmengine.runner import set_random_seed

    set_random_seed(args.seed)
    config = load_config(args.config, args.cfg_options)
    dataset = build_dataset(config, args.phase)
    if 'test_sets' in dataset.metainfo:
        rows = rows_of_test_sets(dataset, args)
    else:
        rows = rows_of_people(dataset, args)
    if not rows:
        raise UserError(f'{args.config}: the {args.phase} data set is empty')
    sheet = contact_sheet([strips_of(dataset, row, args.mode) for row in rows])
    Path(args.output).parent.mkdir(parents=True, exist_ok=True)
    try:
        written = cv2.imwrite(args.output, sheet)
    except cv2.error:
        written = False
    if not written:
        raise UserError(f'{args.output}: cannot be written; name a .png or .jpg')
    print(f'{args.output}: {len(rows)} rows of {len(dataset)} images')


if __name__ == '__main__':
    with report_errors():
        main()
