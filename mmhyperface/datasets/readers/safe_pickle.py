"""Reading pickles from the internet: data and nothing else.

A pickle is a program, which ``pickle.load`` runs. Here it can build numbers, text,
bytes, lists, tuples, dicts and small arrays; whatever else it asks for is refused by
name, and nothing of it is imported or called. The interpreter is Python's own in Python
(``pickle._Unpickler``), since that in C allocates what a forged length asks for.
"""

import io
import math
import pickle
from collections.abc import Callable
from typing import Any

import numpy as np

from mmhyperface.utils.errors import UserError

_DTYPES = ('b1', 'u1', 'i1', 'i2', 'i4', 'i8', 'u2', 'u4', 'u8', 'f4', 'f8')


class RefusedPickle(UserError):
    """A pickle that is damaged or wants more than data; the message says what."""


def load_data(content: bytes, source: str) -> Any:
    """What a pickle of plain data holds.

    Args:
        content: The pickle; text of Python 2 becomes bytes.
        source: Its name, for errors.

    Returns:
        Numbers, str, bytes, lists, tuples, dicts, and what :func:`as_array` makes
        arrays of.

    Raises:
        RefusedPickle: If it is no pickle, is damaged, or asks for anything else.
    """
    try:
        return _Unpickler(content).load()
    except RefusedPickle as error:
        raise RefusedPickle(f'{source}: {error}') from None
    except MemoryError:
        raise RefusedPickle(
            f'{source}: it asks for more memory than there is'
        ) from None
    except Exception as error:
        # Interpreting damage may end in any of Python's errors.
        raise RefusedPickle(
            f'{source}: it is no pickle of plain data, or is damaged '
            f'({type(error).__name__}: {error})'
        ) from None


def as_array(value: Any) -> Any:
    """An array that a pickle holds, as one; anything else as it is."""
    return value.value if type(value) is _Array else value


class _Function:
    """Stands for a function that a pickle imports, and cannot be tampered with."""

    __slots__ = ('_call',)

    def __init__(self, call: Callable) -> None:
        self._call = call

    def __call__(self, *args: Any) -> Any:
        return self._call(*args)

    def __setstate__(self, state: Any) -> None:
        raise RefusedPickle('it changes what it imports')


class _DType:
    """A type of numbers in the making."""

    __slots__ = ('name',)

    def __init__(self, name: Any, *_: Any) -> None:
        name = name.decode('latin1') if isinstance(name, bytes) else name
        if name not in _DTYPES:
            raise RefusedPickle(f'it has an array of type {name!r}')
        self.name = name

    def __setstate__(self, state: Any) -> None:
        order = state[1]
        order = order.decode('latin1') if isinstance(order, bytes) else order
        if order not in ('<', '>', '|', '='):
            raise RefusedPickle(f'it has numbers in the byte order {order!r}')
        if order == '>':
            self.name = f'>{self.name}'


class _Array:
    """An array in the making."""

    __slots__ = ('value',)

    def __init__(self) -> None:
        self.value: np.ndarray = np.empty(0, np.uint8)

    def __setstate__(self, state: Any) -> None:
        *_, shape, dtype, fortran, data = state
        self.value = _array(data, dtype, shape, 'F' if fortran else 'C')


def _array(data: Any, dtype: Any, shape: Any, order: Any) -> np.ndarray:
    if isinstance(data, str):
        data = data.encode('latin1')
    if type(dtype) is not _DType or not isinstance(data, bytes | bytearray):
        raise RefusedPickle('it has an array that is not made of numbers')
    made = np.dtype(dtype.name)
    if math.prod(shape) * made.itemsize != len(data) or min(shape, default=0) < 0:
        raise RefusedPickle(
            f'an array {shape} of {made} has {len(data)} bytes; it is damaged'
        )
    return np.frombuffer(data, made).reshape(shape, order=order)


def _encode(text: Any, encoding: Any = 'utf-8') -> bytes:
    """``_codecs.encode``: how protocols up to 2 write bytes."""
    if type(text) is not str or encoding not in ('latin1', b'latin1'):
        raise RefusedPickle('it encodes what is no bytes')
    return text.encode('latin1')


def _reconstruct(*_: Any) -> _Array:
    """``numpy.core.multiarray._reconstruct``: an array that ``BUILD`` fills."""
    return _Array()


def _scalar(dtype: Any, data: Any) -> Any:
    """``numpy.core.multiarray.scalar``."""
    return _array(data, dtype, (1,), 'C')[0].item()


def _no_function(*_: Any) -> None:
    raise RefusedPickle('it calls what is no function')


_ALLOWED: dict[tuple[str, str], Callable] = {
    ('_codecs', 'encode'): _encode,
    ('numpy', 'ndarray'): _no_function,
    ('numpy', 'dtype'): _DType,
}
for _core in ('numpy.core', 'numpy._core'):
    _ALLOWED[f'{_core}.multiarray', '_reconstruct'] = _reconstruct
    _ALLOWED[f'{_core}.multiarray', 'scalar'] = _scalar
    _ALLOWED[f'{_core}.numeric', '_frombuffer'] = _array  # protocol 5


class _Unpickler(pickle._Unpickler):  # type: ignore[name-defined]
    def __init__(self, content: bytes) -> None:
        super().__init__(io.BytesIO(content), encoding='bytes')

    def find_class(self, module: str, name: str) -> _Function:
        if (module, name) not in _ALLOWED:
            raise RefusedPickle(
                f'it wants to import {module}.{name}, which no data needs; do not open '
                'it with anything else'
            )
        return _Function(_ALLOWED[module, name])
