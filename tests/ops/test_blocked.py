"""The blocked engine: what it holds, and what it does at the edges."""

import math

import pytest
import torch
from test_losses import CASES
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten

from mmhyperface.models import (
    ArcFaceLoss,
    HypersphereHead,
    HypersphereLoss,
    MagFaceLoss,
    NormFaceLoss,
    SFaceLoss,
    SphereFace2Loss,
)
from mmhyperface.ops import Blocked, blocked, dense
from mmhyperface.ops.denormals import denormals_flushed
from mmhyperface.ops.fold import neutral
from mmhyperface.utils.errors import UserError

LOSSES = {
    'arcface': lambda: ArcFaceLoss(8.0),
    'magface': lambda: MagFaceLoss(8.0, l_a=1.0, u_a=5.0),
    'sphereface2': lambda: SphereFace2Loss(r=8.0),
}
both_families = pytest.mark.parametrize('name', ['arcface', 'sphereface2'])


def head_of(
    loss: HypersphereLoss,
    engine: str = 'blocked',
    classes: int = 11,
    dims: int = 5,
    **options: object,
) -> HypersphereHead:
    torch.manual_seed(0)
    head = HypersphereHead(
        classes, dims, loss, engine=engine, init_std=1.0, **options
    ).train()
    if engine == 'blocked' and not options.get('matmul_dtype'):
        head.engine = Blocked(block=4)
    return head


def batch(head: HypersphereHead, samples: int = 6) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(samples, head.in_channels, generator=generator)
    y = torch.randint(head.num_classes, (samples,), generator=generator)
    return x.to(head.weight.dtype).requires_grad_(), y


def gradients(head: HypersphereHead, x: Tensor, y: Tensor) -> list[Tensor]:
    """Loss, what is logged, and all gradients."""
    # Some losses draw numbers.
    torch.manual_seed(0)
    out = head.loss(x, y)
    leaves = [x, *head.parameters()]
    values = [value.detach() for value in out.values()]
    return values + list(torch.autograd.grad(out['loss'], leaves))


def assert_same(got: list[Tensor], expected: list[Tensor], **tolerance: float) -> None:
    for a, b in zip(got, expected, strict=True):
        torch.testing.assert_close(a, b, **tolerance)


class Sizes(TorchDispatchMode):
    """Records how many elements each storage has that an operation returns."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: set[int] = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for leaf in tree_flatten(result)[0]:
            if isinstance(leaf, Tensor) and not leaf.is_sparse:
                size = leaf.untyped_storage().nbytes() // leaf.element_size()
                self.seen.add(size)
        return result


@pytest.mark.parametrize('centres', ['normalize', 'project'])
@pytest.mark.parametrize('name', LOSSES)
def test_it_holds_no_matrix_of_all_cosines(name, centres):
    """Nothing has B x C elements, and nothing else comes near to it."""
    largest = {}
    for engine in ('dense', 'blocked'):
        head = head_of(LOSSES[name](), engine, 2000, 4, centres=centres)
        if engine == 'blocked':
            head.engine = Blocked(block=100)
        x, y = batch(head, 50)
        with denormals_flushed():
            pass  # The first time in a process it wakes torch's threads.
        with Sizes() as sizes:
            head.loss(x, y)['loss'].backward()
        largest[engine] = max(sizes.seen)
    assert largest['dense'] == 50 * 2000
    # The centres themselves, which are more than a block of cosines.
    assert largest['blocked'] == 4 * 2000


@both_families
@pytest.mark.parametrize('scale', [1024.0, 0.0, -3.0, 1e-6])
def test_a_scaled_loss(name, scale):
    """As automatic mixed precision does it; and again, now that it is expected."""
    expected = None
    for engine in ('dense', 'blocked', 'blocked'):
        head = head_of(LOSSES[name](), engine).double()
        x, y = batch(head)
        for _ in range(2):
            out = head.loss(x, y)['loss'] * scale
            got = torch.autograd.grad(out, [x, *head.parameters()])
        expected = expected or got
        assert_same(got, expected)


@both_families
@pytest.mark.parametrize(
    'scales', [(512.0, 512.0, 256.0, 0.0, 1.0), (-3.0, 1e-6, math.inf, 2.0, 2.0)]
)
def test_a_scaled_loss_where_nobody_looks(name, scales, monkeypatch):
    """On a GPU a look at backward's factor would wait."""
    monkeypatch.setattr(blocked, 'can_look_at', lambda _: False)
    heads = [
        head_of(LOSSES[name](), engine).double() for engine in ('dense', 'blocked')
    ]
    heads[1].load_state_dict(heads[0].state_dict())
    for scale in scales:
        results = []
        for head in heads:
            x, y = batch(head)
            out = head.loss(x, y)['loss'] * scale
            results.append(torch.autograd.grad(out, [x, *head.parameters()]))
        if scale < math.inf:
            assert_same(*results)


def test_a_join_that_is_no_sum():
    """Then the gradient of a sample's terms is its own, which backward knows."""

    class Squared(SphereFace2Loss):
        def join(self, target: Tensor, folded: Tensor) -> Tensor:
            return target + folded.square()

    heads = [head_of(Squared(), engine).double() for engine in ('dense', 'blocked')]
    heads[1].load_state_dict(heads[0].state_dict())
    assert_same(*(gradients(head, *batch(head)) for head in heads))


def test_a_scale_is_expected_the_next_time(monkeypatch):
    """A sum needs one loop only, if the gradient to come is known."""
    head = head_of(LOSSES['sphereface2']())
    x, y = batch(head)
    loops = []
    run = head.engine.run
    monkeypatch.setattr(
        head.engine, 'run', lambda *a, **k: loops.append(1) or run(*a, **k)
    )
    counts = []
    for scale in (1.0, 512.0, 512.0, 256.0, 256.0):
        (head.loss(x, y)['loss'] * scale).backward()
        counts.append(len(loops))
        loops.clear()
    assert counts == [1, 2, 1, 2, 1]


@pytest.mark.parametrize('centres', ['normalize', 'project'])
@pytest.mark.parametrize('name', LOSSES)
def test_another_gradient_for_each_sample(name, centres):
    results = []
    loss = LOSSES[name]().double()
    factors = torch.linspace(-1, 2, 6, dtype=torch.float64)[:, None]
    for engine in (dense, Blocked(block=4)):
        head = head_of(loss).double()
        x, y = batch(head)
        norm = x.norm(dim=1, keepdim=True)
        context = loss.context(torch.zeros_like(norm), norm)
        unit = torch.nn.functional.normalize
        fold = engine(unit(x), head.weight, y, context, loss, centres)
        leaves = [x, head.weight]
        grads = torch.autograd.grad((fold.folded * factors).sum(), leaves)
        results.append([*fold, *grads])
    assert_same(*results)


@both_families
def test_backward_twice(name):
    head = head_of(LOSSES[name]()).double()
    x, y = batch(head)
    out = head.loss(x, y)['loss']
    leaves = [x, *head.parameters()]
    first = torch.autograd.grad(out, leaves, retain_graph=True)
    kept = [grad.clone() for grad in first]
    assert_same(list(torch.autograd.grad(out, leaves)), kept)
    assert_same(list(first), kept, rtol=0, atol=0)


@both_families
def test_second_derivatives_are_refused(name):
    head = head_of(LOSSES[name]()).double()
    x, y = batch(head)
    with pytest.raises(UserError, match=r"create_graph=True.*head\.engine='dense'"):
        torch.autograd.grad(head.loss(x, y)['loss'], x, create_graph=True)


@both_families
@pytest.mark.parametrize('training', [True, False])
def test_without_gradients(name, training):
    head = head_of(LOSSES[name](), centres='project').double().train(training)
    reference = head_of(LOSSES[name](), 'dense').double().train(training)
    before = head.weight.detach().clone()
    x, y = batch(head)
    with torch.no_grad():
        out, expected = head.loss(x, y), reference.loss(x, y)
    for key, value in expected.items():
        assert not out[key].requires_grad
        torch.testing.assert_close(out[key], value)
    assert torch.equal(head.weight, before)


@both_families
@pytest.mark.parametrize('frozen', ['features', 'weight'])
def test_something_that_does_not_learn(name, frozen):
    results = []
    for engine in ('dense', 'blocked'):
        head = head_of(LOSSES[name](), engine).double()
        x, y = batch(head)
        leaves = {'features': x, 'weight': head.weight}
        leaves.pop(frozen).requires_grad_(False)
        (learns,) = leaves.values()
        results.append(torch.autograd.grad(head.loss(x, y)['loss'], learns))
    assert_same(*results)


@pytest.mark.parametrize('centres', ['normalize', 'project'])
@pytest.mark.parametrize('name', LOSSES)
def test_backward_under_autocast_is_not_of_low_precision(name, centres):
    results = []
    for low in (False, True):
        head = head_of(LOSSES[name](), centres=centres)
        x, y = batch(head)
        with torch.autocast('cpu', dtype=torch.bfloat16, enabled=low):
            results.append(gradients(head, x, y))
    assert_same(*results, rtol=0, atol=0)


@pytest.mark.parametrize('centres', ['normalize', 'project'])
@pytest.mark.parametrize('name', LOSSES)
def test_features_of_double_precision(name, centres):
    """The gradient of each leaf has its own type."""
    results = []
    for engine in ('dense', 'blocked'):
        head = head_of(LOSSES[name](), engine, centres=centres)
        x, y = batch(head)
        x = x.detach().double().requires_grad_()
        results.append(gradients(head, x, y))
    assert_same(*results, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize('name', LOSSES)
@pytest.mark.parametrize(
    'dtype',
    [
        'bfloat16',
        pytest.param(
            'float16',
            marks=pytest.mark.skipif(
                not hasattr(torch.amp, 'GradScaler'),
                reason='torch < 2.3 has no product of float16 on the CPU',
            ),
        ),
    ],
)
def test_products_of_low_precision(name, dtype):
    """Close to the others, and the loss still in fp32."""
    results = []
    for options in ({}, dict(matmul_dtype=dtype)):
        head = head_of(LOSSES[name](), **options)
        x, y = batch(head)
        results.append(gradients(head, x, y))
    exact, low = results
    assert [t.dtype for t in low] == [t.dtype for t in exact]
    for a, b in zip(low, exact, strict=True):
        assert (a - b).norm() < 0.02 * b.norm() + 0.02
    assert not torch.equal(exact[0], low[0])


@both_families
@pytest.mark.parametrize('bad', [math.nan, math.inf])
@pytest.mark.parametrize('where', ['feature', 'row', 'own row'])
def test_what_is_not_finite_is_not_hidden(name, bad, where):
    for engine in ('dense', 'blocked'):
        head = head_of(LOSSES[name](), engine)
        x, y = batch(head)
        with torch.no_grad():
            if where == 'feature':
                x[2, 3] = bad
            else:
                other = next(c for c in range(11) if c not in y)
                head.weight[other if where == 'row' else y[2], 3] = bad
        loss = head.loss(x, y)['loss']
        assert loss.isnan()


@pytest.mark.parametrize('centres', ['normalize', 'project'])
@pytest.mark.parametrize('scale', [1e-30, 1e-12, 1e12, 1e30])
@pytest.mark.parametrize('name', LOSSES)
def test_tiny_and_huge_rows_and_features(name, centres, scale):
    results = []
    for engine in ('dense', 'blocked'):
        head = head_of(LOSSES[name](), engine, centres=centres)
        x, y = batch(head)
        with torch.no_grad():
            head.weight[3] *= scale
            head.weight[y[0]] /= scale
            head.weight[5] = 0
            x[1] *= scale
        results.append(gradients(head, x, y))
        norms = head.weight.detach().double().norm(dim=1, keepdim=True)
        # Of the same size, to compare them.
        results[-1][-len(list(head.parameters()))] *= norms
    assert all(tensor.isfinite().all() for tensor in results[1])
    assert_same(*results, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize('centres', ['normalize', 'project'])
@pytest.mark.parametrize('name', CASES)
def test_parallel_equal_and_opposite_vectors(name, centres):
    """Cosines of 1 and -1, and several classes that are nearest alike."""
    results = []
    for engine in ('dense', 'blocked'):
        head = head_of(CASES[name]()[0], engine, centres=centres)
        x, _ = batch(head)
        y = torch.tensor([0, 0, 1, 2, 3, 4])
        with torch.no_grad():
            head.weight[:] = torch.nn.functional.normalize(head.weight)
            head.weight[7:9] = head.weight[0]
            head.weight[9] = -head.weight[1]
            x[0] = head.weight[0] * 4
            x[1] = head.weight[1]
            x[2] = head.weight[9] * 2
        results.append(gradients(head, x, y))
    assert all(tensor.isfinite().all() for tensor in results[1])
    # Just there the slope of arccos is 1 / sqrt(rounding).
    full = 'full' in name
    for got, expected in zip(results[1], results[0], strict=True):
        scale = expected.norm().item()
        error = (got - expected).norm().item()
        assert error <= (2e-2 if full else 1e-5) * max(scale, 1)


@both_families
@pytest.mark.parametrize('classes', [2, 3, 4, 5, 8, 9])
@pytest.mark.parametrize('samples', [1, 2])
def test_few_samples_and_classes(name, classes, samples):
    results = []
    for engine in ('dense', 'blocked'):
        head = head_of(LOSSES[name](), engine, classes).double()
        results.append(gradients(head, *batch(head, samples)))
    assert_same(*results)


@both_families
def test_no_rows_at_all(name):
    """As on a rank with fewer classes than ranks."""
    loss = LOSSES[name]()
    x = torch.nn.functional.normalize(torch.randn(3, 5)).requires_grad_()
    target = torch.full((3,), -1)
    for engine in (dense, Blocked()):
        weight = torch.empty(0, 5, requires_grad=True)
        context = {
            key: value.detach().requires_grad_()
            for key, value in loss.context(x[:, :1], x[:, :1]).items()
        }
        fold = engine(x, weight, target, context, loss)
        assert (fold.folded == neutral(loss)).all()
        assert (fold.hardest == -1).all()
        leaves = [x, weight, *context.values()]
        total = fold.folded.sum()
        for grad in torch.autograd.grad(total, leaves, materialize_grads=True):
            assert not grad.any()


def test_settings_of_the_loss_may_change():
    """Of a margin that a hook moves, and the type of the tensors."""
    blocked = Blocked(block=4)
    for margin in (0.1, 0.5, 0.1):
        for double in (False, True):
            results = []
            for engine in ('dense', 'blocked'):
                loss = SphereFace2Loss(r=8.0)
                head = head_of(loss, engine)
                head.engine = blocked if engine == 'blocked' else engine
                head = head.double() if double else head
                loss.m = margin
                results.append(gradients(head, *batch(head)))
            assert_same(*results)


def test_batches_of_any_size_follow_one_another():
    """The last one of an epoch is smaller; validation comes in between."""
    heads = [head_of(ArcFaceLoss(8.0), e, 21) for e in ('dense', 'blocked')]
    for samples in (6, 2, 7, 1, 6):
        assert_same(*(gradients(head, *batch(head, samples)) for head in heads))
        with torch.no_grad():
            losses = [h.eval().loss(*batch(h, 3))['loss'] for h in heads]
        torch.testing.assert_close(*losses)
        for head in heads:
            head.train()


@pytest.mark.parametrize('loss', [lambda: NormFaceLoss(8.0), lambda: SFaceLoss(8.0)])
def test_many_classes(loss):
    """A sum of so many terms is as exact as arithmetic in fp32 is."""
    results = []
    for engine, double in (('dense', True), ('dense', False), ('blocked', False)):
        head = head_of(loss(), engine, 300_000, 8)
        if engine == 'blocked':
            head.engine = Blocked(compiled=False)
        head = head.double() if double else head
        results.append(gradients(head, *batch(head, 4)))
    for exact, expected, got in zip(*results, strict=True):
        allowed = 2 * (expected - exact).norm() + 1e-6 * exact.norm()
        assert (got - exact).norm() <= allowed
