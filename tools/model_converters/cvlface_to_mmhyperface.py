"""Make a checkpoint of CVLface one of ours: IR, or insightface's IResNet.

    cvlface_to_mmhyperface.py best/model.pt ir101.pth --classifier best

Its networks take RGB as ours, unless their config says `color_space: BGR`, as that of
weights which came from AdaFace: then give --channels bgr. (model.yaml, which it writes
beside model.pt, says RGB in either case.)
"""

import argparse

from mmhyperface.utils.choices import CHANNELS
from mmhyperface.utils.command_line import report_errors
from mmhyperface.utils.paths import require_file
from mmhyperface.weights.writing import (
    add_shards_argument,
    to_ours_parser,
    told_with,
    write_checkpoint,
)


def parse_args() -> argparse.Namespace:
    parser = to_ours_parser(__doc__, 'the network, model.pt')
    add_shards_argument(parser, 'classifier_rankR.pt')
    parser.add_argument(
        '--channels',
        choices=CHANNELS,
        default='rgb',
        help='the order that the network takes; default rgb',
    )
    return parser.parse_args()


def main() -> None:
    args = parse_args()

    from mmhyperface.weights import cvlface, read_weights
    from mmhyperface.weights.shards import find_shards

    require_file(args.destination)
    model = read_weights(args.source)
    shards = find_shards(args.classifier) if args.classifier else []
    contents = [read_weights(shard) for shard in shards]
    with told_with(args.source):
        network = cvlface.to_ours(model, contents, args.channels, args.num_classes)
    write_checkpoint(network, cvlface.PEER.name, [args.source, *shards], args)


if __name__ == '__main__':
    with report_errors():
        main()
