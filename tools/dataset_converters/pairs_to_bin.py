"""Write a list of pairs as a verification pack, as insightface distributes them.

A pack holds the images of each pair, one after the other, and no folds: its readers
take ten of equal size, as those of LFW are.
"""

import argparse
import pickle
import struct
from collections.abc import Iterable, Iterator

import numpy as np
from conversion import (
    Pictures,
    add_encoding_arguments,
    add_image_arguments,
    conversion_parser,
    encoding_of,
    reported_conversion,
)

from mmhyperface.utils.atomic_files import new_files
from mmhyperface.utils.errors import UserError

FOLDS = 10


def parse_args() -> argparse.Namespace:
    parser = conversion_parser(
        __doc__,
        'list of pairs: `label path0 path1` (OpenSphere), pairs.txt of LFW, a table '
        "with columns path1, path2 and label, or CFP's folder Protocol/Split/FP",
        'the pack to write, NAME.bin',
    )
    add_image_arguments(parser)
    add_encoding_arguments(parser)
    parser.add_argument(
        '--root', default='', help='where the paths of the list start from'
    )
    parser.add_argument(
        '--extension', default='.jpg', help='of the images of an LFW list; .jpg'
    )
    return parser.parse_args()


def images_of(
    pictures: Pictures, same: np.ndarray, kept: list[bool]
) -> Iterator[bytes]:
    """The images of the pairs that have both; `kept` gets what `same` says of them."""
    stream = iter(pictures)
    for one, a, b in zip(same, stream, stream, strict=True):
        if a is not None and b is not None:
            yield a.data
            yield b.data
            kept.append(bool(one))


def write_pack(
    path: str, images: Iterable[bytes], same: Iterable[bool], overwrite: bool = False
) -> None:
    """Write a pickle of (list of bytes, list of bool), which FacePack reads.

    It is the same to Python's pickle, but of the images only one is in memory at a
    time. Pair i is images 2i and 2i + 1; `same` is asked for after the last image.
    """
    with new_files([path], overwrite) as (file,):
        # Protocol 3 is the first that has bytes.
        file.write(pickle.PROTO + b'\3' + pickle.EMPTY_LIST)
        num_images = 0
        for image in images:
            length = struct.pack('<I', len(image))
            file.write(pickle.BINBYTES + length + image + pickle.APPEND)
            num_images += 1
        file.write(pickle.EMPTY_LIST)
        num_pairs = 0
        for one in same:
            flag = pickle.NEWTRUE if one else pickle.NEWFALSE
            file.write(flag + pickle.APPEND)
            num_pairs += 1
        file.write(pickle.TUPLE2 + pickle.STOP)
        if not num_pairs or num_images != 2 * num_pairs:
            raise UserError(
                f'{path}: {num_images} images and {num_pairs} pairs, expected two '
                'images for each pair'
            )


def main() -> None:
    args = parse_args()

    from mmhyperface.datasets import FacePairs

    # A missing file is told as an image that is damaged.
    pairs = FacePairs(
        args.source,
        data_prefix=args.root,
        extension=args.extension,
        check_files=not args.skip_damaged,
    )
    test_set = pairs.metainfo['test_sets'][pairs.name]
    same, folds = test_set['same'], test_set['folds']
    numbers = np.stack([test_set['index_a'], test_set['index_b']], 1).ravel()
    kept: list[bool] = []
    with Pictures(
        pairs, args.workers, args.skip_damaged, encoding_of(args), numbers
    ) as pictures:
        images = images_of(pictures, same, kept)
        write_pack(args.destination, images, kept, args.overwrite)
    print(f'{args.destination}: {len(kept)} pairs')
    if folds is not None and folds[-1] + 1 != FOLDS:
        print(
            f'The list has {folds[-1] + 1} folds, which a pack cannot tell: read it '
            f'with FacePack(folds={folds[-1] + 1})'
        )
    if len(kept) < len(same):
        print(
            f'pairs with a damaged image, left out: {len(same) - len(kept)}; those '
            'that follow may be in another fold than before'
        )
    pictures.report()


if __name__ == '__main__':
    with reported_conversion():
        main()
