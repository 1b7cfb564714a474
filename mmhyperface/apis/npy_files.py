"""Features, and labels of pairs, in ``.npy`` files of any origin."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from mmhyperface.errors import UserError, some
from mmhyperface.evaluation.functional.arrays import Bools, Floats, unusable_rows
from mmhyperface.evaluation.metrics.embeddings import Embeddings

FLOATS = ('float16', 'float32', 'float64')


def open_features(path: str, count: int, source: str) -> Floats:
    """Features [N, D] of a ``.npy`` file, which stay on the disk if possible.

    Args:
        count: N, as many as are expected.
        source: what expects them, for errors.

    Raises:
        UserError: If the file cannot be read, or holds anything else.
    """
    rows = _open(path)
    if rows.ndim != 2 or rows.dtype.name not in FLOATS:
        raise UserError(
            f'{path}: expected features [N, D] of {", ".join(FLOATS)}, got '
            f'{rows.dtype} of shape {list(rows.shape)}'
        )
    if len(rows) != count:
        raise UserError(f'{path} has {len(rows)} rows, but {source} tells of {count}')
    return rows.astype(np.float32) if rows.dtype == np.float16 else rows


def require_usable(
    source: str,
    rows: Floats,
    names: npt.NDArray[np.bytes_] | None = None,
    unused: Bools | None = None,
) -> None:
    """
    Args:
        source: of the rows [N, D].
        names: [N], of the images, if they are known.
        unused: bool [N], rows that may be anything.

    Raises:
        UserError: If a row has no direction.
    """
    bad = unusable_rows(rows)
    if unused is not None:
        bad = bad[~unused[bad]]
    if len(bad):
        first = '' if names is None else f'; the first is of {names[bad[0]].decode()}'
        raise UserError(
            f'{source}: zero, NaN or infinite, counted from 0, is row {some(bad)}'
            f'{first}'
        )


def open_embeddings(
    path: str,
    count: int,
    source: str,
    mirrored: str | None,
    flip: str | None,
    names: npt.NDArray[np.bytes_] | None = None,
) -> Embeddings:
    """Features in one file, and in another one those of the mirror images.

    Args:
        path, count, source: see :func:`open_features`.
        mirrored: the other file, if there is one.
        flip: how they are fused; None: the sum.
        names: see :func:`require_usable`.

    Raises:
        UserError: also where a row has no direction, or both are of different widths.
    """
    rows = open_features(path, count, source)
    require_usable(path, rows, names)
    numbers = np.arange(count)
    if mirrored is None:
        if flip not in (None, 'none'):
            raise UserError(
                f'to fuse by {flip!r}, give the features of the mirror images too: '
                '--mirrored'
            )
        return Embeddings(numbers, rows, flip='none' if flip == 'none' else 'given')
    others = open_features(mirrored, count, source)
    if others.shape != rows.shape:
        raise UserError(
            f'{path} has features of {rows.shape[1]} values, {mirrored} of '
            f'{others.shape[1]}'
        )
    if flip == 'none':
        return Embeddings(numbers, rows, flip='none')
    require_usable(mirrored, others, names)
    return Embeddings(numbers, rows, others, flip or 'sum')


def open_labels(path: str) -> Bools:
    """Whether each pair is of one person, bool [P], of a ``.npy`` file.

    Raises:
        UserError: If the file cannot be read, or holds anything else.
    """
    labels = _open(path)
    expected = f'{path}: expected True and False, or the integers 1 and 0, one a pair'
    if labels.ndim != 1 or labels.dtype.kind not in 'biu' or not len(labels):
        raise UserError(f'{expected}; got {labels.dtype} of shape {list(labels.shape)}')
    if not np.isin(labels, (0, 1)).all():
        raise UserError(f'{expected}; got values from {labels.min()} to {labels.max()}')
    return labels.astype(bool)


def about_features(path: str) -> dict[str, Any]:
    """What the test tells that saved features: {} if it is not known.

    See :class:`~mmhyperface.evaluation.FaceEvaluator`.
    """
    try:
        about = json.loads(Path(path).with_suffix('.json').read_text(encoding='utf-8'))
    except (OSError, ValueError):
        return {}
    return about if isinstance(about, dict) else {}


def _open(path: str) -> npt.NDArray[Any]:
    try:
        # What is written to a copy does not reach the file; torch likes it better
        # than an array that is read-only.
        array = np.load(path, mmap_mode='c', allow_pickle=False)
    except (OSError, ValueError) as error:
        raise UserError(f'{path} cannot be read as a .npy file: {error}') from None
    if not isinstance(array, np.ndarray):
        raise UserError(f'{path} is no .npy file, but an archive of several arrays')
    return array.view(np.ndarray)
