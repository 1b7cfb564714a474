"""Files from the internet: weights, or one clear message."""

import argparse
import collections
import pickle
import struct
import sys
import types
import zipfile

import pytest
import torch

from mmhyperface.utils.errors import UserError
from mmhyperface.weights import read_weights

STATE = {'conv.weight': torch.arange(6.0).reshape(2, 3)}
needs_safe_globals = pytest.mark.skipif(
    not hasattr(torch.serialization, 'safe_globals'), reason='torch < 2.5'
)


def saved(path, content, **options):
    torch.save(content, path, **options)
    return path


@pytest.mark.parametrize('zipped', [True, False])
def test_a_state_dict_is_read(tmp_path, zipped):
    # The older format cannot be mapped.
    file = saved(tmp_path / 'a.pth', STATE, _use_new_zipfile_serialization=zipped)
    assert torch.equal(read_weights(file)['conv.weight'], STATE['conv.weight'])


def test_no_file(tmp_path):
    for path in (tmp_path / 'missing.pth', tmp_path):
        with pytest.raises(UserError, match=f'there is no file {path}'):
            read_weights(path)


@pytest.mark.parametrize(
    ('content', 'message'),
    [
        (b'', 'is empty'),
        (
            b'version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 7\n',
            'git lfs pull',
        ),
        (b'\n<!DOCTYPE html><title>Quota exceeded</title>', 'a web page'),
        (b'{"error": 404}', 'a web page'),
        (b'no weights at all\n', 'is no file of torch.save'),
        (b'\x80\x02', 'is no file of torch.save'),
        (bytes(range(256)) * 8, 'is no file of torch.save'),
        (
            # Its length begins with the byte of a `<`.
            struct.pack('<Q', 60) + b'{"a":{"dtype":"F32","shape":[1]}}',
            r'safetensors\.torch\.load_file',
        ),
    ],
)
def test_files_of_other_kinds(tmp_path, content, message):
    file = tmp_path / 'weights.pth'
    file.write_bytes(content)
    with pytest.raises(UserError, match=message) as caught:
        read_weights(file)
    assert str(file) in str(caught.value)
    assert '\n' not in str(caught.value)


@pytest.mark.parametrize('zipped', [True, False])
def test_files_that_are_cut_off(tmp_path, zipped):
    file = saved(tmp_path / 'a.pth', STATE, _use_new_zipfile_serialization=zipped)
    whole = file.read_bytes()
    lengths = [3, 50, len(whole) // 2, len(whole) - 30]
    if not zipped:
        # Within the names of what is to be imported, and after each of their lines.
        first = whole.index(b'torch._utils')
        lengths += range(first, whole.index(b'\n', whole.index(b'\n', first) + 1) + 1)
    for length in lengths:
        file.write_bytes(whole[:length])
        with pytest.raises(UserError, match=r'cut off|damaged'):
            read_weights(file)


def test_an_archive_with_bytes_changed(tmp_path):
    file = saved(tmp_path / 'a.pth', STATE)
    with zipfile.ZipFile(file) as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    (name,) = (name for name in entries if name.endswith('data.pkl'))
    entries[name] = b'\x80\x02\xff'
    with zipfile.ZipFile(file, 'w') as archive:
        for name, content in entries.items():
            archive.writestr(name, content)
    with pytest.raises(UserError, match='damaged'):
        read_weights(file)


def test_torchscript(tmp_path):
    file = tmp_path / 'a.pt'
    torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), str(file))
    with pytest.raises(UserError, match='archive of TorchScript, which holds code'):
        read_weights(file)


class Malice:
    def __init__(self, place):
        self.place = place

    def __reduce__(self):
        return exec, (f'open({str(self.place)!r}, "w")',)


def test_what_would_run_code_is_refused_by_name(tmp_path):
    file = saved(tmp_path / 'a.pth', {**STATE, 'more': Malice(tmp_path / 'ran')})
    with pytest.raises(UserError, match=r'asks for exec, .*run code') as caught:
        read_weights(file)
    assert not (tmp_path / 'ran').exists()
    assert 'weights_only=False' not in str(caught.value)


def test_a_class_that_is_not_installed_is_refused_by_name(tmp_path, monkeypatch):
    module = types.ModuleType('omegaconf.dictconfig')
    module.DictConfig = type('DictConfig', (), {'__module__': module.__name__})
    monkeypatch.setitem(sys.modules, 'omegaconf', types.ModuleType('omegaconf'))
    monkeypatch.setitem(sys.modules, module.__name__, module)
    file = saved(tmp_path / 'pipeline.pt', {'cfg': module.DictConfig()})
    with pytest.raises(UserError, match=r'asks for omegaconf\.dictconfig\.DictConfig'):
        read_weights(file)


@needs_safe_globals
def test_a_checkpoint_of_old_lightning(tmp_path, monkeypatch):
    # Its callbacks were kept under their classes, which are not imported here.
    name = 'pytorch_lightning.callbacks.model_checkpoint'
    module = types.ModuleType(name)
    module.ModelCheckpoint = type('ModelCheckpoint', (), {'__module__': name})
    for above in ('pytorch_lightning', 'pytorch_lightning.callbacks'):
        monkeypatch.setitem(sys.modules, above, types.ModuleType(above))
    monkeypatch.setitem(sys.modules, name, module)
    content = {
        'state_dict': STATE,
        'callbacks': {module.ModelCheckpoint: {'best_model_score': torch.tensor(0.9)}},
        'lr_schedulers': [{'milestones': collections.Counter([12, 20, 24])}],
        'hyper_parameters': argparse.Namespace(arch='ir_50', m=0.4),
    }
    file = saved(tmp_path / 'a.ckpt', content)
    monkeypatch.delitem(sys.modules, name)
    read = read_weights(file)
    assert torch.equal(read['state_dict']['conv.weight'], STATE['conv.weight'])
    assert read['hyper_parameters'].arch == 'ir_50'
    assert name not in sys.modules
    # What is allowed here is not for anybody else.
    with pytest.raises(pickle.UnpicklingError):
        torch.load(file, weights_only=True)
