"""Checkpoints for others: the weights, and what one must know of them."""

import hashlib
import os
import re
import tempfile
from pathlib import Path

import torch
from torch import Tensor

from mmhyperface.utils.errors import UserError

from .network import read_checkpoint
from .state_dicts import own, replace_tensors, without_head

#: Characters of the sum that a name ends with.
SUM_LENGTH = 8
# The files of the run, whichever machine it was on.
_DROPPED_META = ('hook_msgs',)
_PATH = re.compile(r"""(?P<quote>['"])(?:/|~|[A-Za-z]:[\\/])[^'"\n]*(?P=quote)""")


def published(checkpoint: dict, drop_head: bool = False, dtype: str = '') -> dict:
    """A checkpoint without what only its own run needs.

    Optimizer, schedulers and logs go; with ``EMAHook`` the averaged weights stay, which
    mmengine keeps in ``state_dict``, and the others go. Of paths in ``meta`` the last
    part stays.

    Args:
        checkpoint: Ours, see :func:`read_checkpoint`.
        drop_head: Drop the class centres, and the names of their identities.
        dtype: Type of the weights, ``float32``, ``float16`` or ``bfloat16``; as it is
            by default.

    Raises:
        UserError: If a weight is too large for the type.
    """
    state = checkpoint['state_dict']
    if drop_head:
        state = without_head(state)
    if dtype:
        state = {key: _as_type(key, value, dtype) for key, value in state.items()}
    meta = checkpoint.get('meta') or {}
    meta = {
        key: without_paths(value)
        for key, value in meta.items()
        if key not in _DROPPED_META and not (drop_head and key == 'dataset_meta')
    }
    return {'meta': meta, 'state_dict': state}


def _as_type(key: str, value: Tensor, dtype: str) -> Tensor:
    if not value.is_floating_point():
        return value
    cast = value.to(getattr(torch, dtype))
    if not torch.equal(cast.isfinite(), value.isfinite()):
        raise UserError(
            f'{key} holds {value.abs().max().item():.3g}, too large for {dtype}; take '
            'bfloat16, or leave the type as it is'
        )
    return cast


def without_paths(value: object) -> object:
    """The last part of a path, also of those in the text of a config."""
    if not isinstance(value, str):
        return value
    if '\n' not in value and _PATH.fullmatch(f'"{value}"'):
        return _last(value)

    def shorten(path: re.Match) -> str:
        return f'{path["quote"]}{_last(path[0][1:-1])}{path["quote"]}'

    return _PATH.sub(shorten, value)


def _last(path: str) -> str:
    return re.split(r'[\\/]', path.rstrip('\\/'))[-1]


def publish(source: str, destination: str, drop_head: bool, dtype: str) -> Path:
    """Write a checkpoint to publish, under a name that ends with its sum.

    Args:
        source: Our checkpoint, a file or a folder.
        destination: The name without the sum: ``a/b.pth`` makes ``a/b-0123abcd.pth``.
        drop_head: See :func:`published`.
        dtype: See :func:`published`.

    Returns:
        The file.

    Raises:
        UserError: If there is no such checkpoint, or the file cannot be written.
    """
    content = published(read_checkpoint(source), drop_head, dtype)
    place = Path(destination)
    stem = place.name.removesuffix('.pth')
    try:
        # A name of its own until the sum is known.
        with tempfile.TemporaryDirectory(prefix='.', dir=place.parent) as folder:
            written = Path(folder, stem)
            with written.open('wb') as file:
                # To an open file: torch would else write the file's name into it.
                torch.save(replace_tensors(content, own), file)
                file.flush()
                os.fsync(file.fileno())
            final = place.with_name(f'{stem}-{_sum(written)[:SUM_LENGTH]}.pth')
            os.replace(written, final)
    except OSError as error:
        raise UserError(f'{destination} cannot be written: {error}') from None
    return final


def _sum(file: Path) -> str:
    sha256 = hashlib.sha256()
    with file.open('rb') as opened:
        while piece := opened.read(1 << 20):
            sha256.update(piece)
    return sha256.hexdigest()
