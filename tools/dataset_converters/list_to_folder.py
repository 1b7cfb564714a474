"""Write the images of a list into a folder of identities.

An image becomes DESTINATION/identity/image, with the identity of the list and the name
of its file. If there are several of one name, they get a number: 1.jpg, 1_2.jpg. A
slash in an identity, which then is a path, becomes an underscore. Labels are the places
of sorted names: underscores may change their order.
"""

import argparse
import os

from conversion import (
    Pictures,
    add_image_arguments,
    conversion_parser,
    new_folder,
    put,
    reported_conversion,
)

from mmhyperface.utils.errors import UserError


def parse_args() -> argparse.Namespace:
    parser = conversion_parser(
        __doc__,
        'list with a line `path name` or `path` for each image (OpenSphere)',
        'the folder to write',
    )
    add_image_arguments(parser)
    parser.add_argument(
        '--root', default='', help='where the paths of the list start from'
    )
    parser.add_argument(
        '--format',
        choices=('auto', 'path name', 'path'),
        default='auto',
        help='of the lines; without a name the folder is the identity',
    )
    parser.add_argument(
        '--link', action='store_true', help='make symbolic links, and no copies'
    )
    return parser.parse_args()


def folders_of(classes: tuple[str, ...]) -> list[str]:
    """A folder for each identity."""
    folders = [name.replace('/', '_') for name in classes]
    first: dict[str, str] = {}
    for folder, name in zip(folders, classes, strict=True):
        if first.setdefault(folder, name) != name:
            raise UserError(
                f'the identities {first[folder]!r} and {name!r} would share the folder '
                f'{folder!r}; rename one of them'
            )
    return folders


def refuse_loss(path: str, destination: str) -> None:
    """A folder that is replaced must not hold what goes into the new one."""
    folder = os.path.realpath(destination)
    if os.path.realpath(path).startswith(os.path.join(folder, '')):
        raise UserError(f'{path} is in {destination}, which would be replaced')


def main() -> None:
    args = parse_args()

    from mmhyperface.datasets import FaceList

    with new_folder(args.destination, args.overwrite) as folder:
        images = FaceList(args.source, data_prefix=args.root, format=args.format)
        folders = folders_of(images.metainfo['classes'])
        with Pictures(images, args.workers, args.skip_damaged) as pictures:
            for picture in filter(None, pictures):
                refuse_loss(picture.source, args.destination)
                assert picture.label is not None
                name = os.path.basename(picture.source)
                put(folder, f'{folders[picture.label]}/{name}', picture, args.link)
    print(f'{args.destination}: {pictures.count} images')
    pictures.report()


if __name__ == '__main__':
    with reported_conversion():
        main()
