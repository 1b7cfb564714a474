"""Traced losses against autograd, and what becomes of losses that cannot be traced."""

import random
from collections.abc import Callable

import pytest
import torch
from test_blocked import assert_same, batch, gradients, head_of
from test_losses import CASES
from torch import Tensor, nn

from mmhyperface.models import (
    DecoupledLoss,
    HypersphereHead,
    HypersphereLoss,
    SoftmaxLoss,
)
from mmhyperface.models.losses.base import Context
from mmhyperface.ops import Blocked, blocked
from mmhyperface.ops.elementwise import Buffers, Program, Terms, trace
from mmhyperface.utils.errors import UserError

B, C = 5, 7


def context_of(loss: HypersphereLoss) -> Context:
    generator = torch.Generator().manual_seed(1)
    own = torch.rand(B, 1, generator=generator, dtype=torch.float64) * 2 - 1
    norm = torch.rand(B, 1, generator=generator, dtype=torch.float64) * 8
    # Of an own cosine and a norm that learn.
    return loss.context(own.requires_grad_(), norm.requires_grad_())


def compare(loss: HypersphereLoss) -> Program:
    """Trace a loss; run the program on several blocks, compare it with autograd."""
    loss = loss.double()
    context = context_of(loss)
    like = torch.empty(0, dtype=torch.float64)
    buffers = Buffers(like, B, C)
    for gradient in (False, True):
        program = trace(loss, context, like, gradient)
        leaves = {name: value.detach() for name, value in context.items()}
        cos = torch.empty(C, B, dtype=torch.float64).T
        inputs = {'cos': cos, **leaves}
        if gradient:
            inputs['upstream'] = torch.randn(B, 1, dtype=torch.float64)
            inputs['folded'] = torch.empty(B, 1, dtype=torch.float64)
        for seed in range(3):
            torch.manual_seed(seed)
            cos.uniform_(-1, 1)
            cos[0, :3] = torch.tensor([1.0, -1.0, 0.0])
            wide = {
                name: leaves[name].expand(B, C).clone().requires_grad_()
                for name in context
                if context[name].requires_grad
            }
            at = cos.clone().requires_grad_()
            others = loss.others(at, {**leaves, **wide})
            if gradient:
                folded = loss.fold(others)
                inputs['folded'].copy_(folded.detach())
            before = {name: value.clone() for name, value in inputs.items()}
            outputs = program.bind(inputs, buffers).run()
            assert ('others' in outputs) == (loss.additive or not gradient)
            if 'others' in outputs:
                assert_same([outputs['others']], [others.detach()])
            for name, value in before.items():
                assert torch.equal(inputs[name], value), f'{name} was overwritten'
            pointers = {value.data_ptr() for value in outputs.values()}
            assert len(pointers) == len(outputs)
            if not gradient:
                continue
            assert set(outputs) - {'others'} == {'cos', *wide}
            sources = [at, *wide.values()]
            total = (folded * inputs['upstream']).sum() + 0 * at.sum()
            grads = torch.autograd.grad(total, sources, allow_unused=True)
            for name, grad in zip(('cos', *wide), grads, strict=True):
                expected = torch.zeros_like(at) if grad is None else grad
                assert_same([outputs[name]], [expected])
    return program


@pytest.mark.parametrize('name', CASES)
def test_every_loss_has_a_program_that_agrees_with_autograd(name):
    loss = CASES[name]()[0]
    loss.reset_parameters(C)
    compare(loss)


class Custom(DecoupledLoss):
    """A loss of any function of cosine and norm."""

    function: Callable[[Tensor, Tensor], Tensor]

    def context(self, own: Tensor, norm: Tensor) -> Context:
        return {'norm': norm}

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


TRACEABLE: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    'the cosine': lambda cos, norm: cos,
    'no cosine': lambda cos, norm: norm.expand_as(cos),
    'a constant': lambda cos, norm: torch.full_like(cos, 3.0),
    'the same twice': lambda cos, norm: cos * norm + norm * cos,
    'affine': lambda cos, norm: 3 - (2 * (cos + 1) - 5) / 4 - cos.neg(),
    'affine of both': lambda cos, norm: 2 * (3 * cos + 1) - 0.5 * (norm - 2) * 7,
    'product of affine': lambda cos, norm: (2 * cos + 1) * (3 - norm) * (cos * 5),
    'alpha': lambda cos, norm: torch.sub(torch.rsub(cos, norm, alpha=3), cos, alpha=2),
    'quotient': lambda cos, norm: (1 / (cos + 3)) + cos / (norm + 1) + norm / 3,
    'powers': lambda cos, norm: cos**2 + (cos + 2) ** 0.5 + 2 ** (cos * norm),
    'mask': lambda cos, norm: (cos > 0.1).to(cos.dtype) * norm * cos + 1,
    'other mask': lambda cos, norm: (1 - (cos < norm / 8).double()) * cos,
    'masked fill': lambda cos, norm: cos.masked_fill(cos < 0, 0.5) * norm,
    'where': lambda cos, norm: torch.where((cos > 0) & (norm > 4), cos * 2, norm),
    'clamp': lambda cos, norm: cos.clamp(-0.5, 0.4) + cos.clamp(max=0.1) * norm,
    'relu': lambda cos, norm: torch.relu(cos - 0.2) + nn.functional.relu(norm - cos),
    'extrema': lambda cos, norm: (
        torch.maximum(cos, norm / 4) + torch.minimum(cos, cos * cos)
    ),
    'angles': lambda cos, norm: cos.clamp(-0.9, 0.9).arccos() ** 2 + cos.atan(),
    'exponentials': lambda cos, norm: (
        (cos * norm).exp() + (cos + 2).log() + cos.expm1()
    ),
    'hyperbolic': lambda cos, norm: cos.tanh() + cos.sigmoid() * norm,
    'log sigmoid': lambda cos, norm: nn.functional.logsigmoid(cos * norm * 9),
    'softplus': lambda cos, norm: nn.functional.softplus(cos * norm, 2.0),
    'steps': lambda cos, norm: (
        (cos * 5).floor() * cos + (cos.abs() + cos.sign()) * norm
    ),
    'detached': lambda cos, norm: (cos.sin() * norm).detach() * cos + norm.detach(),
    'literals': lambda cos, norm: cos * torch.tensor(0.5).sin() + torch.as_tensor(2.0),
    'error function': lambda cos, norm: torch.special.erf(cos) * norm,
    'remainder': lambda cos, norm: (cos * 7).remainder(2) + norm.fmod(3) * cos,
    'square root': lambda cos, norm: (norm + 1).sqrt() * (1 - cos * cos + 1e-3).rsqrt(),
}
# Whether they are traced or not: results count.
ANYTHING: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    **TRACEABLE,
    'floor division': lambda cos, norm: (
        torch.div(cos, 0.3, rounding_mode='floor') * cos
    ),
    'decision': lambda cos, norm: cos * 2 if cos.dtype == torch.float64 else cos,
    'decision by value': lambda cos, norm: cos * 2 if norm.max() > 1 else cos,
    'gelu': lambda cos, norm: nn.functional.gelu(cos, approximate='tanh') * norm,
    'silu': lambda cos, norm: nn.functional.silu(cos) + nn.functional.elu(cos),
    'integers': lambda cos, norm: (cos * 5).long() * norm,
    'mask without type': lambda cos, norm: (cos > 0) * cos + ~(cos > 0) * norm,
    'in place': lambda cos, norm: (cos * 2).mul_(norm).add_(1),
    'indexed': lambda cos, norm: torch.stack([cos, cos * norm])[1],
    'weighted': lambda cos, norm: torch.lerp(cos, norm, 0.3) + cos.addcmul(cos, norm),
    'single precision': lambda cos, norm: cos.float().double() * norm,
}


@pytest.mark.parametrize('name', TRACEABLE)
def test_usual_operations_are_traced(name):
    compare(custom(TRACEABLE[name]))


@pytest.mark.parametrize('family', [Custom, CustomSoftmax])
@pytest.mark.parametrize('name', ANYTHING)
def test_any_loss_is_evaluated(name, family):
    """The engine has the results of autograd, whether by tracing or without."""
    results = []
    for engine in ('dense', 'blocked'):
        head = head_of(custom(ANYTHING[name], family), engine).double()
        head._walker = Blocked(block=4)
        results.append(gradients(head, *batch(head)))
    assert_same(*results, rtol=1e-6, atol=1e-6)


class Nested:
    """A setting that looks the same whatever is in it."""

    value = 0.0

    def __repr__(self) -> str:
        return 'Nested()'


ELSEWHERE = {'margin': 0.0}
# Where a loss may keep a margin: what reads it, and what sets it.
MARGINS: dict[str, tuple[Callable, Callable]] = {
    'public': (lambda loss: loss.m, lambda loss, m: setattr(loss, 'm', m)),
    'private': (lambda loss: loss._m, lambda loss, m: setattr(loss, '_m', m)),
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
    x, y = x.to(head.weight.device), y.to(head.weight.device)
    found = []
    for margin in (0.0, 0.3, 0.0):
        move(loss, margin)
        found += gradients(head, x, y)
        with torch.no_grad():
            move(loss, margin + 0.2)
            found.append(head._loss(x, y)['loss'])
    # What has been computed keeps its margin.
    out = head._loss(x, y)['loss']
    if place != 'buffer':  # There torch says that it was modified.
        move(loss, 0.7)
    return [*found, *torch.autograd.grad(out, [x, head.weight])]


@pytest.mark.parametrize('place', MARGINS)
def test_a_loss_is_evaluated_as_it_is_now(place):
    """Wherever it keeps what it depends on."""
    family = (Custom, CustomSoftmax)[[*MARGINS].index(place) % 2]
    results = []
    for engine in ('dense', 'blocked'):
        head = head_of(stateful(place, family), engine).double()
        head._walker = Blocked(block=4)
        results.append(steps_of_moving_margins(head, place))
    assert_same(*results)


def test_a_parameter_outside_of_the_context_is_told():
    class Hidden(Custom):
        def __init__(self) -> None:
            super().__init__()
            self.function = lambda cos, norm: cos + self.bias
            self.bias = nn.Parameter(torch.zeros(()))

    head = head_of(Hidden())
    head._walker = Blocked()
    with pytest.raises(UserError, match=r'Hidden\.others .* let context\(\) return it'):
        head._loss(*batch(head))


@pytest.mark.parametrize('draw', [torch.rand_like, lambda cos: random.random()])
def test_random_terms_are_refused_where_they_would_be_drawn_twice(draw):
    drawing = custom(lambda cos, norm: cos * draw(cos), CustomSoftmax)

    def train(loss):
        head = head_of(loss)
        head._walker = Blocked(block=4)
        head._loss(*batch(head))['loss'].backward()

    with pytest.raises(UserError, match=r'CustomSoftmax\.others gives other terms'):
        train(drawing)
    train(custom(drawing.function))  # a sum needs one visit
    drawing.function = lambda cos, norm: cos * norm
    drawing.context = lambda own, norm: {'norm': norm * draw(norm)}
    train(drawing)


def test_what_cannot_be_traced_is_told_once(monkeypatch):
    told: list[str] = []
    monkeypatch.setattr(blocked, 'print_log', lambda text, *_: told.append(text))
    head = head_of(custom(ANYTHING['decision by value']))
    head._walker = Blocked(block=4)
    for _ in range(2):
        head._loss(*batch(head))['loss'].backward()
    assert len(told) == 1
    assert told[0].startswith('Custom cannot be traced (It appears that')


def test_terms_are_those_of_autograd():
    loss = custom(TRACEABLE['affine of both'])
    context = {'norm': torch.ones(2, 1, requires_grad=True)}
    terms = Terms(loss, context, True)
    assert terms.inputs == ['cos', 'norm', 'upstream', 'folded']
    assert terms.outputs == ['others', 'cos', 'norm']
    cos, one = torch.zeros(2, 3), torch.ones(2, 1)
    others, by_cos, by_norm = terms(cos, one.expand(2, 3), 2 * one, one)
    assert (others == 5.5).all()
    assert (by_cos == 12).all()
    assert (by_norm == -7).all()


LEAVES = (lambda cos, norm: cos, lambda cos, norm: norm, lambda cos, norm: 0.5)
UNARY = (
    lambda x: -x,
    lambda x: x * 3,
    lambda x: 2 - x,
    lambda x: x / 4 + 1,
    lambda x: torch.as_tensor(x).sin(),
    lambda x: torch.as_tensor(x).sigmoid(),
    lambda x: torch.as_tensor(x).detach(),
    lambda x: (torch.as_tensor(x) > 0.3).double(),
    lambda x: torch.as_tensor(x).clamp(-0.4, 0.6),
    lambda x: torch.as_tensor(x).tanh() ** 2,
)
BINARY = (
    lambda x, y: x + y,
    lambda x, y: x - 2 * y,
    lambda x, y: x * y,
    lambda x, y: x / (2 + y * y),
    lambda x, y: torch.maximum(
        torch.as_tensor(x).double(), torch.as_tensor(y).double()
    ),
    lambda x, y: torch.where(torch.as_tensor(x) > 0.2, x, y),
)


def expression(chance: random.Random, depth: int) -> Callable:
    """A random function of cosine and norm, that uses some of its parts twice."""
    if depth == 0:
        return chance.choice(LEAVES)
    if chance.random() < 0.4:
        f, g = chance.choice(UNARY), expression(chance, depth - 1)
        return lambda *at: f(g(*at))
    f, g = chance.choice(BINARY), expression(chance, depth - 1)
    h = g if chance.random() < 0.2 else expression(chance, depth - 1)
    return lambda *at: f(g(*at), h(*at))


@pytest.mark.parametrize('seed', range(25))
def test_random_expressions(seed):
    """Folding and sharing of memory change no result and no input."""
    chance = random.Random(seed)
    inner = expression(chance, 4)
    compare(custom(lambda cos, norm: inner(cos, norm) + 0 * cos))
