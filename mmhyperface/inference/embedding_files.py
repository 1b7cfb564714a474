"""Embeddings in files: ``.npz``, or ``.parquet``, a row for each face."""

import json
import os
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from mmhyperface.utils.atomic_files import new_files
from mmhyperface.utils.errors import UserError
from mmhyperface.utils.optional_imports import require
from mmhyperface.utils.paths import require_file
from mmhyperface.weights.convention import Convention

from .inputs import NUMBERS
from .results import FaceEmbeddings, Floats

ENDINGS = ('.npz', '.parquet')
_BOX = ('left', 'top', 'width', 'height')


def require_embedding_file(path: str | Path, overwrite: bool = False) -> None:
    """Refuse a path to which no embeddings can be written, by ``UserError``."""
    if Path(path).suffix not in ENDINGS:
        raise UserError(f'{path}: embeddings are written to {" or ".join(ENDINGS)}')
    if Path(path).suffix == '.parquet':
        require('pyarrow', 'parquet')
    require_file(path)
    if not overwrite and os.path.lexists(path):
        raise UserError(f'{path} is there already; to replace it: --overwrite')


def save_embeddings(
    path: str | Path,
    result: FaceEmbeddings,
    convention: Convention,
    overwrite: bool = False,
) -> None:
    """Write embeddings with all that is known of them; the file is whole or not there.

    ``.npz``: arrays ``embeddings`` float32 [N, D], ``paths`` [N], ``numbers`` (of the
    face in the picture), ``norms``, ``boxes`` [N, 4] (left, top, width, height),
    ``landmarks`` [N, 5, 2] and ``detection_scores``, NaN where there are none,
    ``remarks``; ``problem_paths`` and ``problems`` of what has no embedding; and
    ``convention``, JSON. No array is pickled.

    ``.parquet`` (needs pyarrow): the same as columns, with x1, y1 ... x5, y5 as a table
    of landmarks has them; problems are rows without an embedding. The convention is in
    the schema's metadata, ``mmhyperface``.

    Raises:
        UserError: If it cannot be written, or is there and not to be replaced.
    """
    require_embedding_file(path, overwrite=True)
    text = json.dumps(convention.to_dict())
    write = _write_npz if Path(path).suffix == '.npz' else _write_parquet
    with new_files([str(path)], overwrite) as (file,):
        write(file, result, text)


@dataclass(frozen=True)
class SavedEmbeddings:
    """What :func:`save_embeddings` wrote.

    Attributes:
        paths: Of the picture of each row, [N].
        rows: float32 [N, D].
        problems: By path, why there is no embedding.
        convention: Of the network.
    """

    paths: list[str]
    rows: Floats
    problems: dict[str, str]
    convention: Convention


def read_embeddings(path: str | Path) -> SavedEmbeddings:
    """Read embeddings that :func:`save_embeddings` wrote.

    Raises:
        UserError: If the file cannot be read, or is another one.
    """
    read = _read_npz if Path(path).suffix == '.npz' else _read_parquet
    try:
        paths, rows, problems, text = read(path)
        convention = Convention.from_dict(json.loads(text), str(path))
    except UserError:
        raise
    # A damaged file, and one without what is looked for, have many names.
    except (OSError, ValueError, KeyError, TypeError, zipfile.BadZipFile) as error:
        raise UserError(
            f'{path} cannot be read as embeddings that tools/inference/embed.py '
            f'wrote: {error}'
        ) from None
    return SavedEmbeddings(paths, rows, problems, convention)


def _read_npz(path: str | Path) -> tuple[list[str], Floats, dict[str, str], str]:
    with np.load(path, allow_pickle=False) as arrays:
        problems = zip(
            arrays['problem_paths'].tolist(), arrays['problems'].tolist(), strict=True
        )
        return (
            arrays['paths'].tolist(),
            arrays['embeddings'],
            dict(problems),
            str(arrays['convention']),
        )


def _read_parquet(path: str | Path) -> tuple[list[str], Floats, dict[str, str], str]:
    parquet = require('pyarrow.parquet', 'parquet')
    table = parquet.read_table(path, columns=['path', 'embedding', 'problem'])
    convention = (table.schema.metadata or {})[b'mmhyperface'].decode()
    usable = table.filter(table['embedding'].is_valid())
    column = usable['embedding'].combine_chunks()
    rows = column.flatten().to_numpy().reshape(len(column), column.type.list_size)
    both = zip(table['path'].to_pylist(), table['problem'].to_pylist(), strict=True)
    problems = {name: why for name, why in both if why}
    return usable['path'].to_pylist(), rows, problems, convention


def _write_npz(file: BinaryIO, result: FaceEmbeddings, convention: str) -> None:
    faces = result.usable
    arrays: dict[str, Any] = {
        'embeddings': result.embeddings,
        'paths': _texts([face.source for face in faces]),
        'numbers': result.numbers,
        'norms': np.array([face.quality for face in faces], np.float64),
        'boxes': _rows([face.box for face in faces], (4,)),
        'landmarks': _rows([face.landmarks for face in faces], (5, 2)),
        'detection_scores': np.array(  # None is NaN
            [face.detection_score for face in faces], np.float64
        ),
        'remarks': _texts(['; '.join(face.remarks) for face in faces]),
        'problem_paths': _texts([face.source for face in result.problems]),
        'problems': _texts([face.problem for face in result.problems]),
        'convention': np.array(convention),
    }
    np.savez(file, **arrays)


def _write_parquet(file: BinaryIO, result: FaceEmbeddings, convention: str) -> None:
    pyarrow = require('pyarrow', 'parquet')
    parquet = require('pyarrow.parquet', 'parquet')
    faces = result.faces
    boxes = _rows([face.box for face in faces], (4,))
    points = _rows([face.landmarks for face in faces], (5, 2)).reshape(-1, 10)
    row = pyarrow.list_(pyarrow.float32(), result.dimensions)
    columns = {
        'path': [_text(face.source) for face in faces],
        'number': [face.number for face in faces],
        'embedding': pyarrow.array([face.embedding for face in faces], row),
        'norm': pyarrow.array([face.quality for face in faces], pyarrow.float64()),
        'detection_score': pyarrow.array(
            [face.detection_score for face in faces], pyarrow.float64()
        ),
        'remarks': ['; '.join(face.remarks) for face in faces],
        'problem': [_text(face.problem) for face in faces],
    }
    named = [*zip(_BOX, boxes.T, strict=True), *zip(NUMBERS, points.T, strict=True)]
    for name, values in named:
        columns[name] = pyarrow.array(values, from_pandas=True)  # NaN is nothing
    table = pyarrow.table(columns)
    parquet.write_table(
        table.replace_schema_metadata({'mmhyperface': convention}), file
    )


def _rows(values: list, shape: tuple[int, ...]) -> npt.NDArray[np.float64]:
    nothing = np.full(shape, np.nan)
    rows = [nothing if value is None else value for value in values]
    return np.array(rows, np.float64).reshape(-1, *shape)


def _texts(values: list[str]) -> npt.NDArray[np.str_]:
    return np.array([_text(value) for value in values], np.str_)


def _text(value: str) -> str:
    """Names of files may hold what is not UTF-8."""
    return value.encode('utf-8', 'backslashreplace').decode()
