"""Files that get their names when they are complete, and not before.

Until then they lie beside that place under a hidden name, and they go if anything goes
wrong; only a process that is killed at once leaves them there.
"""

import os
import shutil
from collections.abc import Generator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from typing import BinaryIO

from mmhyperface.utils.errors import UserError, of_the_disk, unwritable

#: How to replace what is there.
OVERWRITE = 'overwrite=True, or --overwrite'


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
                raise UserError(f'{path} is there already; to replace it: {OVERWRITE}')
    # A link stays, and what it leads to is replaced.
    real = [os.path.realpath(path) for path in paths]
    parts = [beside(path, 'part') for path in real]
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


def beside(path: str, ending: str) -> str:
    """A hidden name in the same folder, which no other process takes."""
    folder, name = os.path.split(path)
    return os.path.join(folder, f'.{name}.{os.getpid()}.{ending}')
