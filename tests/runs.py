"""Small runs of the real runner, on one or several gloo processes."""

import json
import os
import socket
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from mmengine.runner import Runner

from mmhyperface.apis import build_runner
from mmhyperface.compat.distributed import end_process_group

CONFIGS = Path(__file__).parent.parent / 'configs'


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


def train(cfg: Config) -> Runner:
    runner = build_runner(cfg)
    runner.train()
    return runner


def scalars(work_dir: Path, name: str = 'loss') -> list[float]:
    """What the latest run in the work dir logged under a name, per iteration."""
    log = max(work_dir.glob('*/vis_data/scalars.json'), key=os.path.getmtime)
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    return [line[name] for line in lines if name in line]


def _worker(rank: int, world: int, port: int, task: Callable, args: tuple) -> None:
    os.environ.update(
        RANK=str(rank),
        LOCAL_RANK=str(rank),
        WORLD_SIZE=str(world),
        MASTER_ADDR='127.0.0.1',
        MASTER_PORT=str(port),
    )
    torch.set_num_threads(1)
    task(*args)
    end_process_group()


def spawn(world: int, task: Callable, *args: Any) -> None:
    """Run ``task(*args)`` in ``world`` processes that know of one another."""
    with socket.socket() as probe:
        probe.bind(('127.0.0.1', 0))
        port = probe.getsockname()[1]
    torch.multiprocessing.spawn(_worker, (world, port, task, args), nprocs=world)
