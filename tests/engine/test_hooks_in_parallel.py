"""Hooks that watch a training, on several processes."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.dist import get_rank, get_world_size
from runs import log_of, scalars, spawn
from test_angle_statistics import BATCH, config, reported, with_noise
from test_divergence_guard import ROLLBACK, Poison, Watch, run
from test_divergence_guard import config as guarded
from torch import nn

from mmhyperface.apis import build_runner
from mmhyperface.centres import storage
from mmhyperface.engine.divergence import is_good, not_finite_entry
from mmhyperface.engine.hooks.verification_report import _statistics

SHARDED = {'whole': False, 'split': True}


def train_watched(root: str, world: int) -> None:
    """A run whose angles are reported, whole and split centres; one that diverges."""
    for name, sharded in SHARDED.items():
        cfg = config(
            Path(root) / name,
            **{
                'train_dataloader.batch_size': BATCH // world,
                'model.head.sharded': sharded,
            },
        )
        cfg.launcher = 'pytorch' if world > 1 else 'none'
        build_runner(with_noise(cfg)).train()
    if world > 1:
        diverge_on_the_last_rank(root, world)
        take_statistics(root)


def diverge_on_the_last_rank(root: str, world: int) -> None:
    cfg = guarded(
        Path(root) / 'bad',
        ROLLBACK,
        **{
            'model.head.sharded': True,
            'model.head.engine': 'blocked',
            'train_dataloader.batch_size': BATCH // world,
            'custom_hooks': [dict(type='EMAHook', momentum=0.1)],
            'centre_parts_above': 0,  # checkpoints are folders
        },
    )
    cfg.launcher = 'pytorch'
    poison, watch = Poison(at=[5], rank=world - 1, place=0), Watch(at=[6])
    runner = run(cfg, poison, watch)
    torch.save([watch.kept[6], poison.numbers], f'{root}/{runner.rank}.pth')


class Scaled(nn.Module):
    """A network that is one batch norm."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(3)

    def val_step(self, batch):
        return self.norm(batch['inputs'])


def batches_of(rank: int) -> list[dict]:
    """The first rank has but one image."""
    drawn = torch.randn(rank, 4, 3, generator=torch.Generator().manual_seed(rank))
    return [{'inputs': x} for x in (torch.ones(1, 3), *drawn)]


def take_statistics(root: str) -> None:
    network, rank = Scaled().eval(), get_rank()
    with _statistics(network, batches_of(rank)) as scaled:
        norm = network.norm
        actual = [scaled, norm.running_mean.clone(), norm.running_var.clone()]
    actual += [norm.running_mean, norm.running_var]
    with _statistics(network, [{'inputs': torch.ones(1, 3)}]) as scaled:
        actual.append(scaled)
    actual.append(not_finite_entry([network]))
    if rank == get_world_size() - 1:
        norm.bias.data[1] = math.nan
    actual.append(not_finite_entry([network]))
    torch.save(actual, f'{root}/statistics_{rank}.pth')


@pytest.fixture(scope='module')
def alone(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp('one')
    train_watched(str(root), 1)
    return root


@pytest.fixture(scope='module', params=[2, pytest.param(3, marks=pytest.mark.slow)])
def several(tmp_path_factory, request) -> tuple[Path, int]:
    root = tmp_path_factory.mktemp('several')
    spawn(request.param, train_watched, str(root), request.param)
    return root, request.param


@pytest.mark.parametrize('name', SHARDED)
def test_angles_are_those_of_one_process(alone, several, name):
    expected, actual = reported(alone / name), reported(several[0] / name)
    assert len(actual) == len(expected) == 2
    for line, other in zip(expected, actual, strict=True):
        assert 'angles/own_wrong_mean' in line
        assert other.keys() == line.keys()
        for key, value in line.items():
            assert other[key] == pytest.approx(value, rel=1e-4), key


def test_all_roll_back_if_one_has_a_bad_sample(several):
    root, world = several
    log = log_of(root / 'bad')
    ranks = [torch.load(root / f'{rank}.pth') for rank in range(world)]
    (number,) = ranks[-1][1]
    assert f'1 of {BATCH} samples have such a loss' in log
    assert f'the first is number {number} of the training set' in log
    saved = storage.read(str(root / 'bad' / 'iter_2.pth'))
    # EMAHook saves the averaged network as the network, and the other way round.
    for number, key in enumerate(('ema_state_dict', 'state_dict')):
        (rows,) = (v for k, v in saved[key].items() if k.endswith('head.weight'))
        actual = torch.cat([kept['rows'][number] for kept, _ in ranks])
        assert torch.equal(actual, rows.take(torch.arange(rows.shape[0])))
    network, *others = (kept['weights'][0] for kept, _ in ranks)
    assert all(torch.equal(network, other) for other in others)
    assert is_good(str(root / 'bad' / 'iter_10.pth'))
    assert np.isfinite(scalars(root / 'bad')[-4:]).all()


def test_an_untrained_network_has_the_statistics_of_all_ranks(several):
    root, world = several
    batches = [b['inputs'] for rank in range(world) for b in batches_of(rank)[1:]]
    mean = torch.stack([x.mean(0) for x in batches]).mean(0)
    variance = torch.stack([x.var(0) for x in batches]).mean(0)
    for rank in range(world):
        actual = torch.load(root / f'statistics_{rank}.pth')
        assert actual[0] is True
        torch.testing.assert_close(actual[1:3], [mean, variance])
        assert torch.equal(
            torch.stack(actual[3:5]), torch.tensor([[0.0], [1]]).expand(2, 3)
        )
        # Nobody has two images; one rank's weights are not finite.
        assert actual[5:] == [False, None, 'norm.bias']
