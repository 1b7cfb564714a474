"""Write a folder of identities as RecordIO files in the layout of insightface.

Beside NAME.rec come NAME.idx, NAME.lst (key, label and path of each image, as MXNet's
im2rec lists them) and `property`. Labels are the positions of the identities, sorted
by name; one whose images are all left out has none.

Exit status 0: done. 3: done, but for images that lie in no folder of an identity or are
not named as images, which a warning names. 1: a mistake, which is told.
"""

import argparse
import os
from collections import Counter

from conversion import (
    Pictures,
    add_encoding_arguments,
    add_image_arguments,
    conversion_parser,
    encoding_of,
    reported_conversion,
    require_all,
)


def parse_args() -> argparse.Namespace:
    parser = conversion_parser(
        __doc__, 'folder of identities: SOURCE/identity/image', 'the file NAME.rec'
    )
    add_image_arguments(parser)
    add_encoding_arguments(parser)
    return parser.parse_args()


def main() -> None:
    args = parse_args()

    from mmhyperface.datasets import FaceFolder
    from mmhyperface.datasets.record_writer import RecordWriter

    labels: dict[int | None, int] = {}
    sizes: Counter[tuple[int, int]] = Counter()
    with RecordWriter(args.destination, overwrite=args.overwrite) as writer:
        folder = FaceFolder(args.source)
        with Pictures(
            folder, args.workers, args.skip_damaged, encoding_of(args)
        ) as pictures:
            for picture in filter(None, pictures):
                name = os.path.relpath(picture.source, folder.data_root)
                label = labels.setdefault(picture.label, len(labels))
                writer.add(picture.data, label, name)
                sizes[picture.size] += 1
    print(
        f'{args.destination}: {writer.num_images} images of {writer.num_classes} '
        'identities'
    )
    if len(sizes) > 1:
        height, width = next(iter(sizes))
        print(
            f'The images have {len(sizes)} sizes; `property` tells the first, {height} '
            f'{width}. Some readers need all of one: --size {height} {width}'
        )
    pictures.report()
    require_all(folder)


if __name__ == '__main__':
    with reported_conversion():
        main()
