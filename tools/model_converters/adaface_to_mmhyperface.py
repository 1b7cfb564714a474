"""Make a checkpoint of AdaFace one of ours.

    adaface_to_mmhyperface.py adaface_ir50_ms1mv2.ckpt ir50.pth

AdaFace's networks take BGR, where we feed RGB: the channels of their first layer change
places. The embedding is that before their network divides it by its norm.
"""

import argparse

from mmhyperface.utils.command_line import report_errors
from mmhyperface.utils.paths import require_file
from mmhyperface.weights.writing import to_ours_parser, told_with, write_checkpoint


def parse_args() -> argparse.Namespace:
    parser = to_ours_parser(__doc__, 'the checkpoint of Lightning, NAME.ckpt')
    parser.add_argument(
        '--drop-head', action='store_true', help='leave the class centres out'
    )
    return parser.parse_args()


def main() -> None:
    args = parse_args()

    from mmhyperface.weights import adaface, read_weights

    require_file(args.destination)
    checkpoint = read_weights(args.source)
    with told_with(args.source):
        network = adaface.to_ours(checkpoint, not args.drop_head)
    write_checkpoint(network, adaface.PEER.name, [args.source], args)


if __name__ == '__main__':
    with report_errors():
        main()
