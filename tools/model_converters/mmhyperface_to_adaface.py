"""Make a checkpoint of ours one of AdaFace, whose input is BGR."""

import argparse

from mmhyperface.utils.command_line import report_errors
from mmhyperface.weights.writing import from_ours_parser, read_ours, write_files


def parse_args() -> argparse.Namespace:
    return from_ours_parser(__doc__).parse_args()


def main() -> None:
    args = parse_args()

    from mmhyperface.weights import adaface

    network, _ = read_ours(args)
    write_files(network, adaface.from_ours(network), args)


if __name__ == '__main__':
    with report_errors():
        main()
