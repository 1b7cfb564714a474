"""One run on changing numbers of processes, which are killed on the way."""

import os
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.hooks import EMAHook, Hook
from runs import scalars, small_config, spawn

from mmhyperface.apis import build_runner

BATCH = 12
OPTIONS = {
    'model.head.sharded': True,
    'model.head.engine': 'blocked',
    'train_cfg.max_iters': 12,
    'default_hooks.checkpoint.interval': 3,
    'custom_hooks': [dict(type='EMAHook', momentum=0.1)],
    # Checkpoints in parts, however small.
    'centre_parts_above': 0,
}


class Kill(Hook):
    """kill -9 before an iteration is over."""

    def __init__(self, at: int) -> None:
        self.at = at

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        if runner.iter + 1 == self.at and runner.rank == runner.world_size - 1:
            os.kill(os.getpid(), signal.SIGKILL)


def train(work_dir: str, world: int, killed_at: int = 0) -> None:
    cfg = small_config(
        Path(work_dir), **OPTIONS, **{'train_dataloader.batch_size': BATCH // world}
    )
    cfg.launcher = 'pytorch' if world > 1 else 'none'
    cfg.resume = (Path(work_dir) / 'last_checkpoint').exists()
    runner = build_runner(cfg)
    if killed_at:
        runner.register_hook(Kill(killed_at))
    runner.train()
    averaged = next(hook for hook in runner.hooks if isinstance(hook, EMAHook))
    if world == 1:
        torch.save(
            [
                model.head.weight.detach()
                for model in (runner.model, averaged.ema_model.module)
            ],
            f'{work_dir}/centres.pth',
        )


def test_a_killed_run_continues_on_other_numbers_of_processes(tmp_path):
    whole, broken = str(tmp_path / 'whole'), str(tmp_path / 'broken')
    train(whole, 1)
    curve = scalars(tmp_path / 'whole')
    assert len(curve) == 12
    pieces = {}
    for world, killed_at in ((2, 5), (3, 11)):
        with pytest.raises(torch.multiprocessing.ProcessExitedException):
            spawn(world, train, broken, world, killed_at)
        pieces[world] = scalars(tmp_path / 'broken')
    train(broken, 1)
    pieces[1] = scalars(tmp_path / 'broken')
    # The checkpoints were written after 3 and 9 iterations. What a process logs in
    # the iteration in which another is killed may be lost.
    for world, start in ((2, 0), (3, 3), (1, 9)):
        piece = pieces[world]
        assert len(piece) >= 3
        np.testing.assert_allclose(piece, curve[start:][: len(piece)], rtol=2e-5)
    expected, actual = (
        torch.load(tmp_path / name / 'centres.pth') for name in ('whole', 'broken')
    )
    for a, b in zip(expected, actual, strict=True):
        torch.testing.assert_close(b, a, rtol=1e-4, atol=1e-6)
