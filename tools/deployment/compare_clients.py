"""Ask every client the same questions: is it the same person, in these pairs?

    python tools/deployment/compare_clients.py work_dirs/RUN/iter_800.pth \\
        --config configs/sphereface2_quickstart.py

The checkpoint is exported for onnxruntime, cv2.dnn, cv2.FaceRecognizerSF, insightface's
ArcFaceONNX and torch.export, and each of them embeds the config's test set and compares
its pairs with its own function. All get the same crops, of --crop-size; whoever takes
smaller ones gets them reduced as LoadFace does it.

Exit status 0: no cosine differs by more than --tolerance. 1: one does, or a mistake,
which is told. 3: none does, but some clients are left out, as stderr tells: they are
not installed, or cannot be had with this network.
"""

from __future__ import annotations

import argparse
import math
import sys
import tempfile
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Column, Table

from mmhyperface.deployment import TARGETS
from mmhyperface.deployment.targets import ALIGNED, PRECISIONS
from mmhyperface.engine.launch import load_config
from mmhyperface.utils.choices import TOLERANCES
from mmhyperface.utils.command_line import add_overrides, report_errors
from mmhyperface.utils.errors import INCOMPLETE, UserError
from mmhyperface.utils.paths import require_file, require_folder

if TYPE_CHECKING:
    from mmhyperface.deployment.parity import Verified

CHECKPOINT = 'PyTorch'
CALLS = {
    'onnxruntime': 'onnxruntime',
    'opencv-dnn': 'cv2.dnn',
    'opencv-sface': 'FaceRecognizerSF',
    'insightface': 'ArcFaceONNX',
    'torch-export': 'torch.export',
}
FIGURES = {'accuracy': 'accuracy', 'eer': 'EER'}


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add('checkpoint', metavar='CHECKPOINT', help='what was trained')
    add('--config', required=True, help='it names the test set')
    add_overrides(parser)
    add(
        '--test-sets',
        nargs='+',
        default=[],
        metavar='NAME',
        help='these sets of configs/test_sets, or files like those, instead of the '
        "config's",
    )
    add(
        '--crop-size',
        type=int,
        default=ALIGNED,
        help='side of all crops (default: %(default)s, what FaceRecognizerSF takes)',
    )
    add(
        '--targets',
        nargs='+',
        choices=tuple(TARGETS),
        default=tuple(TARGETS),
        help='some of the clients (default: all)',
    )
    add('--precision', choices=PRECISIONS, default='fp32', help='of the weights')
    add('--tolerance', type=float, help='largest difference of cosines')
    add('--out-dir', metavar='FOLDER', help='keep the exported files here')
    add('--report', metavar='FILE.json', help='write the figures to this file')
    args = parser.parse_args()
    if args.tolerance is None:
        args.tolerance = TOLERANCES[args.precision]
    return args


def main() -> None:
    args = parse_args()

    from mmhyperface.deployment.clients import open_client
    from mmhyperface.deployment.parity import dataset_of, verify
    from mmhyperface.inference.backends import TorchNetwork
    from mmhyperface.inference.loading import get_model

    if args.out_dir:
        require_folder(args.out_dir)
    if args.report:
        require_file(args.report)
    config = load_config(args.config, args.cfg_options)
    tested = load_config(args.config, args.cfg_options, args.test_sets)
    model = get_model(config, args.checkpoint, 'cpu')
    networks: dict[str, Any] = {CHECKPOINT: TorchNetwork(model, args.checkpoint)}
    files = {CHECKPOINT: Path(args.checkpoint).name}
    left_out = []
    with _folder(args.out_dir) as folder:
        for target in args.targets:
            half = '_fp16' if args.precision == 'fp16' else ''
            file = Path(folder) / f'{target}{half}{TARGETS[target].suffix}'
            try:
                _export(model, file, target, args.precision)
                networks[CALLS[target]] = open_client(target, file)
            except UserError as error:
                left_out.append(f'{CALLS[target]} is left out: {error}')
            else:
                files[CALLS[target]] = file.name
        if len(networks) == 1:
            raise UserError('; '.join(left_out))
        dataset = dataset_of(tested, (args.crop_size, args.crop_size))
        verified = verify(tested, dataset, networks, CHECKPOINT)
    for name in dataset.metainfo['test_sets']:
        Console().print(_table(name, verified, files, args))
    for line in left_out:
        print(line, file=sys.stderr)
    if args.report:
        _write_report(args, model.convention.fingerprint, verified, files)
    worst = max(each.difference for each in verified.values())
    if not worst <= args.tolerance:
        raise UserError(
            f'cosines differ by up to {worst:.1e}, and --tolerance is '
            f'{args.tolerance:g}'
        )
    if left_out:
        sys.exit(INCOMPLETE)


def _folder(path: str | None) -> AbstractContextManager[str]:
    if path is None:
        return tempfile.TemporaryDirectory(prefix='mmhyperface_')
    Path(path).mkdir(parents=True, exist_ok=True)
    return nullcontext(path)


def _export(model: Any, file: Path, target: str, precision: str) -> None:
    from mmhyperface.deployment import export_onnx, export_torch

    if target == 'torch-export':
        export_torch(model, file, precision=precision, overwrite=True)
    else:
        export_onnx(model, file, target, precision=precision, overwrite=True)


def _table(
    test_set: str,
    verified: dict[str, Verified],
    files: dict[str, str],
    args: argparse.Namespace,
) -> Table:
    from mmhyperface.deployment.parity import percent

    pairs = next(iter(verified.values())).pairs
    figures = FIGURES | _strictest(test_set, verified[CHECKPOINT].figures)
    table = Table(
        'client',
        Column('file', overflow='fold'),
        '|Δcos|',
        *figures.values(),
        title=f'{test_set}, crops of {args.crop_size} x {args.crop_size}, '
        f'{args.precision}; {pairs:,} pairs',
        padding=(0, 1, 0, 0),
        show_edge=False,
        caption='|Δcos|: largest difference of a cosine from PyTorch',
    )
    for name, each in verified.items():
        values = [
            each.figures.get(f'{test_set}/{figure}', math.nan) for figure in figures
        ]
        table.add_row(
            name,
            files[name],
            '' if name == CHECKPOINT else f'{each.difference:.1e}',
            *(percent(value) for value in values),
        )
    return table


def _strictest(test_set: str, figures: dict[str, float]) -> dict[str, str]:
    """The true accept rate at the lowest false accept rate that the pairs resolve."""
    start = f'{test_set}/tar@far='
    rates = [
        name.removeprefix(start)
        for name, value in figures.items()
        if name.startswith(start) and math.isfinite(value)
    ]
    if not rates:
        return {}
    rate = min(rates, key=float)
    return {f'tar@far={rate}': f'TAR@{float(rate):g}'}


def _write_report(
    args: argparse.Namespace,
    fingerprint: str,
    verified: dict[str, Verified],
    files: dict[str, str],
) -> None:
    from mmhyperface.deployment.parity import report_bytes
    from mmhyperface.utils.atomic_files import new_files

    report = {
        'checkpoint': args.checkpoint,
        'fingerprint': fingerprint,
        'crop_size': args.crop_size,
        'precision': args.precision,
        'tolerance': args.tolerance,
        'clients': {
            name: {'file': files[name], **asdict(each)}
            for name, each in verified.items()
        },
    }
    with new_files([args.report], overwrite=True) as (file,):
        file.write(report_bytes(report))


if __name__ == '__main__':
    with report_errors():
        main()
