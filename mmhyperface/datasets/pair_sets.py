"""What the test sets made of pairs have in common.

A data set tells a metric of them in ``metainfo['test_sets']``, a dict from the name of
a set (see :mod:`.test_sets`) to ::

    dict(kind='pairs',
         offset=0,         # sample_idx of image 0 of this set
         num_images=N,
         index_a=int64[P], # pair p is the images index_a[p] and index_b[p],
         index_b=int64[P], # counted from offset
         same=bool[P],     # one person?
         folds=int64[P],   # fold of each pair, or None: not organised in folds
         identities=int64[N])  # who is on each image, counted from 0; or None

``identities`` is None where the list does not tell. In a set that is put together of
others, -1 is an image that belongs to none of them.
"""

import os
from collections.abc import Sequence
from typing import Any

import numpy as np

from mmhyperface.utils.errors import UserError


def pair_test_set(
    num_images: int,
    index_a: np.ndarray,
    index_b: np.ndarray,
    same: np.ndarray,
    folds: np.ndarray | None,
    source: str,
    identities: np.ndarray | None = None,
    no_folds: str = 'folds=None',
) -> dict[str, Any]:
    """The entry of a set whose images are all items of one data set.

    Raises:
        UserError: pairs of one kind only, in all or in a fold. `source` is where the
            pairs come from, and `no_folds` asks for none.
    """
    require_both_kinds(same, source)
    require_both_in_folds(same, folds, source, no_folds)
    return dict(
        kind='pairs',
        offset=0,
        num_images=num_images,
        index_a=index_a,
        index_b=index_b,
        same=same,
        folds=folds,
        identities=identities,
    )


def require_both_kinds(same: np.ndarray, source: str) -> None:
    """Raises a UserError for pairs of one kind only."""
    if same.all() or not same.any():
        raise UserError(
            f'{source}: all {len(same)} pairs are of {_kind(same[0])}; a test needs '
            'pairs of the same person and of different people'
        )


def require_both_in_folds(
    same: np.ndarray,
    folds: np.ndarray | None,
    source: str,
    no_folds: str = 'folds=None',
) -> None:
    """Raises a UserError for a fold of one kind only; `no_folds` asks for none."""
    for fold in np.unique(folds) if folds is not None else ():
        inside = same[folds == fold]
        if inside.all() or not inside.any():
            raise UserError(
                f'{source}: fold {fold + 1} holds only pairs of {_kind(inside[0])}. A '
                f'list that is not organised in folds goes without: {no_folds}'
            )


def consecutive_folds(
    count: int, folds: int | None, source: str, no_folds: str = 'folds=None'
) -> np.ndarray | None:
    """The fold of each of so many pairs, int64, if the folds follow one another.

    Sizes are equal, or the first folds are larger by one. None if there are no folds.

    Raises:
        UserError: fewer than two folds, or more than pairs. `source` is theirs, and
            `no_folds` asks for none.
    """
    if folds is None:
        return None
    if not isinstance(folds, int) or not 2 <= folds <= count:
        raise UserError(
            f"folds={folds!r} of the {count} pairs of '{source}': expected at least 2, "
            f'and a pair for each; without folds: {no_folds}'
        )
    sizes = [len(part) for part in np.array_split(np.arange(count), folds)]
    return np.repeat(np.arange(folds), sizes)


def folder_identities(
    paths: Sequence[str], index_a: np.ndarray, index_b: np.ndarray, same: np.ndarray
) -> np.ndarray | None:
    """Who is on each image, int64 [N], if every person has one folder.

    The pairs decide: None unless just the pairs of one person are of one folder.
    """
    folders: dict[str, int] = {}
    identities = np.array(
        [folders.setdefault(os.path.dirname(path), len(folders)) for path in paths],
        np.int64,
    )
    one_folder = identities[index_a] == identities[index_b]
    return identities if np.array_equal(one_folder, same) else None


def join_identities(sets: Sequence[dict], num_images: int) -> np.ndarray | None:
    """Who is on each of so many images, int64, where sets of pairs are put together.

    People of different sets are different people. -1 where an image is of none of the
    sets; None if a set does not tell.
    """
    joined = np.full(num_images, -1, np.int64)
    known = 0
    for test_set in sets:
        own = test_set.get('identities')
        if own is None:
            return None
        start = test_set['offset']
        part = joined[start : start + test_set['num_images']]
        part[own >= 0] = own[own >= 0] + known
        known += int(own.max()) + 1
    return joined


def _kind(same: np.bool_) -> str:
    return 'the same person' if same else 'different people'
