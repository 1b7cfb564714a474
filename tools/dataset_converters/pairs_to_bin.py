"""Write a list of pairs as a verification pack, as insightface distributes them.

A pack holds the images of each pair, one after the other, and no folds: its readers
take ten of equal size, as those of LFW are.
"""

import argparse
from collections.abc import Iterator

import numpy as np
from conversion import (
    Pictures,
    add_encoding_arguments,
    add_image_arguments,
    conversion_parser,
    encoding_of,
    reported_conversion,
)

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


def main() -> None:
    args = parse_args()

    from mmhyperface.datasets import FacePairs
    from mmhyperface.datasets.writers.pack_writer import write_pack

    # A missing file is told as an image that is damaged.
    pairs = FacePairs(
        args.source,
        data_prefix=args.root,
        extension=args.extension,
        check_files=not args.skip_damaged,
    )
    told = pairs.metainfo['test_sets'][pairs.name]
    same, folds = told['same'], told['folds']
    numbers = np.stack([told['index_a'], told['index_b']], 1).ravel()
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
