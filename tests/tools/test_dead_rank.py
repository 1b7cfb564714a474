"""A process that dies ends the others, and the launcher says so in one line."""

import contextlib
import os
import random
import re
import signal
import subprocess
import time
from pathlib import Path

import pytest
from runs import ROOT, small_config


def ranks_of(launcher: int) -> list[int]:
    """Process ids of the ranks, in any order."""
    ranks = []
    for folder in Path('/proc').glob('[0-9]*'):
        with contextlib.suppress(OSError):
            parent = folder.joinpath('stat').read_text().rpartition(')')[2].split()[1]
            environment = folder.joinpath('environ').read_bytes()
            if int(parent) == launcher and b'\0LOCAL_RANK=' in environment:
                ranks.append(int(folder.name))
    return ranks


@pytest.mark.skipif(not Path('/proc/self/environ').exists(), reason='needs /proc')
def test_a_rank_that_dies_ends_all(tmp_path):
    cfg = small_config(tmp_path / 'run', **{'train_cfg.max_iters': 10**6})
    cfg.default_hooks.checkpoint.interval = 10**6
    cfg.dump(tmp_path / 'config.py')
    output = tmp_path / 'output'
    with output.open('w') as file:
        run = subprocess.Popen(
            ['tools/dist_train.sh', tmp_path / 'config.py', '3'],
            cwd=ROOT,
            stdout=file,
            stderr=file,
            env=os.environ | {'PYTHONPATH': str(ROOT)},
        )
    try:
        while 'Iter(train)' not in output.read_text():
            assert run.poll() is None, output.read_text()
            time.sleep(0.2)
        ranks = ranks_of(run.pid)
        assert len(ranks) == 3
        os.kill(random.choice(ranks), signal.SIGKILL)
        assert run.wait(60) == 1
        assert not [rank for rank in ranks if Path(f'/proc/{rank}').exists()]
    finally:
        run.kill()
    text = output.read_text()
    (error,) = re.findall('^error.*', text, re.MULTILINE)
    assert re.match(r'error: process [012] on \S+ has ended with SIGKILL', error)
    assert 'Traceback' not in text
