"""Crop the faces of photographs, brought to the standard place by five landmarks.

    python tools/dataset_converters/align_faces.py photographs crops \\
        --yunet face_detection_yunet_2023mar.onnx --workers 8

Each image below SOURCE, and each that the file of landmarks names, gives one crop at
the same path below DESTINATION. Landmarks are left eye, right eye, nose, left and right
corner of the mouth, left and right as one looks at the picture, x and y in pixels as
they are stored, whatever orientation EXIF tells; of a TIFF, upright.

Crops that exist are passed over: a run that was stopped goes on with the same command.
DESTINATION/not_aligned.tsv tells which pictures have no crop and why; the next run
tries them again. DESTINATION/landmarks.tsv keeps what YuNet found, for --landmarks, so
that crops of another size need no detection.

Exit status 0: each picture has a crop. 3: some have none. 1: not a single one has, or a
mistake, which is told.
"""

import argparse
import csv
import os
import signal
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn
from rich.table import Column, Table

from mmhyperface.inference.detection import (
    CHOICES,
    LONGEST,
    SCORE_THRESHOLD,
    YuNet,
    choose_face,
    quiet_opencv,
)
from mmhyperface.inference.options import tell
from mmhyperface.utils.command_line import report_errors
from mmhyperface.utils.errors import INCOMPLETE, UserError, unwritable
from mmhyperface.utils.worker_processes import end_with_parent, in_order

# Pictures of one task of a worker.
TASK = 16


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add('source', metavar='SOURCE', help='folder of pictures, of any depth')
    add('destination', metavar='DESTINATION', help='folder of the crops')
    origin = parser.add_mutually_exclusive_group(required=True)
    origin.add_argument(
        '--landmarks',
        metavar='FILE',
        help='lines `path x1 y1 ... x5 y5`, perhaps with a score, or a .csv, .tsv or '
        '.parquet table with columns path, x1, y1 ... x5, y5; paths start from SOURCE',
    )
    origin.add_argument(
        '--yunet', metavar='MODEL', help='find them with this model for FaceDetectorYN'
    )
    add(
        '--size',
        nargs=2,
        type=int,
        default=(112, 112),
        metavar=('HEIGHT', 'WIDTH'),
        help='of a crop; 112 112 if unset',
    )
    add('--format', choices=('jpg', 'png'), default='jpg', help='of the crops')
    add('--quality', type=int, default=95, help='of JPEG, up to 100')
    add('--workers', type=int, default=2, help='processes')
    add('--overwrite', action='store_true', help='make crops that exist anew')
    add(
        '--score-threshold',
        type=float,
        default=SCORE_THRESHOLD,
        help='least score of what YuNet finds to be a face',
    )
    add(
        '--choose',
        choices=CHOICES,
        default='largest',
        help='which of several faces of a picture',
    )
    add(
        '--detect-size',
        type=int,
        default=LONGEST,
        help='pictures are reduced to this longest side for YuNet',
    )
    args = parser.parse_args()
    for name in ('workers', 'detect_size', 'quality'):
        if getattr(args, name) < 1:
            parser.error(f'--{name.replace("_", "-")} must be at least 1')
    if min(args.size) < 1 or args.quality > 100 or not 0 < args.score_threshold <= 1:
        parser.error('--size, --quality or --score-threshold is out of range')
    return args


def require_apart(source: str, destination: str) -> None:
    """No crop may fall among the pictures, and perhaps replace one."""
    real = [os.path.realpath(folder) for folder in (source, destination)]
    if os.path.commonpath(real) in real:
        raise UserError(
            f"DESTINATION '{destination}' and SOURCE '{source}' are one folder, or one "
            'lies in the other; choose another DESTINATION'
        )


def require_different_crops(pictures: Sequence[str]) -> None:
    first: dict[str, str] = {}
    for picture in pictures:
        stem = os.path.splitext(picture)[0]
        other = first.setdefault(stem, picture)
        if other != picture:
            raise UserError(
                f"'{other}' and '{picture}' would give the same crop; rename one"
            )


class Outcome(NamedTuple):
    """What became of a picture.

    Attributes:
        path: from SOURCE on.
        reason: why it has no crop, as ``kind: particulars``.
        detected: landmarks and score by the detector.
        remarks: on how it was turned for the detector.
    """

    path: str
    reason: str = ''
    detected: Sequence[float] = ()
    remarks: tuple[str, ...] = ()


class Aligner:
    """Makes crops as the arguments say."""

    def __init__(self, args: argparse.Namespace) -> None:
        from mmhyperface.datasets.transforms import AlignFace

        self.args = args
        self.align = AlignFace(args.size)
        self.options = (
            [cv2.IMWRITE_JPEG_QUALITY, args.quality] if args.format == 'jpg' else []
        )
        self.detector = None
        if args.yunet:
            self.detector = YuNet(args.yunet, args.score_threshold, args.detect_size)

    def __call__(self, path: str, points: Sequence[float] | None) -> Outcome:
        """Make the crop of a picture, with these landmarks or those that are found."""
        outcome = self._outcome(path, points)
        if outcome.reason:
            # There may be one of a run with other options.
            Path(crop_of(path, self.args)).unlink(missing_ok=True)
        return outcome

    def _outcome(self, path: str, points: Sequence[float] | None) -> Outcome:
        from mmhyperface.datasets.damage import DamagedImage
        from mmhyperface.datasets.transforms import decode_face, encoded_face
        from mmhyperface.inference.pictures import orientation_of

        if not _can_be_listed(path):
            return Outcome(path, 'name: not UTF-8, or with tabs or line breaks')
        if points is None and self.detector is None:
            return Outcome(path, f'no landmarks: {self.args.landmarks} has none')
        source = os.path.join(self.args.source, path)
        detected: Sequence[float] = ()
        remarks: tuple[str, ...] = ()
        try:
            data = encoded_face({'img_path': source})
            image = decode_face(data, source)
            if self.detector is not None:
                turns, remarks = orientation_of(data)
                detected = self._find(self.detector, image, turns)
                if not detected:
                    return Outcome(path, 'no face: YuNet found none')
            place = np.array(detected[:10] or points).reshape(5, 2)
            face = dict(img=image, img_path=source, landmarks=place)
            crop = self.align.transform(face)['img']
        except (UserError, cv2.error) as error:
            kind = 'damaged' if isinstance(error, DamagedImage) else 'impossible'
            why = ' '.join(str(error).removeprefix(f'{source}: ').split())
            return Outcome(path, f'{kind}: {why}')
        self._write(crop_of(path, self.args), crop)
        return Outcome(path, detected=detected, remarks=remarks)

    def _find(self, detector: YuNet, image: np.ndarray, turns: int) -> list[float]:
        """x1 y1 to x5 y5 in pixels, and the score, of one face; [] if there is none.

        Rounded as they will be written, so that crops from the file are the same.
        """
        faces = detector.detect(image, turns)
        if not faces:
            return []
        face = faces[choose_face(faces, self.args.choose, image.shape[:2])]
        return np.round([*face.landmarks.ravel(), face.score], 3).tolist()

    def _write(self, path: str, crop: np.ndarray) -> None:
        """Whenever the process may be killed, a crop that is there is whole."""
        data = cv2.imencode(f'.{self.args.format}', crop, self.options)[1]
        part = Path(self.args.destination, f'.{os.getpid()}.part')
        try:
            part.write_bytes(data.tobytes())
            os.makedirs(os.path.dirname(path), exist_ok=True)
            os.replace(part, path)
        except OSError as error:
            part.unlink(missing_ok=True)
            raise unwritable(path, error) from None


def crop_of(picture: str, args: argparse.Namespace, ending: str | None = None) -> str:
    stem = os.path.splitext(picture)[0]
    return os.path.join(args.destination, f'{stem}.{ending or args.format}')


def _can_be_listed(path: str) -> bool:
    try:
        path.encode()
    except UnicodeEncodeError:
        return False
    return not any(character in path for character in '\t\r\n')


Task = list[tuple[str, Sequence[float] | None]]
_aligner: Any = None


def _start(args: argparse.Namespace) -> None:
    """Make a worker ready."""
    global _aligner
    # Ctrl-C ends it at once, without a traceback.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    end_with_parent()
    prepare_opencv()
    _aligner = Aligner(args)


def prepare_opencv() -> None:
    """One thread, and no warnings amid the progress bar."""
    cv2.setNumThreads(0)
    quiet_opencv(2)


def work(task: Task) -> list[Outcome]:
    return [_aligner(path, points) for path, points in task]


def outcomes(
    tasks: Iterator[Task], args: argparse.Namespace
) -> Iterator[list[Outcome]]:
    """What comes of the tasks, in their order; few of them are under way at a time."""
    pool = ProcessPoolExecutor(args.workers, initializer=_start, initargs=(args,))
    try:
        yield from in_order(pool, work, tasks, 4 * args.workers)
    except BrokenProcessPool:
        raise UserError(
            'a worker came to an end, perhaps for want of memory. What is done is '
            'kept: run the same command again, with fewer --workers'
        ) from None
    finally:
        pool.shutdown(cancel_futures=True)


def landmark_lines(destination: str | Path) -> Iterator[tuple[str, str]]:
    """(path, line) of what earlier runs found, but for a line that is unfinished."""
    table = Path(destination, 'landmarks.tsv')
    if not table.exists():
        return
    with open(table, encoding='utf-8', newline='\n') as file:
        next(file, None)
        for line in file:
            if line.endswith('\n'):
                ((path, *_),) = csv.reader([line], delimiter='\t')
                yield path, line


def begin_tables(todo: Sequence[str], args: argparse.Namespace) -> None:
    """Take what will be found out anew from the tables beside the crops."""
    from mmhyperface.inference.inputs import COLUMNS

    destination = Path(args.destination)
    destination.mkdir(parents=True, exist_ok=True)
    for part in destination.glob('.*.part'):
        part.unlink()
    (destination / 'not_aligned.tsv').write_text('path\treason\n')
    if args.yunet:
        part = destination / '.landmarks.part'
        again = set(todo)
        with open(part, 'w', encoding='utf-8', newline='\n') as file:
            file.write('\t'.join([*COLUMNS, 'score']) + '\n')
            for path, line in landmark_lines(destination):
                if path not in again:
                    file.write(line)
        part.replace(destination / 'landmarks.tsv')


def record(ends: Sequence[Outcome], args: argparse.Namespace) -> None:
    for name, rows in (
        ('not_aligned.tsv', [(end.path, end.reason) for end in ends if end.reason]),
        ('landmarks.tsv', [(end.path, *end.detected) for end in ends if end.detected]),
    ):
        if rows:
            with open(
                Path(args.destination, name),
                'a',
                encoding='utf-8',
                errors='backslashreplace',
                newline='',
            ) as file:
                writer = csv.writer(file, delimiter='\t', lineterminator='\n')
                writer.writerows(rows)


def remaining(pictures: Sequence[str], args: argparse.Namespace) -> list[str]:
    """The pictures that have no crop yet, or no landmarks in the table.

    Raises:
        UserError: if there are crops of another format or size.
    """
    for path in pictures:
        other = crop_of(path, args, 'png' if args.format == 'jpg' else 'jpg')
        if os.path.exists(other):
            raise UserError(
                f"'{other}' is a crop of another format; choose another DESTINATION, "
                'or the same --format'
            )
    if args.overwrite:
        return list(pictures)
    done = {path for path in pictures if os.path.exists(crop_of(path, args))}
    if done:
        require_size(crop_of(min(done), args), args.size)
    if args.yunet:
        # A run that is killed may leave crops without their lines.
        done &= {path for path, _ in landmark_lines(args.destination)}
    return [path for path in pictures if path not in done]


def require_size(crop: str, size: Sequence[int]) -> None:
    from mmhyperface.datasets.transforms import decode_face, encoded_face

    height, width = decode_face(encoded_face({'img_path': crop}), crop).shape[:2]
    if [height, width] != list(size):
        raise UserError(
            f"'{crop}' is {height}x{width} (height x width); choose another "
            'DESTINATION, or --overwrite'
        )


def align(
    pictures: Sequence[str],
    landmarks: dict[str, Sequence[float]],
    misnamed: Sequence[str],
    args: argparse.Namespace,
) -> Counter:
    """Make the crops that are missing; how many pictures came to which end."""
    from mmhyperface.inference.inputs import MISNAMED

    todo = remaining(pictures, args)
    begin_tables(todo, args)
    record([Outcome(path, f'misnamed: {MISNAMED}') for path in misnamed], args)
    tasks: Iterator[Task] = (
        [(path, landmarks.get(path)) for path in todo[start : start + TASK]]
        for start in range(0, len(todo), TASK)
    )
    done = len(pictures) - len(todo)
    counts = Counter({'aligned before': done, 'aligned now': 0})
    if misnamed:
        counts['not aligned, misnamed'] = len(misnamed)
    columns = ('aligning', BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    # Without a thread of its own, which forked workers could inherit at a bad moment.
    with Progress(*columns, transient=True, auto_refresh=False) as progress:
        bar = progress.add_task('', total=len(pictures), completed=done)
        for ends in outcomes(tasks, args):
            record(ends, args)
            for end in ends:
                kind = end.reason.partition(':')[0]
                ending = f'not aligned, {kind}' if kind else 'aligned now'
                counts['; '.join([ending, *end.remarks])] += 1
            progress.update(bar, advance=len(ends), refresh=True)
    return counts


def report(counts: Counter, others: int) -> None:
    table = Table('pictures', Column(f'{counts.total():,}', justify='right'))
    for end, count in counts.items():
        table.add_row(end, f'{count:,}')
    table.add_row('other files, passed over', f'{others:,}')
    Console().print(table)


def main() -> None:
    args = parse_args()

    from mmhyperface.inference.inputs import (
        images_below,
        misnamed_among,
        read_landmarks,
    )

    prepare_opencv()
    require_apart(args.source, args.destination)
    # A mistake in either is told before any picture is read.
    landmarks = read_landmarks(args.landmarks) if args.landmarks else {}
    Aligner(args)
    images, others = images_below(args.source)
    # A file that landmarks name is a picture, whatever its name.
    others = [path for path in others if path not in landmarks]
    misnamed = misnamed_among(args.source, others)
    pictures = sorted({*images, *landmarks})
    if not pictures:
        raise UserError(f"no image below '{args.source}'")
    require_different_crops(pictures)
    try:
        counts = align(pictures, landmarks, misnamed, args)
    except KeyboardInterrupt:
        raise UserError('stopped; the same command goes on from here') from None
    except OSError as error:
        raise UserError(f'cannot write crops: {error}') from None
    report(counts, len(others) - len(misnamed))
    done = sum(counts[end] for end in counts if end.startswith('aligned'))
    if not done:
        raise SystemExit(1)
    if done < counts.total():
        tell(f'why some are not aligned: {Path(args.destination, "not_aligned.tsv")}')
        raise SystemExit(INCOMPLETE)


if __name__ == '__main__':
    with report_errors():
        main()
