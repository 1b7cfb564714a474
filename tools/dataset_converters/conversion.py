"""What the converters of data sets have in common."""

import argparse
import itertools
import os
import shutil
import signal
import sys
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

import cv2
import numpy as np
from rich.progress import track

from mmhyperface.utils.atomic_files import OVERWRITE, beside
from mmhyperface.utils.command_line import report_errors
from mmhyperface.utils.errors import INCOMPLETE, UserError, of_the_disk, unwritable
from mmhyperface.utils.worker_processes import end_with_parent, in_order

if TYPE_CHECKING:
    from mmhyperface.datasets.damage import DamagedImage
    from mmhyperface.datasets.face_dataset import FaceDataset
    from mmhyperface.datasets.face_folder import FaceFolder

# Images of one task of a worker, and tasks that a worker may be ahead.
TASK = 16
AHEAD = 3
# So many damaged images are named.
NAMED = 10
QUALITY = 95
# Far more than a crop has, or a machine.
LONGEST = 4096
MOST_WORKERS = 1024
# What files begin with.
_TYPES = {
    b'\xff\xd8': '.jpg',
    b'\x89PNG': '.png',
    b'BM': '.bmp',
    b'P2': '.pgm',
    b'P5': '.pgm',
    b'RIFF': '.webp',
}


def conversion_parser(
    description: str | None, source: str, destination: str
) -> argparse.ArgumentParser:
    """A parser with the arguments that all converters share."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument('source', help=source)
    parser.add_argument('destination', help=destination)
    parser.add_argument(
        '--overwrite', action='store_true', help='replace what is there'
    )
    return parser


def add_image_arguments(parser: argparse.ArgumentParser) -> None:
    """Those of converters that look at images."""
    parser.add_argument(
        '--skip-damaged',
        action='store_true',
        help='leave damaged images out and tell of them at the end, instead of '
        'stopping at the first',
    )
    parser.add_argument(
        '--workers',
        type=_up_to(MOST_WORKERS),
        default=2,
        help='processes that decode; default 2',
    )


def add_encoding_arguments(parser: argparse.ArgumentParser) -> None:
    """Those of converters that may encode images anew."""
    parser.add_argument(
        '--size',
        type=_up_to(LONGEST),
        nargs=2,
        metavar=('HEIGHT', 'WIDTH'),
        help='bring images of another size to this one, as JPEG; those that have it '
        'are copied',
    )
    parser.add_argument(
        '--quality',
        type=_up_to(100),
        help='encode all images anew, as JPEG of this quality, 1 to 100; with --size '
        f'alone it is {QUALITY}, for those that change',
    )


def _up_to(most: int) -> Callable[[str], int]:
    def number(text: str) -> int:
        if not text.isdecimal() or not 1 <= int(text) <= most:
            raise argparse.ArgumentTypeError(f'expected 1 to {most}, got {text!r}')
        return int(text)

    return number


@contextmanager
def reported_conversion() -> Generator[None, None, None]:
    """Errors are one message; a signal to stop leaves no file in the making behind."""
    for stop in (signal.SIGINT, signal.SIGTERM):
        signal.signal(stop, lambda number, _: sys.exit(128 + number))
    with report_errors():
        yield


def require_all(folder: 'FaceFolder') -> None:
    """Exit with status 3 if images of a folder were passed over, as a warning says."""
    if folder.left_out:
        raise SystemExit(INCOMPLETE)


class Encoding(NamedTuple):
    """What images become.

    Attributes:
        size: Height and width, or None for their own.
        quality: Of the JPEG; None to copy those that have the size.
    """

    size: tuple[int, int] | None = None
    quality: int | None = None

    def __call__(self, data: bytes, image: np.ndarray) -> tuple[bytes, tuple[int, int]]:
        """New bytes and size of an image, given its bytes and pixels."""
        old = image.shape[:2]
        size = self.size or old
        if size == old and self.quality is None:
            return data, old
        from mmhyperface.datasets.transforms import LoadFace

        resized = LoadFace(size).transform(dict(img=image))['img']
        quality = [cv2.IMWRITE_JPEG_QUALITY, self.quality or QUALITY]
        return cv2.imencode('.jpg', resized, quality)[1].tobytes(), size


def encoding_of(args: argparse.Namespace) -> Encoding:
    """What the arguments of :func:`add_encoding_arguments` ask for."""
    return Encoding(tuple(args.size) if args.size else None, args.quality)


class Picture(NamedTuple):
    """An image as it goes into another data set.

    Attributes:
        source: The file or record it is from.
        label: Its identity; None in a test set.
        data: Encoded bytes.
        size: Height and width.
    """

    source: str
    label: int | None
    data: bytes
    size: tuple[int, int]


class Pictures:
    """The images of a data set, which worker processes read, decode and encode.

    To be iterated over once, within a ``with`` block. A damaged image is an error, or
    with `skip_damaged` None in its place, unless all are. Memory does not grow with
    their number.

    Args:
        dataset: With encoded images, or with files.
        workers: Number of processes.
        skip_damaged: Whether to pass over damaged images.
        encoding: What they become.
        numbers: Which images, in this order; by default all.

    Attributes:
        count: Number of good images so far.
        damaged: What is wrong with each image that was passed over.
    """

    def __init__(
        self,
        dataset: 'FaceDataset',
        workers: int,
        skip_damaged: bool,
        encoding: Encoding | None = None,
        numbers: range | np.ndarray | None = None,
    ) -> None:
        self.numbers = range(len(dataset)) if numbers is None else numbers
        self.workers = workers
        self.skip_damaged = skip_damaged
        self.count = 0
        self.damaged: dict[str, None] = {}
        self._work = dataset, encoding or Encoding()

    def __enter__(self) -> 'Pictures':
        self._stream = self._run()
        return self

    def __exit__(self, *_: Any) -> None:
        self._stream.close()

    def __iter__(self) -> Iterator[Picture | None]:
        return self._stream

    def _run(self) -> Generator[Picture | None, None, None]:
        starts = range(0, len(self.numbers), TASK)
        tasks = (self.numbers[start : start + TASK] for start in starts)
        with ProcessPoolExecutor(
            self.workers, initializer=_prepare, initargs=self._work
        ) as pool:
            results = in_order(pool, _look, tasks, AHEAD * self.workers)
            for pictures in track(results, 'converting', len(starts), transient=True):
                for picture in pictures:
                    if isinstance(picture, Picture):
                        self.count += 1
                        yield picture
                    else:
                        self._pass_over(picture)
                        yield None
        if not self.count:
            raise UserError(
                f'all {len(self.damaged)} images are damaged; the first one: '
                f'{next(iter(self.damaged))}'
            )

    def _pass_over(self, error: 'DamagedImage') -> None:
        from mmhyperface.datasets.damage import DamagedImage

        if not self.skip_damaged:
            reason = str(error).rstrip('.')
            raise DamagedImage(f'{reason}. --skip-damaged leaves such images out')
        self.damaged[str(error)] = None

    def report(self) -> None:
        """Tell of the images that were passed over, if there are any."""
        if not self.damaged:
            return
        print(f'damaged images, left out: {len(self.damaged)}')
        for message in itertools.islice(self.damaged, NAMED):
            print(f'  {message}')
        if len(self.damaged) > NAMED:
            print('  ...')


_dataset: Any = None
_encoding = Encoding()


def _prepare(dataset: 'FaceDataset', encoding: Encoding) -> None:
    """In a worker. Ctrl-C is for the parent, which then ends its workers."""
    global _dataset, _encoding
    _dataset, _encoding = dataset, encoding
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    end_with_parent()
    cv2.setNumThreads(0)


def _look(numbers: range | np.ndarray) -> 'list[Picture | DamagedImage]':
    return [_picture(int(number)) for number in numbers]


def _picture(number: int) -> 'Picture | DamagedImage':
    from mmhyperface.datasets.damage import DamagedImage
    from mmhyperface.datasets.transforms import decode_face, encoded_face

    try:
        info = _dataset.get_data_info(number)
        source = str(info['img_path'])
        data = encoded_face(info)
        image = decode_face(data, source)
    except DamagedImage as error:
        return error
    return Picture(source, info.get('gt_label'), *_encoding(data, image))


def put(folder: str, name: str, picture: Picture, link: bool = False) -> None:
    """Write an image into a folder, or a symbolic link to its file.

    `name` is a path within it, and gets an ending if it has none of an image; where an
    image has that name already, also a number: ``a.jpg``, ``a_2.jpg``.
    """
    from mmhyperface.datasets.readers.image_files import is_image_name

    if '\0' in name or any(p.startswith('.') or not p for p in name.split('/')):
        raise UserError(
            f'{picture.source}: the name {name!r} is none within a folder: expected '
            'parts between slashes, none of them empty or with a dot at its start'
        )
    if not is_image_name(name):
        name += _ending(picture)
    stem, ending = os.path.splitext(os.path.join(folder, name))
    os.makedirs(os.path.dirname(stem), exist_ok=True)
    for number in itertools.count(1):
        path = f'{stem}_{number}{ending}' if number > 1 else stem + ending
        try:
            if link:
                os.symlink(os.path.abspath(picture.source), path)
            else:
                with open(path, 'xb') as file:
                    file.write(picture.data)
        except FileExistsError:
            continue
        return


def _ending(picture: Picture) -> str:
    from mmhyperface.datasets.readers.image_files import IMAGE_EXTENSIONS

    for start, ending in _TYPES.items():
        if picture.data.startswith(start):
            return ending
    raise UserError(
        f'{picture.source}: the type of the image is none of '
        f'{", ".join(IMAGE_EXTENSIONS)}; convert it to one of them'
    )


@contextmanager
def new_folder(path: str, overwrite: bool = False) -> Generator[str, None, None]:
    """A folder to write into, which is named `path` at the end.

    An empty folder may be there; with `overwrite` one of images is replaced, as a
    whole, but none that holds other files.
    """
    # A link stays, and what it leads to is replaced.
    path = os.path.realpath(path)
    part = beside(path, 'part')
    try:
        _refuse_to_replace(path, overwrite)
        os.makedirs(part)
        yield part
        _rename_folder(part, path)
    except OSError as error:
        shutil.rmtree(part, ignore_errors=True)
        if of_the_disk(error):
            raise unwritable(path, error) from None
        raise UserError(f'{path} cannot be written: {error}') from None
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _refuse_to_replace(path: str, overwrite: bool) -> None:
    if not os.path.lexists(path):
        return
    if not os.path.isdir(path):
        raise UserError(f'{path} is there already, and is no folder')
    if os.path.ismount(path):
        raise UserError(
            f'{path} is where a file system is mounted, which cannot be replaced as a '
            'whole; name a folder in it'
        )
    if os.listdir(path) and not overwrite:
        raise UserError(f'{path} is there already; to replace it: {OVERWRITE}')
    from mmhyperface.datasets.readers.image_files import is_image_name

    for folder, _, files in os.walk(path):
        for file in files:
            if not is_image_name(file):
                raise UserError(
                    f'{path} holds {os.path.join(folder, file)}, which is no image, '
                    'and is not replaced; remove it, or name another folder'
                )


def _rename_folder(new: str, path: str) -> None:
    if not os.path.isdir(path):
        os.rename(new, path)
        return
    old = beside(path, 'old')
    os.rename(path, old)
    try:
        os.rename(new, path)
    except BaseException:
        os.rename(old, path)
        raise
    shutil.rmtree(old)
