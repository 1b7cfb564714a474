"""Writing verification packs: ``lfw.bin`` and the like."""

import pickle
import struct
from collections.abc import Iterable

from mmhyperface.utils.atomic_files import new_files
from mmhyperface.utils.errors import UserError


def write_pack(
    path: str, images: Iterable[bytes], same: Iterable[bool], overwrite: bool = False
) -> None:
    """Write a pickle of (list of bytes, list of bool), which FacePack reads.

    It is the same to Python's pickle, but of the images only one is in memory at a
    time. The file gets its name when all is written.

    Args:
        path: of the pack.
        images: encoded bytes; pair i is images 2i and 2i + 1.
        same: whether a pair is of one person; asked for after the last image.
        overwrite: replace a file that is there.

    Raises:
        UserError: a file that is there or cannot be written; no pair, or not two
            images for each.
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
