"""tools/dist_train.sh on two hosts: network namespaces joined by a cable."""

import os
import re
import shutil
import signal
import subprocess
from pathlib import Path

import numpy as np
import pytest
from runs import ROOT, scalars, small_config, train
from test_dead_rank import ranks_of

HOSTS = ('10.73.0.1', '10.73.0.2')


def ip(*words: str) -> None:
    subprocess.run(['ip', *words], check=True, capture_output=True)


@pytest.fixture
def hosts():
    """Names of two network namespaces; the device of the cable is ``cable``."""
    if os.geteuid() or not shutil.which('ip'):
        pytest.skip('needs root and iproute2 to make network namespaces')
    names = [f'mmhyperface{os.getpid()}{side}' for side in 'ab']
    made = []
    try:
        try:
            for name in names:
                ip('netns', 'add', name)
                made.append(name)
            ip(
                *('link', 'add', 'cable', 'netns', names[0], 'type', 'veth'),
                *('peer', 'name', 'cable', 'netns', names[1]),
            )
        except subprocess.CalledProcessError as error:
            pytest.skip(f'cannot make network namespaces: {error.stderr.decode()}')
        for name, address in zip(names, HOSTS, strict=True):
            ip('-n', name, 'addr', 'add', f'{address}/24', 'dev', 'cable')
            ip('-n', name, 'link', 'set', 'cable', 'up')
            ip('-n', name, 'link', 'set', 'lo', 'up')
        yield names
    finally:
        for name in made:
            ip('netns', 'delete', name)


def start(hosts: list[str], config: Path) -> list[subprocess.Popen]:
    """One rank on each host."""
    runs = []
    for rank, host in enumerate(hosts):
        environment = dict(
            os.environ,
            NNODES='2',
            NODE_RANK=str(rank),
            MASTER_ADDR=HOSTS[0],
            PORT='29517',
            GLOO_SOCKET_IFNAME='cable',
        )
        command = [str(ROOT / 'tools/dist_train.sh'), str(config), '1']
        runs.append(
            subprocess.Popen(
                ['ip', 'netns', 'exec', host, *command],
                env=environment,
                cwd=config.parent,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
        )
    return runs


@pytest.mark.slow  # test_tools.py has what each host is told, and one host
def test_two_hosts_train_as_one(tmp_path, hosts):
    options = {'model.head.sharded': True, 'model.head.engine': 'blocked'}
    train(small_config(tmp_path / 'one', **options))
    cfg = small_config(
        tmp_path / 'two', **{**options, 'train_dataloader.batch_size': 4}
    )
    cfg.dump(tmp_path / 'two.py')
    runs = start(hosts, tmp_path / 'two.py')
    outputs = [run.communicate(timeout=240)[0] for run in runs]
    assert [run.returncode for run in runs] == [0, 0], '\n'.join(outputs)
    curve = scalars(tmp_path / 'one')
    assert len(curve) == 6
    np.testing.assert_allclose(scalars(tmp_path / 'two'), curve, rtol=2e-5)


@pytest.mark.slow
@pytest.mark.parametrize('dying', [0, 1])
def test_a_rank_that_dies_ends_those_of_the_other_host(tmp_path, hosts, dying):
    cfg = small_config(tmp_path / 'run', **{'train_cfg.max_iters': 10**6})
    cfg.dump(tmp_path / 'run.py')
    runs = start(hosts, tmp_path / 'run.py')
    while 'Iter(train)' not in runs[0].stdout.readline():
        assert runs[0].poll() is None
    (rank,) = ranks_of(runs[dying].pid)
    os.kill(rank, signal.SIGKILL)
    outputs = [run.communicate(timeout=60)[0] for run in runs]
    assert [run.returncode for run in runs] == [1, 1], '\n'.join(outputs)
    message = f'error: process {dying} on .* has ended with SIGKILL'
    assert re.search(message, outputs[dying])
