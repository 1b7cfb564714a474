"""Reading text lists: one record per line, errors name file and line."""

from collections.abc import Iterator

from mmhyperface.errors import UserError

_BOM = b'\xef\xbb\xbf'


def read_lines(path: str, advice: str) -> Iterator[tuple[int, str]]:
    """Yields (number from 1, stripped line) of the lines that are not blank.

    UTF-8 with or without a byte order mark; lines end with LF or CRLF. The file is
    streamed. `advice` ends the error of a file that cannot be read.
    """
    try:
        with open(path, 'rb') as file:
            for number, raw in enumerate(file, start=1):
                if number == 1:
                    raw = raw.removeprefix(_BOM)
                try:
                    line = raw.decode('utf-8').strip()
                except UnicodeDecodeError as error:
                    raise UserError(
                        f'{path}:{number}: not UTF-8 text ({error.reason} at byte '
                        f'{error.start} of the line). Convert the list, for instance '
                        'with `iconv -t UTF-8`'
                    ) from None
                if line:
                    yield number, line
    except OSError as error:
        raise UserError(
            f"cannot read the list '{path}': {error.strerror}. {advice}"
        ) from None


def split_fields(line: str) -> list[str]:
    """Fields between tabs, which may hold spaces, or between any white space."""
    if '\t' in line:
        return [field.strip() for field in line.split('\t')]
    return line.split()
