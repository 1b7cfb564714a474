"""A folder of images that gets its name when it is complete, and not before."""

import os
import shutil
from collections.abc import Generator
from contextlib import contextmanager

from mmhyperface.datasets.readers.image_files import is_image_name
from mmhyperface.utils.atomic_files import OVERWRITE, beside
from mmhyperface.utils.errors import UserError, of_the_disk, unwritable


@contextmanager
def new_folder(path: str, overwrite: bool = False) -> Generator[str, None, None]:
    """A folder to write into, which is named `path` at the end.

    Args:
        path: Its name; an empty folder may be there.
        overwrite: Replace a folder of images, as a whole.

    Raises:
        UserError: If it is there and may not be replaced, holds files that are no
            images, or cannot be written.
    """
    # A link stays, and what it leads to is replaced.
    path = os.path.realpath(path)
    part = beside(path, 'part')
    try:
        _refuse_to_replace(path, overwrite)
        os.makedirs(part)
        yield part
        _rename_folder(part, path)
    except OSError as error:
        shutil.rmtree(part, ignore_errors=True)
        if of_the_disk(error):
            raise unwritable(path, error) from None
        raise UserError(f'{path} cannot be written: {error}') from None
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _refuse_to_replace(path: str, overwrite: bool) -> None:
    if not os.path.lexists(path):
        return
    if not os.path.isdir(path):
        raise UserError(f'{path} is there already, and is no folder')
    if os.path.ismount(path):
        raise UserError(
            f'{path} is where a file system is mounted, which cannot be replaced as a '
            'whole; name a folder in it'
        )
    if os.listdir(path) and not overwrite:
        raise UserError(f'{path} is there already; to replace it: {OVERWRITE}')
    for folder, _, files in os.walk(path):
        for file in files:
            if not is_image_name(file):
                raise UserError(
                    f'{path} holds {os.path.join(folder, file)}, which is no image, '
                    'and is not replaced; remove it, or name another folder'
                )


def _rename_folder(new: str, path: str) -> None:
    if not os.path.isdir(path):
        os.rename(new, path)
        return
    old = beside(path, 'old')
    os.rename(path, old)
    try:
        os.rename(new, path)
    except BaseException:
        os.rename(old, path)
        raise
    shutil.rmtree(old)
