"""Images per second without what is not training, and memory."""

from types import SimpleNamespace

import pytest
from mmengine.hooks import LoggerHook
from runs import log_of, scalars, small_config, train

from mmhyperface.engine.hooks import ThroughputHook
from mmhyperface.engine.hooks import throughput as module


class Clock:
    now = 100.0

    def perf_counter(self) -> float:
        return self.now


def test_validation_checkpoints_and_the_log_are_not_counted(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(module, 'time', clock)
    monkeypatch.setattr(module, 'all_reduce', lambda x, op='sum': x.mul_(3))
    logged, others = {}, []
    runner = SimpleNamespace(
        hooks=[LoggerHook(interval=2)],
        register_hook=lambda hook, priority: others.append((hook, priority)),
        message_hub=SimpleNamespace(update_scalar=logged.__setitem__),
    )
    hook = ThroughputHook()
    hook.before_train(runner)
    ((restart, priority),) = others
    assert priority == 'LOWEST'
    clock.now += 1000  # other hooks before training, batches that a resumed run skips

    def iteration(number, images, seconds):
        hook.before_train_iter(runner, number)
        clock.now += seconds
        hook.after_train_iter(runner, number, {'inputs': [0] * images}, {})
        clock.now += 50  # a checkpoint, a picture
        restart.after_train_iter(runner, number)

    iteration(0, 8, 1.5)
    clock.now += 0.5  # loading is counted
    restart.before_val(runner)
    clock.now += 1000
    restart.after_val(runner)
    assert logged == {}
    iteration(1, 4, 2)
    assert logged['train/images_per_s'] == pytest.approx(3 * 12 / 4)
    iteration(2, 8, 1)
    hook.after_train_epoch(runner)
    clock.now += 1000  # a checkpoint of the epoch
    restart.after_train_epoch(runner)
    iteration(3, 8, 3)
    assert logged['train/images_per_s'] == pytest.approx(3 * 16 / 4)


def test_the_log_has_speed_and_memory(tmp_path):
    train(small_config(tmp_path))
    rates, memory = scalars(tmp_path, 'images_per_s'), scalars(tmp_path, 'memory')
    assert len(rates) == len(memory) == 6
    assert min(rates) > 0
    assert sorted(memory) == memory  # a peak
    assert 50 < memory[0] < 100_000  # torch alone takes that many megabytes
    log = log_of(tmp_path)
    assert 'images_per_s: ' in log
    assert 'memory: ' in log
