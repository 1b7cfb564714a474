"""Loading mmengine's checkpoints with weights only, which stays the rule here."""

from typing import Any

import numpy as np
import torch
from mmengine.logging import HistoryBuffer
from mmengine.utils import digit_version

try:
    from numpy._core.multiarray import _reconstruct, scalar
except ImportError:  # numpy < 2
    from numpy.core.multiarray import _reconstruct, scalar  # type: ignore

_STATISTICS = ('min', 'max', 'current', 'mean')


def _getattr(owner: Any, name: str) -> Any:
    """The getattr that a pickled HistoryBuffer calls, and no other."""
    if owner is HistoryBuffer and name in _STATISTICS:
        return getattr(owner, name)
    raise ValueError(f'a checkpoint may not take the attribute {name!r} of {owner!r}')


def apply() -> None:
    """Allow what mmengine saves: HistoryBuffer and numpy arrays and scalars."""
    if digit_version(torch.__version__) < digit_version('2.6'):
        return
    dtypes = [type(np.dtype(code)) for code in '?bhilqBHILQefd']
    # numpy 1 and 2 pickle the same functions under different names.
    named = [
        (function, f'numpy.{core}.multiarray.{function.__name__}')
        for core in ('core', '_core')
        for function in (_reconstruct, scalar)
    ]
    # An empty array pickles its data as a call of bytes.
    torch.serialization.add_safe_globals(
        [
            HistoryBuffer,
            np.ndarray,
            np.dtype,
            bytes,
            *dtypes,
            *named,
            (_getattr, 'builtins.getattr'),
        ]
    )
