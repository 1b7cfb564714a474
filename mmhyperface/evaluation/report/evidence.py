"""Results on disk: what their figures stand on, to compute differences from.

A file is an npz archive without pickles. Its arrays are the result's; ``rest`` is a
JSON text of all else, among it the protocol. Integers lie in the smallest type that
holds them, and come back as int64.
"""

import json
import zipfile
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from mmhyperface.utils.errors import UserError

from ..protocols import PROTOCOLS, Result

# What reading anything else than an archive that save_evidence wrote may raise.
DAMAGE = (
    zipfile.BadZipFile,
    OSError,
    EOFError,
    ValueError,
    KeyError,
    TypeError,
    AttributeError,
)


def save_evidence(result: Result, path: Path) -> None:
    """Write all that a result holds."""
    values = {item.name: getattr(result, item.name) for item in fields(result)}
    arrays = {name: x for name, x in values.items() if isinstance(x, np.ndarray)}
    rest = {name: x for name, x in values.items() if name not in arrays}
    # Numbers of numpy are none that json knows.
    text = json.dumps(
        {'protocol': result.protocol, 'values': rest},
        default=lambda number: number.item(),
    )
    shrunk: dict[str, Any] = {name: _shrunk(x) for name, x in arrays.items()}
    np.savez(path, rest=np.array(text), **shrunk)


def load_evidence(path: Path) -> Result:
    """The result that was saved.

    Raises:
        UserError: there is no such file, it is damaged, or no evidence.
    """
    try:
        with np.load(path, allow_pickle=False) as archive:
            values: dict[str, Any] = {
                name: x.astype(np.int64) if x.dtype.kind in 'iu' else x
                for name, x in archive.items()
            }
        rest = json.loads(str(values.pop('rest')))
        return PROTOCOLS[rest['protocol']](**values, **rest['values'])
    except FileNotFoundError:
        raise UserError(
            f'{path} is missing: the report was not copied as a whole'
        ) from None
    except DAMAGE as error:
        raise UserError(f'{path} is damaged, or no evidence: {error}') from None


def _shrunk(values: npt.NDArray) -> npt.NDArray:
    if values.dtype.kind not in 'iu' or not values.size:
        return values
    for size in (np.int8, np.int16, np.int32):
        limits = np.iinfo(size)
        if limits.min <= values.min() and values.max() <= limits.max:
            return values.astype(size)
    return values
