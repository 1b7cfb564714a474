"""Galleries in files: one ``.npz`` archive of plain arrays, nothing pickled.

``header``, ``people`` and ``images`` are JSON in UTF-8, as bytes; ``rows`` are float32
[N, D] of length 1, ``owners`` int32 [N] are places in ``people``.
"""

import json
import os
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from mmhyperface.datasets.new_files import new_files
from mmhyperface.errors import UserError
from mmhyperface.evaluation.functional.arrays import Floats, Ints, blocks, row_dots

from .ids import require_ids

FORMAT = 'mmhyperface gallery'
VERSION = 1
ARRAYS = ('header', 'people', 'images', 'rows', 'owners')
# How far rounding to float32 leaves the square of a length from 1, with room.
ROUNDED = 2.0**-22


class Contents(NamedTuple):
    """Of a gallery; see the module."""

    fingerprint: str
    score: str
    people: list[str]
    images: list[str]
    rows: Floats
    owners: Ints


def write(path: str, contents: Contents, overwrite: bool) -> None:
    """
    Raises:
        UserError: If it cannot be written, or is there and may not be replaced.
    """
    header = {
        'format': FORMAT,
        'version': VERSION,
        'fingerprint': contents.fingerprint,
        'score': contents.score,
    }
    with new_files([path], overwrite) as (file,):
        np.savez(
            file,
            header=_bytes(header),
            people=_bytes(contents.people),
            images=_bytes(contents.images),
            rows=contents.rows,
            owners=contents.owners,
        )


def read(path: str) -> Contents:
    """
    Raises:
        UserError: If it is no gallery, or is damaged.
    """
    if not os.path.isfile(path):
        raise UserError(f'there is no gallery {path}')
    try:
        with open(path, 'rb') as file:
            arrays = _arrays(path, file)
    except UserError:
        raise
    except Exception as error:  # Of many kinds, for bytes that are not an archive's.
        raise UserError(
            f'{path} cannot be read as a gallery; it is damaged, cut off or of another '
            f'kind ({type(error).__name__}: {error})'
        ) from None
    return _checked(path, arrays)


def _arrays(path: str, file: Any) -> dict[str, npt.NDArray[Any]]:
    """Those of an archive, if it is one of a gallery."""
    if file.read(2) != b'PK':
        raise UserError(f'{path} is no gallery')
    file.seek(0)
    with np.load(file, allow_pickle=False) as archive:
        if 'header' not in archive.files:
            raise UserError(f'{path} is an archive, but not of a gallery')
        header = _json(archive['header'])
        if not isinstance(header, dict) or header.get('format') != FORMAT:
            raise UserError(f'{path} is an archive, but not of a gallery')
        if header.get('version') != VERSION:
            raise UserError(
                f'{path} is a gallery of version {header.get("version")!r}; this '
                f'mmhyperface reads version {VERSION}'
            )
        # Each is read to its end, where zipfile compares the checksum.
        arrays = {name: archive[name] for name in ARRAYS}
    if not all(isinstance(array, np.ndarray) for array in arrays.values()):
        raise ValueError('a part is no array')
    return arrays


def _checked(path: str, arrays: dict[str, npt.NDArray[Any]]) -> Contents:
    """
    Raises:
        UserError: If the arrays do not fit each other.
    """
    try:
        header, people, images = (_json(arrays[name]) for name in ARRAYS[:3])
    except (ValueError, RecursionError) as error:
        raise UserError(f'{path} is damaged: {error}') from None
    rows, owners = arrays['rows'], arrays['owners']
    for ids, what in ((people, 'person'), (images, 'image')):
        if isinstance(ids, list):
            try:
                require_ids(ids, what)
            except UserError as error:
                raise UserError(f'{path} is damaged: {error}') from None
    sound = (
        all(isinstance(header.get(x), str) for x in ('fingerprint', 'score'))
        and _names(people)
        and _names(images)
        and rows.dtype == np.float32
        and rows.ndim == 2
        and rows.shape[1] > 0
        and owners.dtype == np.int32
        and owners.shape == rows.shape[:1] == (len(images),)
        and np.array_equal(np.unique(owners), np.arange(len(people)))
        and _of_length_one(rows)
    )
    if not sound:
        raise UserError(f'{path} is damaged: its parts do not fit each other')
    return Contents(
        header['fingerprint'], header['score'], people, images, rows, owners
    )


def _names(value: Any) -> bool:
    """Whether it is a list of which none comes twice."""
    return isinstance(value, list) and len(set(value)) == len(value)


def _of_length_one(rows: Floats) -> bool:
    for part in blocks(*rows.shape):
        block = rows[part].astype(np.float64)
        # Not `>`: NaN is not close to 1 either.
        if not (np.abs(row_dots(block, block) - 1) <= ROUNDED).all():
            return False
    return True


def _bytes(value: Any) -> npt.NDArray[np.uint8]:
    text = json.dumps(value, ensure_ascii=False, separators=(',', ':'))
    return np.frombuffer(text.encode(), np.uint8)


def _json(array: npt.NDArray[Any]) -> Any:
    if not isinstance(array, np.ndarray) or array.dtype != np.uint8 or array.ndim != 1:
        raise ValueError('text must be bytes in one dimension')
    return json.loads(array.tobytes())
