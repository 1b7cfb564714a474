"""Look at every image of a data set, and tell what is wrong with it.

Exit status 0: nothing is. 1: some image is damaged, or has a label out of range.
"""

import argparse
import hashlib
from concurrent.futures import ProcessPoolExecutor
from typing import Any, NamedTuple

import cv2
import numpy as np
from mmengine.config import ConfigDict, DictAction
from rich.console import Console
from rich.progress import track
from rich.table import Table

from mmhyperface.apis import dataset_config, load_config, report_errors
from mmhyperface.apis.conversion import end_with_parent, in_order
from mmhyperface.errors import UserError

# Images of one task of a worker, and tasks that a worker may be ahead.
TASK = 256
AHEAD = 3


class Images(NamedTuple):
    """What is found out about images, in their order.

    Attributes:
        labels: int64 [N]; -1 where there is none: in a test set, or a damaged record.
        sizes: Height and width, int32 [N, 2]; 0 of a damaged image.
        digests: Of what is stored, uint64 [N, 2].
        errors: What is wrong with some of the damaged images.
    """

    labels: np.ndarray
    sizes: np.ndarray
    digests: np.ndarray
    errors: list[str]

    @property
    def good(self) -> np.ndarray:
        return self.sizes[:, 0] > 0


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


def wanted_size(config: ConfigDict) -> tuple[int, int] | None:
    """The one size that LoadFace takes, in the first pipeline that has it so."""
    from mmhyperface.registry import TRANSFORMS

    for step in config.get('pipeline', []):
        # New-style configs name the class itself.
        name = getattr(step['type'], '__name__', step['type'])
        if name.endswith('LoadFace') and step.get('resize') is False:
            size = TRANSFORMS.build(step).size
            if size is not None:
                return size
    inner = [*config.get('datasets', []), *filter(None, [config.get('dataset')])]
    return next(filter(None, map(wanted_size, inner)), None)


_dataset: Any = None
_show = 0


def _take(dataset: Any, show: int) -> None:
    global _dataset, _show
    _dataset, _show = dataset, show
    end_with_parent()


def look(numbers: range) -> Images:
    """What some images are like."""
    count = len(numbers)
    labels, sizes = np.full(count, -1), np.zeros((count, 2), np.int32)
    digests, errors = np.zeros((count, 2), np.uint64), []
    for place, number in enumerate(numbers):
        try:
            info = _dataset.get_data_info(number)
            label = info.get('gt_label')
            labels[place] = -1 if label is None else label
            data, image = _stored(info)
        except UserError as error:
            if len(errors) < _show:
                errors.append(str(error))
            continue
        sizes[place] = image.shape[:2]
        digest = hashlib.sha256(data).digest()
        digests[place] = np.frombuffer(digest, np.uint64, 2)
    return Images(labels, sizes, digests, errors)


def _stored(info: dict) -> tuple[Any, np.ndarray]:
    """What is stored of an image, and its pixels."""
    from mmhyperface.datasets.transforms import decode_face, encoded_face

    if 'img' in info:
        return np.ascontiguousarray(info['img']).data, info['img']
    data = encoded_face(info)
    return data, decode_face(data, str(info['img_path']))


def examine(dataset: Any, workers: int, show: int) -> Images:
    """All images."""
    if not len(dataset):
        raise UserError(f'{type(dataset).__name__} is empty')
    starts = range(0, len(dataset), TASK)
    tasks = (range(start, min(start + TASK, len(dataset))) for start in starts)
    with ProcessPoolExecutor(
        workers, initializer=_take, initargs=(dataset, show)
    ) as pool:
        looked = in_order(pool, look, tasks, AHEAD * workers)
        parts = list(track(looked, 'looking at images', len(starts), transient=True))
    *arrays, errors = zip(*parts, strict=True)
    labels, sizes, digests = map(np.concatenate, arrays)
    return Images(labels, sizes, digests, [error for part in errors for error in part])


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


def findings(images: Images, show: int, size: tuple[int, int] | None) -> list[Finding]:
    """What is remarkable about a data set, whose images should be of this size."""
    differs = (images.sizes != (size or images.sizes)).any(axis=1)
    other = np.flatnonzero(images.good & differs)
    damaged = np.count_nonzero(~images.good)
    twins = _equal(images)
    crossed = [t for t in twins if len(set(images.labels[t].tolist())) > 1]
    labels, counts = np.unique(_labels(images), return_counts=True)
    lonely = labels[counts == 1]
    return [
        Finding('damaged', damaged, images.errors[:show], bad=True),
        Finding(
            'of another size than LoadFace takes',
            len(other),
            [f'image {number}' for number in other[:show]],
            bad=True,
        ),
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


def _labels(images: Images) -> np.ndarray:
    """Of the good images that have one."""
    return images.labels[images.good & (images.labels >= 0)]


def _equal(images: Images) -> list[np.ndarray]:
    """Numbers of images that are the same, byte by byte, in groups."""
    numbers = np.flatnonzero(images.good)
    order = numbers[np.lexsort(images.digests[numbers].T)]
    found = images.digests[order]
    new = (found[1:] != found[:-1]).any(axis=1)
    starts = np.flatnonzero(np.concatenate([[True], new, [True]]))
    several = np.flatnonzero(np.diff(starts) > 1)
    groups = [np.sort(order[starts[i] : starts[i + 1]]) for i in several]
    return sorted(groups, key=lambda group: group[0])


def _numbers(images: np.ndarray) -> str:
    return 'images ' + ', '.join(map(str, images))


def report(dataset: Any, images: Images, found: list[Finding]) -> bool:
    """Print what was found; whether all is well."""
    console = Console()
    announced = getattr(dataset, 'metainfo', {}).get('num_classes')
    summary = Table(title=f'{type(dataset).__name__}: {len(images.labels):,} images')
    summary.add_column('')
    summary.add_column('', justify='right')
    _, each = np.unique(images.labels[images.labels >= 0], return_counts=True)
    if len(each):
        summary.add_row('identities with images', f'{len(each):,}')
        if announced is not None:
            summary.add_row('identities announced', f'{announced:,}')
        summary.add_row(
            'images of one', f'{each.min()} to {each.max()}, median {np.median(each):g}'
        )
    sizes, counts = np.unique(images.sizes[images.good], axis=0, return_counts=True)
    for place in np.argsort(-counts, kind='stable')[:5]:
        height, width = sizes[place]
        summary.add_row(f'{height} x {width} (height x width)', f'{counts[place]:,}')
    if len(sizes) > 5:
        summary.add_row('other sizes', f'{len(sizes) - 5:,}')
    for finding in found:
        summary.add_row(finding.what, f'{finding.count:,}')
    console.print(summary)
    for finding in found:
        for example in finding.examples:
            console.print(f'{finding.what}: {example}', soft_wrap=True, markup=False)
    return not any(finding.bad and finding.count for finding in found)


def main() -> None:
    args = parse_args()

    from mmhyperface.registry import DATASETS

    cv2.setNumThreads(0)
    config = dataset_config(load_config(args.config, args.cfg_options), args.phase)
    size = wanted_size(config)
    dataset = DATASETS.build(_without_pipeline(config))
    images = examine(dataset, args.workers, args.show)
    if not report(dataset, images, findings(images, args.show, size)):
        raise SystemExit(1)


if __name__ == '__main__':
    with report_errors():
        main()
