"""The shims: each does its work where upstream fails, and nothing elsewhere."""

import os
import sys
from pathlib import Path

import mmengine
import mmpretrain
import numpy as np
import pytest
import torch
from mmengine.logging import HistoryBuffer
from mmengine.utils import digit_version, get_installed_path, is_installed

import mmhyperface
from mmhyperface.compat import packages
from mmhyperface.engine.distributed import init_process_group
from mmhyperface.utils.errors import UserError

# With which the extras were installed beside torch 2.1.2, and pass these tests.
CONSTRAINTS = Path(__file__).parents[1] / '.ci' / 'constraints-numpy1.txt'
weights_only = pytest.mark.skipif(
    digit_version(torch.__version__) < digit_version('2.6'),
    reason='older torch does not load weights only by default',
)


@weights_only
def test_what_mmengine_saves_can_be_loaded(tmp_path):
    buffer = HistoryBuffer([1.0, 2.5], [1, 1])
    saved = dict(
        buffer=buffer,
        array=np.arange(6.0).reshape(2, 3),
        scalar=np.float32(0.1),
        integer=np.int64(7),
        flags=np.array([True, False]),
        half=np.ones(3, np.float16),
        empty=np.zeros((0, 2), np.uint8),
        text='x',
    )
    torch.save(saved, tmp_path / 'a.pth')
    loaded = torch.load(tmp_path / 'a.pth')
    for index in (0, 1):
        np.testing.assert_array_equal(loaded['buffer'].data[index], buffer.data[index])
    assert loaded['buffer'].mean() == buffer.mean()
    for key in ('array', 'flags', 'half', 'empty'):
        np.testing.assert_array_equal(loaded[key], saved[key], strict=True)
    assert loaded['scalar'] == saved['scalar']
    assert loaded['integer'] == 7


class _Attribute:
    """Pickles to getattr(owner, name)."""

    def __init__(self, owner: object, name: str) -> None:
        self.arguments = owner, name

    def __reduce__(self) -> tuple:
        return getattr, self.arguments


class _Call:
    def __reduce__(self) -> tuple:
        return eval, ('__import__("os").getpid()',)


@weights_only
@pytest.mark.parametrize(
    'payload',
    [
        _Attribute(HistoryBuffer, '__init__'),
        _Attribute(HistoryBuffer, 'register_statistics'),
        _Attribute(np.ndarray, 'tofile'),
        _Call(),
    ],
    ids=['init', 'register', 'tofile', 'eval'],
)
def test_nothing_else_can_be_loaded(tmp_path, payload):
    torch.save({'x': payload}, tmp_path / 'bad.pth')
    with pytest.raises(Exception, match=r'attribute|[Uu]nsupported|weights_only'):
        torch.load(tmp_path / 'bad.pth')


@pytest.mark.parametrize(
    ('torch_version', 'numpy_version', 'fits'),
    [
        ('2.1.2', '2.4.6', False),
        ('2.2.2+cu121', '2.0.0', False),
        ('2.1.2', '1.26.4', True),
        ('2.3.0', '2.0.0', True),
        ('2.14.1', '2.4.6', True),
    ],
)
def test_torch_and_numpy_fit(monkeypatch, torch_version, numpy_version, fits):
    """Else every array is "Numpy is not available", from deep inside."""
    versions = {'torch': torch_version, 'numpy': numpy_version}
    monkeypatch.setattr('importlib.metadata.version', versions.__getitem__)
    if fits:
        packages.apply()
        return
    with pytest.raises(ImportError, match='built for numpy 1') as error:
        packages.apply()
    lines = CONSTRAINTS.read_text().splitlines()
    wanted = [f'"{line}"' for line in lines if not line.startswith('#')]
    assert ' '.join(wanted) in str(error.value)


def test_installed_path_of_this_package_and_others():
    assert is_installed('mmhyperface')
    assert not is_installed('no_such_package')
    assert get_installed_path('mmhyperface') == os.path.dirname(mmhyperface.__file__)
    assert get_installed_path('mmpretrain') == os.path.dirname(mmpretrain.__file__)


def test_without_pkg_resources(monkeypatch):
    monkeypatch.setitem(sys.modules, 'pkg_resources', None)
    assert packages.is_installed('mmengine')
    assert not packages.is_installed('no_such_package')
    assert packages.get_installed_path('mmengine') == os.path.dirname(mmengine.__file__)
    with pytest.raises(ImportError, match='no_such_package'):
        packages.get_installed_path('no_such_package')


def test_upstream_answers_where_it_can(monkeypatch, tmp_path):
    monkeypatch.setattr(packages, '_get_installed_path', lambda name: str(tmp_path))
    assert packages.get_installed_path('mmengine') == str(tmp_path)


def test_a_process_group_needs_a_launcher(monkeypatch):
    init_process_group('none')
    assert not torch.distributed.is_initialized()
    monkeypatch.delenv('RANK', raising=False)
    with pytest.raises(UserError, match=r'RANK is not set.*torchrun'):
        init_process_group('pytorch')


@pytest.mark.parametrize(
    ('launcher', 'environment'),
    [
        ('slurm', dict(SLURM_PROCID='1', SLURM_NTASKS='3', SLURM_LOCALID='1')),
        (
            'mpi',
            dict(
                OMPI_COMM_WORLD_RANK='1',
                OMPI_COMM_WORLD_SIZE='3',
                OMPI_COMM_WORLD_LOCAL_RANK='1',
            ),
        ),
    ],
)
def test_launchers_without_a_gpu(monkeypatch, launcher, environment):
    started = {}
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: False)
    monkeypatch.setattr(torch.distributed, 'init_process_group', started.update)
    for name in ('RANK', 'WORLD_SIZE', 'LOCAL_RANK', 'MASTER_ADDR', 'MASTER_PORT'):
        monkeypatch.setenv(name, '')
        monkeypatch.delenv(name)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    init_process_group(launcher, dict(timeout=60))
    assert [os.environ[k] for k in ('RANK', 'WORLD_SIZE', 'LOCAL_RANK')] == list('131')
    assert started['backend'] == 'gloo'
    assert started['timeout'].total_seconds() == 60
