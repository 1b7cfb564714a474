"""A resumed training does what its config says now, and tells where that is new."""

import copy

import numpy as np
import pytest
from runs import log_of, scalars, small_config, train

from mmhyperface.apis import build_runner
from mmhyperface.engine.config_changes import changes, entries

STOP = 4
SCHEDULE = [
    dict(type='LinearLR', start_factor=0.1, by_epoch=False, begin=0, end=2),
    dict(type='CosineAnnealingLR', by_epoch=False, begin=2, end=STOP, eta_min=0.001),
]
LONGER = {'param_scheduler.1.end': 8}
BY_EPOCH = {
    'train_cfg': dict(_delete_=True, by_epoch=True, max_epochs=2),
    'train_dataloader.sampler': dict(
        _delete_=True, type='DefaultSampler', shuffle=True
    ),
    'train_dataloader.dataset.images_per_identity': 2,
    'default_hooks.checkpoint.by_epoch': True,
    'default_hooks.checkpoint.interval': 1,
    'param_scheduler': [
        dict(type='PolyLR', by_epoch=True, end=2, convert_to_iter_based=True),
        dict(type='MultiStepLR', by_epoch=True, milestones=[1], gamma=0.5),
    ],
}


def config(work_dir, base=None, **options):
    cfg = small_config(
        work_dir,
        **{
            'param_scheduler': SCHEDULE,
            'train_cfg.max_iters': STOP,
            'default_hooks.checkpoint.interval': STOP,
        },
    )
    cfg.merge_from_dict(copy.deepcopy(base or {}))
    cfg.merge_from_dict(options)
    return cfg


@pytest.fixture(scope='module')
def stopped(tmp_path_factory):
    root = tmp_path_factory.mktemp('stopped')
    train(config(root / 'iters'))
    train(config(root / 'epochs', BY_EPOCH))
    return {
        'iters': root / 'iters' / 'iter_4.pth',
        'epochs': root / 'epochs/epoch_2.pth',
    }


@pytest.mark.parametrize(
    ('base', 'options'),
    [
        ('iters', {**LONGER, 'train_cfg.max_iters': 8}),
        ('iters', {'optim_wrapper.optimizer.lr': 0.03, 'train_cfg.max_iters': 6}),
        (
            'iters',
            {
                'param_scheduler': [dict(type='ConstantLR', by_epoch=False, end=5)],
                'train_cfg.max_iters': 7,
            },
        ),
        ('iters', {'param_scheduler': [], 'train_cfg.max_iters': 6}),
        (
            'epochs',
            {
                'param_scheduler.0.end': 3,
                'param_scheduler.1.gamma': 0.1,
                'train_cfg.max_epochs': 3,
            },
        ),
        # By epochs, whose iterations are fewer now.
        ('epochs', {'train_dataloader.batch_size': 11, 'train_cfg.max_epochs': 3}),
    ],
)
def test_the_learning_rate_is_that_of_a_run_which_had_this_config(
    stopped, tmp_path, base, options
):
    first = BY_EPOCH if base == 'epochs' else None
    whole = config(tmp_path / 'whole', first, **options)
    resumed = config(tmp_path / 'resumed', first, **options, resume=True)
    resumed.load_from = str(stopped[base])
    schedulers = [train(cfg).param_schedulers for cfg in (whole, resumed)]
    for a, b in zip(*schedulers, strict=True):
        assert a.state_dict() == b.state_dict()
    rates = scalars(tmp_path / 'whole', 'lr')
    rest = scalars(tmp_path / 'resumed', 'lr')
    assert len(rest) < len(rates)
    np.testing.assert_allclose(rest, rates[-len(rest) :], rtol=1e-12)
    assert 'What this config says is in force' in log_of(tmp_path / 'resumed')


def test_what_has_changed_is_in_force_and_told(stopped, tmp_path):
    runner = train(
        config(
            tmp_path,
            resume=True,
            load_from=str(stopped['iters']),
            **{
                'optim_wrapper.optimizer.weight_decay': 0.25,
                'optim_wrapper.optimizer.lr': 0.05,
                'train_dataloader.batch_size': 4,
                'train_cfg.max_iters': 5,
                'randomness.seed': 7,
            },
        )
    )
    assert {g['weight_decay'] for g in runner.optim_wrapper.param_groups} == {0.25}
    assert {g['momentum'] for g in runner.optim_wrapper.param_groups} == {0.9}
    log = log_of(tmp_path)
    for message in (
        'optim_wrapper.optimizer.weight_decay: 0.0005 -> 0.25',
        'optim_wrapper.optimizer.lr: 0.1 -> 0.05',
        'train_dataloader.batch_size: 8 -> 4',
        'train_cfg.max_iters: 4 -> 5',
        "the seed alone stays the checkpoint's",
        'a batch of all processes has 4 images instead of 8',
        'the learning rate is not scaled',
        'set param_scheduler.1.end=5',
    ):
        assert message in log
    assert 'work_dir:' not in log.partition('is in force')[2]


def test_what_was_lowered_on_the_way_stays_lower(stopped, tmp_path):
    """As by the divergence guard; where the config is the same, or its end is."""
    cfg = config(
        tmp_path / 'low',
        resume=True,
        load_from=str(stopped['iters']),
        **{**LONGER, 'train_cfg.max_iters': 6, 'default_hooks.checkpoint.interval': 1},
    )
    runner = build_runner(cfg)
    runner.load_or_resume = _then(
        runner.load_or_resume, lambda: runner.scale_learning_rate(0.5)
    )
    runner.train()
    rates = {}
    for name, options in (('same', {}), ('longer', {'param_scheduler.1.end': 16})):
        again = config(
            tmp_path / name,
            resume=True,
            load_from=str(tmp_path / 'low' / 'iter_5.pth'),
            **{**LONGER, 'train_cfg.max_iters': 6, **options},
        )
        again.default_hooks.checkpoint.interval = 1
        train(again)
        (rates[name],) = scalars(tmp_path / name, 'lr')
    low = scalars(tmp_path / 'low', 'lr')
    assert rates['same'] == low[-1]
    assert 'is in force' not in log_of(tmp_path / 'same')
    # 5 iterations of 16 on, half of it.
    cosine = (1 + np.cos(np.pi * (5 - 2) / (16 - 2))) / 2
    assert rates['longer'] == pytest.approx(0.5 * (0.001 * 2 + (0.1 - 0.002) * cosine))


def _then(first, second):
    def both():
        first()
        second()

    return both


def test_a_text_is_read_and_not_executed(tmp_path):
    path = tmp_path / 'executed'
    text = f"""
a = dict(b=[1, dict(type='X', c=(2, 3))], d={{'e.f': dict(g=None)}})
h = __import__('pathlib').Path('{path}').touch()
empty = []
"""
    actual = entries(text)
    assert actual['a.b.1.c.1'] == 3
    assert actual['a.d.e.f.g'] is None
    assert actual['h'].startswith('__import__')
    assert not path.exists()
    assert entries('no ( config') == {}
    new = {**actual, 'a.b.0': 9, 'work_dir': 'x'}
    del new['h']
    assert changes(actual, new) == {'a.b.0': (1, 9), 'h': (actual['h'], 'not set')}
