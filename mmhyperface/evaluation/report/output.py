"""The files of a report: their names, and how they take the places of older ones."""

import re
import shutil
import tempfile
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from pathlib import Path

NAME_LENGTH = 60


def file_name(number: int, *words: str) -> str:
    """A name that any file system takes, without suffix; the number tells it apart."""
    plain = re.sub(r'[^A-Za-z0-9.-]+', '_', '_'.join(words)).strip('_.')
    return f'{number:02d}_{plain[:NAME_LENGTH]}'


@contextmanager
def replacing_files(
    folder: str | Path, owned: Sequence[str], last: str
) -> Generator[Path, None, None]:
    """A folder to write files into that take their places in ``folder`` at the end.

    Until then nothing in ``folder`` changes, and never what is not named here.

    Args:
        owned: patterns of files that go if they were not written anew.
        last: the file that takes its place after all others: who finds the new one
            finds the rest new as well.
    """
    target = Path(folder)
    target.mkdir(parents=True, exist_ok=True)
    part = Path(tempfile.mkdtemp(dir=target, prefix='.part-'))
    try:
        yield part
        files = [path.relative_to(part) for path in part.rglob('*') if path.is_file()]
        for path in sorted(files, key=lambda path: path == Path(last)):
            (target / path).parent.mkdir(parents=True, exist_ok=True)
            (part / path).replace(target / path)
        for pattern in owned:
            for old in target.glob(pattern):
                if old.relative_to(target) not in files:
                    old.unlink()
    finally:
        shutil.rmtree(part, ignore_errors=True)
