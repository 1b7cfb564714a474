r"""Examine features that any model made: no network and no image is needed.

    python tools/test.py CONFIG CHECKPOINT --save-features FEATURES.npy
    python tools/analysis_tools/eval_features.py config CONFIG FEATURES.npy

    python tools/analysis_tools/eval_features.py ijb data/ijb/IJBC/meta FEATURES.npy
    python tools/analysis_tools/eval_features.py pairs data/val/lfw.bin FEATURES.npy
    python tools/analysis_tools/eval_features.py megaface data/megaface \
        PROBES.npy DISTRACTORS.npy

Features are those that tools/inference/embed.py wrote, .npz or .parquet, which are
matched with the images by their paths:

    python tools/inference/embed.py CHECKPOINT FOLDER --choose largest --out E.npz
    python tools/analysis_tools/eval_features.py pairs PAIRS.txt E.npz

Or .npy files, [N, D], not normalised, a row for each image in the order of the list,
which nobody can check: rows in another order give wrong figures. Of an array x
[N, 1024] that has an image's features and then those of its mirror image, x[:, :512]
are FEATURES.npy and x[:, 512:] those for --mirrored.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from mmhyperface.engine.launch import load_config
from mmhyperface.utils.choices import (
    ACCURACIES,
    FOLDS,
    MEDIA,
    NOISE,
    NORMS,
    PROTOCOLS,
    SUBSETS,
    TARS,
    THRESHOLDS,
)
from mmhyperface.utils.command_line import add_overrides, report_errors
from mmhyperface.utils.paths import require_folder

if TYPE_CHECKING:
    from mmhyperface.evaluation.metrics import EmbeddingMetric
    from mmhyperface.inference.feature_evaluation import Results


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest='command', required=True)
    for add, run, description in (
        (_add_config, _config, 'the test sets of a config, as of tools/test.py'),
        (_add_ijb, _ijb, 'IJB-B or IJB-C'),
        (_add_pairs, _pairs, 'a list of pairs'),
        (_add_megaface, _megaface, 'MegaFace'),
    ):
        command = commands.add_parser(
            add.__name__.removeprefix('_add_'),
            help=description,
            description=description,
        )
        add(command)
        command.add_argument(
            '--out', metavar='DIR', help='write a report with pictures to this folder'
        )
        command.add_argument(
            '--draws',
            type=int,
            default=200,
            help='of the bootstrap, for intervals; 0: none (default: %(default)s)',
        )
        command.set_defaults(run=run)
    args = parser.parse_args()
    if args.draws < 0:
        parser.error(f'--draws is a number from 0 on, not {args.draws}')
    return args


def _add_config(parser: argparse.ArgumentParser) -> None:
    parser.add_argument('config', help='path of the config')
    parser.add_argument(
        'features', help="embed.py's, or .npy: row i is item i of its test data set"
    )
    parser.add_argument(
        '--test-sets', nargs='+', default=[], metavar='NAME', help='as of tools/test.py'
    )
    add_overrides(parser)


def _config(args: argparse.Namespace) -> Results:
    from mmhyperface.inference.feature_evaluation import examine_config

    cfg = load_config(args.config, args.cfg_options, args.test_sets)
    return examine_config(cfg, args.features)


def _add_ijb(parser: argparse.ArgumentParser) -> None:
    parser.add_argument('meta_dir', help='folder of the meta files')
    parser.add_argument(
        'features',
        help="embed.py's, or .npy in the order of ijbc_name_5pts_score.txt or "
        'ijbb_name_5pts_score.txt',
    )
    parser.add_argument(
        '--subset',
        type=str.upper,
        choices=tuple(SUBSETS),
        default='IJBC',
        help='which of the two it is (default: %(default)s)',
    )
    _add_mirrored(parser)
    parser.add_argument(
        '--norm',
        choices=tuple(NORMS),
        default='keep',
        help='of image features (default: %(default)s)',
    )
    parser.add_argument(
        '--no-detector-scores',
        action='store_true',
        help='do not weight image features by the score of the detector',
    )
    parser.add_argument(
        '--media',
        choices=tuple(MEDIA),
        default='mean',
        help='over the images of a medium; none: all images count alike (default: '
        '%(default)s)',
    )
    parser.add_argument(
        '--protocols',
        nargs='+',
        choices=PROTOCOLS,
        default=PROTOCOLS,
        help='1:1 needs no files of 1:N, and the other way round (default: both)',
    )
    _add_interpolation(parser)
    parser.add_argument(
        '--merged', action='store_true', help='search the galleries as one'
    )
    parser.add_argument(
        '--fpir-threshold',
        choices=tuple(THRESHOLDS),
        default='exact',
        help=f'of TPIR@FPIR. {_explained(THRESHOLDS)} (default: %(default)s)',
    )


def _ijb(args: argparse.Namespace) -> Results:
    from mmhyperface.evaluation.metrics import (
        TemplateIdentification,
        TemplateVerification,
    )
    from mmhyperface.inference.feature_evaluation import examine_ijb

    pooling = {
        'norm': args.norm,
        'detector_scores': not args.no_detector_scores,
        'media': args.media,
    }
    metrics: list[EmbeddingMetric] = []
    if '1:1' in args.protocols:
        metrics.append(
            TemplateVerification(interpolation=args.interpolation, **pooling)
        )
    if '1:N' in args.protocols:
        metrics.append(
            TemplateIdentification(
                merged=args.merged, threshold=args.fpir_threshold, **pooling
            )
        )
    return examine_ijb(
        args.meta_dir,
        args.subset,
        args.protocols,
        metrics,
        args.features,
        args.mirrored,
        args.flip,
    )


def _add_pairs(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        'pairs',
        help="OpenSphere's or LFW's list (rows: its distinct images as it first names "
        'them), a .bin pack or a .npy of labels (rows 2i and 2i + 1: pair i)',
    )
    parser.add_argument('features', help="embed.py's, or .npy: a row for each image")
    _add_mirrored(parser)
    parser.add_argument(
        '--folds',
        type=int,
        help='consecutive folds of equal size; 0: the list has none (default: an LFW '
        f"list's own, {FOLDS} of any other)",
    )
    parser.add_argument(
        '--accuracy',
        choices=tuple(ACCURACIES),
        default='exact',
        help=f'whose threshold it has. {_explained(ACCURACIES)} (default: %(default)s)',
    )
    _add_interpolation(parser)


def _pairs(args: argparse.Namespace) -> Results:
    from mmhyperface.evaluation.metrics import FaceVerification
    from mmhyperface.inference.feature_evaluation import examine_pairs

    metric = FaceVerification(accuracy=args.accuracy, interpolation=args.interpolation)
    return examine_pairs(
        args.pairs,
        args.folds,
        [metric],
        args.features,
        args.mirrored,
        args.flip,
    )


def _explained(choices: Mapping[str, str]) -> str:
    return '; '.join(f'{name}: {words}' for name, words in choices.items())


def _add_interpolation(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        '--interpolation',
        choices=tuple(TARS),
        default='exact',
        help=f'of TAR@FAR. {_explained(TARS)} (default: %(default)s)',
    )


def _add_mirrored(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        '--mirrored', metavar='FILE.npy', help='features of the mirror images'
    )
    parser.add_argument(
        '--flip',
        choices=['sum', 'concat', 'none'],
        help='how both are fused; by default their sum',
    )


def _add_megaface(parser: argparse.ArgumentParser) -> None:
    parser.add_argument('lists_dir', help='folder of the lists')
    parser.add_argument(
        'probes',
        help="features: embed.py's, .npy in the order of facescrub_lst, or a folder of "
        "the devkit's files",
    )
    parser.add_argument('distractors', help='likewise, in the order of megaface_lst')
    parser.add_argument(
        '--suffix',
        default='',
        help="of the devkit's files, after the path of an image: _r100ii.bin",
    )
    parser.add_argument(
        '--num-distractors', type=int, help='only the first so many are there'
    )
    parser.add_argument(
        '--counts', nargs='+', type=int, help='of distractors; by default 10 … 10⁶'
    )
    parser.add_argument(
        '--noise',
        choices=NOISE,
        default='remove',
        help='what is done to noisy images; insightface overwrites their features '
        '(default: %(default)s)',
    )
    parser.add_argument(
        '--no-noise-lists', action='store_true', help='take all images as they are'
    )


def _megaface(args: argparse.Namespace) -> Results:
    from mmhyperface.evaluation.metrics import MegaFaceIdentification
    from mmhyperface.inference.feature_evaluation import examine_megaface

    noise = {'facescrub_noises': None, 'megaface_noises': None}
    return examine_megaface(
        args.lists_dir,
        MegaFaceIdentification(counts=args.counts, noise=args.noise),
        args.probes,
        args.distractors,
        args.suffix,
        num_distractors=args.num_distractors,
        **(noise if args.no_noise_lists else {}),
    )


def _title(args: argparse.Namespace) -> str:
    """What is examined, and on what."""
    if args.command == 'megaface':
        return f'{args.probes} and {args.distractors} on MegaFace, {args.lists_dir}'
    mirrored = getattr(args, 'mirrored', None)
    features = f'{args.features} and {mirrored}' if mirrored else args.features
    if args.command == 'ijb':
        return f'{features} on {args.subset}, {args.meta_dir}'
    return f'{features} on {args.config if args.command == "config" else args.pairs}'


def main() -> None:
    args = parse_args()

    from mmhyperface.evaluation.report import report_text, write_report
    from mmhyperface.inference.feature_files import about_features

    if args.out:
        require_folder(args.out)
    source = args.probes if args.command == 'megaface' else args.features
    sets = {
        name: {
            protocol: {Path(source).stem: result}
            for protocol, result in results.items()
        }
        for name, results in args.run(args).items()
    }
    if not args.out:
        print(report_text(sets, args.draws, title=_title(args)))
        return
    about = {
        key: value
        for key, value in about_features(source).items()
        if key in ('config', 'checkpoint') and isinstance(value, str)
    }
    report = write_report(sets, args.out, _title(args), draws=args.draws, **about)
    print(report.text())


if __name__ == '__main__':
    with report_errors():
        main()
