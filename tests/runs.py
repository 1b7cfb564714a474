"""Small runs of the real runner, on one or several gloo processes."""

import json
import multiprocessing
import os
import pickle
import runpy
import socket
import subprocess
import sys
import tempfile
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mmengine.config.config
import pytest
import torch
from mmengine.config import Config
from mmengine.runner import Runner

from mmhyperface.apis import build_runner
from mmhyperface.utils.command_line import end_process_group

ROOT = Path(__file__).parent.parent
CONFIGS = ROOT / 'configs'
# The scripts call this interpreter.
PYTHON_FIRST = {'PATH': f'{Path(sys.executable).parent}:{os.environ["PATH"]}'}
# Processes are forked from a server that has imported what takes a fresh interpreter
# seconds. It has done nothing else: no threads, no settings of a test.
FORKS = multiprocessing.get_context('forkserver')
FORKS.set_forkserver_preload(
    [
        'mmhyperface.engine.hooks',
        'mmhyperface.inference.inferencer',
        'mmpretrain.models',
    ]
)


def leave_configs_unformatted() -> None:
    """Write the text of a config without line breaks.

    mmengine has it formatted again for each log, checkpoint and file, which takes most
    of the time of a small run. It is the same Python all the same.
    """
    mmengine.config.config.FormatCode = lambda text, **_: (text, True)


def small_config(work_dir: Path, **options: Any) -> Config:
    """The quickstart at a size of seconds: no batch norm, no random flips."""
    cfg = Config.fromfile(CONFIGS / 'sphereface2_quickstart.py')
    cfg.experiment_name = uuid.uuid4().hex
    cfg.work_dir = str(work_dir)
    cfg.merge_from_dict(
        {
            'model.backbone': dict(
                _delete_=True,
                type='SFNet',
                depth=4,
                widths=(8, 8, 8, 8),
                input_size=32,
                embedding_size=16,
            ),
            'model.head.num_classes': 11,
            'model.head.in_channels': 16,
            'train_dataloader.batch_size': 8,
            'train_dataloader.num_workers': 0,
            'train_dataloader.dataset.num_identities': 11,
            'train_dataloader.dataset.images_per_identity': 7,
            'train_dataloader.dataset.image_size': 32,
            'train_dataloader.dataset.pipeline': [dict(type='PackInputs')],
            'train_cfg.max_iters': 6,
            'default_hooks.logger.interval': 1,
            'log_processor.window_size': 1,
            'default_hooks.checkpoint.interval': 3,
            'default_hooks.checkpoint.max_keep_ckpts': 9,
        }
    )
    cfg.val_dataloader = cfg.val_evaluator = cfg.val_cfg = None
    cfg.test_dataloader = cfg.test_evaluator = cfg.test_cfg = None
    cfg.default_hooks.report = None
    cfg.merge_from_dict(options)
    return cfg


def with_validation(cfg: Config, evaluator: dict, **pairs: Any) -> Config:
    """A config that validates on drawn pairs of people it does not train on."""
    dataset = dict(
        type='SyntheticFacePairs',
        images_per_identity=3,
        first_identity=11,
        image_size=32,
        pipeline=[dict(type='PackInputs')],
        test_mode=True,
    )
    cfg.val_dataloader = dict(
        batch_size=8,
        num_workers=0,
        sampler=dict(type='DefaultSampler', shuffle=False),
        collate_fn=dict(type='collate_faces'),
        dataset={**dataset, **pairs},
    )
    cfg.val_evaluator, cfg.val_cfg = evaluator, {}
    return cfg


def train(cfg: Config) -> Runner:
    runner = build_runner(cfg)
    runner.train()
    return runner


def log_of(work_dir: Path) -> str:
    """The log of the latest run in the work dir."""
    return max(work_dir.glob('*/*.log')).read_text()


def scalars(work_dir: Path, name: str = 'loss') -> list[float]:
    """What the latest run in the work dir logged under a name, per iteration."""
    log = max(work_dir.glob('*/vis_data/scalars.json'), key=os.path.getmtime)
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    return [line[name] for line in lines if name in line]


def _begin(environment: dict[str, str]) -> None:
    """In a process of the server: be one of this test."""
    os.environ.clear()
    os.environ.update(environment)
    torch.set_num_threads(1)
    leave_configs_unformatted()


def _worker(
    rank: int, world: int, port: int, environment: dict[str, str], pickled: bytes
) -> None:
    _begin(environment)
    os.environ.update(
        RANK=str(rank),
        LOCAL_RANK=str(rank),
        WORLD_SIZE=str(world),
        MASTER_ADDR='127.0.0.1',
        MASTER_PORT=str(port),
    )
    # Modules are imported here, in their environment.
    task, args = pickle.loads(pickled)
    task(*args)
    end_process_group()


def spawn(world: int, task: Callable, *args: Any) -> None:
    """Run ``task(*args)`` in ``world`` processes that know of one another."""
    with socket.socket() as held:
        # The system gives the port to nobody else meanwhile. Rank 0 can listen there
        # all the same, since this socket does not.
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        held.bind(('127.0.0.1', 0))
        torch.multiprocessing.start_processes(
            _worker,
            (
                world,
                held.getsockname()[1],
                dict(os.environ),
                pickle.dumps((task, args)),
            ),
            nprocs=world,
            start_method='forkserver',
        )


def forked_script(
    command: list[str], cwd: str, environment: dict[str, str], outputs: list[str]
) -> None:
    for stream, path in zip((1, 2), outputs, strict=True):
        file = os.open(path, os.O_WRONLY)
        os.dup2(file, stream)
        os.close(file)
    _begin(environment)
    os.chdir(cwd)
    as_main(command)


def call_tool(monkeypatch: pytest.MonkeyPatch, tool: str, *arguments: object) -> None:
    """Be a script of tools/, in the process of the test, for imports take long."""
    monkeypatch.setattr(sys, 'argv', [tool, *map(str, arguments)])
    runpy.run_path(str(ROOT / 'tools' / tool), run_name='__main__')


def as_main(command: list[str]) -> None:
    """In a process of the server: be the script, called with its arguments."""
    # Whatever the script starts, it starts as in an interpreter of its own.
    multiprocessing.set_start_method(None, force=True)
    sys.argv = command
    sys.path.insert(0, str(Path(command[0]).resolve().parent))
    runpy.run_path(command[0], run_name='__main__')


def run_script(
    *command: object, cwd: Path | None = None, env: dict[str, str] | None = None
) -> subprocess.CompletedProcess:
    """As ``python *command`` does, with its output; in a process of the server."""
    words = [str(part) for part in command]
    with tempfile.TemporaryDirectory() as folder:
        outputs = [Path(folder, name) for name in ('stdout', 'stderr')]
        for path in outputs:
            path.touch()
        process = FORKS.Process(
            target=forked_script,
            args=(
                words,
                str(cwd or Path.cwd()),
                dict(os.environ if env is None else env),
                [str(path) for path in outputs],
            ),
        )
        process.start()
        process.join()
        written = [path.read_text() for path in outputs]
    return subprocess.CompletedProcess(words, process.exitcode, *written)


def call(*command: object, status: int = 0, **env: str) -> subprocess.CompletedProcess:
    """Run a command in the repository, as a user does; it ends with the status."""
    env = os.environ | PYTHON_FIRST | env
    words = list(map(str, command))
    if words[0] in ('python', sys.executable) and words[1].endswith('.py'):
        done = run_script(*words[1:], cwd=ROOT, env=env)
    else:
        done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, env=env)
    assert done.returncode == status, done.stdout + done.stderr
    return done
