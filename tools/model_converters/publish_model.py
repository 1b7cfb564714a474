"""Make a checkpoint ready for others: without optimizer, schedulers and logs.

    publish_model.py work_dirs/RUN/iter_70000.pth sfnet20_vggface2.pth

writes sfnet20_vggface2-0123abcd.pth; the name ends with the first characters of the
file's SHA-256. With EMAHook it holds the averaged weights. A checkpoint that is a
folder becomes one file.
"""

import argparse

from mmhyperface.utils.command_line import report_errors
from mmhyperface.utils.paths import require_file


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('checkpoint', help='our checkpoint, a file or a folder')
    parser.add_argument('destination', help='the file to write, without the sum')
    parser.add_argument(
        '--drop-head',
        action='store_true',
        help='leave out the class centres and the names of the identities: it embeds '
        'still',
    )
    parser.add_argument(
        '--dtype',
        choices=['float32', 'float16', 'bfloat16'],
        default='',
        help='type of the weights; as they are by default',
    )
    return parser.parse_args()


def main() -> None:
    args = parse_args()

    from mmhyperface.weights import publish

    require_file(args.destination)
    file = publish(args.checkpoint, args.destination, args.drop_head, args.dtype)
    print(f'{file}: {file.stat().st_size / 1e6:.1f} MB')


if __name__ == '__main__':
    with report_errors():
        main()
