"""The one exception for mistakes in a user's config, command or files."""

import errno
import shutil
import sys
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy.typing as npt

#: Exit status of a tool: done, but not all that was asked for, as stderr tells.
INCOMPLETE = 3


class UserError(ValueError):
    """Something the user can mend: says what is wrong, where, and what to do.

    The command line tools print the message alone, without a traceback.
    """

    @property
    def brief(self) -> str:
        """The message without the traceback a DataLoader worker wraps it in.

        (Not named ``message``: torch would rebuild the exception from that.)
        """
        return str(self).rpartition(f'{type(self).__name__}: ')[2].strip()


def some(values: Sequence[Any] | npt.NDArray[Any], most: int = 10) -> str:
    """The first few of them, for a message: ``'3, 7, … (21 in all)'``."""
    listed = ', '.join(str(value) for value in values[:most])
    return f'{listed}, … ({len(values)} in all)' if len(values) > most else listed


def require_one_of(owner: object, option: str, value: object, allowed: tuple) -> None:
    """Raise :class:`UserError` unless an option of an object may have this value."""
    if value not in allowed:
        raise UserError(
            f'{type(owner).__name__}: {option} must be one of {allowed}, got {value!r}'
        )


def interrupted(error: BaseException | None) -> bool:
    """Whether it was Ctrl-C that ended in an error.

    Libraries make another error of it: mmengine, which formats a config with a bare
    ``except:`` each time that it saves a checkpoint, a SyntaxError.
    """
    while error is not None and not isinstance(error, KeyboardInterrupt):
        hidden = error.__suppress_context__
        error = error.__cause__ if hidden else error.__context__
    return error is not None


# What is wrong with a disk or a quota when something is written.
_TORCH = ('unexpected pos', 'PytorchStreamWriter failed writing')
_DISK = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS}


def of_the_disk(error: BaseException | None) -> bool:
    """Whether an error says that a disk is full or read-only.

    numpy gives no number for a full disk, and torch another error after the system's.
    """
    if isinstance(error, OSError):
        return error.errno in _DISK or 'requested and' in str(error)
    return isinstance(error, RuntimeError) and (
        any(words in str(error) for words in _TORCH) or of_the_disk(error.__context__)
    )


def unwritable(
    path: str | Path, error: BaseException, needed: int | None = None
) -> UserError:
    """What to raise for :func:`of_the_disk`, with the free space if that may be it.

    Args:
        path: What was to be written, or a folder that it is in.
        error: The error, which may not name it.
        needed: Its size in bytes, if that is known.
    """
    reason = getattr(error, 'strerror', None) or 'No space left on device'
    number = getattr(error, 'errno', None)
    message = f'{path} cannot be written: {reason}'
    if number in (None, errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        wanted = '' if needed is None else f'about {size_of(needed)} needed, '
        message += f' ({wanted}{size_of(free_space(path))} free)'
    return UserError(message)


@contextmanager
def writing_to(path: str | Path) -> Generator[None, None, None]:
    """Say where it was that something could not be written: there, if nothing tells.

    Raises:
        UserError: If a disk is full, or read-only.
    """
    try:
        yield
    except OSError as error:
        if not of_the_disk(error):
            raise
        raise unwritable(error.filename or path, error) from error


def free_space(path: str | Path) -> int:
    """Bytes that are free where a path is, or is to be."""
    place = Path(path).absolute()
    while not place.exists():
        place = place.parent
    usage = shutil.disk_usage(place)
    # Some that are no disks have no size.
    return usage.free if usage.total else sys.maxsize


def size_of(count: float) -> str:
    """A number of bytes, for a message: ``'1.5 GB'``."""
    for unit in ('bytes', 'KB', 'MB', 'GB'):
        if count < 1024:
            return f'{count:.0f} {unit}' if unit == 'bytes' else f'{count:.3g} {unit}'
        count /= 1024
    return f'{count:.4g} TB'


def first_line(error: BaseException) -> str:
    """Of its message, or its type if it has none."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
