"""Reading long lists of names and numbers in seconds; errors name file and line."""

import os
import warnings
from collections import deque
from collections.abc import Sequence
from itertools import islice

import numpy as np

from mmhyperface.utils.errors import UserError

from .text_lists import raw_lines

#: Bytes; file systems have no longer names either.
LONGEST_NAME = 255
NAME = f'S{LONGEST_NAME + 1}'


def read_rows(
    path: str,
    fields: Sequence[tuple],
    expected: str,
    advice: str = '',
    table: bool = False,
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
        advice: ends the error of a file that cannot be read.
        table: fields are between commas, below a header line, and a line may have
            more of them.

    Raises:
        UserError: a file that cannot be read, or is empty, a line that has not these
            fields, or a table whose last line has fewer than its header.
    """
    dtype = np.dtype(list(fields))
    kinds = _kinds(dtype)
    if table:
        _check_header(path, kinds, expected, advice)
    elif not os.path.isfile(path):
        raise _unreadable(path, advice)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter('error')  # of no lines, and of 1.0 for an integer
            rows = np.loadtxt(
                path,
                dtype,
                comments=None,
                delimiter=',' if table else None,
                quotechar='"' if table else None,
                skiprows=int(table),
                usecols=range(len(kinds)) if table else None,
                ndmin=1,
                encoding='utf-8-sig',
            )
    except OSError:
        raise _unreadable(path, advice) from None
    except (ValueError, Warning) as error:
        _refuse_line(path, kinds, expected, advice, table)
        raise UserError(f'{path}: cannot be read: {error}. {advice}'.rstrip()) from None
    if table:
        _check_end(path, advice)
    for name in dtype.names or ():
        if rows[name].dtype.kind == 'S':
            _check_names(path, rows[name], table)
    return rows


def line_of(path: str, row: int, table: bool = False) -> int:
    """The line of a row that :func:`read_rows` has read, counted from 1."""
    lines = (number for number, line in raw_lines(path, '') if line.strip())
    row += int(table)
    # numpy takes a carriage return too for the end of a line.
    return next(islice(lines, row, None), row + 1)


def _kinds(dtype: np.dtype) -> list[type]:
    """Of each field of a line."""
    kinds: list[type] = []
    for name in dtype.names or ():
        field = dtype[name]
        kinds += [field.base.type] * int(np.prod(field.shape))
    return kinds


def _check_header(path: str, kinds: list[type], expected: str, advice: str) -> None:
    # A file without a header would lose its first line.
    for number, line in raw_lines(path, advice):
        if _fits(line, kinds, table=True):
            raise UserError(
                f'{path}:{number}: expected a header line above {expected}, got '
                f'{line.strip()!r:.200}'
            )
        return


def _check_end(path: str, advice: str) -> None:
    # Where the fields that are read are there, a cut line would pass.
    lines = ((number, x) for number, x in raw_lines(path, advice) if x.strip())
    _, header = next(lines)
    for number, line in deque(lines, maxlen=1):
        if line.count(',') < header.count(','):
            raise UserError(
                f'{path}:{number}: the last line has fewer fields than the header, got '
                f'{line.strip()!r:.200}: the file is cut off'
            )


def _refuse_line(
    path: str, kinds: list[type], expected: str, advice: str, table: bool
) -> None:
    count = 0
    for number, line in raw_lines(path, advice):
        if not line.strip() or (table and number == 1):
            continue
        count += 1
        if not _fits(line, kinds, table):
            raise UserError(
                f'{path}:{number}: expected {expected}, got {line.strip()!r:.200}'
            )
    if not count:
        raise UserError(f'{path}: has no line; expected {expected}')


def _fits(line: str, kinds: list[type], table: bool) -> bool:
    fields = [field.strip(' "\r\n') for field in line.split(',' if table else None)]
    if len(fields) < len(kinds) or (len(fields) > len(kinds) and not table):
        return False
    try:
        for kind, field in zip(kinds, fields, strict=False):
            if kind is not np.bytes_:
                kind(field)
            elif not field.isascii():
                return False
    except (ValueError, OverflowError):
        return False
    return True


def _check_names(path: str, names: np.ndarray, table: bool) -> None:
    lengths = np.char.str_len(names)
    codes = names.astype(f'S{max(lengths.max(), 1)}').view(np.uint8)
    beyond_ascii = (codes.reshape(len(names), -1) > 127).any(axis=1)
    wrong = (lengths > LONGEST_NAME) | (lengths == 0) | beyond_ascii
    if wrong.any():
        line = line_of(path, int(wrong.argmax()), table)
        raise UserError(
            f'{path}:{line}: expected a name of 1 to {LONGEST_NAME} ASCII characters: '
            'this is no list of images'
        )


def _unreadable(path: str, advice: str) -> UserError:
    what = 'cannot be read' if os.path.exists(path) else 'there is no such file'
    return UserError(f'{path}: {what}. {advice}'.rstrip())
