"""Reading text lists: one record per line, errors name file and line."""

import codecs
from collections.abc import Iterator

from mmhyperface.utils.errors import UserError

#: Bytes. A file without line ends is not read into memory to learn that it is no list.
LONGEST_LINE = 1 << 20
_UTF16 = codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE
_NUMPY = (b'\x93NUMPY', b'PK\x03\x04')


def raw_lines(path: str, advice: str) -> Iterator[tuple[int, str]]:
    """Yields (number from 1, line with its end) of a file in UTF-8.

    Byte order marks are left out, also where files were put together. The file is
    streamed. `advice` ends the error of a file that cannot be read.
    """
    try:
        with open(path, 'rb') as file:
            pieces = iter(lambda: file.readline(LONGEST_LINE + 1), b'')
            for number, raw in enumerate(pieces, start=1):
                try:
                    line = raw.decode('utf-8')
                except UnicodeDecodeError as error:
                    raise UserError(f'{path}:{number}: {_why(raw, error)}') from None
                if '\0' in line or len(raw) > LONGEST_LINE:
                    raise UserError(f'{path}:{number}: {_why(raw)}')
                yield number, line.lstrip('\ufeff')
    except OSError as error:
        raise UserError(
            f"cannot read the list '{path}': {error.strerror}. {advice}"
        ) from None


def read_lines(path: str, advice: str) -> Iterator[tuple[int, str]]:
    """Yields (number from 1, stripped line) of the lines that are not blank.

    Lines end with LF or CRLF. Otherwise as :func:`raw_lines`.
    """
    for number, line in raw_lines(path, advice):
        line = line.strip()
        if '\r' in line:
            raise UserError(
                f'{path}:{number}: a carriage return within the line. Lines end with '
                r"LF or CRLF; convert the list, for instance with `tr '\r' '\n'`"
            )
        if line:
            yield number, line


def split_fields(line: str) -> list[str]:
    """Fields between tabs, which may hold spaces, or between any white space."""
    if '\t' in line:
        return [field.strip() for field in line.split('\t')]
    return line.split()


def is_number(text: str) -> bool:
    """Whether a field is a number from 0 on, of a size that can be meant."""
    return text.isdecimal() and len(text) < 10


def _why(raw: bytes, error: UnicodeDecodeError | None = None) -> str:
    """What is wrong with a line."""
    if raw.startswith(_UTF16):
        return 'this is UTF-16. Convert it with `iconv -f UTF-16 -t UTF-8`'
    if raw.startswith(_NUMPY):
        return (
            "this is a file of NumPy's (.npy or .npz), such as features, and no list; "
            'tools/analysis_tools/eval_features.py takes the list before the features'
        )
    if len(raw) > LONGEST_LINE:
        return f'the line has over {LONGEST_LINE} bytes: this is no list'
    if error is None:
        return 'a NUL byte in the line: this is no UTF-8 text'
    return (
        f'not UTF-8 text ({error.reason} at byte {error.start} of the line). Convert '
        'the list, for instance with `iconv -t UTF-8`'
    )
