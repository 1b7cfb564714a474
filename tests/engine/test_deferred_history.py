"""Figures that are read late are those that mmengine reads at once."""

import copy
import pickle
from collections import Counter
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from mmengine.logging import HistoryBuffer, MessageHub
from torch.overrides import TorchFunctionMode

from mmhyperface.engine.deferred_history import DeferredHistory, log_scalar
from mmhyperface.engine.hooks import RuntimeInfoHook
from mmhyperface.engine.optim_wrappers import OptimWrapper


class HostReads(TorchFunctionMode):
    """Counts what would wait for a device."""

    NAMES = ('item', 'tolist', 'cpu', 'numpy', '__float__', '__bool__', '__int__')

    def __init__(self) -> None:
        super().__init__()
        self.seen: Counter = Counter()

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if getattr(func, '__name__', '') in self.NAMES:
            self.seen[func.__name__] += 1
        return func(*args, **(kwargs or {}))


def histories(figures, max_length=5):
    ours = DeferredHistory([0.5], [1], max_length)
    theirs = HistoryBuffer([0.5], [1], max_length)
    for figure in figures:
        ours.update(figure)
        theirs.update(figure.item() if isinstance(figure, torch.Tensor) else figure)
    return ours, theirs


@pytest.mark.parametrize('number', [0, 1, 3, 9])
def test_it_is_mmengines(number):
    figures = [torch.tensor([0.1 * i]) if i % 3 else 0.1 * i for i in range(number)]
    ours, theirs = histories(figures)
    assert ours.current() == theirs.current()
    for ask in ('mean', 'max', 'min'):
        for window in (None, 2, 100):
            # Asked again, and after more has come.
            assert getattr(ours, ask)(window) == getattr(theirs, ask)(window)
    for history in (ours, theirs):
        history.update(3.0)
        history.update(8.0, count=2)
    for mine, other in zip(ours.data, theirs.data, strict=True):
        np.testing.assert_array_equal(mine, other)
        assert mine.dtype == other.dtype
    assert ours.statistics('mean', 3) == theirs.statistics('mean', 3)


def test_a_checkpoint_holds_mmengines():
    ours, theirs = histories([torch.tensor(2.0), 3.0])
    for saved in (copy.deepcopy(ours), pickle.loads(pickle.dumps(ours))):
        assert type(saved) is HistoryBuffer
        assert saved.max_length == theirs.max_length
        np.testing.assert_array_equal(saved.data, theirs.data)


@pytest.mark.parametrize(
    ('figures', 'mean'),
    [([1.0, np.inf, 3.0], 2), ([np.nan, np.inf], np.inf), ([2.0, 4.0], 3)],
)
def test_overflows_are_not_in_the_mean(figures, mean):
    history = DeferredHistory()
    history.overflows = True
    for figure in figures:
        history.update(torch.tensor(figure))
    assert history.current() == figures[-1]
    if np.isfinite(mean):
        assert history.mean(10) == mean
    else:
        assert not np.isfinite(history.mean(10))
    history.overflows = False
    assert np.isfinite(history.mean(10)) == np.isfinite(figures).all()


def test_an_iteration_reads_nothing():
    hub = MessageHub.get_instance('reads_nothing')
    weight = torch.nn.Parameter(torch.ones(3))
    optimizer = torch.optim.SGD([weight], lr=0.1)
    wrapper = OptimWrapper(optimizer=optimizer, clip_grad=dict(max_norm=1.0))
    wrapper.message_hub = hub
    runner, hook = SimpleNamespace(message_hub=hub), RuntimeInfoHook()
    for iteration in range(4):
        weight.grad = torch.full((3,), iteration + 1.0)
        loss = torch.tensor(float(iteration))
        with HostReads() as reads:
            wrapper.step()
            hook.after_train_iter(runner, iteration, outputs=dict(loss=loss))
        assert bool(reads.seen) == (iteration == 0), reads.seen
    assert hub.get_scalar('train/loss').mean(2) == 2.5
    norms, _ = hub.get_scalar('train/grad_norm').data
    np.testing.assert_allclose(norms, [3**0.5 * i for i in (1, 2, 3, 4)], rtol=1e-6)
    saved = hub.state_dict()
    assert type(saved['log_scalars']['train/loss']) is HistoryBuffer
    assert saved['resumed_keys']['train/loss']


def test_a_line_of_the_log_takes_one_copy():
    """Of a figure of which it tells the last, and perhaps the mean."""
    ours, theirs = histories([torch.tensor(0.25 * i) for i in range(4)])
    with HostReads() as reads:
        for ask in ('current', 'mean', 'current'):
            assert getattr(ours, ask)() == getattr(theirs, ask)()
    assert reads.seen == {'tolist': 1}


def test_graphs_are_not_kept():
    """As where a model logs the loss that it minimises."""
    ours = DeferredHistory()
    ours.update(torch.ones((), requires_grad=True).exp())
    assert ours.latest.grad_fn is None


def test_a_whole_number_stays_one():
    ours, theirs = DeferredHistory([3], [1]), HistoryBuffer([3], [1])
    for number in (5, 7):
        assert ours.current() == theirs.current()
        assert isinstance(ours.current(), float) == isinstance(theirs.current(), float)
        ours.update(number)
        theirs.update(number)
    assert ours.data[0].dtype == theirs.data[0].dtype


def test_what_is_not_of_training_stays():
    hub = MessageHub.get_instance('not_of_training')
    log_scalar(hub, 'val/loss', torch.tensor(1.0))
    log_scalar(hub, 'train/loss', torch.tensor(1.0))
    RuntimeInfoHook().after_train_iter(SimpleNamespace(message_hub=hub), 0)
    kinds = {name: type(history) for name, history in hub.log_scalars.items()}
    assert kinds == {'val/loss': HistoryBuffer, 'train/loss': DeferredHistory}
