"""Centres that are split over the processes train as on one."""

from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.hooks import EMAHook
from mmengine.model import is_model_wrapper
from runs import scalars, small_config, spawn, train

from mmhyperface.models import HypersphereHead

ITERATIONS = 6
# Which every gradient exceeds.
MAX_NORM = 0.1
# Twelve images in each iteration, on 1, 2 or 3 processes; and 11 classes.
GLOBAL_BATCH = 12
SGD = dict(type='SGD', lr=0.05, momentum=0.9, weight_decay=5e-4)
RUNS = {
    'sphereface2': {
        'model.head.loss': dict(_delete_=True, type='SphereFace2Loss', r=30.0, m=0.3),
        'model.head.centres': 'project',
        'optim_wrapper.clip_grad': dict(max_norm=MAX_NORM),
        'custom_hooks': [dict(type='EMAHook', momentum=0.1)],
    },
    'spherefacer': {
        'model.head.loss': dict(
            _delete_=True, type='SphereFaceRLoss', s=30.0, feature_norm='soft'
        ),
        'model.head.centres': 'normalize',
        'optim_wrapper.clip_grad': dict(max_norm=MAX_NORM),
    },
    'fused': {
        'model.head.loss': dict(_delete_=True, type='CurricularFaceLoss', s=16.0),
        'model.head.fused_update': True,
        'optim_wrapper.clip_grad': dict(max_norm=MAX_NORM),
        'optim_wrapper.clip_centres': False,
    },
    # So many are drawn that all are.
    'sampled': {
        'model.head.loss': dict(_delete_=True, type='SFaceLoss', s=16.0),
        'model.head.sample_rate': 0.999,
        'optim_wrapper.clip_grad': dict(max_norm=MAX_NORM),
        # Checkpoints between two batches that step together, too.
        'optim_wrapper.accumulative_counts': 2,
        'default_hooks.checkpoint.interval': 1,
    },
}


def train_all(root: str, world: int) -> None:
    for name, options in RUNS.items():
        cfg = small_config(
            Path(root) / name,
            **{
                'model.head.sharded': True,
                'model.head.engine': 'blocked',
                'train_dataloader.batch_size': GLOBAL_BATCH // world,
                'train_cfg.max_iters': ITERATIONS,
                'optim_wrapper.optimizer': dict(_delete_=True, **SGD),
                **options,
            },
        )
        cfg.launcher = 'pytorch' if world > 1 else 'none'
        runner = train(cfg)
        save_what_is_trained(runner, f'{root}/{name}/{runner.rank}.pth')


def save_what_is_trained(runner, path: str) -> None:
    model = runner.model.module if is_model_wrapper(runner.model) else runner.model
    averaged = [hook.ema_model for hook in runner.hooks if isinstance(hook, EMAHook)]
    state = runner.optim_wrapper.optimizer.state
    saved = {
        'network': model.backbone.state_dict(),
        'loss': model.head.loss_module.state_dict(),
        'rows': model.head.weight.detach(),
        'momentum': state[model.head.weight]['momentum_buffer'],
    }
    for ema in averaged:
        head = next(m for m in ema.modules() if isinstance(m, HypersphereHead))
        saved['averaged rows'] = head.weight.detach()
    torch.save(saved, path)


@pytest.fixture(scope='module')
def alone(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp('one')
    train_all(str(root), 1)
    return root


@pytest.mark.parametrize('world', [pytest.param(2, marks=pytest.mark.slow), 3])
def test_split_centres_train_as_on_one_process(tmp_path, alone, world):
    spawn(world, train_all, str(tmp_path), world)
    for name in RUNS:
        curve = scalars(alone / name)
        assert len(curve) == len(set(curve)) == ITERATIONS
        np.testing.assert_allclose(
            scalars(tmp_path / name), curve, rtol=2e-5, err_msg=name
        )
        norms = scalars(alone / name, 'grad_norm')
        assert min(norms) > MAX_NORM
        np.testing.assert_allclose(
            scalars(tmp_path / name, 'grad_norm'), norms, rtol=1e-4, err_msg=name
        )
        whole = torch.load(alone / name / '0.pth')
        ranks = [torch.load(tmp_path / name / f'{r}.pth') for r in range(world)]
        sizes = [len(rank['rows']) for rank in ranks]
        assert sizes == {2: [6, 5], 3: [4, 4, 3]}[world]
        for key, value in whole.items():
            parts = [rank[key] for rank in ranks]
            if isinstance(value, torch.Tensor):
                joined = torch.cat(parts)
                torch.testing.assert_close(
                    joined, value, rtol=1e-4, atol=2e-6, msg=name
                )
                continue
            for entry, tensor in value.items():
                for part in parts:
                    # The replicas have not drifted apart by a bit.
                    assert torch.equal(part[entry], parts[0][entry]), (name, entry)
                torch.testing.assert_close(
                    parts[0][entry], tensor, rtol=1e-4, atol=2e-6, msg=entry
                )
