"""Make a checkpoint of ours files for SFace's torch code, or for face.evoLVe.

It writes Backbone_NAME_checkpoint.pth, whose first layer is divided by the 9.9609375
that SFace's input is larger than ours, and Head_SFaceLoss_checkpoint.pth.
"""

import argparse

from mmhyperface.utils.choices import ORIGINS
from mmhyperface.utils.command_line import report_errors
from mmhyperface.weights.writing import from_ours_parser, read_ours, write_files


def parse_args() -> argparse.Namespace:
    parser = from_ours_parser(__doc__)
    parser.add_argument(
        '--origin',
        choices=list(ORIGINS),
        default='sface',
        help='whose code will read them; for evolve, face.evoLVe, the first layer '
        'stays as it is',
    )
    return parser.parse_args()


def main() -> None:
    args = parse_args()

    from mmhyperface.weights import sface

    network, _ = read_ours(args)
    write_files(network, sface.from_ours(network, args.origin), args)


if __name__ == '__main__':
    with report_errors():
        main()
