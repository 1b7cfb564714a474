"""Look at every image of the data sets of a config, and tell what is wrong with them.

Exit status 0: nothing is. 1: some image is damaged, has a label out of range or another
size than LoadFace takes, or cannot be an aligned crop; or a data set cannot be read.

Where LoadFace resizes, aligned crops are images of its size, or most others of one
size, if that has the same aspect ratio (or nearly, if all have that size) and is at
most twice as large: photographs differ in size, or are larger.
"""

import argparse
import hashlib
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from typing import TYPE_CHECKING, Any, NamedTuple

import cv2
import numpy as np
from mmengine.config import Config, ConfigDict
from rich.console import Console
from rich.progress import track
from rich.table import Table

from mmhyperface.engine.launch import load_config
from mmhyperface.utils.command_line import Overrides, report_errors
from mmhyperface.utils.configs import dataset_config
from mmhyperface.utils.errors import UserError
from mmhyperface.utils.worker_processes import end_with_parent, in_order

if TYPE_CHECKING:
    from mmhyperface.datasets.transforms import LoadFace

PHASES = ('train', 'val', 'test')
# Times the size that LoadFace takes.
LARGEST_CROP = 2
# Of aspect ratios, if all images have the same size, and if most have.
ALIKE, SAME = 1.25, 1.02
NO_CROPS = 'not like aligned crops'
ALIGN = (
    'photographs are aligned with tools/dataset_converters/align_faces.py; for crops '
    'of another shape or size set {}=(HEIGHT,WIDTH)'
)
# Images of one task of a worker, and tasks that a worker may be ahead.
TASK = 256
AHEAD = 3


class Images(NamedTuple):
    """What is found out about images, in their order.

    Attributes:
        labels: int64 [N]; -1 where there is none: in a test set, or a damaged record.
        sizes: Height and width, int32 [N, 2]; 0 of a damaged image.
        digests: Of what is stored, uint64 [N, 2].
        turned: Whether EXIF tells to turn it, bool [N].
        errors: What is wrong with some of the damaged images.
    """

    labels: np.ndarray
    sizes: np.ndarray
    digests: np.ndarray
    turned: np.ndarray
    errors: list[str]

    @property
    def good(self) -> np.ndarray:
        return self.sizes[:, 0] > 0


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    add = parser.add_argument
    add('config', help='config file with the data set')
    add('--phase', choices=PHASES, help='look at its data set alone')
    add('--workers', type=int, default=2, help='processes that decode')
    add('--show', type=int, default=10, help='how many of each kind to name')
    add('--cfg-options', nargs='+', action=Overrides, help='overrides, key=value')
    args = parser.parse_args()
    if args.workers < 1 or args.show < 0:
        parser.error('--workers must be at least 1 and --show at least 0')
    return args


def _stored_images(config: ConfigDict) -> ConfigDict:
    """The config of the stored images, each once.

    Errors are for the report, and what a pipeline makes is of no interest.
    """
    from mmengine.dataset import ClassBalancedDataset, RepeatDataset

    from mmhyperface.registry import DATASETS, is_a

    if is_a(config, DATASETS, (RepeatDataset, ClassBalancedDataset)):
        return _stored_images(config.dataset)
    if 'datasets' in config:
        config.datasets = [_stored_images(inner) for inner in config.datasets]
    if 'dataset' in config:
        config.dataset = _stored_images(config.dataset)
    config.pop('on_error', None)
    if 'pipeline' in config:
        config.pipeline = []
    return config


def loadings(config: ConfigDict, place: str) -> Iterator[tuple[str, 'LoadFace']]:
    """How images become crops of one size, if they do, with the option that sets it.

    Args:
        config: Of a data set.
        place: The option that this is.
    """
    from mmhyperface.datasets.transforms import AlignFace, LoadFace
    from mmhyperface.registry import TRANSFORMS, is_a

    steps = config.get('pipeline', [])
    loads = [i for i, step in enumerate(steps) if is_a(step, TRANSFORMS, LoadFace)]
    if loads and not any(is_a(step, TRANSFORMS, AlignFace) for step in steps):
        loading = TRANSFORMS.build(steps[loads[-1]])
        if loading.size is not None:
            yield f'{place}.pipeline.{loads[-1]}', loading
        return
    for i, inner in enumerate(config.get('datasets', [])):
        yield from loadings(inner, f'{place}.datasets.{i}')
    if config.get('dataset'):
        yield from loadings(config.dataset, f'{place}.dataset')


_dataset: Any = None
_show = 0


def _take(dataset: Any, show: int) -> None:
    global _dataset, _show
    _dataset, _show = dataset, show
    end_with_parent()


def look(numbers: range) -> Images:
    """What some images are like."""
    from mmhyperface.inference.pictures import orientation_of

    count = len(numbers)
    labels, sizes = np.full(count, -1), np.zeros((count, 2), np.int32)
    digests, errors = np.zeros((count, 2), np.uint64), []
    turned = np.zeros(count, np.bool_)
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
        turned[place] = 'img' not in info and orientation_of(data)[0] != 0
        digest = hashlib.sha256(data).digest()
        digests[place] = np.frombuffer(digest, np.uint64, 2)
    return Images(labels, sizes, digests, turned, errors)


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
    arrays = map(np.concatenate, arrays)
    return Images(*arrays, errors=[error for part in errors for error in part])


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


def findings(
    images: Images,
    show: int,
    loading: 'LoadFace | None',
    option: str,
    path_of: Callable[[int], str],
) -> list[Finding]:
    """What is remarkable about a data set, with `show` examples of each.

    Its images become crops by `loading`, which an option sets, if they do.
    """
    twins = _equal(images)
    crossed = [t for t in twins if len(set(images.labels[t].tolist())) > 1]
    known = images.labels[images.good & (images.labels >= 0)]
    labels, counts = np.unique(known, return_counts=True)
    lonely = labels[counts == 1]

    def of_images(what: str, which: np.ndarray, bad: bool) -> Finding:
        numbers = np.flatnonzero(images.good & which)
        shown = [
            f'image {number}, {path_of(number)} ({height} x {width})'
            for number, (height, width) in zip(
                numbers[:show], images.sizes[numbers[:show]], strict=True
            )
        ]
        return Finding(what, len(numbers), shown, bad)

    of_loading = []
    if loading is not None:
        differs = (images.sizes != loading.size).any(axis=1)
        if loading.resize:
            crops = _may_be_crops(images, loading.size)
            photographs = of_images(NO_CROPS, differs & ~crops, bad=True)
            if photographs.count:
                photographs.examples.append(ALIGN.format(f'{option}.size'))
            resized = of_images('resized by LoadFace', differs & crops, bad=False)
            of_loading = [photographs, resized._replace(examples=[])]
        else:
            what = 'of another size than LoadFace takes'
            of_loading = [of_images(what, differs, bad=True)]
        what = 'turned by EXIF, which LoadFace does not follow'
        of_loading.append(of_images(what, images.turned, bad=True))
    return [
        Finding('damaged', np.count_nonzero(~images.good), images.errors[:show], True),
        *of_loading,
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


def _may_be_crops(images: Images, size: tuple[int, int]) -> np.ndarray:
    """Whether images of another size than this may be aligned crops, bool [N]."""
    others = images.sizes[images.good & (images.sizes != size).any(axis=1)]
    sizes, counts = np.unique(others, axis=0, return_counts=True)
    if not len(sizes) or 2 * counts.max() <= len(others):
        return np.zeros_like(images.good)
    usual = sizes[counts.argmax()]
    height_ratio, width_ratio = usual / size
    ratio = max(height_ratio / width_ratio, width_ratio / height_ratio)
    alike = ratio < (ALIKE if len(sizes) == 1 else SAME)
    is_usual = (images.sizes == usual).all(axis=1)
    return is_usual & bool(alike and max(height_ratio, width_ratio) <= LARGEST_CROP)


def _equal(images: Images) -> list[np.ndarray]:
    """Numbers of images that are the same, byte by byte, in groups."""
    numbers = np.flatnonzero(images.good)
    order = numbers[np.lexsort(images.digests[numbers].T)]
    digests = images.digests[order]
    new = (digests[1:] != digests[:-1]).any(axis=1)
    starts = np.flatnonzero(np.concatenate([[True], new, [True]]))
    several = np.flatnonzero(np.diff(starts) > 1)
    groups = [np.sort(order[starts[i] : starts[i + 1]]) for i in several]
    return sorted(groups, key=lambda group: group[0])


def _numbers(images: np.ndarray) -> str:
    return 'images ' + ', '.join(map(str, images))


def report(name: str, dataset: Any, images: Images, issues: list[Finding]) -> bool:
    """Print what was found in the data set of that name; whether all is well."""
    console = Console()
    announced = getattr(dataset, 'metainfo', {}).get('num_classes')
    title = f'{name}: {type(dataset).__name__}: {len(images.labels):,} images'
    summary = Table(title=title)
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
    for finding in issues:
        summary.add_row(finding.what, f'{finding.count:,}')
    console.print(summary)
    for finding in issues:
        for example in finding.examples:
            console.print(f'{finding.what}: {example}', soft_wrap=True, markup=False)
    return not any(finding.bad and finding.count for finding in issues)


def phases_of(config: Config, phase: str | None) -> dict[str, str]:
    """The data sets to look at, each by the first phase that has it, and by all."""
    chosen = [phase] if phase else [p for p in PHASES if config.get(f'{p}_dataloader')]
    known: list[tuple[ConfigDict, list[str]]] = []
    for one in chosen:
        dataset = dataset_config(config, one)
        same = next((names for other, names in known if other == dataset), None)
        if same is None:
            known.append((dataset, [one]))
        else:
            same.append(one)
    if not known:
        raise UserError(f'{config.filename}: has no data set')
    return {names[0]: ' and '.join(names) for _, names in known}


def main() -> None:
    args = parse_args()

    from mmhyperface.datasets.face_dataset import loader
    from mmhyperface.datasets.wrappers import numbered

    cv2.setNumThreads(0)
    config = load_config(args.config, args.cfg_options)
    good, counts, unread = True, {}, []
    for phase, name in phases_of(config, args.phase).items():
        own = dataset_config(config, phase)
        loads = loadings(own, f'{phase}_dataloader.dataset')
        option, loading = next(loads, ('', None))
        try:
            with loader(f'{phase}_dataloader', config.get('data_root')):
                dataset = numbered(_stored_images(own))
            images = examine(dataset, args.workers, args.show)
        except UserError as error:
            unread.append(f'{name}: {error}')
            continue

        def path_of(number: int, dataset: Any = dataset) -> str:
            return str(dataset.get_data_info(number).get('img_path', 'of no file'))

        issues = findings(images, args.show, loading, option, path_of)
        good &= report(name, dataset, images, issues)
        counts[name] = len(images.labels)
    each = ', '.join(f'{name} {count:,}' for name, count in counts.items())
    print(f'looked at {sum(counts.values()):,} images' + f' ({each})' * bool(counts))
    if unread:
        alone = '' if args.phase else '. --phase looks at the data set of one phase'
        raise UserError('; '.join(unread) + alone)
    if not good:
        raise SystemExit(1)


if __name__ == '__main__':
    with report_errors():
        main()
