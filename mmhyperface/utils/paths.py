"""Whether what a tool is to write can be written, asked before the work."""

import os
import tempfile
from pathlib import Path

from mmhyperface.utils.errors import UserError


def require_folder(path: str | Path) -> None:
    """Raise ``UserError`` if a folder is not there to write to, and cannot be made."""
    places = [Path(path), *Path(path).absolute().parents]
    there = next(place for place in places if os.path.lexists(place))
    if not there.is_dir():
        raise UserError(f'nothing can be written to {path}: {there} is no folder')
    try:
        # Rights alone do not tell, least of all root's.
        with tempfile.TemporaryFile(dir=there):
            pass
    except OSError as error:
        raise UserError(
            f'nothing can be written to {path}: {there}: {error.strerror}'
        ) from None


def require_file(path: str | Path) -> None:
    """Make the folder of a file; raise ``UserError`` if it cannot be written."""
    file = Path(path)
    if file.is_dir():
        raise UserError(f'{file} is a folder; name a file')
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        # Not the file itself: other processes may try at the same time.
        with tempfile.TemporaryFile(dir=file.parent):
            pass
    except OSError as error:
        raise UserError(f'{file} cannot be written: {error}') from None
