"""Ranks and the GPUs that they see; the GPUs are not there, the ranks speak gloo."""

import os
from datetime import timedelta
from types import SimpleNamespace

import pytest
import torch
from runs import spawn

from mmhyperface.engine.distributed import init_process_group
from mmhyperface.utils.errors import UserError

ENVIRONMENT = {
    'pytorch': 'RANK WORLD_SIZE LOCAL_RANK LOCAL_WORLD_SIZE',
    'slurm': 'SLURM_PROCID SLURM_NTASKS SLURM_LOCALID SLURM_NTASKS_PER_NODE',
    'mpi': 'OMPI_COMM_WORLD_RANK OMPI_COMM_WORLD_SIZE '
    'OMPI_COMM_WORLD_LOCAL_RANK OMPI_COMM_WORLD_LOCAL_SIZE',
}


@pytest.mark.parametrize('rank', [0, 3, 7])
@pytest.mark.parametrize(
    ('launcher', 'option'),
    [
        ('pytorch', 'GPUS of tools/dist_train.sh .* to 4'),
        ('slurm', 'GPUS_PER_NODE of tools/slurm_train.sh .* to 4'),
        ('mpi', 'mpirun'),
    ],
)
def test_more_ranks_than_gpus(monkeypatch, launcher, option, rank):
    for name in ('RANK', 'WORLD_SIZE', 'LOCAL_RANK'):
        monkeypatch.setenv(name, '')
    names = ENVIRONMENT[launcher].split()
    for name, value in zip(names, (rank + 8, 16, rank, 8), strict=True):
        monkeypatch.setenv(name, str(value))
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: True)
    monkeypatch.setattr(torch.cuda, 'device_count', lambda: 4)
    message = f'8 ranks on this machine and 4 visible GPUs.*{option}'
    with pytest.raises(UserError, match=f'{message}.*CUDA_VISIBLE_DEVICES'):
        init_process_group(launcher, dict(backend='nccl'))
    # By which only one of them tells it.
    assert os.environ['RANK'] == str(rank + 8)


def see_gpus(launcher: str, count: int, uuids: list[str]) -> list[int]:
    """Let this process see so many GPUs; where it then goes."""
    rank = int(os.environ['RANK'])
    names = ENVIRONMENT[launcher].split()
    # srun hands on how many ranks a machine has in sbatch, which may be more.
    for name, value in zip(names, (rank, 3, rank, 8), strict=True):
        os.environ[name] = str(value)
    taken: list[int] = []
    torch.cuda.is_available = lambda: True
    torch.cuda.device_count = lambda: count
    torch.cuda.set_device = taken.append
    torch.cuda.current_device = lambda: taken[-1]
    torch.cuda.get_device_properties = lambda number: SimpleNamespace(
        uuid=uuids[rank if count == 1 else number]
    )
    init_process_group(launcher, dict(backend='gloo', timeout=90))
    return taken


def take_a_gpu(launcher: str, count: int) -> None:
    taken = see_gpus(launcher, count, ['a', 'b', 'c', 'd'])
    expected = 0 if count == 1 else torch.distributed.get_rank()
    assert taken == [expected]
    # Where mmengine lets DDP be.
    assert os.environ['LOCAL_RANK'] == str(expected)
    assert torch.distributed.get_world_size() == 3
    group = torch.distributed.distributed_c10d._get_default_group()
    options = group._get_backend(torch.device('cpu')).options
    assert options._timeout == timedelta(seconds=90)


@pytest.mark.parametrize(
    ('launcher', 'count'), [('pytorch', 1), ('slurm', 1), ('slurm', 4), ('mpi', 3)]
)
def test_each_rank_takes_a_gpu_of_its_own(launcher, count):
    """Those that it sees are its own alone, or all of the machine's."""
    spawn(3, take_a_gpu, launcher, count)


def share_a_gpu(uuids: list[str]) -> None:
    with pytest.raises(UserError, match='3 ranks on this machine and 1 visible GPU:'):
        see_gpus('pytorch', 1, uuids)


@pytest.mark.parametrize('uuids', ['aaa', 'aba'])
def test_ranks_that_share_a_gpu_are_told(uuids):
    spawn(3, share_a_gpu, list(uuids))


@pytest.fixture
def started(monkeypatch) -> dict:
    """With what the processes are connected, of which rank 1 is this one."""
    for name in ('RANK', 'WORLD_SIZE', 'LOCAL_RANK', 'MASTER_ADDR', 'MASTER_PORT'):
        monkeypatch.setenv(name, '')  # which is undone
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: False)
    started: dict = {}
    monkeypatch.setattr(torch.distributed, 'init_process_group', started.update)
    for names in list(ENVIRONMENT.values())[1:]:
        for name, value in zip(names.split(), (1, 3, 0, 2), strict=True):
            monkeypatch.setenv(name, str(value))
    return started


def test_slurm_tells_where_rank_0_is(monkeypatch, tmp_path, started):
    scontrol = tmp_path / 'scontrol'
    scontrol.write_text('#!/bin/sh\necho $1-$2-$3-1\necho other\n')
    scontrol.chmod(0o755)
    monkeypatch.setenv('SLURM_NODELIST', 'n')
    monkeypatch.setenv('PATH', f'{tmp_path}:{os.environ["PATH"]}')
    addresses = []
    for nodes, address in (('1', ''), ('2', ''), ('2', 'own')):
        monkeypatch.setenv('SLURM_NNODES', nodes)
        monkeypatch.setenv('MASTER_ADDR', address)
        init_process_group('slurm', dict(backend='nccl', port=29123))
        addresses.append(os.environ['MASTER_ADDR'])
        assert os.environ['MASTER_PORT'] == '29123'
    assert addresses == ['127.0.0.1', 'show-hostnames-n-1', 'own']


@pytest.mark.parametrize('launcher', ['slurm', 'mpi'])
def test_machines_that_do_not_know_rank_0(monkeypatch, started, launcher):
    monkeypatch.setenv('SLURM_NNODES', '2')
    monkeypatch.setenv('PATH', '')
    with pytest.raises(UserError, match=r'several machines .* set MASTER_ADDR'):
        init_process_group(launcher)


@pytest.mark.parametrize('timeout', [timedelta(minutes=5), 'long'])
def test_a_timeout_that_is_no_number(started, timeout):
    with pytest.raises(UserError, match=r'dist_cfg\.timeout is a number of seconds'):
        init_process_group('slurm', dict(timeout=timeout))
