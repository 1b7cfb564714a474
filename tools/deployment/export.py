"""Export a trained network to a client, and prove that it gives the same embeddings.

    python tools/deployment/export.py work_dirs/RUN/iter_800.pth face.onnx \\
        --target opencv-sface

Targets, which all take the file as it is:

    onnxruntime   any number of crops at once; RGB pixels from 0 to 255
    opencv-dnn    likewise, for cv2.dnn.readNetFromONNX
    opencv-sface  for cv2.FaceRecognizerSF: one crop of 112 x 112 at a time, as its
                  alignCrop gives; a network of another size reduces it itself
    insightface   for ArcFaceONNX: crops of the network's size, or of 112 x 112
    torch-export  for torch.export.load, a .pt2 file

The file carries the convention of the checkpoint: size, order and scale of pixels,
fusion of mirror images, thresholds. FaceInferencer and the tools in tools/inference
take it in the place of the checkpoint.

Afterwards the client itself embeds images of --images, or faces that are drawn, and is
compared with PyTorch; with --test or --test-sets it is verified on whole test sets. The
file gets its name only if the largest difference of cosines is below --tolerance.

Exit status 0: there is a file. 1: it differs too much, or a mistake, which is told.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from mmengine.config import Config
from rich.console import Console
from rich.table import Table

from mmhyperface.deployment import TARGETS
from mmhyperface.deployment.targets import PRECISIONS, PREPROCESSINGS
from mmhyperface.engine.launch import load_config
from mmhyperface.engine.testing import take_test_sets
from mmhyperface.utils.choices import FLIP_FUSIONS, OPSET, TOLERANCES
from mmhyperface.utils.command_line import add_overrides, report_errors
from mmhyperface.utils.errors import UserError
from mmhyperface.utils.paths import require_file

if TYPE_CHECKING:
    from mmhyperface.deployment.parity import Parity, Verified

ROWS = {
    'cosine_distance': 'largest cosine distance of an image',
    'pair_difference': 'largest difference of the cosines of two images',
    'relative_difference': 'largest |difference| / norm',
}
FIGURES = ('accuracy', 'eer', 'auc', 'tar@far=1e-03')


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add('checkpoint', metavar='CHECKPOINT', help='what was trained')
    add('out', metavar='OUT', help='the file to write, .onnx or .pt2')
    add('--config', help='of a checkpoint that tells no convention, or for --test')
    add_overrides(parser)
    add(
        '--target',
        choices=tuple(TARGETS),
        help='the client (default: torch-export for .pt2, else onnxruntime)',
    )
    add('--batch', type=int, help='crops at once (default: any number, if it can)')
    add('--precision', choices=PRECISIONS, default='fp32', help='of the weights')
    add(
        '--preprocessing',
        choices=PREPROCESSINGS,
        help='inside (default): the file takes RGB pixels from 0 to 255; outside: what '
        'the network takes',
    )
    add('--flip-fusion', choices=FLIP_FUSIONS, help="instead of the checkpoint's")
    add('--opset', type=int, help=f'of ONNX, from {OPSET} on (default: {OPSET})')
    add('--no-simplify', action='store_true', help='do without onnxslim')
    add('--overwrite', action='store_true', help='replace what is there')
    add('--images', metavar='FOLDER', help='compare on these, of any depth')
    add('--num-images', type=int, default=64, help='of them (default: %(default)s)')
    add('--test', action='store_true', help="verify on the config's test sets")
    add(
        '--test-sets',
        nargs='+',
        default=[],
        metavar='NAME',
        help='verify on these sets of configs/test_sets, or files like those',
    )
    add(
        '--tolerance',
        type=float,
        help=f'largest difference of cosines (default: {TOLERANCES["fp32"]:g}, '
        f'{TOLERANCES["fp16"]:g} in fp16)',
    )
    add('--report', metavar='FILE.json', help='write what was found out to this file')
    args = parser.parse_args()
    if args.num_images < 2:
        parser.error(f'--num-images is a number from 2 on, not {args.num_images}')
    if args.test and args.test_sets:
        parser.error("--test is for the config's test sets; --test-sets for others")
    if (args.test or args.cfg_options) and not args.config:
        parser.error('--test and --cfg-options need --config')
    suffix = Path(args.out).suffix
    args.target = args.target or ('torch-export' if suffix == '.pt2' else 'onnxruntime')
    if args.target == 'torch-export' and (args.opset is not None or args.no_simplify):
        parser.error('--opset and --no-simplify are for ONNX, not for torch-export')
    if args.tolerance is None:
        args.tolerance = TOLERANCES[args.precision]
    return args


def main() -> None:
    args = parse_args()

    from mmhyperface.deployment.parity import compare, dataset_of, verify
    from mmhyperface.inference.backends import TorchNetwork
    from mmhyperface.inference.loading import get_model

    out = Path(args.out)
    _require_place(out, args)
    config = load_config(args.config, args.cfg_options) if args.config else None
    model = get_model(config, args.checkpoint, 'cpu', args.flip_fusion)
    reference = TorchNetwork(model, args.checkpoint)
    # Beside the place where it goes, so that it can be renamed.
    with tempfile.TemporaryDirectory(prefix='.export_', dir=out.parent) as folder:
        file = Path(folder) / out.name
        graph = _export(model, file, args)
        client, driver = _client(args.target, file)
        crops = _crops(args, client.crop_size)
        parity = compare(reference, client, crops)
        console = Console()
        console.print(_parity_table(parity, driver, args))
        verified: dict[str, Verified] = {}
        if args.test or args.test_sets:
            cfg = _test_config(config, args)
            networks = {'checkpoint': reference, driver: client}
            dataset = dataset_of(cfg, client.crop_size)
            verified = verify(cfg, dataset, networks, 'checkpoint')
            console.print(_verification_table(verified))
        if args.report:
            _write_report(args, model, graph, parity, verified)
        _require_parity(parity, verified, args)
        os.replace(file, out)
    height, width = graph.size
    batch = 'any number' if graph.batch is None else graph.batch
    print(f'{out}: for {args.target}; crops of {height} x {width}, {batch} at once')


def _require_place(out: Path, args: argparse.Namespace) -> None:
    suffix = TARGETS[args.target].suffix
    if out.suffix != suffix:
        raise UserError(f'{out}: for {args.target} the file ends with {suffix}')
    if out.exists() and not args.overwrite:
        raise UserError(f'{out} is there already; to replace it: --overwrite')
    require_file(out)
    if args.report:
        require_file(args.report)


def _export(model: Any, file: Path, args: argparse.Namespace) -> Any:
    from mmhyperface.deployment import export_onnx, export_torch

    options = dict(
        batch=args.batch, precision=args.precision, preprocessing=args.preprocessing
    )
    if args.target == 'torch-export':
        return export_torch(model, file, **options)
    return export_onnx(
        model,
        file,
        args.target,
        opset=OPSET if args.opset is None else args.opset,
        simplify=not args.no_simplify,
        **options,
    )


def _client(target: str, file: Path) -> tuple[Any, str]:
    """The client, or onnxruntime where it is not installed."""
    from mmhyperface.deployment.clients import open_client

    try:
        return open_client(target, file), target
    except UserError as error:
        if target != 'insightface':
            raise
        print(f'compared in onnxruntime instead: {error}')
        return open_client('onnxruntime', file), 'onnxruntime'


def _crops(args: argparse.Namespace, size: tuple[int, int]) -> np.ndarray:
    from mmhyperface.deployment.parity import crops_of_folder, rendered_crops

    if args.images:
        return crops_of_folder(args.images, size, args.num_images)
    return rendered_crops(size, args.num_images)


def _test_config(config: Config | None, args: argparse.Namespace) -> Config:
    if not args.test_sets:
        assert config is not None
        return config
    if args.config:
        return load_config(args.config, args.cfg_options, args.test_sets)
    cfg = Config()
    take_test_sets(cfg, args.test_sets)
    return cfg


def _parity_table(parity: Parity, driver: str, args: argparse.Namespace) -> Table:
    images = f'images of {args.images}' if args.images else 'drawn faces'
    table = Table(
        'over all images',
        f'{driver} from PyTorch',
        title=f'{args.precision}, {parity.images} {images}',
    )
    for name, words in ROWS.items():
        table.add_row(words, f'{getattr(parity, name):.1e}')
    return table


def _verification_table(verified: dict[str, Verified]) -> Table:
    from mmhyperface.deployment.parity import percent

    pairs = next(iter(verified.values())).pairs
    table = Table('test set', 'figure', *verified, title=f'{pairs:,} pairs')
    first = next(iter(verified.values())).figures
    for name in first:
        test_set, _, figure = name.rpartition('/')
        if figure in FIGURES:
            values = [percent(each.figures[name]) for each in verified.values()]
            table.add_row(test_set, figure, *values)
    differences = [f'{each.difference:.1e}' for each in verified.values()]
    table.add_row('all', 'largest difference of a cosine', *differences)
    return table


def _write_report(
    args: argparse.Namespace,
    model: Any,
    graph: Any,
    parity: Parity,
    verified: dict[str, Verified],
) -> None:
    from mmhyperface.deployment.parity import report_bytes
    from mmhyperface.utils.atomic_files import new_files

    report = {
        'checkpoint': args.checkpoint,
        'file': args.out,
        'fingerprint': model.convention.fingerprint,
        'graph': asdict(graph),
        'tolerance': args.tolerance,
        'images': args.images or 'drawn faces',
        'parity': asdict(parity),
        'verification': {name: asdict(each) for name, each in verified.items()},
    }
    with new_files([args.report], overwrite=True) as (file,):
        file.write(report_bytes(report))


def _require_parity(
    parity: Parity, verified: dict[str, Verified], args: argparse.Namespace
) -> None:
    differences = [parity.cosine_distance, parity.pair_difference]
    differences += [each.difference for each in verified.values()]
    worst = float(np.max(differences))
    if not worst <= args.tolerance:
        raise UserError(
            f'{args.out} is not written: cosines differ by up to {worst:.1e}, and '
            f'--tolerance is {args.tolerance:g}'
        )


if __name__ == '__main__':
    with report_errors():
        main()
