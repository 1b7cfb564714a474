"""What the functions on arrays have in common: what they take, and how they refuse."""

import warnings
from collections.abc import Iterable
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import torch

from mmhyperface.utils.errors import UserError, some

Array: TypeAlias = npt.ArrayLike | torch.Tensor
Floats: TypeAlias = npt.NDArray[np.floating]
Ints: TypeAlias = npt.NDArray[np.integer]
Bools: TypeAlias = npt.NDArray[np.bool_]

# Values of features in one block of rows: larger blocks leave the cache.
BLOCK_VALUES = 2**20


class NoDirectionError(UserError):
    """Features that are zero, NaN or infinite, which have a cosine with nothing."""


def to_numpy(values: Array) -> npt.NDArray[Any]:
    """The values where numpy can have them, without a copy if that is possible.

    Raises:
        UserError: lists of different lengths in a list.
    """
    if isinstance(values, torch.Tensor):
        values = values.detach()
        # numpy has no bfloat16; both half types are exact in float32.
        if values.dtype in (torch.bfloat16, torch.float16):
            values = values.float()
        return values.cpu().numpy()
    try:
        array = np.asarray(values)
    except ValueError as error:
        raise UserError(f'this is no array: {error}') from None
    return array.astype(np.float32) if array.dtype == np.float16 else array


def to_torch(array: npt.NDArray[Any]) -> torch.Tensor:
    """The array, which is only read, without a copy if that is possible."""
    if any(stride < 0 for stride in array.strides):
        array = array.copy()
    with warnings.catch_warnings():
        warnings.filterwarnings('ignore', 'The given NumPy array is not writable')
        return torch.from_numpy(array)


def as_rows(features: Array, name: str = 'features') -> Floats:
    """Features [N, D], float32 or float64.

    Raises:
        UserError: another shape, or what is no real number.
    """
    rows = to_numpy(features)
    if rows.ndim != 2:
        raise UserError(f'{name} must be [N, D], their shape is {list(rows.shape)}')
    if rows.dtype.kind not in 'iuf':
        raise UserError(f'{name} must be real numbers, not {rows.dtype}')
    return rows if rows.dtype == np.float32 else rows.astype(np.float64, copy=False)


def as_integers(values: Array, name: str) -> Ints:
    """Integers [N], of a type with a sign.

    Raises:
        UserError: another shape or type, or numbers from 2⁶³ on.
    """
    given = to_numpy(values)
    if given.ndim != 1 or (given.dtype.kind not in 'iu' and len(given)):
        raise UserError(
            f'{name} must be integers in one dimension, not {given.dtype} of shape '
            f'{list(given.shape)}'
        )
    if given.dtype.kind == 'i':
        return given
    if given.dtype == np.uint64 and given.max(initial=0) > np.iinfo(np.int64).max:
        raise UserError(f'{name} must lie below 2⁶³, not at {given.max()}')
    return given.astype(np.int64)


def as_counts(values: Any, name: str) -> Ints:
    """Integers from 1 on, [N].

    Raises:
        UserError: anything else, or none.
    """
    given = np.asarray(values)
    if given.ndim != 1 or given.dtype.kind not in 'iu' or not (given >= 1).all():
        raise UserError(f'{name} must be integers from 1 on, not {values!r}')
    return given.astype(np.int64)


def check_choice(name: str, value: Any, known: Iterable[str]) -> None:
    """Refuse a value of an option that is none of those that it can be.

    Raises:
        UserError: It names the option.
    """
    if value not in known:
        raise UserError(f'{name} is {value!r}; it can be {tuple(known)}')


def check_lengths(**arrays: Any) -> None:
    """Refuse arrays, named as the user knows them, that differ in length.

    Raises:
        UserError: It tells all lengths.
    """
    lengths = {name: len(array) for name, array in arrays.items()}
    if len(set(lengths.values())) > 1:
        parts = ', '.join(f'{name} {length:,}' for name, length in lengths.items())
        raise UserError(f'lengths differ: {parts}')


def check_rows(name: str, rows: Ints, count: int, what: str = 'rows') -> None:
    """Refuse row numbers that go beyond so many of something.

    Raises:
        UserError: It tells the range.
    """
    if len(rows) and not 0 <= rows.min() <= rows.max() < count:
        raise UserError(
            f'{name} goes from {rows.min()} to {rows.max()}, but there are {count} '
            f'{what}'
        )


def check_directions(
    name: str, rows: Floats, aside: Bools | None = None, first: int = 0
) -> None:
    """Refuse rows [N, D] that have no direction, unless they are left aside, [N].

    Raises:
        UserError: It names the rows, numbered from ``first``.
    """
    bad = unusable_rows(rows)
    if aside is not None:
        bad = bad[~aside[bad]]
    if len(bad):
        raise UserError(f'{name} are zero or not finite in rows {some(bad + first)}')


def blocks(count: int, width: int) -> list[slice]:
    """Slices of so many rows of this width, each of which stays in the cache."""
    step = min(max(BLOCK_VALUES // max(width, 1), 1), 4096)
    return [slice(start, start + step) for start in range(0, count, step)]


def row_dots(a: Floats, b: Floats) -> Floats:
    """[N], the products of the rows of two arrays [N, D]."""
    return np.einsum('ij,ij->i', a, b)


def unit_rows(rows: Floats) -> Floats:
    """Rows [N, D] of length 1, in their type; the lengths are taken in float64."""
    unit = np.empty_like(rows)
    for part in blocks(*rows.shape):
        block = rows[part].astype(np.float64, copy=False)
        unit[part] = block / np.sqrt(row_dots(block, block))[:, None]
    return unit


def unusable_rows(features: Array) -> Ints:
    """Numbers of the rows of features [N, D] that have no direction.

    A row of zeros, or one with NaN or an infinity, has a cosine with nothing.
    """
    rows = as_rows(features)
    squares = np.empty(len(rows))
    for part in blocks(*rows.shape):
        block = rows[part].astype(np.float64, copy=False)
        squares[part] = row_dots(block, block)
    return np.flatnonzero(~(np.isfinite(squares) & (squares > 0)))


def rounding(scores: Floats) -> float:
    """How far cosines of equal features may be apart, computed in two ways."""
    return 8 * float(np.finfo(scores.dtype).eps)


def floor_product(rates: Floats, count: float) -> Ints:
    """⌊rate·count⌋, where a product that rounding left below an integer is that one.

    Of negative rates it is −⌈|rate|·count⌉.
    """
    product = rates * count
    nearest = np.rint(product)
    close = np.abs(product - nearest) <= 4 * np.finfo(np.float64).eps * abs(nearest)
    return np.where(close, nearest, np.floor(product)).astype(np.int64)


def as_rates(rates: Any, name: str) -> Floats:
    """Rates in [0, 1], float64.

    Raises:
        UserError: a rate outside.
    """
    given = np.atleast_1d(to_numpy(rates))
    if given.ndim != 1 or (given.dtype.kind not in 'iuf' and len(given)):
        raise UserError(f'{name} must be numbers in one dimension, not {rates!r}')
    # Through their decimals: 1e-4 in float32 is below 1/10000 once widened.
    values = np.array([float(str(rate)) for rate in given], np.float64)
    if not ((values >= 0) & (values <= 1)).all():
        raise UserError(f'{name} must lie in [0, 1]: {values.tolist()}')
    return values
