"""Features, and labels of pairs, in files: ``.npy`` of any origin, whose rows have no
names, or the ``.npz`` or ``.parquet`` of ``tools/inference/embed.py``, whose have.
"""

import itertools
import json
import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from mmengine.logging import print_log

from mmhyperface.evaluation.arrays import Bools, Floats, unusable_rows
from mmhyperface.evaluation.metrics.embeddings import Embeddings
from mmhyperface.utils.errors import UserError, some

from .embedding_files import ENDINGS, read_embeddings

FLOATS = ('float16', 'float32', 'float64')


def has_names(path: str) -> bool:
    """Whether a file of features tells which image each row is of."""
    return Path(path).suffix in ENDINGS


def named_features(
    path: str, names: Sequence[str] | None, source: str
) -> tuple[Floats, str]:
    """Features [N, D] of a file of ``embed.py``, brought into the order of names, and
    how its network fused mirror images.

    A name is the end of a path, ``person/1.jpg`` that of ``crops/person/1.jpg``. If
    none fits, the folder that all names share is left out of them.

    Args:
        names: of the images, [N]; None if they have none.
        source: what expects them, for errors.

    Raises:
        UserError: If the file cannot be read; an image is not in it, or several are
            that could be meant.
    """
    if names is None:
        raise UserError(
            f'{path} tells which image each row is of, but {source} has no names of '
            'images: give a .npy file in its order, or what tools/test.py '
            '--save-features wrote'
        )
    saved = read_embeddings(path)
    # An image without an embedding may be the one that is meant.
    embedded = set(saved.paths)
    paths = [*saved.paths, *(name for name in saved.problems if name not in embedded)]
    wanted = [_parts(name) for name in names]
    matches = _ends(wanted, paths)
    if not any(matches):
        columns = zip(*(parts[:-1] for parts in wanted), strict=False)
        alike = itertools.takewhile(lambda column: len(set(column)) == 1, columns)
        shared = sum(1 for _ in alike)
        matches = _ends([parts[shared:] for parts in wanted], paths)
    several = [i for i, rows in enumerate(matches) if len(rows) > 1]
    if several:
        first = several[0]
        meant = [paths[row] for row in matches[first]]
        could_be = f'{some(meant, 3)}; embed the folder of these images alone'
        if len(set(meant)) == 1:
            could_be = (
                f'any of its {len(meant)} faces; embed one face of each image with '
                '--choose largest'
            )
        raise UserError(
            f'{path}: {len(several)} of {len(names)} images of {source} cannot be told '
            f'apart: {names[first]} could be {could_be}'
        )
    count = len(saved.paths)
    missing = [i for i, rows in enumerate(matches) if not rows or rows[0] >= count]
    if missing:
        problems = [saved.problems[paths[row]] for row in matches[missing[0]]]
        reason = ''.join(f'; it tells of the first: {why}' for why in problems)
        raise UserError(
            f'{path} has no embedding of {len(missing)} of {len(names)} images of '
            f'{source}: {some([names[i] for i in missing], 3)}{reason}'
        )
    order = np.array([rows[0] for rows in matches], np.int64)
    return saved.rows[order], saved.convention.flip_fusion


def _ends(wanted: Sequence[tuple], paths: Sequence[str]) -> list[list[int]]:
    """For each of the wanted parts of names the paths that end with them."""
    known: dict[tuple, list[int]] = {}
    lengths = {len(parts) for parts in wanted}
    for row, path in enumerate(paths):
        parts = _parts(path)
        for length in lengths:
            if length <= len(parts):
                known.setdefault(parts[-length:], []).append(row)
    return [known.get(parts, []) for parts in wanted]


def _parts(path: str) -> tuple[str, ...]:
    # As embed.py writes names that are not UTF-8.
    text = path.encode('utf-8', 'backslashreplace').decode()
    return tuple(os.path.normpath(text).split(os.sep))


def open_features(path: str, count: int, source: str, warn: bool = True) -> Floats:
    """Features [N, D] of a ``.npy`` file, which stay on the disk if possible.

    Args:
        count: N, as many as are expected.
        source: what expects them, for errors.
        warn: whether nothing but the order tells what they are of.

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
    if warn:
        print_log(
            f'{path} has no names: row i is taken for image i of {source}, in its '
            'order. Rows in another order give wrong figures without a word; an .npz '
            'or .parquet file of tools/inference/embed.py is matched by name',
            logger='current',
            level=logging.WARNING,
        )
    return rows.astype(np.float32) if rows.dtype == np.float16 else rows


def require_usable(
    source: str,
    rows: Floats,
    names: npt.NDArray[np.bytes_] | None = None,
    unused: Bools | None = None,
) -> None:
    """Refuse features without a direction.

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
    paths: Sequence[str] | None = None,
) -> Embeddings:
    """Features in one file, and in another one those of the mirror images.

    Args:
        path, count, source: see :func:`open_features`.
        paths: of the images, see :func:`named_features`; `names` if they are not given.
        mirrored: the other file, if there is one.
        flip: how they are fused; None: the sum.
        names: see :func:`require_usable`.

    Raises:
        UserError: also where a row has no direction, or both are of different widths.
    """
    numbers = np.arange(count)
    if has_names(path):
        if mirrored is not None or flip is not None:
            raise UserError(
                f'{path} holds what a network made of images and mirror images: leave '
                'out --mirrored and --flip'
            )
        if paths is None and names is not None:
            paths = [name.decode() for name in names.tolist()]
        rows, fusion = named_features(path, paths, source)
        require_usable(path, rows, names)
        return Embeddings(numbers, rows, flip=fusion)
    if mirrored is not None and has_names(mirrored):
        raise UserError(f'--mirrored {mirrored}: expected a .npy file, as {path} is')
    rows = open_features(path, count, source)
    require_usable(path, rows, names)
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
    if has_names(path):
        return {}
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
