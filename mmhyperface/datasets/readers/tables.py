"""Reading tables: CSV and TSV with a header line, and Parquet."""

import csv
import os
import re
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from mmhyperface.utils.errors import UserError

from .text_lists import raw_lines

_DELIMITERS = {'.csv': ',', '.tsv': '\t'}
_PARQUET = ('.parquet', '.pq')
ENDINGS = (*_DELIMITERS, *_PARQUET)
_BREAKS = re.compile('[\0\r\n]')
_INTEGER = re.compile(r'\s*[+-]?[0-9]{1,18}\s*')


def is_table(path: str) -> bool:
    """Whether the ending is that of a table."""
    return _ending(path) in ENDINGS


def read_table(
    path: str, columns: Sequence[str], advice: str, other_columns: str = ''
) -> Iterator[tuple[int, Sequence[Any]]]:
    """(line or row, values of these columns) of each row; the file is streamed.

    CSV and TSV are UTF-8, fields quoted as usual, and values are text; those of Parquet
    are of its types, and need pyarrow.

    Args:
        path: of the table.
        columns: their names; others are passed over.
        advice: ends the error of a file that cannot be read.
        other_columns: how to name other columns, for the error of a missing one.

    Raises:
        UserError: with file and line: a table that cannot be read, lacks a column, has
            it twice, or a row of another length than the header.
    """
    ending = _ending(path)
    if ending not in ENDINGS:
        raise UserError(f"'{path}' ends with none of {', '.join(ENDINGS)}")
    hint = f'; {other_columns}' if other_columns else ''
    if ending in _PARQUET:
        return _parquet_rows(path, columns, advice, hint)
    return _text_rows(path, columns, advice, hint, _DELIMITERS[ending])


def text_of(value: Any, source: str) -> str:
    """A field as text, which is not empty.

    Raises:
        UserError: If it is, or is neither text nor an integer. `source` is its file,
            line and column.
    """
    if type(value) is int:
        return str(value)
    if value is None or value != value:  # NaN
        value = ''
    text = value.strip() if isinstance(value, str) else ''
    if text and not _BREAKS.search(text):
        return text
    problem = 'is empty'
    if text:
        problem = f'holds a line break or NUL: {text!r:.100}. Is there a lone quote?'
    elif not isinstance(value, str):
        problem = f'is neither text nor an integer: {value!r:.100}'
    raise UserError(f'{source} {problem}')


def read_integers(path: str, count: int, expected: str) -> tuple[np.ndarray, list[int]]:
    """The first columns of a CSV file below a header line, and the line of each row.

    Args:
        path: of the table, whatever its header calls these columns.
        count: how many columns.
        expected: a line in words, for errors.

    Returns:
        int64 [N, count], and N numbers of lines, counted from 1.

    Raises:
        UserError: with file and line: a table that cannot be read, without a header or
            a row, other values than integers, or a last line that is cut off.
    """
    rows: list[list[int]] = []
    lines: list[int] = []
    header: list[str] | None = None
    for line, fields in _csv_rows(path, 'Check the path', ','):
        source = f'{path}:{line}'
        text = ','.join(fields).strip()[:200]
        integers = all(map(_INTEGER.fullmatch, fields[:count]))
        integers = integers and len(fields) >= count
        if header is None:
            if integers:
                raise UserError(
                    f'{source}: expected a header line above {expected}, got {text!r}'
                )
            header = fields
        elif not integers:
            raise UserError(f'{source}: expected {expected}, got {text!r}')
        else:
            rows.append([int(field) for field in fields[:count]])
            lines.append(line)
    if not rows or header is None:
        raise UserError(f'{path}: has no line; expected {expected}')
    if len(fields) < len(header):
        # Where the fields that are read are there, a cut line would pass.
        raise UserError(
            f'{source}: the last line has fewer fields than the header, got {text!r}: '
            'the file is cut off'
        )
    return np.array(rows, np.int64), lines


def _text_rows(
    path: str,
    columns: Sequence[str],
    advice: str,
    hint: str,
    delimiter: str,
) -> Iterator[tuple[int, list[str]]]:
    rows = _csv_rows(path, advice, delimiter)
    _, header = next(rows, (1, []))
    hint = f'{hint}. Fields are separated by {delimiter!r}'
    at = _find_columns(path, columns, header, hint)
    for line, fields in rows:
        if len(fields) != len(header):
            raise UserError(
                f'{path}:{line}: expected {len(header)} fields as in the header, got '
                f'{len(fields)}'
            )
        yield line, [fields[place] for place in at]


def _csv_rows(
    path: str, advice: str, delimiter: str
) -> Iterator[tuple[int, list[str]]]:
    """(last line, fields) of each row that is not blank, the header among them."""
    lines = (line for _, line in raw_lines(path, advice))
    reader = csv.reader(lines, delimiter=delimiter, strict=True)
    line = 0
    try:
        for fields in reader:
            line = reader.line_num
            if fields:
                yield line, fields
    except csv.Error as error:
        raise UserError(
            f'{path}:{line + 1}: {error}. Fields are quoted with ", lines end with LF '
            'or CRLF'
        ) from None


def _parquet_rows(
    path: str, columns: Sequence[str], advice: str, hint: str
) -> Iterator[tuple[int, Sequence[Any]]]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise UserError(
            f"'{path}' needs pyarrow: pip install pyarrow, or pip install "
            "'mmhyperface[parquet]'"
        ) from None
    try:
        table = pyarrow.parquet.ParquetFile(path)
        _find_columns(path, columns, table.schema_arrow.names, hint)
        row = 0
        for batch in table.iter_batches(columns=list(columns)):
            values = (batch.column(name).to_pylist() for name in columns)
            for of_row in zip(*values, strict=True):
                row += 1
                yield row, of_row
    except (pyarrow.ArrowException, OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read the table '{path}': {error}. {advice}") from None


def _find_columns(
    path: str, columns: Sequence[str], header: Sequence[str], advice: str
) -> list[int]:
    """Where these columns are."""
    for column in columns:
        count = header.count(column)
        if count != 1:
            raise UserError(
                f'{path}:1: {f"{count} columns" if count else "no column"} {column!r} '
                f'among {header!s:.300}{advice}'
            )
    return [header.index(column) for column in columns]


def _ending(path: str) -> str:
    return os.path.splitext(path)[1].lower()
