"""Write the images of a RecordIO file into a folder of identities.

An image becomes DESTINATION/LABEL/KEY.jpg, the label with 7 digits and the key with 8,
so that identities and images keep their order; the ending tells what the bytes are.
"""

import argparse
import os

from conversion import (
    Picture,
    Pictures,
    add_image_arguments,
    conversion_parser,
    new_folder,
    put,
    reported_conversion,
)

from mmhyperface.utils.errors import UserError


def parse_args() -> argparse.Namespace:
    parser = conversion_parser(__doc__, 'the file NAME.rec', 'the folder to write')
    add_image_arguments(parser)
    parser.add_argument(
        '--names',
        action='store_true',
        help='take the paths of the images from NAME.lst, which MXNet and '
        'folder_to_rec write beside NAME.rec; one that comes again gets a number: '
        'a/1_2.jpg',
    )
    return parser.parse_args()


def names_of(path: str) -> dict[int, str]:
    """The path of each key in a list of im2rec: key, label(s), path."""
    from mmhyperface.datasets.readers.text_lists import read_lines

    names = {}
    for number, line in read_lines(path, '--names needs it'):
        fields = line.split('\t')
        if len(fields) < 3 or not fields[0].isdecimal():
            raise UserError(
                f'{path}:{number}: expected `key <tab> label <tab> path`, got {line!r}'
            )
        names[int(fields[0])] = fields[-1]
    return names


def key_of(picture: Picture) -> int:
    # An image of FaceRecord is called `train.rec: key 5`.
    return int(picture.source.rpartition(' ')[2])


def main() -> None:
    args = parse_args()

    from mmhyperface.datasets import FaceRecord

    with new_folder(args.destination, args.overwrite) as folder:
        records = FaceRecord(
            ann_file=args.source, on_error='skip' if args.skip_damaged else 'raise'
        )
        listed = os.path.splitext(args.source)[0] + '.lst'
        names = names_of(listed) if args.names else None
        with Pictures(records, args.workers, args.skip_damaged) as pictures:
            for picture in filter(None, pictures):
                key = key_of(picture)
                if names is None:
                    name = f'{picture.label:07d}/{key:08d}'
                elif key in names:
                    name = names[key]
                else:
                    raise UserError(f'{listed}: there is no line of the key {key}')
                put(folder, name, picture)
    print(f'{args.destination}: {pictures.count} images')
    pictures.report()


if __name__ == '__main__':
    with reported_conversion():
        main()
