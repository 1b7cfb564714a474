"""Images per second from a ``.rec`` file to batches, beside insightface's loader.

The images are drawn faces with grain, JPEGs of 112 x 112 pixels and some 10 KB. Each
way of reading them goes through all in random order with the same workers and batch
size, turn by turn, several times:

- `decoder`: as many processes that decode images from memory and do nothing else;
- `mmhyperface`: the data set, flip, packing and collation of the MS1M config, uint8
  batches in the main process; then the same with FaceDataPreprocessor there, as
  trainings without a GPU have it;
- `mmpretrain's steps`: the same data set with mmcv's and mmpretrain's transforms and
  mmengine's collation;
- insightface's ``MXFaceDataset`` with its own transforms, if ``DIR/insightface`` is a
  checkout. MXNet is replaced by a reader that does the same over OpenCV.

A ratio is the median over the turns of the rate over that of the decoder in the same
turn.

    python tools/benchmarks/data_loading.py --peer-dir DIR
"""

from __future__ import annotations

import argparse
import struct
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, NamedTuple

import cv2
import numpy as np
from common import benchmark_parser, conclude, new_table, processor
from rich.console import Console
from rich.progress import track
from rich.table import Table

from mmhyperface.engine.launch import load_config
from mmhyperface.utils.command_line import report_errors
from mmhyperface.utils.errors import UserError

if TYPE_CHECKING:
    from mmhyperface.datasets import FaceRecord

ROOT = Path(__file__).resolve().parents[2]
DECODER = 'decoder'
PLAIN = [
    dict(type='LoadFace', size=(112, 112), resize=False),
    dict(type='RandomFlip', prob=0.5, direction='horizontal'),
    dict(type='PackInputs'),
]


def parse_args() -> argparse.Namespace:
    parser = benchmark_parser(__doc__)
    add = parser.add_argument
    add('--images', type=int, default=20_000)
    add('--workers', type=int, default=2)
    add('--batch-size', type=int, default=128)
    add('--repeats', type=int, default=5)
    add('--peer-dir', type=Path, help='folder with a checkout of insightface')
    args = parser.parse_args()
    for name in ('images', 'workers', 'batch_size', 'repeats'):
        if getattr(args, name) < 1:
            raise UserError(f'--{name.replace("_", "-")} must be at least 1')
    return args


def write_records(folder: Path, images: int) -> float:
    """The file that is read; the mean size of an image in bytes."""
    from mmhyperface.datasets import SyntheticFaces
    from mmhyperface.datasets.record_writer import RecordWriter

    each = 10
    people = -(-images // each)
    drawn = SyntheticFaces(people, each, image_size=112)
    rng = np.random.default_rng(0)
    grain = rng.normal(0, 16, (64, 112, 112, 3)).astype(np.float32)
    sizes = []
    with RecordWriter(str(folder / 'train.rec')) as writer:
        for number in track(range(images), 'drawing', transient=True):
            info = drawn.get_data_info(number)
            grained = np.clip(info['img'] + grain[number % 64], 0, 255).astype(np.uint8)
            jpeg = cv2.imencode('.jpg', grained, [cv2.IMWRITE_JPEG_QUALITY, 96])[1]
            writer.add(jpeg.tobytes(), info['gt_label'], str(number))
            sizes.append(len(jpeg))
    return float(np.mean(sizes))


class Decoders:
    """Processes that decode, each a share of the images."""

    def __init__(self, data: FaceRecord, workers: int) -> None:
        import torch

        context = torch.multiprocessing.get_context('fork')
        self.shares = np.array_split(np.arange(len(data)), workers)
        self.pipes = []
        for share in self.shares:
            mine, theirs = context.Pipe()
            context.Process(
                target=self._decode, args=(data, share, theirs), daemon=True
            ).start()
            self.pipes.append(mine)

    @staticmethod
    def _decode(data: FaceRecord, share: np.ndarray, pipe: Any) -> None:
        from mmhyperface.datasets.transforms import decode_face

        encoded = [data.get_data_info(int(i))['img_bytes'] for i in share]
        while True:
            pipe.recv()
            for image in encoded:
                decode_face(image, '')
            pipe.send(len(encoded))

    def __call__(self) -> int:
        for pipe in self.pipes:
            pipe.send('go')
        return sum(pipe.recv() for pipe in self.pipes)


def reading(
    data: Any, args: argparse.Namespace, collate: Callable | None, then: Callable
) -> Callable[[], int]:
    """One pass over a data set, as a function that tells how many images came."""
    from torch.utils.data import DataLoader

    loader = DataLoader(
        data,
        args.batch_size,
        shuffle=True,
        num_workers=args.workers,
        persistent_workers=True,
        collate_fn=collate,
    )

    def epoch() -> int:
        return sum(then(batch) for batch in loader)

    return epoch


def images_in(batch: dict | Iterable) -> int:
    inputs = batch['inputs'] if isinstance(batch, dict) else next(iter(batch))
    return len(inputs)


def contenders(args: argparse.Namespace, folder: Path) -> dict[str, Callable[[], int]]:
    """What is measured, by name."""
    from mmhyperface.datasets import FaceRecord, collate_faces
    from mmhyperface.models import FaceDataPreprocessor
    from mmhyperface.registry import FUNCTIONS

    config = load_config(str(ROOT / 'configs' / 'sphereface2_r100_ms1m.py'))
    pipeline = config.train_dataloader.dataset.pipeline
    ours = FaceRecord(str(folder), pipeline=pipeline)
    normalise = FaceDataPreprocessor()
    ways = {
        DECODER: Decoders(ours, args.workers),
        'mmhyperface': reading(ours, args, collate_faces, images_in),
        'mmhyperface, normalised': reading(
            ours, args, collate_faces, lambda batch: images_in(normalise(batch))
        ),
        "mmpretrain's steps": reading(
            FaceRecord(str(folder), pipeline=PLAIN),
            args,
            FUNCTIONS.get('mmengine.default_collate'),
            images_in,
        ),
    }
    if args.peer_dir:
        peer = insightface(args.peer_dir, folder)
        ways['insightface'] = reading(peer, args, None, images_in)
    return ways


# ---- insightface's data set, without MXNet


class MXHeader(NamedTuple):
    flag: int
    label: Any


class MXRecordIO:
    """What it uses of MXNet's ``MXIndexedRecordIO``."""

    def __init__(self, index: str, records: str, mode: str) -> None:
        from mmhyperface.datasets.readers.recordio import RecordFile

        self.file = RecordFile(records)
        lines = np.loadtxt(index, np.int64, ndmin=2)
        self.places = dict(lines.tolist())
        self.keys = list(self.places)

    def read_idx(self, key: int) -> bytes:
        return self.file.read(self.places[key])


class MXImage(NamedTuple):
    pixels: np.ndarray

    def asnumpy(self) -> np.ndarray:
        return self.pixels


def mx_unpack(record: bytes) -> tuple[MXHeader, bytes]:
    flag, label, _, _ = struct.unpack_from('<IfQQ', record)
    if not flag:
        return MXHeader(flag, label), record[24:]
    labels = np.frombuffer(record, '<f4', flag, 24)
    return MXHeader(flag, labels), record[24 + 4 * flag :]


def mx_imdecode(data: bytes) -> MXImage:
    image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    return MXImage(cv2.cvtColor(image, cv2.COLOR_BGR2RGB))


def insightface(peer_dir: Path, folder: Path) -> Any:
    """Its data set, with what it imports besides in the place of MXNet."""
    modules = {
        'mxnet': dict(recordio=None, image=None),
        'mxnet.recordio': dict(MXIndexedRecordIO=MXRecordIO, unpack=mx_unpack),
        'mxnet.image': dict(imdecode=mx_imdecode),
        'utils': {},
        # For its own loader, which is not used.
        'utils.utils_distributed_sampler': dict.fromkeys(
            ('DistributedSampler', 'get_dist_info', 'worker_init_fn')
        ),
    }
    for name, content in modules.items():
        module = ModuleType(name)
        vars(module).update(content)
        sys.modules[name] = module
    sys.modules['mxnet'].recordio = sys.modules['mxnet.recordio']
    sys.modules['mxnet'].image = sys.modules['mxnet.image']
    from classifier_peers import Peer, load

    peer = Peer('insightface', 'arcface_torch/dataset.py', lambda *_: None)
    return load(peer_dir, peer).MXFaceDataset(str(folder), local_rank=0)


# ---- measuring


def measure(ways: dict[str, Callable[[], int]], repeats: int) -> dict[str, list[float]]:
    """Images per second of each way in each turn, after one that does not count."""
    rates: dict[str, list[float]] = {name: [] for name in ways}
    for turn in track(range(repeats + 1), 'reading', transient=True):
        for name, read in ways.items():
            start = time.perf_counter()
            images = read()
            if turn:
                rates[name].append(images / (time.perf_counter() - start))
    return rates


def table_of(rates: dict[str, list[float]], args: argparse.Namespace) -> Table:
    table = new_table(
        args,
        '',
        'images / s',
        '/ decoder',
        'quartiles',
        *(['/ insightface'] if args.peer_dir else []),
        title=f'{args.images:,} images, {args.workers} workers, batch '
        f'{args.batch_size}',
    )
    for name, own in rates.items():
        shares = np.divide(own, rates[DECODER])
        low, high = np.percentile(shares, [25, 75])
        cells = [name, f'{np.median(own):,.0f}', f'{np.median(shares):.2f}']
        cells += [f'{low:.2f} to {high:.2f}']
        if args.peer_dir:
            cells += [f'{np.median(np.divide(own, rates["insightface"])):.2f}']
        table.add_row(*cells)
    return table


def main() -> None:
    args = parse_args()

    import torch

    from mmhyperface.datasets.transforms.loading import simplejpeg

    cv2.setNumThreads(0)
    torch.set_num_threads(1)
    console = Console(width=100)
    with tempfile.TemporaryDirectory() as name:
        size = write_records(Path(name), args.images)
        rates = measure(contenders(args, Path(name)), args.repeats)
    settings = dict(
        device=processor(),
        torch=torch.__version__,
        decoder='OpenCV' if simplejpeg is None else 'simplejpeg',
        bytes_an_image=round(size),
        repeats=args.repeats,
    )
    console.print(table_of(rates, args))
    conclude(console, args, settings, rates=rates)
    if args.peer_dir:
        console.print('insightface: its MXNet reader replaced by one over OpenCV')


if __name__ == '__main__':
    with report_errors():
        main()
