"""Look at every image of a data set, and tell what is wrong with it.

Exit status 0: nothing is. 1: some image is damaged, or has a label out of range.
"""

import argparse
import hashlib
from collections import Counter, defaultdict
from concurrent.futures import ProcessPoolExecutor
from typing import Any, NamedTuple

import cv2
import numpy as np
from mmengine.config import Config, ConfigDict, DictAction
from rich.console import Console
from rich.progress import track
from rich.table import Table

from mmhyperface.apis import dataset_config, load_config, report_errors
from mmhyperface.datasets.damage import DamagedImage
from mmhyperface.datasets.transforms import decode_face, encoded_face
from mmhyperface.errors import UserError
from mmhyperface.registry import DATASETS

# Images of one task of a worker.
TASK = 256


class Image(NamedTuple):
    """What is found out about one image."""

    number: int
    label: int | None  # None in a test set
    size: tuple[int, ...]
    digest: bytes
    error: str = ''


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    add = parser.add_argument
    add('config', help='config file with the data set')
    add('--phase', default='train', choices=('train', 'val', 'test'), help='which one')
    add('--workers', type=int, default=2, help='processes that decode')
    add('--show', type=int, default=10, help='how many of each kind to name')
    add('--cfg-options', nargs='+', action=DictAction, help='overrides, key=value')
    args = parser.parse_args()
    if args.workers < 1 or args.show < 0:
        parser.error('--workers must be at least 1 and --show at least 0')
    return args


def build(config: Config, phase: str) -> Any:
    """The data set of a phase, which gives images as they are stored."""
    return DATASETS.build(_without_pipeline(dataset_config(config, phase)))


def _without_pipeline(config: ConfigDict) -> ConfigDict:
    """Errors are for the report, and what a pipeline makes is of no interest."""
    for inner in config.get('datasets', []):
        _without_pipeline(inner)
    if 'dataset' in config:
        _without_pipeline(config.dataset)
    config.pop('on_error', None)
    if 'pipeline' in config:
        config.pipeline = []
    return config


_dataset: Any = None


def _take(dataset: Any) -> None:
    global _dataset
    _dataset = dataset


def look(numbers: range) -> list[Image]:
    """What some images are like."""
    return [look_at(number) for number in numbers]


def look_at(number: int) -> Image:
    try:
        info = _dataset.get_data_info(number)
    except DamagedImage as error:
        return Image(number, None, (), b'', str(error))
    label = info.get('gt_label')
    try:
        if 'img' in info:
            image = info['img']
            data = np.ascontiguousarray(image).data
        else:
            data = encoded_face(info)
            image = decode_face(data, str(info['img_path']))
    except UserError as error:
        return Image(number, label, (), b'', str(error))
    return Image(number, label, image.shape[:2], hashlib.sha256(data).digest())


def examine(dataset: Any, workers: int) -> list[Image]:
    """All images, in their order."""
    tasks = [
        range(start, min(start + TASK, len(dataset)))
        for start in range(0, len(dataset), TASK)
    ]
    with ProcessPoolExecutor(workers, initializer=_take, initargs=(dataset,)) as pool:
        found = track(
            pool.map(look, tasks), 'looking at images', total=len(tasks), transient=True
        )
        return [image for of_task in found for image in of_task]


class Finding(NamedTuple):
    """One line of the report.

    Attributes:
        what: In words.
        count: How many there are.
        examples: Some of them.
        bad: Whether training cannot use them.
    """

    what: str
    count: int
    examples: list[str]
    bad: bool = False


def findings(images: list[Image], show: int) -> list[Finding]:
    """What is remarkable about a data set."""
    damaged = [image for image in images if image.error]
    good = [image for image in images if not image.error]
    twins = _equal(good)
    crossed = [t for t in twins if len({image.label for image in t}) > 1]
    labels = Counter(image.label for image in good if image.label is not None)
    lonely = sorted(label for label, count in labels.items() if count == 1)
    return [
        Finding('damaged', len(damaged), [i.error for i in damaged[:show]], bad=True),
        Finding(
            'equal to an earlier one',
            sum(len(t) - 1 for t in twins),
            [_numbers(t) for t in twins[:show]],
        ),
        Finding(
            'equal, of different identities',
            sum(len(t) for t in crossed),
            [_numbers(t) for t in crossed[:show]],
        ),
        Finding(
            'alone of their identity',
            len(lonely),
            [f'identity {label}' for label in lonely[:show]],
        ),
    ]


def _equal(images: list[Image]) -> list[list[Image]]:
    """Groups of images that are the same, byte by byte."""
    by_digest = defaultdict(list)
    for image in images:
        by_digest[image.digest].append(image)
    return [group for group in by_digest.values() if len(group) > 1]


def _numbers(images: list[Image]) -> str:
    return 'images ' + ', '.join(str(image.number) for image in images)


def report(dataset: Any, images: list[Image], show: int, console: Console) -> bool:
    """Print what was found; whether all is well."""
    counts = Counter(image.label for image in images if image.label is not None)
    announced = getattr(dataset, 'metainfo', {}).get('num_classes')
    summary = Table(title=f'{type(dataset).__name__}: {len(images):,} images')
    summary.add_column('')
    summary.add_column('', justify='right')
    if counts:
        each = np.array(list(counts.values()))
        summary.add_row('identities with images', f'{len(counts):,}')
        summary.add_row('identities announced', f'{announced:,}')
        summary.add_row(
            'images of one', f'{each.min()} to {each.max()}, median {np.median(each):g}'
        )
    sizes = Counter(image.size for image in images if not image.error)
    for (height, width), count in sizes.most_common(5):
        summary.add_row(f'{height} x {width} (height x width)', f'{count:,}')
    if len(sizes) > 5:
        summary.add_row('other sizes', f'{len(sizes) - 5:,}')
    found = findings(images, show)
    for finding in found:
        summary.add_row(finding.what, f'{finding.count:,}')
    console.print(summary)
    for finding in found:
        for example in finding.examples:
            console.print(f'{finding.what}: {example}', soft_wrap=True, markup=False)
    return not any(finding.bad and finding.count for finding in found)


def main() -> None:
    args = parse_args()
    cv2.setNumThreads(0)
    dataset = build(load_config(args.config, args.cfg_options), args.phase)
    images = examine(dataset, args.workers)
    if not report(dataset, images, args.show, Console()):
        raise SystemExit(1)


if __name__ == '__main__':
    with report_errors():
        main()
