"""The terms of a loss on a block, as autograd has them and compiled."""

import os
import random
import re
import sys
import weakref
from collections.abc import Callable
from contextlib import nullcontext
from unittest.mock import patch

import numpy as np
import pytest
import torch
from test_blocked import LOSSES, assert_same, batch, gradients, head_of
from test_losses import CASES
from torch import Tensor, nn
from torch._dynamo.utils import counters

from mmhyperface.models import (
    DecoupledLoss,
    HypersphereHead,
    HypersphereLoss,
    SoftmaxLoss,
    SphereFaceRLoss,
)
from mmhyperface.models.losses.base import Context
from mmhyperface.ops import Blocked, blocked, dense, terms
from mmhyperface.ops.terms import block_terms, compiler_missing
from mmhyperface.utils.errors import UserError

B, N = 5, 7
needs_compiler = pytest.mark.skipif(
    compiler_missing('cpu') is not None, reason=f'{compiler_missing("cpu")}'
)
slow = pytest.mark.slow


@pytest.fixture(autouse=True)
def _compiled_afresh():
    torch._dynamo.reset()
    counters.clear()


class Custom(DecoupledLoss):
    """A loss of any function of cosine and norm."""

    function: Callable[[Tensor, Tensor], Tensor]

    def context(self, batch) -> Context:
        return {'norm': batch.norm}

    def target(self, own: Tensor, context: Context) -> Tensor:
        return -own

    def others(self, cos: Tensor, context: Context) -> Tensor:
        return self.function(cos, context['norm'])


class CustomSoftmax(SoftmaxLoss):
    context, target, others = Custom.context, Custom.target, Custom.others


def custom(
    function: Callable[[Tensor, Tensor], Tensor], family: type = Custom
) -> HypersphereLoss:
    loss = family()
    loss.function = function
    return loss


@pytest.mark.parametrize('family', [Custom, CustomSoftmax])
def test_slopes_are_difference_quotients(family):
    """Of the fold, by products, by the rows' scale and by the context."""
    loss = custom(lambda cos, norm: (cos * norm).sin() + cos**3, family)
    generator = torch.Generator().manual_seed(0)

    def uniform(*shape: int) -> Tensor:
        return torch.rand(shape, generator=generator, dtype=torch.float64) - 0.5

    products, scale, norm = uniform(N, B), uniform(N, 1) + 1, uniform(B, 1) + 2
    own = torch.tensor([[0, 3, -1, N, 3]], dtype=torch.int32)
    excluded = torch.arange(N)[:, None] == 5
    upstream = uniform(B, 1)
    start = torch.full((B, 1), 0.25, dtype=torch.float64)

    def fold(products: Tensor, norm: Tensor) -> Tensor:
        result = start.clone()
        for i in range(B):
            values = [
                loss.function(products[j, i] * scale[j, 0], norm[i, 0])
                for j in range(N)
                if j not in (own[0, i], 5)
            ]
            values = torch.stack([*values, start[i, 0]])
            result[i] = values.sum() if loss.additive else values.logsumexp(0)
        return result

    def by(value: Tensor, function: Callable[[Tensor], Tensor]) -> Tensor:
        slope, step = torch.zeros_like(value), 1e-6
        for at in range(value.numel()):
            ends = []
            for sign in (1, -1):
                moved = value.clone()
                moved.view(-1)[at] += sign * step
                ends.append((function(moved) * upstream).sum())
            slope.view(-1)[at] = (ends[0] - ends[1]) / (2 * step)
        return slope

    folded = fold(products, norm)
    hidden = excluded | (torch.arange(N)[:, None] == own)
    arguments = (loss, products, scale, own, excluded, {'norm': norm})
    hardest = torch.full((B, 1), -1.0, dtype=torch.float64)
    first = block_terms(*arguments, (), start, hardest)
    assert_same([first.folded], [folded])
    expected = (products * scale).masked_fill(hidden, -1).amax(0)[:, None]
    assert torch.equal(first.hardest, expected)
    known = start if loss.additive else folded
    result = block_terms(*arguments, ('norm',), known, hardest, upstream)
    assert_same([result.folded], [folded])
    slopes = by(products, lambda products: fold(products, norm))
    by_norm = by(norm, lambda norm: fold(products, norm))
    close = dict(rtol=1e-6, atol=1e-8)
    assert_same([result.slopes, *result.context], [slopes, by_norm], **close)
    assert not result.slopes[hidden].any()
    radial = (products * slopes).sum(1, keepdim=True)
    assert_same([result.radial], [radial], **close)


def test_what_is_hidden_has_no_gradient_where_the_slope_is_infinite():
    loss = custom(lambda cos, norm: cos.acos() * norm)
    one = torch.ones(2, 1)
    own = torch.tensor([[0, 1]], dtype=torch.int32)
    products = torch.zeros(3, 2)
    result = block_terms(
        loss, products, one[:1], own, None, {'norm': one}, ('norm',), one, one, one
    )
    assert result.slopes.isfinite().all()
    assert (result.slopes == 0).sum() == 2


FUNCTIONS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    'the cosine': lambda cos, norm: cos,
    'no cosine': lambda cos, norm: norm.expand_as(cos),
    'a constant': lambda cos, norm: torch.full_like(cos, 3.0),
    'a number for all': lambda cos, norm: norm,
    'powers': lambda cos, norm: cos**2 + (cos + 2) ** 0.5 + 2 ** (cos * norm),
    'masks': lambda cos, norm: (
        torch.where((cos > 0) & (norm > 4), cos * 2, norm)
        + cos.masked_fill(cos < 0, 0.5) * norm
        + (cos > 0) * cos
    ),
    'clamps': lambda cos, norm: cos.clamp(-0.5, 0.4) + torch.relu(norm / 8 - cos),
    'angles': lambda cos, norm: cos.clamp(-0.9, 0.9).arccos() ** 2 + cos.atan(),
    'exponentials': lambda cos, norm: (
        nn.functional.softplus(cos * norm, 2.0) + cos.expm1() + (cos + 2).log()
    ),
    'steps': lambda cos, norm: (cos * 5).floor() * cos + cos.sign() * norm,
    'detached': lambda cos, norm: (cos.sin() * norm).detach() * cos + norm.detach(),
    'literals': lambda cos, norm: cos * torch.tensor(0.5).sin() + torch.as_tensor(2.0),
    'in place': lambda cos, norm: (cos * 2).mul_(norm).add_(1),
    'decision by value': lambda cos, norm: cos * 2 if norm.max() > 1 else cos,
    'integers': lambda cos, norm: (cos * 5).long() * norm,
}


@pytest.mark.parametrize('family', [Custom, CustomSoftmax])
@pytest.mark.parametrize('name', FUNCTIONS)
def test_any_function_is_evaluated(name, family):
    results = []
    for engine in ('dense', 'blocked'):
        head = head_of(custom(FUNCTIONS[name], family), engine).double()
        results.append(gradients(head, *batch(head)))
    assert_same(*results, rtol=1e-6, atol=1e-6)


@needs_compiler
@slow
def test_functions_are_compiled():
    smooth = [f for name, f in FUNCTIONS.items() if name != 'decision by value']
    loss = custom(lambda cos, norm: sum(f(cos, norm) for f in smooth))
    results = []
    for engine in (dense, Blocked(block=4, compiled=True)):
        head = head_of(loss).double()
        head.engine = engine
        results.append(gradients(head, *batch(head)))
    assert not engine._failed
    assert_same(*results, rtol=1e-6, atol=1e-6)


class Nested:
    """A setting that looks the same whatever is in it."""

    value = 0.0

    def __repr__(self) -> str:
        return 'Nested()'


ELSEWHERE = {'margin': 0.0}
# Where a loss may keep a margin: what reads it, and what sets it.
MARGINS: dict[str, tuple[Callable, Callable]] = {
    'private': (lambda loss: loss._m, lambda loss, m: setattr(loss, '_m', m)),
    'public': (lambda loss: loss.m, lambda loss, m: setattr(loss, 'm', m)),
    'nested': (
        lambda loss: loss.nested.value,
        lambda loss, m: setattr(loss.nested, 'value', m),
    ),
    'global': (
        lambda loss: ELSEWHERE['margin'],
        lambda loss, m: ELSEWHERE.update(margin=m),
    ),
    'buffer': (lambda loss: loss.t, lambda loss, m: loss.t.fill_(m)),
    'number of a buffer': (
        lambda loss: loss.t.item(),
        lambda loss, m: loss.t.fill_(m),
    ),
    'literal': (
        lambda loss: torch.tensor(loss._m),
        lambda loss, m: setattr(loss, '_m', m),
    ),
    'branch': (
        lambda loss: -loss._m if loss._m == 0.3 else loss._m,
        lambda loss, m: setattr(loss, '_m', m),
    ),
    'class': (lambda loss: type(loss).m, lambda loss, m: setattr(type(loss), 'm', m)),
    'function': (
        lambda loss: loss.nested.value,
        lambda loss, m: setattr(loss, 'margin', lambda loss: m),
    ),
}


def stateful(place: str, family: type = Custom) -> HypersphereLoss:
    """A loss that keeps a margin there."""
    loss = family()
    loss.margin = MARGINS[place][0]
    loss.m = loss._m = 0.0
    loss.nested = Nested()
    loss.register_buffer('t', torch.tensor(0.0))
    loss.function = lambda cos, norm: (2 * (cos + loss.margin(loss))).exp() * norm
    return loss


def steps_of_moving_margins(head: HypersphereHead, place: str) -> list[Tensor]:
    """Loss and gradients of some steps before each of which the margin moves."""
    loss, move = head.loss_module, MARGINS[place][1]
    x, y = batch(head)
    results = []
    for margin in (0.0, 0.3, 0.0):
        move(loss, margin)
        results += gradients(head, x, y)
        with torch.no_grad():
            move(loss, margin + 0.2)
            results.append(head(x, y))
    return results


def check_moving_margins(place: str, engine: Blocked) -> None:
    family = (Custom, CustomSoftmax)[[*MARGINS].index(place) % 2]
    results = []
    for each in (dense, engine):
        head = head_of(stateful(place, family)).double()
        head.engine = each
        results.append(steps_of_moving_margins(head, place))
    assert_same(*results)


@pytest.mark.parametrize('place', MARGINS)
def test_a_loss_is_evaluated_as_it_is_now(place):
    """Wherever it keeps what it depends on."""
    check_moving_margins(place, Blocked(block=4, compiled=False))


@needs_compiler
@pytest.mark.parametrize(
    'place', [pytest.param(p, marks=[slow] * (p != 'private')) for p in MARGINS]
)
def test_a_compiled_loss_is_evaluated_as_it_is_now(place):
    check_moving_margins(place, Blocked(block=4, compiled=True))


@needs_compiler
def test_moving_margins_and_other_sizes_compile_nothing():
    """Neither one in the context nor an attribute, after one kernel for each use."""
    loss, engine = SphereFaceRLoss('v2', 'soft', m=1.0), Blocked(block=4, compiled=True)
    loss._m = 0.0
    others = loss.others
    loss.others = lambda cos, context: others(cos, context) + loss._m
    head = head_of(loss, classes=23)
    head.engine = engine
    for step, samples in enumerate((6, 6, 9, 2, 5)):
        loss.m, loss._m = 1.0 + step / 10, float(step)
        results = gradients(head, *batch(head, samples))
        head.engine = dense
        assert_same(results, gradients(head, *batch(head, samples)))
        head.engine = engine
    assert not engine._failed
    assert counters['stats']['unique_graphs'] == 2
    assert not counters['graph_break']


@needs_compiler
@slow
@pytest.mark.parametrize('name', CASES)
def test_every_loss_is_compiled(name):
    results = []
    engine = Blocked(block=4, compiled=True)
    for each in (dense, engine):
        loss = CASES[name]()[0]
        head = head_of(loss).double()
        head.engine = each
        results.append(gradients(head, *batch(head)))
    assert not engine._failed
    assert_same(*results)


@needs_compiler
def test_compiled_sums_are_exact():
    """Of terms in single precision, over a whole block of classes."""
    torch.manual_seed(0)
    x = nn.functional.normalize(torch.randn(64, 16)).requires_grad_()
    weight, target = torch.randn(20_000, 16), torch.arange(64)
    loss = LOSSES['sphereface2']()
    bias = {'bias': torch.full((1, 1), -3.0, requires_grad=True)}
    bias |= {name: torch.full((1, 1), getattr(loss, name)) for name in loss.margins}
    results = []
    for dtype, engine in ((torch.float64, dense), (torch.float32, Blocked())):
        context = {name: value.to(dtype) for name, value in bias.items()}
        inputs = x.to(dtype), weight.to(dtype), target, context, loss
        fold = engine(*inputs, expected=1.0)
        grads = torch.autograd.grad(fold.folded.sum(), [x, bias['bias']])
        results.append([fold.folded.double(), *grads])
    assert counters['stats']['unique_graphs'] == 1
    assert_same(*reversed(results), rtol=2e-6, atol=3e-6)


def test_a_parameter_outside_of_the_context_is_refused():
    class Hidden(Custom):
        def __init__(self) -> None:
            super().__init__()
            self.function = lambda cos, norm: cos + self.bias
            self.bias = nn.Parameter(torch.zeros(()))

    head = head_of(Hidden())
    with pytest.raises(UserError, match=r'Hidden\.others .* let context\(\) return it'):
        head(*batch(head))


@pytest.mark.parametrize(
    'draw',
    [
        torch.rand_like,
        lambda cos: random.random(),
        lambda cos: np.random.rand(),  # noqa: NPY002
    ],
    ids=['torch', 'python', 'numpy'],
)
def test_random_terms_are_refused_where_they_would_be_drawn_twice(draw):
    def train(loss):
        head = head_of(loss)
        head(*batch(head)).backward()

    drawing = custom(lambda cos, norm: cos * draw(cos), CustomSoftmax)
    with pytest.raises(UserError, match=r'CustomSoftmax\.others gives other terms'):
        train(drawing)
    train(custom(drawing.function))  # a sum needs one loop
    drawing.function = lambda cos, norm: cos * norm
    train(drawing)
    # One that draws later too.
    drawing.function = lambda cos, norm: cos * draw(cos)
    with pytest.raises(UserError, match=r'CustomSoftmax\.others gives other terms'):
        train(drawing)


def test_random_numbers_of_another_thread_are_no_fault_of_the_loss():
    def function(cos: Tensor, norm: Tensor) -> Tensor:
        if len(cos) > 1:  # a batch, not what is looked at when in doubt
            random.random()
        return cos * norm

    head = head_of(custom(function, CustomSoftmax))
    head(*batch(head)).backward()
    assert head.weight.grad.any()


def test_random_numbers_are_those_of_a_loss_that_was_never_looked_at():
    """A resumed training looks at its loss in another step than the first one did."""
    draws = []
    for _ in range(2):
        loss = custom(lambda cos, norm: cos * torch.rand_like(cos))
        for _ in range(2):
            head = head_of(loss)
            torch.manual_seed(1)
            head(*batch(head))
            draws.append(torch.rand(1))
    assert len({float(draw) for draw in draws}) == 1


def test_what_cannot_be_compiled_is_logged_once(monkeypatch):
    logged: list[str] = []
    monkeypatch.setattr(blocked, 'print_log', lambda text, *_: logged.append(text))
    head = head_of(custom(FUNCTIONS['decision by value']))
    head.engine = Blocked(block=4, compiled=True)
    monkeypatch.setattr(blocked, 'compiler_missing', lambda device: None)
    results = [gradients(head, *batch(head)) for _ in range(2)]
    assert_same(*results, rtol=0, atol=0)
    head.engine = dense
    assert_same(results[0], gradients(head, *batch(head)))
    assert len(logged) == 1
    assert logged[0].startswith('Custom cannot be compiled (')


def test_what_failed_to_compile_keeps_no_memory(monkeypatch):
    """While autograd evaluates the same block, which takes its own."""
    kept = []

    def fails(*_: object) -> None:
        tensor = torch.zeros(8)
        kept.append(weakref.ref(tensor))
        raise RuntimeError('out of memory')

    def others(cos: Tensor, norm: Tensor) -> Tensor:
        assert all(tensor() is None for tensor in kept)
        return cos * norm

    monkeypatch.setattr(blocked, 'compiled_block_terms', lambda: fails)
    monkeypatch.setattr(blocked, 'compiler_missing', lambda device: None)
    head = head_of(custom(others))
    head.engine = Blocked(block=4, compiled=True)
    head(*batch(head)).backward()
    assert kept


def test_an_error_of_the_loss_is_its_own():
    def wrong(cos: Tensor, norm: Tensor) -> Tensor:
        raise KeyError('no such thing')

    head = head_of(custom(wrong))
    head.engine = Blocked(block=4, compiled=True)
    with pytest.raises((KeyError, UserError), match=r'no such thing|C\+\+'):
        head(*batch(head))


def evaluator(rows: int, samples: int = 64, **options: object) -> str:
    """Who evaluates a block of a loop over so many rows."""
    engine, calls = Blocked(**options), []
    task = blocked.Task(
        torch.zeros(samples, 2), torch.zeros(rows, 2), None, {}, LOSSES['arcface'](), ''
    )

    def called(name: str) -> Callable:
        return lambda *_: calls.append(name)

    with (
        patch.object(blocked, 'block_terms', called('autograd')),
        patch.object(blocked, 'compiled_block_terms', lambda: called('compiled')),
    ):
        engine._evaluation(task)(task.loss, torch.zeros(min(rows, 2048), samples))
    return calls[0]


def test_who_evaluates_depends_on_sizes_alone(monkeypatch):
    monkeypatch.setattr(terms, 'compiler_missing', lambda device: None)
    for _ in range(2):
        assert evaluator(100_000) == 'compiled'
        assert evaluator(4000) == 'autograd'
        assert evaluator(100_000, samples=1) == 'autograd'
        assert evaluator(4000, compiled=True) == 'compiled'
        assert evaluator(100_000, compiled=False) == 'autograd'
    monkeypatch.setattr(terms, 'compiler_missing', lambda device: 'there is none')
    assert evaluator(100_000) == 'autograd'


@pytest.mark.parametrize(
    ('device', 'setting', 'reason'),
    [
        ('cpu', patch.dict(os.environ, CXX='no-such'), r'C\+\+ compiler.*\(no-such\)'),
        ('cpu', torch._dynamo.config.patch(disable=True), 'TORCH_COMPILE_DISABLE'),
        ('cpu', patch.dict(os.environ, TORCHDYNAMO_DISABLE='1'), 'TORCHDYNAMO_DISABLE'),
        (
            'cpu',
            patch.object(torch, '__version__', '2.3.1'),
            r'2\.3\.1 .* 2\.4 and later',
        ),
        ('cuda', patch.dict(sys.modules, triton=None), 'needs Triton'),
        ('mps', nullcontext(), 'on mps'),
    ],
)
def test_why_nothing_can_be_compiled(device, setting, reason):
    compiler_missing.cache_clear()
    with setting:
        assert re.search(reason, compiler_missing(device))
    compiler_missing.cache_clear()


def test_fused_is_refused_where_nothing_can_be_compiled(monkeypatch):
    monkeypatch.setattr(blocked, 'compiler_missing', lambda device: 'it needs more')
    head = HypersphereHead(10, 4, dict(type='ArcFaceLoss'), engine='fused')
    with pytest.raises(
        UserError, match=r"'fused' cannot work here: it needs more; set model\.head\."
    ):
        head(torch.randn(2, 4), torch.tensor([1, 2]))
