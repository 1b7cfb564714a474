"""What the test sets made of pairs have in common.

A data set tells a metric its test sets in ``metainfo['test_sets']``, a dict from the
name of a set to ::

    dict(kind='pairs',
         offset=0,         # sample_idx of image 0 of this set
         num_images=N,
         index_a=int64[P], # pair p is the images index_a[p] and index_b[p],
         index_b=int64[P], # counted from offset
         same=bool[P],     # one person?
         folds=int64[P])   # fold of each pair, or None: not organised in folds

Images are items of the data set, each once.
"""

import numpy as np

from mmhyperface.errors import UserError

from .face_dataset import FaceDataset


def set_pairs(
    dataset: FaceDataset,
    name: str,
    num_images: int,
    index_a: np.ndarray,
    index_b: np.ndarray,
    same: np.ndarray,
    folds: np.ndarray | None,
    source: str,
) -> None:
    """Checks one set of pairs and makes it the test set of `dataset`.

    Raises:
        UserError: pairs of one kind only, in all or in a fold, or `indices` or
            `on_error` that would tear the pairs apart. `source` is where the pairs
            come from.
    """
    if dataset._indices is not None:
        raise UserError(
            f'{source}: indices would leave pairs without their images; take indices '
            f'out of {type(dataset).__name__}'
        )
    if dataset.on_error == 'skip':
        raise UserError(
            f"{source}: on_error='skip' would put other images into the pairs; take it "
            f'out of {type(dataset).__name__}'
        )
    if same.all() or not same.any():
        raise UserError(
            f'{source}: all {len(same)} pairs are of {_kind(same[0])}; a test needs '
            'pairs of the same person and of different people'
        )
    for fold in np.unique(folds) if folds is not None else ():
        inside = same[folds == fold]
        if inside.all() or not inside.any():
            raise UserError(
                f'{source}: fold {fold + 1} holds only pairs of {_kind(inside[0])}. A '
                'list that is not organised in folds goes without: folds=None'
            )
    dataset._metainfo['test_sets'] = {
        name: dict(
            kind='pairs',
            offset=0,
            num_images=num_images,
            index_a=index_a,
            index_b=index_b,
            same=same,
            folds=folds,
        )
    }


def consecutive_folds(count: int, folds: int | None, source: str) -> np.ndarray | None:
    """The fold of each of so many pairs, int64, if the folds follow one another.

    Sizes are equal, or the first folds are larger by one. None if there are no folds.

    Raises:
        UserError: fewer than two folds, or more than pairs. `source` is theirs.
    """
    if folds is None:
        return None
    if not isinstance(folds, int) or not 2 <= folds <= count:
        raise UserError(
            f"folds={folds!r} of the {count} pairs of '{source}': expected at least 2, "
            'and a pair for each'
        )
    sizes = [len(part) for part in np.array_split(np.arange(count), folds)]
    return np.repeat(np.arange(folds), sizes)


def _kind(same: np.bool_) -> str:
    return 'the same person' if same else 'different people'
