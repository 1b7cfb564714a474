"""Reading long lists of names and numbers in seconds; errors name file and line."""

import os
import warnings
from collections.abc import Sequence
from itertools import islice

import numpy as np

from mmhyperface.utils.errors import UserError

from .text_lists import raw_lines

#: Bytes; file systems have no longer names either.
LONGEST_NAME = 255
NAME = f'S{LONGEST_NAME + 1}'


def read_rows(
    path: str, fields: Sequence[tuple], expected: str, advice: str = ''
) -> np.ndarray:
    """The lines of a list as a structured array.

    numpy's reader does it, which takes seconds for millions of lines. It tells neither
    file nor line of what it refuses: that is looked up then.

    Args:
        path: of a text file in UTF-8 with fields between white space. Blank lines are
            passed over.
        fields: of a line, as numpy has them: (name, type) or (name, type, how many).
            :data:`NAME` is the type of a name, which is ASCII.
        expected: a line in words, for errors.
        advice: ends the error of a file that cannot be read, or has another line.

    Raises:
        UserError: a file that cannot be read, or is empty, or a line that has not these
            fields.
    """
    dtype = np.dtype(list(fields))
    try:
        if not os.path.isfile(path):
            raise OSError
        with warnings.catch_warnings():
            warnings.simplefilter('error')  # of no lines, and of 1.0 for an integer
            rows = np.loadtxt(path, dtype, comments=None, ndmin=1, encoding='utf-8-sig')
    except OSError:
        what = 'cannot be read' if os.path.exists(path) else 'there is no such file'
        raise UserError(f'{path}: {what}. {advice}'.rstrip()) from None
    except (ValueError, Warning) as error:
        _refuse_line(path, _kinds(dtype), expected, advice)
        raise UserError(f'{path}: cannot be read: {error}. {advice}'.rstrip()) from None
    for name in dtype.names or ():
        if rows[name].dtype.kind == 'S':
            _check_names(path, rows[name])
    return rows


def line_of(path: str, row: int) -> int:
    """The line of a row that :func:`read_rows` has read, counted from 1."""
    lines = (number for number, line in raw_lines(path, '') if line.strip())
    # numpy takes a carriage return too for the end of a line.
    return next(islice(lines, row, None), row + 1)


def _kinds(dtype: np.dtype) -> list[type]:
    """Of each field of a line."""
    kinds: list[type] = []
    for name in dtype.names or ():
        field = dtype[name]
        kinds += [field.base.type] * int(np.prod(field.shape))
    return kinds


def _refuse_line(path: str, kinds: list[type], expected: str, advice: str) -> None:
    empty = True
    end = f'. {advice}' if advice else ''
    for number, line in raw_lines(path, advice):
        empty &= not line.strip()
        if line.strip() and not _fits(line.split(), kinds):
            reason = f'expected {expected}, got {line.strip()!r:.200}'
            raise UserError(f'{path}:{number}: {reason}{end}')
    if empty:
        raise UserError(f'{path}: has no line; expected {expected}{end}')


def _fits(fields: list[str], kinds: list[type]) -> bool:
    try:
        for kind, field in zip(kinds, fields, strict=True):
            if kind is not np.bytes_:
                kind(field)
            elif not field.isascii():
                return False
    except (ValueError, OverflowError):
        return False
    return True


def _check_names(path: str, names: np.ndarray) -> None:
    lengths = np.char.str_len(names)
    codes = names.astype(f'S{max(lengths.max(), 1)}').view(np.uint8)
    beyond_ascii = (codes.reshape(len(names), -1) > 127).any(axis=1)
    wrong = (lengths > LONGEST_NAME) | (lengths == 0) | beyond_ascii
    if wrong.any():
        line = line_of(path, int(wrong.argmax()))
        raise UserError(
            f'{path}:{line}: expected a name of 1 to {LONGEST_NAME} ASCII characters: '
            'this is no list of images'
        )
