"""Make a checkpoint of insightface's arcface_torch one of ours.

    insightface_to_mmhyperface.py RUN/model.pt iresnet50.pth --classifier RUN
    insightface_to_mmhyperface.py RUN/checkpoint_gpu_0.pt iresnet50.pth

The input convention is the same; nothing but names and files changes.
"""

import argparse

from mmhyperface.utils.command_line import report_errors
from mmhyperface.utils.paths import require_file
from mmhyperface.weights.writing import (
    add_shards_argument,
    to_ours_parser,
    told_with,
    write_checkpoint,
)


def parse_args() -> argparse.Namespace:
    parser = to_ours_parser(
        __doc__,
        'the backbone: model.pt or backbone.pth; or checkpoint_gpu_0.pt, beside which '
        'lie those of the other processes, with the class centres',
    )
    add_shards_argument(parser, 'softmax_fc_gpu_R.pt or rank_R_softmax_weight.pt')
    parser.add_argument(
        '--drop-head',
        action='store_true',
        help='leave the class centres of checkpoint_gpu_R.pt out',
    )
    return parser.parse_args()


def main() -> None:
    args = parse_args()

    from mmhyperface.weights import insightface, read_weights
    from mmhyperface.weights.shards import find_shards

    require_file(args.destination)
    backbone = read_weights(args.source)
    shards = []
    if not args.drop_head:
        if args.classifier:
            shards = find_shards(args.classifier)
        elif insightface.has_centres(backbone):
            shards = find_shards(args.source)
    contents = [read_weights(shard) for shard in shards]
    with told_with(args.source):
        network = insightface.to_ours(backbone, contents, args.num_classes)
    write_checkpoint(network, insightface.PEER.name, [args.source, *shards], args)


if __name__ == '__main__':
    with report_errors():
        main()
