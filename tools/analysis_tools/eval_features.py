r"""Examine features that any model made: no network and no image is needed.

    python tools/test.py CONFIG CHECKPOINT --save-features FEATURES.npy
    python tools/analysis_tools/eval_features.py config CONFIG FEATURES.npy

    python tools/analysis_tools/eval_features.py ijb data/ijb/IJBC/meta FEATURES.npy
    python tools/analysis_tools/eval_features.py pairs data/val/lfw.bin FEATURES.npy
    python tools/analysis_tools/eval_features.py megaface data/megaface \
        PROBES.npy DISTRACTORS.npy

Features are .npy files, [N, D], not normalised, a row for each image.
"""

import argparse
from pathlib import Path

from mmengine.config import DictAction

from mmhyperface.apis import load_config, report_errors
from mmhyperface.apis.feature_files import (
    Results,
    examine_config,
    examine_ijb,
    examine_megaface,
    examine_pairs,
)
from mmhyperface.evaluation.functional.identification import THRESHOLDS
from mmhyperface.evaluation.functional.megaface import NOISE
from mmhyperface.evaluation.functional.verification import INTERPOLATIONS
from mmhyperface.evaluation.metrics import (
    EmbeddingMetric,
    FaceVerification,
    MegaFaceIdentification,
    TemplateIdentification,
    TemplateVerification,
)
from mmhyperface.evaluation.metrics.embeddings import MEDIA, NORMS
from mmhyperface.evaluation.metrics.face_verification import ACCURACIES
from mmhyperface.evaluation.report import write_report
from mmhyperface.evaluation.report.content import content_of
from mmhyperface.evaluation.report.tables import as_text, sections_of


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest='command', required=True)
    for add, run, description in (
        (_add_config, _config, 'what tools/test.py --save-features wrote'),
        (_add_ijb, _ijb, 'IJB-B or IJB-C, rows in the order of the meta files'),
        (_add_pairs, _pairs, 'a list of pairs'),
        (_add_megaface, _megaface, 'MegaFace, rows in the order of the lists'),
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
        command.set_defaults(run=run)
    return parser.parse_args()


def _add_config(parser: argparse.ArgumentParser) -> None:
    parser.add_argument('config', help='path of the config')
    parser.add_argument('features', help='row i is item i of its test data set')
    parser.add_argument(
        '--test-sets', nargs='+', default=[], metavar='NAME', help='as of tools/test.py'
    )
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        action=DictAction,
        help='override entries of the config: a.b=1 c.d=[x,y]',
    )


def _config(args: argparse.Namespace) -> Results:
    cfg = load_config(args.config, args.cfg_options, args.test_sets)
    return examine_config(cfg, args.features)


def _add_ijb(parser: argparse.ArgumentParser) -> None:
    parser.add_argument('meta_dir', help='folder of the meta files')
    parser.add_argument('features', help='in the order of ijbc_name_5pts_score.txt')
    parser.add_argument('--subset', choices=['IJBB', 'IJBC'], default='IJBC')
    _add_mirrored(parser)
    parser.add_argument(
        '--norm', choices=tuple(NORMS), default='keep', help='of image features'
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
        help='over the images of a medium; none: all images count alike',
    )
    parser.add_argument(
        '--protocols', nargs='+', choices=['1:1', '1:N'], default=['1:1', '1:N']
    )
    parser.add_argument('--interpolation', choices=INTERPOLATIONS, default='exact')
    parser.add_argument(
        '--merged', action='store_true', help='search the galleries as one'
    )
    parser.add_argument('--threshold', choices=tuple(THRESHOLDS), default='exact')


def _ijb(args: argparse.Namespace) -> Results:
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
                merged=args.merged, threshold=args.threshold, **pooling
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
    parser.add_argument('features', help='a row for each image')
    _add_mirrored(parser)
    parser.add_argument(
        '--folds',
        type=int,
        default=10,
        help='consecutive folds of equal size; 0: the list has none',
    )
    parser.add_argument('--accuracy', choices=tuple(ACCURACIES), default='exact')
    parser.add_argument('--interpolation', choices=INTERPOLATIONS, default='exact')


def _pairs(args: argparse.Namespace) -> Results:
    metric = FaceVerification(accuracy=args.accuracy, interpolation=args.interpolation)
    return examine_pairs(
        args.pairs,
        args.folds or None,
        [metric],
        args.features,
        args.mirrored,
        args.flip,
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
        help="features in the order of facescrub_lst, or a folder of devkit's files",
    )
    parser.add_argument(
        'distractors', help='features in the order of megaface_lst, or such a folder'
    )
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
    parser.add_argument('--noise', choices=NOISE, default='remove')
    parser.add_argument(
        '--no-noise-lists', action='store_true', help='take all images as they are'
    )


def _megaface(args: argparse.Namespace) -> Results:
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


def main() -> None:
    args = parse_args()
    source = args.probes if args.command == 'megaface' else args.features
    sets = {
        name: {
            protocol: {Path(source).stem: result}
            for protocol, result in results.items()
        }
        for name, results in args.run(args).items()
    }
    if args.out:
        print(write_report(sets, args.out).text())
        return
    about = {'config': None, 'checkpoint': None}
    print(as_text(sections_of(content_of(sets, '', 0, 0.95, 0, about))))


if __name__ == '__main__':
    with report_errors():
        main()
