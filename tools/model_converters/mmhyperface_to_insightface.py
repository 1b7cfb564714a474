"""Make a checkpoint of ours files for insightface's arcface_torch.

It writes model.pt and, for each process, softmax_fc_gpu_R.pt. A run of its train_v2.py
resumes from checkpoint_gpu_R.pt alone, which holds the state of an optimizer, too.
"""

import argparse

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
    return parser.parse_args()


def main() -> None:
    args = parse_args()

    from mmhyperface.weights import insightface

    network, _ = read_ours(args)
    write_files(network, insightface.from_ours(network, args.world_size), args)


if __name__ == '__main__':
    with report_errors():
        main()
