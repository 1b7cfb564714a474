"""Make a checkpoint of SFace's torch code, or of face.evoLVe, one of ours.

    sface_to_mmhyperface.py Backbone_IR_50_..._checkpoint.pth ir50.pth
        --head Head_SFaceLoss_..._checkpoint.pth

SFace's networks multiply x - 127.5 by 0.078125, where we divide it by 127.5: their
first layer is multiplied by 9.9609375.
"""

import argparse

from mmhyperface.utils.choices import ORIGINS
from mmhyperface.utils.command_line import report_errors
from mmhyperface.utils.paths import require_file
from mmhyperface.weights.writing import to_ours_parser, told_with, write_checkpoint


def parse_args() -> argparse.Namespace:
    parser = to_ours_parser(__doc__, 'the backbone, Backbone_*_checkpoint.pth')
    parser.add_argument('--head', help='Head_*_checkpoint.pth')
    parser.add_argument(
        '--origin',
        choices=list(ORIGINS),
        default='sface',
        help="whose training code made them; with evolve, face.evoLVe's, the first "
        'layer stays as it is',
    )
    return parser.parse_args()


def main() -> None:
    args = parse_args()

    from mmhyperface.weights import read_weights, sface

    require_file(args.destination)
    backbone = read_weights(args.source)
    head = read_weights(args.head) if args.head else None
    with told_with(args.source):
        network = sface.to_ours(backbone, head, args.origin)
    files = [args.source, *([args.head] if args.head else [])]
    write_checkpoint(network, ORIGINS[args.origin], files, args)


if __name__ == '__main__':
    with report_errors():
        main()
