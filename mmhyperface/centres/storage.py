"""How a checkpoint lies on the disk, and gets there whole or not at all.

A small checkpoint is mmengine's: one file. A large one is a folder of the same name:

    iter_5000.pth/
        model.pth                                      mmengine's, without the rows
        state_dict.head.weight.0-250000.npy            the rows of the class centres
        state_dict.head.weight.250000-500000.npy       in parts, plain numpy arrays
        optimizer.state.41.momentum_buffer.0-250000.npy
        ...
        index.json                                     what belongs where

The index names for each tensor its place among the nested keys of the checkpoint (so
with ``EMAHook`` those below ``state_dict`` are the averaged ones, as in mmengine's own
files), its dtype and shape, and for each part the rows and the size in bytes.

A checkpoint is written under a temporary name beside its own and then renamed.
"""

import functools
import json
import operator
import os
import pickle
import re
import shutil
import zipfile
from collections.abc import Generator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.dist import is_main_process
from torch import Tensor

from mmhyperface.utils.errors import UserError, of_the_disk, unwritable

from .state import StoredRows, chunks, row_bytes

FORMAT = 'mmhyperface centres 1'
INDEX = 'index.json'
MODEL = 'model.pth'
#: The largest part, in bytes.
PART_BYTES = 4 << 30
_SAVING = '.saving'
_REPLACED = '.replaced'
# What numpy lacks is stored as integers of the same bits.
_STORED_AS = {torch.bfloat16: torch.int16}

Key = list[str | int]


def temporary(path: Path) -> Path:
    """Where a checkpoint is while it is being written."""
    return path.with_name(f'.{path.name}{_SAVING}')


def _replaced(path: Path) -> Path:
    return path.with_name(f'.{path.name}{_REPLACED}')


def begin(path: Path) -> Path:
    """The temporary name of a checkpoint, of which nothing is left behind."""
    if is_main_process():
        path.parent.mkdir(parents=True, exist_ok=True)
        tidy(path.parent)
    return temporary(path)


def tidy(folder: Path) -> None:
    """Remove what an interrupted save has left in a folder of checkpoints."""
    for left in folder.glob(f'.*{_SAVING}'):
        remove(left)
    for left in folder.glob(f'.*{_REPLACED}'):
        path = left.with_name(left.name[1 : -len(_REPLACED)])
        if path.exists():
            remove(left)
        else:
            left.rename(path)


def remove(path: Path) -> None:
    """Remove a checkpoint, whichever format it has."""
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def publish(path: Path) -> None:
    """Give the finished temporary file or folder its name, in place of the old."""
    new, old = temporary(path), _replaced(path)
    for part in [*new.iterdir(), new] if new.is_dir() else [new]:
        _sync(part)
    if path.is_dir() or (path.exists() and new.is_dir()):
        # Folders cannot be replaced at one stroke. Should we be stopped between
        # these two, `find` and `tidy` know where the old one is.
        path.rename(old)
    new.replace(path)
    _sync(path.parent)
    if old.exists():
        remove(old)


@contextmanager
def abandoned(path: Path, needed: int | None = None) -> Generator[None, None, None]:
    """Leave nothing of a checkpoint whose writing fails, or is interrupted.

    Args:
        path: Of the checkpoint.
        needed: Its size in bytes, for the message.

    Raises:
        UserError: If there is no space for it, or it may not be written.
    """
    try:
        yield
    except BaseException as error:
        if is_main_process():
            with suppress(OSError):
                remove(temporary(path))
        if of_the_disk(error):
            raise unwritable(path, error, needed) from None
        raise


def write_text(path: Path, text: str) -> None:
    """Write a small file at one stroke."""
    temporary(path).write_text(text)
    publish(path)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def find(path: str) -> Path:
    """The file or folder of a checkpoint.

    Raises:
        UserError: If there is none, or only the beginnings of one.
    """
    place = Path(path).expanduser()
    if not place.exists():
        place = _replaced(place)
    if not place.exists():
        raise UserError(f'there is no checkpoint {path}')
    if place.is_dir() and not (place / INDEX).is_file():
        raise UserError(f'there is no checkpoint {path}: the folder has no {INDEX}')
    return place


def write_rows(folder: Path, key: Key, rows: Tensor, start: int) -> list[dict]:
    """Write one rank's rows [n, ...] of a tensor, in pieces of bounded memory.

    Args:
        folder: Of the parts.
        key: Where the tensor belongs in the checkpoint.
        rows: On any device.
        start: Class of the first row.

    Returns:
        The parts, for :func:`write_index`.
    """
    parts = []
    name = '.'.join(map(str, key)).replace('/', '_')
    limit = max(1, PART_BYTES // max(1, row_bytes(rows)))
    for part in rows.split(limit) if len(rows) else ():
        stop = start + len(part)
        path = folder / f'{name}.{start}-{stop}.npy'
        _write_array(path, part)
        size = path.stat().st_size
        parts.append({'file': path.name, 'rows': [start, stop], 'bytes': size})
        start = stop
    return parts


def _write_array(path: Path, rows: Tensor) -> None:
    rows = rows.detach().view(_STORED_AS.get(rows.dtype, rows.dtype))
    header = {
        'descr': np.lib.format.dtype_to_descr(rows[:0].cpu().numpy().dtype),
        'fortran_order': False,
        'shape': tuple(rows.shape),
    }
    with path.open('wb') as file:
        np.lib.format.write_array_header_1_0(file, header)
        for a, b in chunks(rows, 0, len(rows)):
            file.write(rows[a:b].cpu().contiguous().numpy().data)
        file.flush()
        os.fsync(file.fileno())


def write_index(folder: Path, of_ranks: Sequence[Sequence[dict]]) -> None:
    """Complete a folder.

    Args:
        folder: It holds ``model.pth`` and all parts.
        of_ranks: What each rank has written of each tensor, in one order: its ``key``,
            ``dtype``, ``shape`` and ``parts``.

    Raises:
        UserError: If a part of another process is not to be seen here.
    """
    tensors = []
    for several in zip(*of_ranks, strict=True):
        parts = [part for tensor in several for part in tensor['parts']]
        parts.sort(key=operator.itemgetter('rows'))
        tensors.append({**several[0], 'parts': parts})
        _check_parts(folder, tensors[-1])
    index = {'format': FORMAT, 'model': MODEL, 'tensors': tensors}
    (folder / INDEX).write_text(json.dumps(index, indent=1))


def _check_parts(folder: Path, tensor: dict) -> None:
    name = '.'.join(map(str, tensor['key']))
    end = 0
    for part in tensor['parts']:
        path = folder / part['file']
        if not path.is_file():
            raise UserError(f'checkpoint {folder}: the part {part["file"]} is missing')
        size = path.stat().st_size
        if size != part['bytes']:
            raise UserError(
                f'checkpoint {folder}: the part {part["file"]} is damaged, it has '
                f'{size} bytes instead of {part["bytes"]}'
            )
        if part['rows'][0] != end:
            break
        end = part['rows'][1]
    if end != tensor['shape'][0]:
        raise UserError(
            f'checkpoint {folder}: rows from {end} on of {name} are missing'
        )


def read(path: str) -> Any:
    """Open a local checkpoint without reading the rows of the class centres.

    Returns:
        mmengine's nested checkpoint on the CPU, its tensors mapped to the file where
        the format allows. In place of those in parts there are :class:`StoredRows`.

    Raises:
        UserError: If there is none, or it is incomplete or damaged.
    """
    place = find(path)
    if place.is_file():
        return _read_file(place)
    index = _read_index(place)
    if not (place / index['model']).is_file():
        raise UserError(f'checkpoint {place}: {index["model"]} is missing')
    checkpoint = _read_file(place / index['model'])
    for tensor in index['tensors']:
        _check_parts(place, tensor)
        *above, last = tensor['key']
        node = functools.reduce(operator.getitem, above, checkpoint)
        node[last] = _open_rows(place, tensor)
    return checkpoint


def update_meta(path: str, key: str, value: Any) -> None:
    """Set an entry of the ``meta`` of a checkpoint that is there, at one stroke.

    Raises:
        UserError: If there is none, or it cannot be written.
    """
    place = find(path)
    file = place / _read_index(place)['model'] if place.is_dir() else place
    checkpoint = _read_file(file)
    checkpoint.setdefault('meta', {})[key] = value
    try:
        torch.save(checkpoint, temporary(file))
        publish(file)
    except (OSError, RuntimeError) as error:  # torch's own, of a folder or a disk
        if of_the_disk(error):
            raise unwritable(path, error) from None
        raise UserError(f'checkpoint {path} cannot be written: {error}') from None
    finally:
        temporary(file).unlink(missing_ok=True)


def _read_index(folder: Path) -> dict:
    try:
        index = json.loads((folder / INDEX).read_text())
        version = index['format']
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f'checkpoint {folder}: {INDEX} is damaged: {error}') from error
    if version != FORMAT:
        raise UserError(
            f'checkpoint {folder}: its format is {version!r}, this version of '
            f'mmhyperface reads {FORMAT!r}'
        )
    return index


def _read_file(path: Path) -> Any:
    # Files of torch < 1.6 cannot be mapped.
    mapped = {'mmap': True} if zipfile.is_zipfile(path) else {}
    try:
        return torch.load(str(path), map_location='cpu', **mapped)
    except pickle.UnpicklingError as error:
        raise UserError(f'checkpoint {path} {refusal(error, path)}') from error
    except Exception as error:
        # Interpreting damage may end in any of Python's errors.
        reason = f'{type(error).__name__}: {error}'.splitlines()[0]
        raise UserError(f'checkpoint {path} is damaged, or none: {reason}') from error


def refusal(error: pickle.UnpicklingError, path: Path) -> str:
    """Why torch did not load a file with weights only, in one line."""
    # What torch says at length has its core there.
    message = str(error)
    reason = message.partition('WeightsUnpickler error: ')[2] or message
    named = re.search(r'(?:GLOBAL|[Uu]nsupported class) ([\w.]+)', reason)
    if named is None or _is_cut_off_in(named[1], path):
        return (
            'is no file of torch.save, is damaged, or holds more than tensors and '
            f'plain data ({reason.strip().splitlines()[0]})'
        )
    return (
        f'asks for {named[1]}, and to import that would run code of the file. If you '
        'trust where it comes from, load it once with the program that wrote it, save '
        'its state dict alone (torch.save(model.state_dict(), NEW)), and take that'
    )


def _is_cut_off_in(name: str, path: Path) -> bool:
    """Whether a file ends within the name of a global, whose last byte torch drops."""
    module, _, attribute = name.rpartition('.')
    ends = (f'{module}\n{attribute}', *[module] * (not attribute))
    with path.open('rb') as file:
        file.seek(max(0, path.stat().st_size - 1024))
        return file.read()[:-1].endswith(tuple(map(str.encode, ends)))


def _open_rows(folder: Path, tensor: dict) -> StoredRows:
    dtype = getattr(torch, tensor['dtype'])
    pieces = []
    for part in tensor['parts']:
        start, stop = part['rows']
        # Copy on write: torch warns of memory that it may not write to.
        array = np.load(folder / part['file'], mmap_mode='c')
        if list(array.shape) != [stop - start, *tensor['shape'][1:]]:
            raise UserError(
                f'checkpoint {folder}: the part {part["file"]} is damaged, it has '
                f'the shape {list(array.shape)}'
            )
        pieces.append((start, torch.from_numpy(array).view(dtype)))
    return StoredRows(pieces)
