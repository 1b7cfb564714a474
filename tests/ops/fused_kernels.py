"""The fused engine against the dense one; test_fused.py runs this script.

On CUDA if there is some, else in Triton's interpreter: in a process of its own, since
that has to be chosen before Triton is imported.
"""

import copy
import pickle
import sys
from collections.abc import Callable
from functools import cache

import numpy as np
import pytest
import torch
from engine_matrix import FEW_LOSSES
from test_blocked import head_of
from test_elementwise import stateful, steps_of_moving_margins
from test_losses import CASES
from torch import Tensor

from mmhyperface.models import (
    ArcFaceLoss,
    HypersphereHead,
    HypersphereLoss,
    SFaceLoss,
    SphereFace2Loss,
    SphereFaceRLoss,
)
from mmhyperface.models.losses import DecoupledLoss, SoftmaxLoss
from mmhyperface.ops import Blocked, Fused, Update, dense, fused, kernel, unit
from mmhyperface.ops.elementwise import trace
from mmhyperface.ops.kernel_source import source

DEVICE = 'cuda' if torch.cuda.is_available() else 'cpu'
EPS = torch.finfo(torch.float32).eps


@pytest.fixture(autouse=True)
def few_programs(monkeypatch):
    """Each program takes several tiles, and the interpreter has fewer to start."""
    monkeypatch.setattr(kernel, 'PROGRAMS', 2)


Data = dict[str, Tensor]


def data(samples: int, classes: int, dims: int, seed: int = 0) -> Data:
    """A batch in fp64, with a class twice and a sample whose class is not there."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, dtype=torch.float64, generator=generator)

    target = torch.randint(classes, (samples,), generator=generator)
    if samples > 3:
        target[1] = target[2]
        target[3] = -1
    return dict(
        features=unit(normal(samples, dims))[0],
        weight=normal(classes, dims) * 0.1,
        target=target,
        own=normal(samples, 1).tanh(),
        norm=normal(samples, 1).tanh() * 3 + 6,
        upstream=normal(samples, 1).tanh() + 2,
    )


def gradients(
    engine: Callable, loss: HypersphereLoss, batch: Data, centres: str, dtype
) -> dict[str, Tensor]:
    """What an engine makes of a batch, in fp64."""
    loss = loss.to(DEVICE, dtype)
    x, w, own, norm = (
        batch[name].to(DEVICE, dtype, copy=True).requires_grad_()
        for name in ('features', 'weight', 'own', 'norm')
    )
    context = loss.context(own, norm)
    target = batch['target'].to(DEVICE)
    fold = engine(x, w, target, context, loss, centres)
    fold.folded.backward(batch['upstream'].to(DEVICE, dtype))
    results = dict(folded=fold.folded, hardest=fold.hardest, x=x.grad, w=w.grad)
    results |= {'own': own.grad, 'norm': norm.grad}
    results |= {name: p.grad for name, p in loss.named_parameters()}
    return {
        name: torch.zeros(1) if value is None else value.detach().double().cpu()
        for name, value in results.items()
    }


def error(result: Tensor, truth: Tensor) -> float:
    """Relative error in the Euclidean norm."""
    difference = (result - truth).norm()
    return float(difference / truth.norm()) if difference else 0.0


def assert_as_exact_as_dense(
    engine: Callable, make: Callable[[], HypersphereLoss], batch: Data, centres: str
) -> None:
    """No more than twice the error of the dense engine in fp32, and some rounding."""
    truth = gradients(dense, make(), batch, centres, torch.float64)
    reference = gradients(dense, make(), batch, centres, torch.float32)
    results = gradients(engine, make(), batch, centres, torch.float32)
    for name, value in results.items():
        rounding = EPS if value.numel() > 1 else 4 * EPS
        limit = 2 * error(reference[name], truth[name]) + rounding
        assert error(value, truth[name]) <= limit, name


@cache
def kernels_of(name: str) -> tuple:
    """The kernels of a setting of test_losses.py, as text and numbers."""
    loss = CASES[name]()[0]
    own = torch.full((2, 1), 0.3, requires_grad=True)
    context = loss.context(own, own + 5)
    single = {key for key, value in context.items() if len(value) == 1}
    texts = []
    for gradient in (False, True):
        program = trace(loss, context, own.detach(), gradient)
        text, numbers = source(program, loss.additive, single)
        texts.append((text, tuple(numbers)))
    return tuple(texts)


_exact: set[tuple] = set()


@pytest.mark.parametrize('centres', ['normalize', 'project'])
@pytest.mark.parametrize(
    'name',
    [
        pytest.param(name, marks=[pytest.mark.slow] * (name not in FEW_LOSSES))
        for name in CASES
    ],
)
def test_every_loss(name, centres):
    # Many settings are about the own class only, and have a kernel in common.
    key = kernels_of(name), centres
    if key not in _exact:
        batch = data(70, 300, 24)
        assert_as_exact_as_dense(Fused(128), lambda: CASES[name]()[0], batch, centres)
        _exact.add(key)


TWO_FAMILIES = {
    'softmax': lambda: SphereFaceRLoss('v2', 'none', m=1.3),
    'decoupled': lambda: SphereFace2Loss('C', r=8.0, detach=False),
}


@pytest.mark.parametrize('size', [(1, 2, 3), (5, 33, 16), (64, 97, 7), (131, 40, 65)])
@pytest.mark.parametrize('family', TWO_FAMILIES)
def test_odd_sizes(size, family):
    batch = data(*size)
    for block in (None, 33):
        assert_as_exact_as_dense(Fused(block), TWO_FAMILIES[family], batch, 'normalize')


@pytest.mark.parametrize('family', TWO_FAMILIES)
def test_rows_of_any_norm(family):
    batch = data(20, 50, 16)
    scale = torch.ones(50, 1, dtype=torch.float64)
    scale[::4], scale[1::4], scale[2] = 1e-25, 1e25, 0
    batch['weight'] = batch['weight'] * scale
    make = TWO_FAMILIES[family]
    truth = gradients(dense, make(), batch, 'normalize', torch.float64)
    results = gradients(Fused(16), make(), batch, 'normalize', torch.float32)
    for name, value in results.items():
        if name == 'w':
            # The gradient is the larger the smaller the row is.
            value, truth[name] = value * scale, truth[name] * scale
        assert error(value, truth[name]) < 2e-6, name


@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize('family', TWO_FAMILIES)
def test_products_of_16_bits(family, dtype):
    """Off by no more than the rounding of operands and cosines explains.

    The interpreter cuts bfloat16 off, where a GPU rounds to nearest.
    """
    batch = data(70, 300, 24)
    for centres in ('normalize', 'project'):
        truth = gradients(dense, TWO_FAMILIES[family](), batch, centres, torch.float64)
        engine = Fused(128, matmul_dtype=dtype)
        results = gradients(
            engine, TWO_FAMILIES[family](), batch, centres, torch.float32
        )
        for name, value in results.items():
            assert error(value, truth[name]) < 4 * torch.finfo(dtype).eps, name


def step(
    engine: Blocked, centres: str, rows: str, momentum: float, dtype: torch.dtype
) -> list[Tensor]:
    """What an engine makes of rows that step on the way, and of the rest, in fp64."""
    batch = data(20, 90, 16)
    order = torch.randperm(90, generator=torch.Generator().manual_seed(1))
    some = order[:40].sort().values.to(DEVICE)
    options = {'all': {}, 'some': {'index': some}, 'spared': {'spared': some}}[rows]
    weight = batch['weight'].to(DEVICE, dtype, copy=True)
    velocity = weight.roll(1, 0) if momentum else None
    update = Update(weight, velocity, 0.5, momentum, 0.1, **options)
    x = batch['features'].to(DEVICE, dtype, copy=True).requires_grad_()
    target = batch['target'].clamp_max(30).to(DEVICE)
    bias = {'bias': torch.full((1, 1), -3.0, device=DEVICE, dtype=dtype)}
    loss = SphereFace2Loss('C', r=8.0)
    fold = engine(x, weight, target, bias, loss, centres, 1.0, update)
    fold.folded.sum().backward()
    results = [*fold, x.grad, weight, *([] if velocity is None else [velocity])]
    return [value.detach().double() for value in results]


@pytest.mark.parametrize('momentum', [0.0, 0.9])
@pytest.mark.parametrize('rows', ['all', 'some', 'spared'])
@pytest.mark.parametrize('centres', ['normalize', 'project'])
def test_rows_that_step(centres, rows, momentum):
    truth = step(Blocked(32), centres, rows, momentum, torch.float64)
    results = step(Fused(32), centres, rows, momentum, torch.float32)
    for result, expected in zip(results, truth, strict=True):
        assert error(result, expected) < 1e-6


def test_rows_that_step_in_16_bits():
    truth = step(Blocked(32), 'normalize', 'all', 0.9, torch.float64)
    engine = Fused(32, torch.bfloat16)
    results = step(engine, 'normalize', 'all', 0.9, torch.float32)
    for result, expected in zip(results, truth, strict=True):
        assert error(result, expected) < 4 * torch.finfo(torch.bfloat16).eps


FUNCTIONS: dict[str, Callable[[Tensor], Tensor]] = {
    'acos': lambda x: x.acos(),
    'abs': lambda x: x.abs(),
    'ceil': lambda x: (x * 3).ceil(),
    'clamp': lambda x: (x * 2).clamp(-0.5, 0.25) + x.clamp(max=0) - x.clamp(min=0.75),
    'cos': lambda x: (x * 4).cos(),
    'div': lambda x: (x + 2) / (x * x + 3),
    'exp': lambda x: x.exp(),
    'exp2': lambda x: x.exp2(),
    'expm1': lambda x: x.expm1() + 2 * (x * 1e-4).expm1(),
    'floor and remainder': lambda x: (x * 3).floor() + (x * 5).remainder(1.5),
    'log': lambda x: (x + 1.5).log() + (x + 2).log2(),
    'log1p': lambda x: (x * 1e-5).log1p(),
    'log1p of large': lambda x: (x * 1e9 + 1.5e9).log1p(),
    'logaddexp': lambda x: torch.logaddexp(x * 8, -x),
    'log_sigmoid': lambda x: torch.nn.functional.logsigmoid(30 * x),
    'minimum and maximum': lambda x: torch.minimum(x, x * x) + torch.maximum(x, -2 * x),
    'masks': lambda x: torch.where(
        ((x > 0.5) & (x <= 0.9)) | ~(x >= -0.25) | (x == 0.1), x, -x
    ),
    'of a mask': lambda x: (x < 0.5).to(x.dtype) * x,
    'pow 3': lambda x: x.pow(3),
    'pow -2': lambda x: (x + 1.5).pow(-2),
    'pow 2.5': lambda x: (x + 1).pow(2.5),
    'pow 2.7': lambda x: (x + 1.1).pow(2.7),
    'pow -1.3': lambda x: (x + 1.1).pow(-1.3),
    'relu': lambda x: x.clamp_min(0) * x + x.sign(),
    'reciprocal': lambda x: (x + 1.5).reciprocal(),
    'rsqrt': lambda x: (x + 1.5).rsqrt(),
    'sigmoid': lambda x: (40 * x).sigmoid(),
    'sin': lambda x: (x * 4).sin(),
    'sqrt': lambda x: (x + 1).sqrt(),
    'tanh': lambda x: (3 * x).tanh(),
}


def every_function(x: Tensor) -> Tensor:
    total = x
    for function in FUNCTIONS.values():
        total = total + function(x)
    return total


class OneFunction(DecoupledLoss):
    """A function of the cosine, whatever it means."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def target(self, own, context):
        return own

    def others(self, cos, context):
        return self.function(cos)


@pytest.mark.parametrize('name', FUNCTIONS)
def test_functions(name, monkeypatch):
    """With one class in one dimension, the fold is the function itself."""
    monkeypatch.setattr(kernel, 'MAX_SAMPLES', 1024)
    function = FUNCTIONS[name]
    near = torch.logspace(-7.3, -1, 200, dtype=torch.float64)
    x = torch.cat([torch.linspace(-1, 1, 201), 1 - near, near - 1, near, -near]).float()
    weight = torch.ones(1, 1, device=DEVICE)
    target = torch.full((len(x),), -1, device=DEVICE)
    engine, loss = Fused(), OneFunction(function)
    column = x[:, None].to(DEVICE).requires_grad_()
    fold = engine(column, weight, target, {}, loss, 'unit')
    fold.folded.sum().backward()
    assert not engine._unfit
    # As exact as torch, or nearly: in units of the last place of the larger of the
    # function and its condition, |x f'(x)|.
    exact, plain = x.double().requires_grad_(), x.clone().requires_grad_()
    truth, rounded = function(exact), function(plain)
    (slope,) = torch.autograd.grad(truth.sum(), exact)
    (rounded_slope,) = torch.autograd.grad(rounded.sum(), plain)
    truth, rounded = truth.detach(), rounded.detach().double()
    condition = (exact.detach() * slope).abs().nan_to_num()
    scale = torch.maximum(truth.abs(), condition) * EPS
    bound = torch.maximum(2 * (rounded - truth).abs(), 4 * scale + 1e-38)
    result = fold.folded.detach()[:, 0].double().cpu()
    assert ((result - truth).abs() <= bound).all()
    inner = x.abs() < 0.95
    limit = 4 * error(rounded_slope[inner].double(), slope[inner]) + 4 * EPS
    assert error(column.grad[:, 0].double().cpu()[inner], slope[inner]) <= limit


def test_arc_cosine_is_exact_to_the_last_place_but_two():
    x = torch.cat([torch.linspace(-1, 1, 5001), 1 - torch.logspace(-7.2, -2, 500)])
    weight = torch.ones(1, 1, device=DEVICE)
    target = torch.full((len(x),), -1, device=DEVICE)
    loss = OneFunction(torch.acos)
    fold = Fused()(x[:, None].to(DEVICE), weight, target, {}, loss, 'unit')
    truth = x.double().acos().numpy()
    units = np.spacing(truth.astype(np.float32)).astype(np.float64)
    result = fold.folded[:, 0].double().cpu().numpy()
    assert np.abs((result - truth) / units).max() <= 2


def test_unknown_operation_is_left_to_the_blocked_engine(monkeypatch):
    class Unusual(SoftmaxLoss):
        def target(self, own, context):
            return own

        def others(self, cos, context):
            return 4 * torch.erfinv(cos * 0.9)

    messages = []
    monkeypatch.setattr(fused, 'print_log', lambda text, *_: messages.append(text))
    batch, engine = data(6, 40, 8), Fused(16)
    first, second, blocked = (
        gradients(walker, Unusual(), batch, 'normalize', torch.float32)
        for walker in (engine, engine, Blocked(16))
    )
    for name, value in blocked.items():
        assert torch.equal(first[name], value), name
        assert torch.equal(second[name], value), name
    assert len(messages) == 1
    assert 'Unusual (the operation erfinv)' in messages[0]


def test_double_precision_is_left_to_the_blocked_engine():
    batch = data(6, 40, 8)
    results = [
        gradients(engine, ArcFaceLoss(), batch, 'normalize', torch.float64)
        for engine in (Fused(16), Blocked(16))
    ]
    for name, value in results[1].items():
        assert torch.equal(results[0][name], value), name


@pytest.mark.parametrize(
    'make',
    [lambda m: SphereFaceRLoss('v2', 'soft', m=m), lambda m: SphereFace2Loss('C', m=m)],
    ids=['sphereface-r', 'sphereface2'],
)
def test_moving_margin_compiles_nothing(make):
    batch, engine = data(6, 40, 8), Fused(16)
    loss = make(1.1)
    for i, margin in enumerate((1.1, 1.2, 1.35)):
        loss.m = margin
        loss.zero_grad()
        before = kernel._function.cache_info().misses
        results = gradients(engine, loss, batch, 'normalize', torch.float32)
        assert i == 0 or kernel._function.cache_info().misses == before
        truth = gradients(dense, make(margin), batch, 'normalize', torch.float64)
        for name, value in results.items():
            assert error(value, truth[name]) < 2e-6, name


@pytest.mark.parametrize('place', ['private', 'number of a buffer'])
def test_a_loss_is_evaluated_as_it_is_now(place):
    expected, got = (
        steps_of_moving_margins(head_of(stateful(place), engine).to(DEVICE), place)
        for engine in ('dense', 'fused')
    )
    for value, truth in zip(got, expected, strict=True):
        assert error(value, truth) < 1e-5


@pytest.mark.parametrize('make', [ArcFaceLoss, SFaceLoss])
def test_nan_stays_nan(make):
    batch = data(6, 40, 8)
    batch['features'][4] = torch.nan
    results = gradients(Fused(16), make(), batch, 'normalize', torch.float32)
    wrong = results['folded'].isnan()[:, 0]
    assert wrong.tolist() == [False] * 4 + [True, False]
    assert results['x'][4].isnan().all()
    assert results['w'].isnan().any()


def test_no_classes_but_the_own():
    for make in (ArcFaceLoss, SFaceLoss):
        x = torch.ones(2, 1, device=DEVICE)
        target = torch.zeros(2, dtype=torch.int64, device=DEVICE)
        fold = Fused()(x, torch.ones(1, 1, device=DEVICE), target, {}, make())
        assert fold.folded.tolist() == [[make.neutral]] * 2
        assert fold.hardest.tolist() == [[-1]] * 2


def test_no_classes():
    x = torch.ones(2, 1, device=DEVICE)
    target = torch.full((2,), -1, device=DEVICE)
    empty = torch.empty(0, 1, device=DEVICE)
    nothing = torch.empty(0, dtype=torch.int64, device=DEVICE)
    update = Update(torch.ones(3, 1, device=DEVICE), None, 0.1, 0.0, 0.0, nothing)
    for rows, stepping in ((empty, None), (update.weight, update)):
        loss = SFaceLoss()
        fold = Fused()(x, rows, target, {}, loss, 'normalize', 1.0, stepping)
        assert fold.folded.tolist() == [[0], [0]]


def test_twice_the_same():
    batch = data(70, 300, 24)
    first, second = (
        gradients(Fused(128), SFaceLoss(), batch, 'normalize', torch.float32)
        for _ in range(2)
    )
    for name, value in first.items():
        assert torch.equal(second[name], value), name


def test_engine_is_copied():
    """As with a head that an average is kept of."""
    batch, engine = data(6, 40, 8), Fused(16)
    first = gradients(engine, ArcFaceLoss(), batch, 'normalize', torch.float32)
    for other in (copy.deepcopy(engine), pickle.loads(pickle.dumps(engine))):
        again = gradients(other, ArcFaceLoss(), batch, 'normalize', torch.float32)
        assert torch.equal(first['w'], again['w'])


def test_head():
    generator = torch.Generator().manual_seed(0)
    feats = torch.randn(6, 8, generator=generator).to(DEVICE)
    target = torch.tensor([0, 3, 3, 7, 20, 39], device=DEVICE)
    results = []
    for engine in ('fused', 'dense'):
        torch.manual_seed(0)
        head = HypersphereHead(40, 8, dict(type='ArcFaceLoss'), engine=engine)
        head.to(DEVICE)._loss(feats, target)['loss'].backward()
        results.append(head.weight.grad)
    assert error(*results) < 1e-5


if __name__ == '__main__':
    options = ['-q', '-n', '0', '-p', 'no:cacheprovider', *sys.argv[1:]]
    sys.exit(pytest.main([__file__, *options]))
