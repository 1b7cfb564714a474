"""Make a checkpoint of OpenSphere one of ours.

    opensphere_to_mmhyperface.py backbone_70000.pth sfnet20.pth --head head_70000.pth
        --variant paper
    opensphere_to_mmhyperface.py model_240000.pth iresnet100.pth

The first is of its program of 2022, with which the papers were made, the second of that
of 2023. The input convention is ours.
"""

import argparse

from mmhyperface.utils.choices import SFNET_VARIANTS
from mmhyperface.utils.command_line import report_errors
from mmhyperface.utils.paths import require_file
from mmhyperface.weights.writing import to_ours_parser, told_with, write_checkpoint


def parse_args() -> argparse.Namespace:
    parser = to_ours_parser(
        __doc__, 'backbone_ITER.pth; or model_ITER.pth or ckpt_ITER.pth, with the head'
    )
    parser.add_argument('--head', help='head_ITER.pth')
    parser.add_argument(
        '--drop-head',
        action='store_true',
        help='leave the head of model_ITER.pth or ckpt_ITER.pth out',
    )
    parser.add_argument(
        '--variant',
        choices=SFNET_VARIANTS,
        help='of an SFNet without batch norm: paper for sfnet*_deprecated',
    )
    return parser.parse_args()


def main() -> None:
    args = parse_args()

    from mmhyperface.weights import opensphere, read_weights

    require_file(args.destination)
    backbone = read_weights(args.source)
    head = read_weights(args.head) if args.head else None
    with told_with(args.source):
        network = opensphere.to_ours(backbone, head, args.variant, not args.drop_head)
    files = [args.source, *([args.head] if args.head else [])]
    write_checkpoint(network, opensphere.PEER.name, files, args)


if __name__ == '__main__':
    with report_errors():
        main()
