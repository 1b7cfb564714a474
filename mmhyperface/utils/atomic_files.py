"""Files and folders that get their names when they are complete, and not before.

Until then they lie beside that place under a hidden name, and they go if anything goes
wrong; only a process that is killed at once leaves them there.
"""

import os
import shutil
from collections.abc import Generator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from typing import BinaryIO

from mmhyperface.datasets.readers.image_files import is_image_name
from mmhyperface.utils.errors import UserError, of_the_disk, unwritable

_OVERWRITE = 'overwrite=True, or --overwrite'


@contextmanager
def new_files(
    paths: Sequence[str], overwrite: bool = False
) -> Generator[Sequence[BinaryIO], None, None]:
    """Files to write into, which are named at the end in the order of `paths`.

    Args:
        paths: Their names; missing folders are made.
        overwrite: Replace files that are there.

    Raises:
        UserError: If one is there and may not be replaced, or cannot be written.
    """
    if not overwrite:
        for path in paths:
            if os.path.lexists(path):
                raise UserError(f'{path} is there already; to replace it: {_OVERWRITE}')
    # A link stays, and what it leads to is replaced.
    real = [os.path.realpath(path) for path in paths]
    parts = [_beside(path, 'part') for path in real]
    try:
        for path in real:
            os.makedirs(os.path.dirname(path) or '.', exist_ok=True)
        with ExitStack() as stack:
            files = [stack.enter_context(open(part, 'wb')) for part in parts]
            yield files
            for file in files:
                # The disk has it all before anything bears the name.
                file.flush()
                os.fsync(file.fileno())
        for part, path in zip(parts, real, strict=True):
            if os.path.exists(path):
                # What others may not read they may not read afterwards.
                shutil.copymode(path, part)
            os.replace(part, path)
    except (OSError, RuntimeError) as error:
        _remove(parts)
        if of_the_disk(error):
            raise unwritable(paths[0], error) from None
        if isinstance(error, RuntimeError):
            raise
        raise UserError(f'{paths[0]} cannot be written: {error}') from None
    finally:
        _remove(parts)


def _remove(files: Sequence[str]) -> None:
    for file in files:
        with suppress(OSError):
            os.unlink(file)


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
    part = _beside(path, 'part')
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
        raise UserError(f'{path} is there already; to replace it: {_OVERWRITE}')
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
    old = _beside(path, 'old')
    os.rename(path, old)
    try:
        os.rename(new, path)
    except BaseException:
        os.rename(old, path)
        raise
    shutil.rmtree(old)


def _beside(path: str, ending: str) -> str:
    folder, name = os.path.split(path)
    return os.path.join(folder, f'.{name}.{os.getpid()}.{ending}')
