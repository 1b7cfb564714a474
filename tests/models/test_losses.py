"""Every loss and option against the loops of oracles.py."""

import math
from collections.abc import Callable
from functools import partial

import numpy as np
import oracles
import pytest
import torch

from mmhyperface.models import HypersphereHead, HypersphereLoss, losses
from mmhyperface.models.losses.characteristic import (
    added_angle,
    characteristic,
    multiplied_angle,
    unrolled_angle,
)
from mmhyperface.models.losses.sphereface2 import balanced_bias
from mmhyperface.utils.errors import UserError

# Of the random numbers that a loss draws.
SEED = 5
SIZES = [(1, 2, 3), (3, 5, 4), (5, 7, 3)]
# x, w, y, bias, base -> loss
Oracle = Callable[..., float]


def adaface(detach: bool) -> tuple[HypersphereLoss, Oracle]:
    def oracle(x, w, y, bias, base):
        norms = [min(max(oracles.norm(row), 1e-3), 100) for row in base[0]]
        mean = 0.99 * 20 + 0.01 * float(np.mean(norms))
        std = 100.0
        if len(norms) > 1:
            std = 0.99 * 100 + 0.01 * float(np.std(norms, ddof=1))

        def psi(i):
            z = max(-1.0, min(1.0, 0.333 * (norms[i] - mean) / (std + 1e-3)))

            def function(cos):
                theta = math.acos(cos) - 0.4 * z
                theta = min(max(theta, 1e-3), math.pi - 1e-3)
                return math.cos(theta) - (0.4 + 0.4 * z)

            return function

        return oracles.softmax(x, w, y, base, psi, detach=detach, scale=16)

    return losses.AdaFaceLoss(s=16.0, m=0.4, detach=detach), oracle


def magface(beyond: str, detach: bool) -> tuple[HypersphereLoss, Oracle]:
    loss = losses.MagFaceLoss(s=16.0, l_a=0.5, u_a=3.0, lam_g=2.0, beyond=beyond)
    loss.detach = detach

    def oracle(x, w, y, bias, base):
        source = base[0] if detach else x
        norms = [min(max(oracles.norm(row), 0.5), 3.0) for row in source]

        def psi(i):
            margin = 0.45 + (0.8 - 0.45) / (3.0 - 0.5) * (norms[i] - 0.5)
            return oracles.additive(margin, beyond)

        total = oracles.softmax(x, w, y, base, psi, detach=detach, scale=16)
        for row in x:
            a = min(max(oracles.norm(row), 0.5), 3.0)
            total += 2.0 * (1 / a + a / 9.0) / len(x)
        return total

    return loss, oracle


def curricularface(beyond: str, detach: bool) -> tuple[HypersphereLoss, Oracle]:
    def oracle(x, w, y, bias, base):
        own = [oracles.cosine(base[0][i], base[1][y[i]]) for i in range(len(x))]
        t = 0.01 * float(np.mean(own))
        total = 0.0
        for i in range(len(x)):
            logits = []
            for j in range(len(w)):
                cos = oracles.cosine(x[i], w[j])
                if j == y[i]:
                    psi = oracles.additive(0.5, beyond)
                    cos = oracles.frozen(psi, cos, own[i], detach)
                elif oracles.cosine(base[0][i], base[1][j]) > math.cos(
                    math.acos(own[i]) + 0.5
                ):
                    cos = cos * (t + cos)
                logits.append(16 * cos)
            top = max(logits)
            total += top + math.log(sum(math.exp(z - top) for z in logits))
            total -= logits[y[i]]
        return total / len(x)

    return losses.CurricularFaceLoss(s=16.0, beyond=beyond, detach=detach), oracle


def sphereface_r(
    version: str, feature_norm: str, penalty: str, detach: bool
) -> tuple[HypersphereLoss, Oracle]:
    loss = losses.SphereFaceRLoss(
        version, feature_norm, 8.0, 1.37, 0.3, penalty, detach, loss_weight=1.7
    )
    psi = {'v0': oracles.v0(1.37), 'v1': oracles.v1(1.37), 'v2': oracles.identity}
    eta = oracles.v2(1.37) if version == 'v2' else oracles.identity
    scale = 8.0 if feature_norm == 'hard' else 'norm'

    def oracle(x, w, y, bias, base):
        total = 1.7 * oracles.softmax(
            x, w, y, base, lambda i: psi[version], lambda i: eta, detach, scale
        )
        if feature_norm == 'soft':
            gaps = [abs(oracles.norm(row) - 8.0) for row in x]
            power = 1 if penalty == 'absolute' else 2
            total += 0.3 * sum(gap**power for gap in gaps) / len(x)
        return total

    return loss, oracle


def sphereface2(
    margin_type: str, m: float, t: float, detach: bool
) -> tuple[HypersphereLoss, Oracle]:
    loss = losses.SphereFace2Loss(margin_type, 0.7, 16.0, m, t, detach, loss_weight=3.0)

    def oracle(x, w, y, bias, base):
        settings = margin_type, 0.7, 16.0, m, t, detach
        return 3.0 * oracles.sphereface2((x, w, y, base), bias, *settings)

    return loss, oracle


def wespeaker(m: float) -> tuple[HypersphereLoss, Oracle]:
    loss = losses.SphereFace2Loss(
        'A',
        r=16.0,
        m=m,
        detach=False,
        loss_weight=16.0,
        symmetric=True,
        beyond='shift',
        bias_init=0.0,
    )

    def oracle(x, w, y, bias, base):
        return oracles.wespeaker((x, w, y, base), bias, 16.0, m, 0.7, 3.0)

    return loss, oracle


def elasticface(kind: str, plus: bool) -> tuple[HypersphereLoss, Oracle]:
    def oracle(x, w, y, bias, base):
        torch.manual_seed(SEED)
        margins = [0.4 + 0.2 * z for z in torch.randn(len(x), 1).flatten().tolist()]
        if plus:
            own = [oracles.cosine(base[0][i], base[1][y[i]]) for i in range(len(x))]
            nearest_first = sorted(range(len(x)), key=lambda i: -own[i])
            pairs = zip(nearest_first, sorted(margins), strict=True)
            margins = [margin for _, margin in sorted(pairs)]

        def psi(i):
            if kind == 'arc':
                return oracles.additive(margins[i])
            return lambda cos: cos - margins[i]

        return oracles.softmax(x, w, y, base, psi, detach=False, scale=12)

    return losses.ElasticFaceLoss(kind, 12.0, 0.4, 0.2, plus), oracle


def uniface() -> tuple[HypersphereLoss, Oracle]:
    def oracle(x, w, y, bias, base):
        return 0.3 * oracles.uniface((x, w, y, base), bias, 12.0, 0.4, 0.7)

    return losses.UniFaceLoss(12.0, 0.4, 0.7, loss_weight=0.3), oracle


def simple(kind: type, args: tuple, psi: Callable, detach: bool) -> tuple:
    loss = kind(*args)

    def oracle(x, w, y, bias, base):
        return loss.loss_weight * oracles.softmax(
            x, w, y, base, lambda i: psi, detach=detach, scale=loss.s
        )

    return loss, oracle


def sface(k_inter: float | None = None) -> tuple[HypersphereLoss, Oracle]:
    def oracle(x, w, y, bias, base):
        settings = 16.0, 5.0, 0.9, 1.3, k_inter or 5.0
        return 0.5 * sum(oracles.sface((x, w, y, base), *settings))

    return losses.SFaceLoss(16.0, 5.0, 0.9, 1.3, 0.5, k_inter), oracle


def sphereface_plus(detach: bool) -> tuple[HypersphereLoss, Oracle]:
    def oracle(x, w, y, bias, base):
        main = oracles.softmax(
            x, w, y, base, lambda i: oracles.v0(1.5), detach=detach, scale=8
        )
        return 2.0 * (main + 0.7 * oracles.energy(w, y))

    return losses.SphereFacePlusLoss(8.0, 1.5, 0.7, detach, loss_weight=2.0), oracle


def cases() -> dict[str, Callable[[], tuple[HypersphereLoss, Oracle]]]:
    table: dict[str, Callable] = {
        'normface': partial(
            simple, losses.NormFaceLoss, (12.0,), oracles.identity, True
        ),
        'cosface': partial(
            simple, losses.CosFaceLoss, (12.0, 0.35, 0.9), lambda cos: cos - 0.35, False
        ),
        'sface': sface,
        'sface-k-inter': partial(sface, 3.0),
        'wespeaker-full': partial(wespeaker, 0.25),
        'wespeaker-start-full': partial(wespeaker, 0.0),
        'elasticface-arc-full': partial(elasticface, 'arc', plus=False),
        'elasticface-arc+-full': partial(elasticface, 'arc', plus=True),
        'elasticface-cos+': partial(elasticface, 'cos', plus=True),
        'uniface': uniface,
    }
    for d in (True, False):
        tag = 'detached' if d else 'full'
        table[f'sphereface-{tag}'] = partial(
            simple, losses.SphereFaceLoss, (12.0, 2.7, d), oracles.v0(2.7), d
        )
        table[f'sphereface+-{tag}'] = partial(sphereface_plus, d)
        table[f'adaface-{tag}'] = partial(adaface, d)
        for beyond in ('none', 'clip', 'linear', 'shift', 'easy'):
            psi = oracles.additive(0.5, beyond)
            table[f'arcface-{beyond}-{tag}'] = partial(
                simple, losses.ArcFaceLoss, (12.0, 0.5, beyond, d), psi, d
            )
            table[f'magface-{beyond}-{tag}'] = partial(magface, beyond, d)
            table[f'curricularface-{beyond}-{tag}'] = partial(curricularface, beyond, d)
        for version in ('v0', 'v1', 'v2'):
            for norm in ('none', 'hard', 'soft', 'soft-squared'):
                norm, _, penalty = norm.partition('-')
                args = version, norm, penalty or 'absolute', d
                name = f'sphereface-r-{version}-{norm}-{args[2]}-{tag}'
                table[name] = partial(sphereface_r, *args)
        for kind, m, t in (('C', 0.4, 3.0), ('A', 0.5, 3.0), ('M', 1.7, 2.5)):
            table[f'sphereface2-{kind}-{tag}'] = partial(sphereface2, kind, m, t, d)
    return table


CASES = cases()


def batch(size: tuple[int, int, int], seed: int = 0) -> tuple:
    b, c, d = size
    rng = np.random.default_rng(seed)
    return (
        rng.normal(size=(b, d)),
        rng.normal(size=(c, d)),
        rng.integers(0, c, size=b),
    )


def head_of(
    loss: HypersphereLoss,
    w: np.ndarray,
    dtype: torch.dtype = torch.float64,
    **options: object,
) -> HypersphereHead:
    head = HypersphereHead(len(w), w.shape[1], loss, **options).to(dtype)
    with torch.no_grad():
        head.weight.copy_(torch.from_numpy(w))
    return head


def run(head: HypersphereHead, x: np.ndarray, y: np.ndarray) -> tuple:
    dtype = head.weight.dtype
    feats = torch.tensor(x, dtype=dtype, requires_grad=True)
    torch.manual_seed(SEED)
    out = head.loss(feats, torch.from_numpy(y))
    head.zero_grad()
    out['loss'].backward()
    return out, feats.grad, head.weight.grad


@pytest.mark.parametrize('size', SIZES, ids=str)
@pytest.mark.parametrize('name', CASES)
def test_value_and_gradients_equal_the_formula(name, size):
    x, w, y = batch(size)
    loss, oracle = CASES[name]()
    head = head_of(loss, w)
    bias = loss.bias.item() if hasattr(loss, 'bias') else 0.0
    out, x_grad, w_grad = run(head, x, y)
    base = (x, w)
    expected = oracle(x, w, y, bias, base)
    assert out['loss'].item() == pytest.approx(expected, rel=1e-9, abs=1e-9)

    def check(grad, function, at):
        difference = oracles.gradient(function, at)
        np.testing.assert_allclose(grad, difference, rtol=1e-5, atol=1e-7)

    check(x_grad, lambda v: oracle(v, w, y, bias, base), x)
    check(w_grad, lambda v: oracle(x, v, y, bias, base), w)
    if hasattr(loss, 'bias'):
        at = np.array([bias])
        check(loss.bias.grad, lambda v: oracle(x, w, y, float(v[0]), base), at)


@pytest.mark.parametrize('name', CASES)
def test_fp32_is_close_to_fp64(name):
    x, w, y = batch((5, 13, 16), seed=1)
    results = []
    for dtype in (torch.float64, torch.float32):
        head = head_of(CASES[name]()[0], w, dtype)
        out, x_grad, w_grad = run(head, x, y)
        results.append([out['loss'].double(), x_grad.double(), w_grad.double()])
    for double, single in zip(*results, strict=True):
        torch.testing.assert_close(single, double, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize('dtype', [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize('sign', [1.0, -1.0])
@pytest.mark.parametrize('name', CASES)
def test_parallel_to_a_centre(name, sign, dtype):
    """x exactly along its own centre and along another, or against them."""
    w = np.array([[1.0, 0, 0, 0], [0, 1.0, 0, 0], [0.5, 0.5, 0.5, 0.5]])
    x = sign * np.array([[2.0, 0, 0, 0], [0, 3.0, 0, 0], [1.0, 1.0, 1.0, 1.0]])
    y = np.array([0, 0, 2])
    loss, oracle = CASES[name]()
    head = head_of(loss, w, dtype)
    bias = loss.bias.item() if hasattr(loss, 'bias') else 0.0
    out, *grads = run(head, x, y)
    expected = oracle(x, w, y, bias, (x, w))
    assert out['loss'].item() == pytest.approx(expected, rel=2e-6, abs=2e-5)
    assert_finite(out, *grads)


def assert_finite(out: dict, *grads: torch.Tensor) -> None:
    for value in (out['loss'], *grads):
        assert value.isfinite().all()


@pytest.mark.parametrize('name', CASES)
def test_one_ulp_beyond_parallel_is_finite(name):
    """Random unit vectors whose fp32 product with themselves may exceed 1."""
    generator = torch.Generator().manual_seed(0)
    w = torch.nn.functional.normalize(torch.randn(400, 64, generator=generator))
    head = head_of(CASES[name]()[0], w.numpy(), torch.float32)
    assert_finite(*run(head, w.numpy(), np.arange(400)))


@pytest.mark.parametrize('scale', [0, 1e-30, 1e-15, 1e15, 1e30])
@pytest.mark.parametrize('name', CASES)
def test_tiny_and_huge_norms(name, scale):
    """Where the norm plays no role, it has none at any magnitude."""
    x, w, y = batch((3, 5, 4))
    scaled_by_norm = 'sphereface-r' in name and 'hard' not in name
    if scaled_by_norm and scale > 1:
        return  # the formula itself overflows: logits of 1e15 and more
    out, *grads = run(head_of(CASES[name]()[0], w, torch.float32), x * scale, y)
    assert_finite(out, *grads)
    if scale and not (scaled_by_norm or 'magface' in name or 'adaface' in name):
        plain, *_ = run(head_of(CASES[name]()[0], w, torch.float32), x, y)
        torch.testing.assert_close(out['loss'], plain['loss'])


@pytest.mark.parametrize(
    'function',
    [
        lambda cos: unrolled_angle(cos, 2.3),
        lambda cos: multiplied_angle(cos, 1.6),
        lambda cos: added_angle(cos, 0.5, 'none'),
        lambda cos: added_angle(cos, 0.5, 'clip'),
    ],
)
def test_detachment_gives_slope_one_and_the_exact_value(function):
    cos = torch.linspace(-1, 1, 101, dtype=torch.float64, requires_grad=True)
    value = characteristic(cos, function, detach=True)
    assert torch.equal(value, function(cos))
    (slope,) = torch.autograd.grad(value.sum(), cos)
    assert torch.equal(slope, torch.ones_like(cos))

    inner = cos.detach()[1:-1].requires_grad_()
    value = characteristic(inner, function, detach=False)
    (slope,) = torch.autograd.grad(value.sum(), inner)
    assert not torch.allclose(slope, torch.ones_like(slope), atol=0.1)


@pytest.mark.parametrize('kind', ['C', 'A', 'M'])
@pytest.mark.parametrize('num_classes', [2, 10, 85_742, 10_000_000])
@pytest.mark.parametrize(('lam', 'r'), [(0.01, 40), (0.7, 40), (0.99, 64), (0.9999, 1)])
def test_initial_bias_balances_pull_and_push(kind, num_classes, lam, r):
    m, t = {'C': 0.4, 'A': 0.5, 'M': 1.7}[kind], 3.0
    loss = losses.SphereFace2Loss(kind, lam, r, m, t).double()
    loss.reset_parameters(num_classes)
    bias = loss.bias.item()

    theta = {'C': math.pi / 2, 'A': math.pi / 2 + m, 'M': math.pi / 2 * m}[kind]
    a_y = r * oracles.adjusted(math.cos(min(math.pi, theta)), t)
    a_j = r * oracles.adjusted(0, t)
    if kind == 'C':
        a_y, a_j = a_y - r * m, a_j + r * m
    pull = lam / (1 + math.exp(a_y + bias))
    push = (1 - lam) * (num_classes - 1) / (1 + math.exp(-a_j - bias))
    assert pull == pytest.approx(push, rel=1e-9)


def test_balanced_bias_of_few_classes_does_not_cancel():
    # The plain form takes the logarithm of zero here.
    assert balanced_bias(10, 0.99, -64 * 1.15, -64 * 0.35) == pytest.approx(
        64 * 1.15 + math.log(10.0), rel=1e-9
    )


def test_energy_of_one_class_is_zero_and_of_equal_centres_finite():
    x, w, _ = batch((4, 5, 3))
    plain, *_ = run(head_of(losses.SphereFaceLoss(8.0, 1.5), w), x, np.zeros(4, int))
    plus = losses.SphereFacePlusLoss(8.0, 1.5, 0.7)
    out, *_ = run(head_of(plus, w), x, np.zeros(4, int))
    torch.testing.assert_close(out['loss'], plain['loss'])
    w[1] = w[0]
    assert_finite(*run(head_of(plus, w, torch.float32), x, np.array([0, 1, 2, 1])))


@pytest.mark.parametrize('engine', ['dense', 'blocked'])
@pytest.mark.parametrize(
    ('name', 'weight'), [('sphereface2-C-full', 3.0), ('magface-none-full', 1.0)]
)
def test_energy_is_added_to_any_loss(name, weight, engine):
    """In units of L, so that with SphereFace it is SphereFace+."""
    x, w, y = batch((5, 7, 3))
    loss, oracle = CASES[name]()
    head = head_of(loss, w, engine=engine, lam_mhe=0.7)
    out, x_grad, w_grad = run(head, x, y)
    bias = loss.bias.item() if hasattr(loss, 'bias') else 0.0

    def total(v, u):
        energy = oracles.energy(u, y)
        return oracle(v, u, y, bias, (x, w)) + weight * 0.7 * energy

    assert out['energy'].item() == pytest.approx(oracles.energy(w, y), rel=1e-9)
    assert out['loss'].item() == pytest.approx(total(x, w), rel=1e-9)
    by_x = oracles.gradient(lambda v: total(v, w), x)
    by_w = oracles.gradient(lambda u: total(x, u), w)
    np.testing.assert_allclose(x_grad, by_x, rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(w_grad, by_w, rtol=1e-5, atol=1e-7)

    plus = head_of(losses.SphereFacePlusLoss(8.0, 1.5, 0.7, loss_weight=2.0), w)
    plain = head_of(losses.SphereFaceLoss(8.0, 1.5, loss_weight=2.0), w, lam_mhe=0.7)
    for got, expected in zip(run(plain, x, y)[1:], run(plus, x, y)[1:], strict=True):
        assert torch.equal(got, expected)


def test_statistics_move_in_training_only():
    x, w, y = batch((4, 5, 3))
    for loss, names in (
        (losses.AdaFaceLoss(), ('norm_mean', 'norm_std')),
        (losses.CurricularFaceLoss(), ('t',)),
    ):
        head = head_of(loss, w).eval()
        before = [getattr(loss, name).clone() for name in names]
        run(head, x, y)
        assert [getattr(loss, name) for name in names] == before
        run(head.train(), x, y)
        assert all(getattr(loss, n) != b for n, b in zip(names, before, strict=True))
        assert set(names) <= set(loss.state_dict())


def test_logged_values_are_not_losses():
    x, w, y = batch((6, 5, 3))
    for case in CASES.values():
        out, *_ = run(head_of(case()[0], w), x, y)
        assert [key for key in out if 'loss' in key] == ['loss']
        assert not any(v.requires_grad for k, v in out.items() if k != 'loss')


def test_logged_values():
    x, w, y = batch((6, 5, 3))
    loss = losses.SFaceLoss(16.0, 5.0, 0.9, 1.3)
    out, *_ = run(head_of(loss, w), x, y)
    own = np.mean([oracles.cosine(x[i], w[y[i]]) for i in range(6)])
    hardest = np.mean(
        [
            max(oracles.cosine(x[i], w[j]) for j in range(5) if j != y[i])
            for i in range(6)
        ]
    )
    intra, inter = oracles.sface((x, w, y, (x, w)), 16.0, 5.0, 0.9, 1.3, 5.0)
    expected = dict(
        cos_own=own,
        cos_hardest=hardest,
        feature_norm=np.mean([oracles.norm(row) for row in x]),
        intra=intra,
        inter=inter,
        loss=intra + inter,
    )
    assert {key: value.item() for key, value in out.items()} == pytest.approx(expected)
    out, *_ = run(head_of(losses.SphereFace2Loss(), w), x, y)
    assert {'bias', 'positive', 'negative'} <= set(out)


def test_forward_without_the_head_is_the_same_loss():
    x, w, y = batch((6, 5, 3))
    cos = torch.tensor(
        [[oracles.cosine(a, b) for b in w] for a in x], dtype=torch.float64
    )
    norm = torch.tensor([[oracles.norm(a)] for a in x], dtype=torch.float64)
    for name, case in CASES.items():
        loss, _ = case()
        expected, *_ = run(head_of(loss, w), x, y)
        if 'sphereface+' in name:
            with pytest.raises(UserError, match='HypersphereHead'):
                loss(cos, torch.from_numpy(y), norm)
            continue
        # The first call has moved the running statistics already.
        loss.keeps_statistics = False
        torch.manual_seed(SEED)
        got = loss(cos, torch.from_numpy(y), norm)
        torch.testing.assert_close(got, expected['loss'].detach())


@pytest.mark.parametrize(
    ('name', 'options', 'message'),
    [
        ('SphereFaceR', dict(version='v3'), 'version must be one of'),
        ('SphereFaceR', dict(feature_norm='l2'), 'feature_norm must be one of'),
        ('SphereFaceR', dict(m=0.9), 'real number >= 1'),
        ('SphereFace', dict(m=0.5), 'SphereFaceLoss: m must be'),
        ('SphereFace2', dict(margin_type='D'), 'margin_type must be one of'),
        ('SphereFace2', dict(lam=1.0), r'lam must be in \(0, 1\)'),
        ('SphereFace2', dict(margin_type='M', m=0.4), 'margin type M must be >= 1'),
        ('SphereFace2', dict(symmetric=True), 'options of margin type A'),
        ('ArcFace', dict(beyond='no'), 'beyond must be one of'),
        ('SFace', dict(s=-1), 's must be positive'),
        ('ElasticFace', dict(sigma=-1), 'sigma must be >= 0'),
        ('UniFace', dict(lam=0), 'lam must be positive'),
        ('MagFace', dict(l_a=5, u_a=5), '0 < l_a < u_a'),
        ('AdaFace', dict(t_alpha=0), 't_alpha must be in'),
        ('CurricularFace', dict(momentum=2), 'momentum must be in'),
    ],
)
def test_bad_settings_say_what_is_wrong(name, options, message):
    with pytest.raises(UserError, match=message):
        getattr(losses, f'{name}Loss')(**options)
