"""List the images of a folder of identities, in a format of OpenSphere.

Paths start from the folder. Where a path or a name has a space, the two are separated
by tabs. The list is read again before it gets its name: what FaceList would not read
as it was meant is an error.

Exit status 0: done. 3: done, but for images that lie in no folder of an identity or are
not named as images, which a warning names. 1: a mistake, which is told.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator
from itertools import zip_longest
from typing import TYPE_CHECKING

from conversion import (
    conversion_parser,
    reported_conversion,
    require_all,
)
from rich.progress import track

from mmhyperface.utils.errors import UserError

if TYPE_CHECKING:
    from mmhyperface.datasets import FaceFolder, FaceList


def parse_args() -> argparse.Namespace:
    parser = conversion_parser(
        __doc__, 'folder of identities: SOURCE/identity/image', 'the list to write'
    )
    parser.add_argument(
        '--format',
        choices=('path name', 'path'),
        default='path name',
        help='of the lines; without a name the folder is the identity',
    )
    return parser.parse_args()


def entries(images: FaceFolder | FaceList, root: str) -> Iterator[tuple[str, str]]:
    """(path from the root, identity) of each image."""
    for number in range(len(images)):
        info = images.get_data_info(number)
        path = os.path.relpath(info['img_path'], root)
        yield path, images.metainfo['classes'][info['gt_label']]


def check(folder: FaceFolder, path: str) -> None:
    """Refuse a list that is read as something else than the folder."""
    from mmhyperface.datasets import FaceList

    try:
        listed = FaceList(path, data_prefix=folder.data_root)
    except UserError as error:
        raise UserError(f'no list can hold these names: {error}') from None
    both = (entries(images, folder.data_root) for images in (folder, listed))
    for meant, actual in zip_longest(*both):
        if meant != actual:
            raise UserError(
                f'no list can hold {meant!r}: it would be read as {actual!r}'
            )


def main() -> None:
    args = parse_args()

    from mmhyperface.datasets import FaceFolder
    from mmhyperface.utils.atomic_files import new_files

    with new_files([args.destination], args.overwrite) as (file,):
        folder = FaceFolder(args.source)
        root = folder.data_root
        between = '\t' if any(' ' in path for path, _ in entries(folder, root)) else ' '
        for path, name in track(
            entries(folder, root), 'listing', len(folder), transient=True
        ):
            line = path if args.format == 'path' else path + between + name
            try:
                file.write(line.encode() + b'\n')
            except UnicodeEncodeError:
                raise UserError(
                    f'no list can hold {line!r}, which is no UTF-8'
                ) from None
        file.flush()
        check(folder, file.name)
    print(f'{args.destination}: {len(folder)} images')
    require_all(folder)


if __name__ == '__main__':
    with reported_conversion():
        main()
