"""The compiled backbone trains as the plain one."""

import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from runs import log_of, scalars, small_config, spawn, train
from torch._dynamo.utils import counters

from mmhyperface.apis import build_runner
from mmhyperface.engine.hooks import CompileHook
from mmhyperface.utils.errors import UserError


def config(work_dir: Path, **hook):
    hooks = [dict(type='CompileHook', **hook)] if hook else []
    return small_config(
        work_dir, custom_hooks=hooks, **{'default_hooks.checkpoint.interval': 6}
    )


@pytest.fixture(scope='module')
def plain(tmp_path_factory):
    work_dir = tmp_path_factory.mktemp('plain')
    runner = train(config(work_dir))
    return scalars(work_dir), list(runner.model.state_dict())


def test_it_trains_as_uncompiled(tmp_path, plain):
    counters.clear()
    runner = train(config(tmp_path, backend='eager'))
    curve, names = plain
    assert scalars(tmp_path) == curve
    assert list(runner.model.state_dict()) == names
    saved = torch.load(tmp_path / 'iter_6.pth', map_location='cpu')
    assert list(saved['state_dict']) == names
    graphs = counters['stats']['unique_graphs']
    assert graphs >= 2  # of the trial, and of the backbone
    # Validation with batches of all sizes compiles nothing, and training goes on
    # with what there is.
    runner.call_hook('before_val')
    with torch.no_grad():
        for size in range(1, 12):
            runner.model.eval().backbone(torch.rand(size, 3, 32, 32))
    assert counters['stats']['unique_graphs'] == graphs
    runner.call_hook('after_val')
    batch = torch.rand(8, 3, 32, 32).to(memory_format=torch.channels_last)
    runner.model.train().backbone(batch)
    assert counters['stats']['unique_graphs'] == graphs
    assert runner.model.backbone._compiled_call_impl is not None


def test_a_backend_that_does_not_work_is_told_or_passed_over(tmp_path, plain):
    with pytest.raises(UserError, match=r'no_such.*does not work.*fallback=True'):
        build_runner(config(tmp_path / 'a', backend='no_such')).train()
    train(config(tmp_path / 'b', backend='no_such', fallback=True))
    assert scalars(tmp_path / 'b') == plain[0]
    assert 'Training goes on uncompiled' in log_of(tmp_path / 'b')


def test_an_error_without_a_message_is_passed_over_too(monkeypatch):
    def fails(*args, **kwargs):
        raise AssertionError

    monkeypatch.setattr(torch, 'compile', fails)
    message = []
    runner = SimpleNamespace(
        model=SimpleNamespace(backbone=torch.nn.Linear(1, 1)),
        logger=SimpleNamespace(warning=message.append),
    )
    CompileHook(fallback=True).before_train(runner)
    assert 'does not work: AssertionError:. Training goes on' in message[0]


def run_in_parallel(work_dir: str) -> None:
    cfg = config(Path(work_dir), backend='eager')
    cfg.train_dataloader.batch_size = 4
    cfg.launcher = 'pytorch'
    runner = train(cfg)
    assert runner.model.module.backbone._compiled_call_impl is not None


@pytest.mark.slow
def test_it_works_under_ddp(tmp_path, plain):
    spawn(2, run_in_parallel, str(tmp_path))
    np.testing.assert_allclose(scalars(tmp_path), plain[0], rtol=2e-5)


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which('g++'), reason='needs a C++ compiler')
@pytest.mark.parametrize('backend', ['aot_eager', 'inductor'])
def test_backends_that_compile(tmp_path, plain, backend):
    train(config(tmp_path, backend=backend))
    np.testing.assert_allclose(scalars(tmp_path), plain[0], rtol=1e-4)
