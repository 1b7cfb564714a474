"""Make a checkpoint of ours files for OpenSphere.

Its program of 2022 reads backbone_ITER.pth and head_ITER.pth, that of 2023
model_ITER.pth. SFNet without batch norm is of the variant paper, as in the published
recipes, in the former alone, and of the variant opensphere in both.
"""

import argparse

from mmhyperface.utils.choices import REVISIONS, SFNET_VARIANTS
from mmhyperface.utils.command_line import report_errors
from mmhyperface.weights.writing import from_ours_parser, read_ours, write_files


def parse_args() -> argparse.Namespace:
    parser = from_ours_parser(__doc__)
    parser.add_argument(
        '--revision',
        choices=REVISIONS,
        default='2023',
        help='of its program; 2022 is that of the papers, 032c31b',
    )
    parser.add_argument(
        '--variant',
        choices=SFNET_VARIANTS,
        help='of an SFNet without batch norm, as in the config of the run',
    )
    return parser.parse_args()


def main() -> None:
    args = parse_args()

    from mmhyperface.weights import opensphere

    network, meta = read_ours(args, args.variant)
    files = opensphere.from_ours(network, args.revision, meta.get('iter', 0))
    write_files(network, files, args)


if __name__ == '__main__':
    with report_errors():
        main()
