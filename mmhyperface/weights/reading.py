"""Opening other people's weights, as data and nothing else.

A checkpoint of torch is a pickle, which is a program. ``torch.load`` runs none with
``weights_only=True``, which is the rule here without exception.
"""

import argparse
import collections
import pickle
import zipfile
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import torch

from mmhyperface.centres.storage import refusal
from mmhyperface.utils.errors import UserError

_HEAD_BYTES = 512


def _placeholder(module: str, name: str) -> type:
    """A class without content, for a name that is only a key of a dict."""
    return type(name, (), {'__module__': module, '__slots__': ()})


# What checkpoints of Lightning name beside the weights: until 1.4 it kept the state of
# a callback under the callback's class.
_HARMLESS = [
    argparse.Namespace,
    collections.Counter,
    _placeholder('pytorch_lightning.callbacks.model_checkpoint', 'ModelCheckpoint'),
    _placeholder('pytorch_lightning.callbacks.early_stopping', 'EarlyStopping'),
    _placeholder('pytorch_lightning.callbacks.lr_monitor', 'LearningRateMonitor'),
]


def read_weights(path: str | Path) -> Any:
    """What a file of ``torch.save`` holds, on the CPU.

    Raises:
        UserError: If there is no such file, it is of another kind or damaged, or it
            asks for more than tensors and plain data.
    """
    file = Path(path).expanduser()
    if not file.is_file():
        raise UserError(f'there is no file {path}')
    refuse_other_kinds(file)
    # Files of torch < 1.6 cannot be mapped.
    mapped = {'mmap': True} if zipfile.is_zipfile(file) else {}
    try:
        with _allowing_the_harmless():
            return torch.load(str(file), 'cpu', weights_only=True, **mapped)
    except pickle.UnpicklingError as error:
        raise UserError(f'{file} {refusal(error, file)}') from None
    except Exception as error:
        # Interpreting damage may end in any of Python's errors.
        reason = f'{type(error).__name__}: {error}'.splitlines()[0]
        raise UserError(
            f'{file} is no file of torch.save, or is damaged ({reason}); copy or '
            'download it again'
        ) from None


def _allowing_the_harmless() -> AbstractContextManager[Any]:
    # torch has it since 2.5; before, such files are refused.
    safe_globals = getattr(torch.serialization, 'safe_globals', None)
    return safe_globals(_HARMLESS) if safe_globals else nullcontext()


def refuse_other_kinds(file: Path) -> None:
    """Raise ``UserError`` for a file that is known not to be of ``torch.save``."""
    with file.open('rb') as opened:
        head = opened.read(_HEAD_BYTES)
    is_zip = zipfile.is_zipfile(file)
    if not head:
        kind = 'is empty; copy or download it again'
    elif head.startswith(b'version https://git-lfs'):
        kind = 'is a pointer of git-lfs, not the file itself; run `git lfs pull`'
    elif head[8:9] == b'{' and b'"dtype"' in head:
        kind = (
            'is a file of safetensors; write it as one of torch: '
            'torch.save(safetensors.torch.load_file(FILE), NEW)'
        )
    elif head.lstrip()[:1] in (b'<', b'{'):
        kind = 'is a text or a web page, no weights; download the file itself'
    elif head.startswith(b'PK') and not is_zip:
        kind = 'is cut off; copy or download it again'
    elif is_zip and _is_torchscript(file):
        kind = (
            'is an archive of TorchScript, which holds code; save the state dict of '
            'the network itself instead: torch.save(model.state_dict(), NEW)'
        )
    else:
        return
    raise UserError(f'{file} {kind}')


def _is_torchscript(file: Path) -> bool:
    with zipfile.ZipFile(file) as archive:
        return any(name.endswith('/constants.pkl') for name in archive.namelist())
