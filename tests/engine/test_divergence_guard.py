"""Runs that are made to go wrong are caught, explained, and rolled back."""

import logging
import math
import re
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from mmengine.hooks import EMAHook, Hook
from runs import log_of, scalars, small_config, with_validation

from mmhyperface.apis import build_runner
from mmhyperface.centres import storage
from mmhyperface.engine.divergence import (
    CollapseSigns,
    State,
    Step,
    explain,
    is_good,
    state_of,
)
from mmhyperface.engine.hooks import CheckpointHook, DivergenceGuardHook
from mmhyperface.engine.hooks.model_parts import bare_model
from mmhyperface.models.heads import BatchGeometry
from mmhyperface.registry import DATASETS
from mmhyperface.utils.errors import UserError


class Poison(Hook):
    """Makes one image of some iterations, counted from 1, infinite on one rank."""

    def __init__(self, at, rank: int = 0, place: int = 3) -> None:
        self.at, self.rank, self.place = at, rank, place
        self.numbers = []

    def before_train(self, runner):
        model = bare_model(runner)
        inner = model.loss

        def poisoned(inputs, data_samples):
            if runner.iter + 1 in self.at and runner.rank == self.rank:
                inputs = inputs.clone()
                inputs[self.place] = math.inf
                self.numbers.append(data_samples[self.place].sample_idx)
            return inner(inputs, data_samples)

        model.loss = poisoned


class Watch(Hook):
    """Keeps a copy of what is trained, after some iterations."""

    priority = 'HIGH'  # right after the guard

    def __init__(self, at) -> None:
        self.at, self.kept = at, {}

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        if runner.iter + 1 not in self.at:
            return
        model = bare_model(runner)
        optimizer = runner.optim_wrapper.optimizer
        average = [h.ema_model for h in runner.hooks if isinstance(h, EMAHook)]
        self.kept[runner.iter + 1] = {
            'weights': [p.detach().clone() for p in model.parameters()],
            'average': [p.detach().clone() for m in average for p in m.parameters()],
            'rows': [
                m.head.weight.detach().clone()
                for m in (model, *(m.module for m in average))
            ],
            'momentum': [
                optimizer.state[p]['momentum_buffer'].clone()
                for p in (model.head.weight, model.backbone.fc.weight)
            ],
        }


def config(work_dir: Path, guard: dict, **options):
    return small_config(
        work_dir,
        **{
            'default_hooks.divergence_guard': dict(type='DivergenceGuardHook', **guard),
            'default_hooks.checkpoint.interval': 2,
            'train_cfg.max_iters': 10,
            **options,
        },
    )


def run(cfg, *hooks: Hook):
    runner = build_runner(cfg)
    for hook in hooks:
        runner.register_hook(hook)
    runner.train()
    return runner


def message_of(cfg, *hooks: Hook) -> str:
    """With which a run is stopped."""
    with pytest.raises(UserError) as caught:
        run(cfg, *hooks)
    return str(caught.value)


def test_stopping_leaves_the_last_good_checkpoint_and_names_the_sample(tmp_path):
    poison, cfg = Poison(at=[4]), config(tmp_path, dict(interval=100))
    message = message_of(cfg, poison)
    (number,) = poison.numbers
    dataset = DATASETS.build(cfg.train_dataloader.dataset)
    label = dataset.get_data_info(number)['gt_label']
    assert 'the loss is not finite at iteration 4 (loss=nan' in message
    assert '1 of 8 samples have such a loss' in message
    assert f'number {number} of the training set, label {label}: loss nan' in message
    assert 'lr=0.0' in message
    assert 'margin=0.2' in message
    assert 'grad_norm=nan' in message
    assert message.endswith(f'the last earlier checkpoint, {tmp_path}/iter_2.pth')
    assert sorted(path.name for path in tmp_path.glob('*.pth')) == ['iter_2.pth']
    assert is_good(str(tmp_path / 'iter_2.pth'))


ROLLBACK = dict(action='rollback', interval=3, lr_factor=0.25)


def test_a_rollback_restores_and_trains_on_with_a_lower_learning_rate(tmp_path):
    options = {
        'custom_hooks': [dict(type='EMAHook', momentum=0.1)],
        'optim_wrapper.clip_grad': None,
    }
    clean = build_runner(config(tmp_path / 'clean', {}, **options))
    before = Watch(at=[2])
    clean.register_hook(before, 'LOWEST')
    clean.train()
    poison, after = Poison(at=[5]), Watch(at=[6])
    run(config(tmp_path / 'bad', ROLLBACK, **options), poison, after)
    log = log_of(tmp_path / 'bad')
    assert 'the loss is not finite at iteration 5' in log
    assert f'number {poison.numbers[0]} of the training set' in log
    assert f'Rolled back to {tmp_path}/bad/iter_2.pth, 1 of at most 3' in log
    for name, values in before.kept[2].items():
        assert len(values)
        for actual, value in zip(after.kept[6][name], values, strict=True):
            assert torch.equal(actual, value), name
    rates, usual = (scalars(tmp_path / name, 'lr') for name in ('bad', 'clean'))
    # The log of iteration 6 begins anew, after its rate has been noted.
    np.testing.assert_allclose(rates[:5], usual[:5])
    np.testing.assert_allclose(rates[-4:], np.multiply(usual[-4:], 0.25), rtol=1e-6)
    assert np.isfinite(scalars(tmp_path / 'bad')[-4:]).all()
    for step in (6, 8, 10):
        assert is_good(str(tmp_path / 'bad' / f'iter_{step}.pth'))

    again = config(tmp_path / 'resumed', ROLLBACK, **options)
    again.resume, again.load_from = True, str(tmp_path / 'bad' / 'iter_8.pth')
    resumed = run(again)
    assert scalars(tmp_path / 'resumed', 'lr') == rates[-2:]
    assert scalars(tmp_path / 'resumed') == scalars(tmp_path / 'bad')[-2:]
    (guard,) = (h for h in resumed.hooks if isinstance(h, DivergenceGuardHook))
    assert guard.rollbacks == 1


def test_a_learning_rate_too_high_is_lowered_until_the_loss_is_finite(tmp_path):
    guard = dict(action='rollback', interval=1, lr_factor=1e-31, max_rollbacks=1)
    options = {
        'optim_wrapper.optimizer.lr': 1e30,
        'optim_wrapper.clip_grad': None,
        'param_scheduler': [],
        'default_hooks.checkpoint.interval': 100,
    }
    run(config(tmp_path, guard, **options))
    log = log_of(tmp_path)
    assert 'batch normalisation has spread' in log
    assert f'Rolled back to {tmp_path}/iter_0.pth' in log
    assert np.isfinite(scalars(tmp_path)[-4:]).all()
    assert scalars(tmp_path, 'lr')[-1] == pytest.approx(0.1)
    assert is_good(str(tmp_path / 'iter_10.pth'))


def test_it_gives_up_after_some_rollbacks(tmp_path):
    guard = dict(action='rollback', interval=1, max_rollbacks=2)
    message = message_of(config(tmp_path, guard), Poison(at=range(4, 11)))
    assert 'rolled back 2 times already' in message
    # Going back to the newest one did not help.
    log = log_of(tmp_path)
    assert log.index('Rolled back to') == log.index(f'Rolled back to {tmp_path}/iter_2')


def test_lent_rows_in_the_middle_of_an_accumulation_are_restored(tmp_path):
    guard = dict(action='rollback', interval=1)
    options = {
        'model.head.sample_rate': 0.999,
        'model.head.catch_up': True,
        'model.head.centres': 'normalize',
        'optim_wrapper.accumulative_counts': 2,
        'optim_wrapper.clip_grad': None,
    }
    watch = Watch(at=[2, 5])
    run(config(tmp_path, guard, **options), watch, Poison(at=[5]))
    for name in ('weights', 'momentum'):
        for actual, value in zip(watch.kept[5][name], watch.kept[2][name], strict=True):
            assert torch.equal(actual, value), name
    assert is_good(str(tmp_path / 'iter_10.pth'))


class NotFinite(Hook):
    """Breaks what the validation after some iterations meets."""

    priority = 'HIGH'  # after the guard, before an average

    def __init__(self, at, weights: bool = False) -> None:
        self.at, self.weights = at, weights

    def before_train(self, runner):
        inner = runner.model.predict

        def predict(inputs, data_samples=None):
            samples = inner(inputs, data_samples)
            if runner.iter in self.at and not self.weights:
                samples[0].embedding = samples[0].embedding * math.nan
            return samples

        runner.model.predict = predict

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        if self.weights and runner.iter + 1 in self.at:
            runner.model.backbone.fc.weight.data[3, 5] = math.inf


def validated_config(work_dir: Path, guard: dict | None, **options):
    cfg = with_validation(
        config(work_dir, guard or {}, **options),
        dict(type='FaceVerification', folds=2),
        name='pairs',
        num_identities=5,
        num_pairs=20,
    )
    cfg.train_cfg.val_interval = 2
    cfg.train_cfg.max_iters = 6
    cfg.default_hooks.checkpoint.save_best = 'pairs/accuracy'
    if guard is None:
        del cfg.default_hooks.divergence_guard
    return cfg


@pytest.mark.parametrize('guard', [None, dict(patience=2)])
def test_a_validation_that_is_not_finite_is_told_and_training_goes_on(tmp_path, guard):
    runner = run(validated_config(tmp_path, guard), NotFinite(at=[2, 6]))
    log = log_of(tmp_path)
    # mmengine's log has the same warning once.
    assert log.count("test set 'pairs': the embedding is zero, NaN or infinite") == 1
    lines = [line for line in log.splitlines() if 'pairs/eer' in line]
    assert [line.count(': not finite') for line in lines] == [10, 0, 10]
    # Of 10 different pairs.
    assert [line.count(': not resolvable') for line in lines] == [0, 5, 0]
    assert ': nan' not in ''.join(lines)
    assert np.isnan(scalars(tmp_path, 'pairs/accuracy')).tolist() == [True, False, True]
    (best,) = tmp_path.glob('best_*.pth')
    assert best.name.endswith('iter_4.pth')
    assert ('number 1 in a row of 2 that count as a collapse' in log) == bool(guard)
    # Where no training goes on, it is an error.
    with pytest.raises(UserError, match='is zero, NaN or infinite of sample'):
        runner.val()


def test_validations_in_a_row_that_are_not_finite_are_a_collapse(tmp_path):
    cfg = validated_config(tmp_path, dict(patience=2))
    message = message_of(cfg, NotFinite(at=[4, 6]))
    assert re.search('after iteration 6 .* alike, 2 times', message)
    assert message.endswith(f'the last earlier checkpoint, {tmp_path}/iter_2.pth')


@pytest.mark.parametrize('action', ['stop', 'rollback'])
def test_a_network_that_is_not_finite_is_like_a_loss(tmp_path, action):
    """The loss of the iteration before was."""
    cfg = validated_config(
        tmp_path,
        dict(action=action),
        custom_hooks=[dict(type='EMAHook', momentum=0.5)],
    )
    broken = NotFinite(at=[4], weights=True)
    what = (
        'the validation after iteration 4 has no figures of pairs, for embeddings are '
        'zero, NaN or infinite, or all alike, and backbone.fc.weight of the network is '
        'not finite'
    )
    if action == 'stop':
        message = message_of(cfg, broken)
        assert what in message
        assert message.endswith(f'checkpoint, {tmp_path}/iter_2.pth')
        assert (tmp_path / 'last_checkpoint').read_text() == f'{tmp_path}/iter_2.pth'
        return
    run(cfg, broken)
    log = log_of(tmp_path)
    assert f'{what}.' in log
    assert f'Rolled back to {tmp_path}/iter_2.pth, 1 of at most 3' in log
    assert is_good(f'{tmp_path}/iter_6.pth')
    assert np.isnan(scalars(tmp_path, 'pairs/eer')).tolist() == [False, True, False]
    rates = scalars(tmp_path, 'lr')
    assert rates[4] < 0.6 * rates[3]


def stub(**options) -> SimpleNamespace:
    """As much of a runner as a rollback needs; ``restored`` tells of them."""
    restored: list[str] = []
    values = dict(
        restored=restored,
        restore=restored.append,
        scale_learning_rate=lambda factor: None,
        message_hub=SimpleNamespace(log_scalars={}),
        train_dataloader=SimpleNamespace(dataset=None),
        logger=logging.getLogger('stub'),
    )
    return SimpleNamespace(**{**values, **options})


def test_what_was_saved_while_it_went_wrong_is_never_gone_back_to(tmp_path):
    guard = DivergenceGuardHook('rollback')
    paths = [str(tmp_path / f'iter_{steps}.pth') for steps in (2, 4, 8)]
    for path in paths:
        torch.save({'state_dict': {}, 'optimizer': {}}, path)
    guard._remember(2, paths[0])
    # Far apart, with low losses: later than the first of the checkpoints.
    for _ in range(50):
        guard.signs.see(State(0.01, 1, 0))
    guard._remember(4, paths[1])
    guard._remember(8, paths[2])
    runner = stub(iter=9, work_dir=str(tmp_path))
    guard._blame(runner, 'collapse', step(), None, since=4)
    assert runner.restored == paths[:1]
    # A run that is resumed by itself goes back there, too.
    assert (tmp_path / 'last_checkpoint').read_text() == paths[0]
    # As untrained as it was, it is neither alike again, nor risen.
    for _ in range(guard.signs.patience):
        assert guard.signs.see(State(9, 1, 0.999)) is None
    guard.tried.clear()  # a good look
    runner.iter = 99
    guard._blame(runner, 'NaN', step(), None, since=100)
    assert runner.restored == [paths[0]] * 2


@pytest.mark.parametrize('number', [1, 2, 3])
def test_only_epochs_that_are_saved_are_remembered(tmp_path, number):
    saver = CheckpointHook(interval=2, by_epoch=True, out_dir=str(tmp_path))
    guard = DivergenceGuardHook('rollback')
    guard.after_train_epoch(stub(iter=7, epoch=number - 1, max_epochs=3, hooks=[saver]))
    actual = [Path(saved.path).name for saved in guard.saved]
    assert actual == ([f'epoch_{number}.pth'] if number > 1 else [])


def test_a_collapse_is_caught(tmp_path):
    class Zero(Hook):
        def before_train_iter(self, runner, batch_idx, data_batch=None):
            if runner.iter >= 4:
                torch.nn.init.zeros_(runner.model.backbone.fc.weight)
                torch.nn.init.zeros_(runner.model.backbone.fc.bias)

    message = message_of(config(tmp_path, dict(interval=1, patience=3)), Zero())
    assert 'mean feature norm is 0, outside norm_range' in message
    assert '3 times in a row up to iteration 7' in message
    assert 'The largest loss is that of number' in message
    # iter_4 is the last whose network was seen to be good only before its step.
    assert message.endswith(f'{tmp_path}/iter_2.pth')


def geometry(**options) -> BatchGeometry:
    values = dict(
        own=torch.zeros(4),
        hardest=torch.zeros(4),
        norm=torch.ones(4),
        loss=torch.zeros(4),
        violating=torch.ones(4, dtype=torch.bool),
        target=torch.arange(4),
        mean_direction=torch.zeros(3),
        of_all_ranks=False,
    )
    values.update(options)
    return BatchGeometry(**values, sizes=[len(values['own'])])


def step(**options) -> Step:
    actual = geometry(**options)
    outputs = {'loss': actual.loss.mean()}
    return Step(9, outputs, (5, 6, 7, 8), actual, 0.1, None, None)


def test_the_mean_cosine_is_that_of_all_pairs():
    x = np.random.default_rng(0).normal(size=(7, 3)) + 0.4
    directions = [row / math.sqrt(row @ row) for row in x]
    pairs = [directions[i] @ directions[j] for i in range(7) for j in range(i)]
    state = state_of(
        step(
            mean_direction=torch.tensor(np.mean(directions, axis=0)),
            own=torch.zeros(7),
            norm=torch.arange(7.0),
        )
    )
    assert state.cosine == pytest.approx(np.mean(pairs), abs=1e-6)
    assert state.norm == 3
    assert math.isnan(state_of(step(own=torch.zeros(1))).cosine)


def signs(**options) -> CollapseSigns:
    limits = dict(max_cosine=0.98, norm_range=(1e-3, 1e4), max_rise=10, patience=2)
    return CollapseSigns(**{**limits, **options}, window=4)


def test_embeddings_that_have_never_been_apart_are_no_collapse():
    watcher = signs()
    assert [watcher.see(State(1, 1, 0.999)) for _ in range(5)] == [None] * 5
    watcher.see(State(1, 1, 0.2))
    assert watcher.see(State(1, 1, 0.999)) is None
    assert 'become alike' in watcher.see(State(1, 1, 0.999))


def test_one_odd_batch_is_no_collapse():
    watcher = signs()
    for norm in (1, 1e-9, 1, 1e9, 1, math.nan, 1):
        assert watcher.see(State(1, norm, 0)) is None
    assert watcher.see(State(1, 1e9, 0)) is None
    assert 'feature norm is 1e+09' in watcher.see(State(1, 1e9, 0))


@pytest.mark.parametrize(
    ('usual', 'bad', 'actual'),
    [
        ((2.0, 2.5, 2.2, 2.1), 30.0, True),
        ((2.0, 2.5, 2.2, 2.1), 20.0, False),
        # SFace's: it may rise above zero, and ten times less than nothing is less.
        ((-20.0, -21.0, -19.0, -20.0), -2.0, False),
        ((-20.0, -21.0, -19.0, -20.0), 30.0, False),
        ((-20.0, -21.0, -19.0, -20.0), 200.0, True),
        ((-0.1, 0.1, -0.3, 0.3), 1.0, False),
        ((-0.1, 0.1, -0.3, 0.3), 3.0, True),
        ((2.0,), 1e9, False),  # too short a history
    ],
)
def test_a_loss_that_rises_far_above_its_median(usual, bad, actual):
    watcher = signs(patience=1)
    for loss in usual:
        assert watcher.see(State(loss, 1, 0)) is None
    assert bool(watcher.see(State(bad, 1, 0))) == actual


def test_the_sample_is_named_with_its_file():
    data = SimpleNamespace(get_data_info=lambda number: {'img_path': f'a/{number}.jpg'})
    losses = torch.tensor([1.0, 9.0, math.inf, math.nan])
    text = explain(step(loss=losses), None, data)
    assert '2 of 4 samples' in text
    assert 'number 7 of the training set (a/7.jpg), label 2: loss inf' in text

    # One without a number is not taken for the last one.
    text = explain(step()._replace(numbers=[-1] * 4), None, data)
    assert 'an unnumbered one of the training set, label 0' in text


def test_checkpoints_that_are_not_finite_or_damaged_are_not_good(tmp_path):
    def saved(name, **parts):
        whole = {'state_dict': {}, 'optimizer': {}, **parts}
        torch.save(whole, tmp_path / name)
        return str(tmp_path / name)

    good = {'state_dict': {'a': torch.ones(3), 'n': torch.tensor(3)}}
    assert is_good(saved('a', **good))
    assert not is_good(saved('b', state_dict={'a': torch.tensor([1, math.nan])}))
    momentum = {'state': {0: {'momentum_buffer': torch.tensor([math.inf])}}}
    assert not is_good(saved('c', **good, optimizer=momentum))
    assert not is_good(str(tmp_path / 'none'))
    torch.save({'state_dict': {}}, tmp_path / 'published')
    assert not is_good(str(tmp_path / 'published'))
    Path(tmp_path / 'd').write_bytes(b'no checkpoint')
    assert not is_good(str(tmp_path / 'd'))
    folder = tmp_path / 'folder'
    folder.mkdir()
    for value, expected in ((1.0, True), (math.nan, False)):
        torch.save({'state_dict': {}, 'optimizer': {}}, folder / storage.MODEL)
        key = ['state_dict', 'head.weight']
        rows = torch.full((4, 2), value)
        parts = storage.write_rows(folder, key, rows, 0)
        tensor = dict(key=key, dtype='float32', shape=[4, 2], parts=parts)
        storage.write_index(folder, [[tensor]])
        assert is_good(str(folder)) == expected


@pytest.mark.parametrize(
    'options',
    [
        dict(action='pray'),
        dict(interval=0),
        dict(patience=0),
        dict(lr_factor=0),
        dict(lr_factor=2),
        dict(max_rollbacks=-1),
        dict(norm_range=(2, 1)),
    ],
)
def test_options_out_of_range_are_refused(options):
    with pytest.raises(UserError, match='DivergenceGuardHook'):
        DivergenceGuardHook(**options)


def test_a_model_without_our_head_is_guarded_too():
    actual = Step(3, {'loss': torch.tensor(math.nan)}, [1, 2], None, 0.1, None, None)
    assert explain(actual, None, None) == ''
    assert math.isnan(state_of(actual).norm)
