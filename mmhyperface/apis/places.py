"""Whether what a tool is to write can be written, asked before the work."""

import os
from pathlib import Path

from mmhyperface.errors import UserError


def require_folder(path: str | Path) -> None:
    """
    Raises:
        UserError: If there is no such folder to write to, and none can be made.
    """
    places = [Path(path), *Path(path).absolute().parents]
    there = next(place for place in places if os.path.lexists(place))
    if not there.is_dir():
        raise UserError(f'nothing can be written to {path}: {there} is no folder')
    if not os.access(there, os.W_OK | os.X_OK):
        raise UserError(f'nothing can be written to {path}: {there} is read-only')


def require_file(path: str | Path) -> None:
    """
    Raises:
        UserError: If no such file can be written.
    """
    if Path(path).is_dir():
        raise UserError(f'{path} is a folder; name a file')
    require_folder(Path(path).absolute().parent)
