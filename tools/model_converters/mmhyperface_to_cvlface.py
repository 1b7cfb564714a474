"""Make a checkpoint of ours files for CVLface.

It writes model.pt and, for each process, classifier_rankR.pt of partial FC. Rows of
zeros are added to the class centres until the number of processes divides them, as
CVLface wants it.
"""

import argparse

from mmhyperface.utils.choices import CHANNELS
from mmhyperface.utils.command_line import report_errors
from mmhyperface.weights.writing import (
    add_world_size_argument,
    from_ours_parser,
    read_ours,
    write_files,
)


def parse_args() -> argparse.Namespace:
    parser = from_ours_parser(__doc__)
    add_world_size_argument(parser)
    parser.add_argument(
        '--channels',
        choices=CHANNELS,
        default='rgb',
        help='the order that the network is to take; default rgb',
    )
    return parser.parse_args()


def main() -> None:
    args = parse_args()

    from mmhyperface.weights import cvlface

    network, _ = read_ours(args)
    files = cvlface.from_ours(network, args.world_size, args.channels)
    write_files(network, files, args)


if __name__ == '__main__':
    with report_errors():
        main()
