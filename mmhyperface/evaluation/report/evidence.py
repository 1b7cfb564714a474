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

from ..results import (
    IdentificationResult,
    MegaFaceResult,
    Result,
    VerificationResult,
)

KINDS: dict[str, type[Result]] = {
    kind.protocol: kind
    for kind in (VerificationResult, IdentificationResult, MegaFaceResult)
}
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
SIZES = (np.int8, np.int16, np.int32)


def save_evidence(result: Result, path: Path) -> None:
    arrays: dict[str, Any] = {}
    rest: dict[str, Any] = {}
    for item in fields(result):
        value = getattr(result, item.name)
        if isinstance(value, np.ndarray):
            arrays[item.name] = _shrunk(value)
        else:
            rest[item.name] = value
    told = {'protocol': result.protocol, 'values': rest}
    # Numbers of numpy are none that json knows.
    text = json.dumps(told, default=lambda number: number.item())
    np.savez(path, rest=np.array(text), **arrays)


def load_evidence(path: Path) -> Result:
    """The result that was saved.

    Raises:
        UserError: there is no such file, it is damaged, or no evidence.
    """
    try:
        with np.load(path, allow_pickle=False) as archive:
            arrays: dict[str, Any] = {
                name: _widened(archive[name]) for name in archive.files
            }
        told = json.loads(str(arrays.pop('rest')))
        values: dict[str, Any] = arrays | told['values']
        return KINDS[told['protocol']](**values)
    except FileNotFoundError:
        raise UserError(
            f'{path} is missing: the report was not copied as a whole'
        ) from None
    except DAMAGE as error:
        raise UserError(f'{path} is damaged, or no evidence: {error}') from None


def _shrunk(values: npt.NDArray) -> npt.NDArray:
    if values.dtype.kind not in 'iu' or not values.size:
        return values
    for size in SIZES:
        limits = np.iinfo(size)
        if limits.min <= values.min() and values.max() <= limits.max:
            return values.astype(size)
    return values


def _widened(values: npt.NDArray) -> npt.NDArray:
    return values.astype(np.int64) if values.dtype.kind in 'iu' else values
