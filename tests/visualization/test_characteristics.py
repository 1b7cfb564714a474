"""What is drawn of each loss, against the papers' formulas, a loop over angles."""

import math

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from mmengine.config import Config

from mmhyperface.models import losses
from mmhyperface.models.losses import DecoupledLoss, SoftmaxLoss
from mmhyperface.utils.errors import UserError
from mmhyperface.visualization import (
    characteristics_of,
    draw_characteristics,
    loss_of_config,
    loss_of_text,
)

ANGLES = [0.5, 17.0, 60.0, 90.0, 119.0, 142.5, 179.0]
CLASSES = 7


def g(z, t=3.0):
    return 2 * ((z + 1) / 2) ** t - 1


def unrolled(theta, m):
    k = math.floor(m * theta / math.pi)
    return (-1) ** k * math.cos(m * theta) - 2 * k


def adaface(theta, norm):
    z = max(-1, min(1, 0.333 * (norm - 20) / 100.001))
    moved = max(1e-3, min(math.pi - 1e-3, theta - 0.4 * z))
    return math.cos(moved) - (0.4 + 0.4 * z)


def magface(theta, norm):
    a = max(10, min(110, norm))
    return math.cos(theta + 0.45 + 0.35 / 100 * (a - 10))


# Loss, psi and eta of an angle in radians.
FORMULAS = {
    'NormFace(s=5)': (math.cos, math.cos),
    'CosFace(m=0.2)': (lambda x: math.cos(x) - 0.2, math.cos),
    'ArcFace(m=0.3)': (lambda x: math.cos(x + 0.3), math.cos),
    'ArcFace(m=0.3, beyond=clip)': (
        lambda x: math.cos(min(x + 0.3, math.pi)),
        math.cos,
    ),
    'SphereFace(m=1.7)': (lambda x: unrolled(x, 1.7), math.cos),
    'SphereFacePlus(m=3)': (lambda x: unrolled(x, 3), math.cos),
    'SphereFaceR(version=v0, m=2.5)': (lambda x: unrolled(x, 2.5), math.cos),
    'SphereFaceR(version=v1, m=1.4, feature_norm=none)': (
        lambda x: math.cos(min(1.4 * x, math.pi)),
        math.cos,
    ),
    'SphereFaceR(version=v2, m=1.4, feature_norm=soft)': (
        math.cos,
        lambda x: math.cos(x / 1.4),
    ),
    'SphereFace2(m=0.3)': (
        lambda x: g(math.cos(x)) - 0.3,
        lambda x: g(math.cos(x)) + 0.3,
    ),
    'SphereFace2(margin_type=A, m=0.5, t=2)': (
        lambda x: g(math.cos(min(x + 0.5, math.pi)), 2),
        lambda x: g(math.cos(x), 2),
    ),
    'SphereFace2(margin_type=M, m=1.7)': (
        lambda x: g(math.cos(min(1.7 * x, math.pi))),
        lambda x: g(math.cos(x)),
    ),
    'AdaFace': (lambda x: adaface(x, 37.0), math.cos),
    'MagFace': (lambda x: magface(x, 37.0), math.cos),
}


def slope(function, theta, step=1e-6):
    """Of a function of the angle, by its cosine."""
    rise = function(theta + step) - function(theta - step)
    return rise / (math.cos(theta + step) - math.cos(theta - step))


@pytest.mark.parametrize('text', FORMULAS)
def test_characteristic_functions(text):
    psi, eta = FORMULAS[text]
    actual = characteristics_of(loss_of_text(text), ANGLES, norm=37.0)
    detached = getattr(loss_of_text(text), 'detach', False)
    for i, theta in enumerate(map(math.radians, ANGLES)):
        assert actual.psi[i] == pytest.approx(psi(theta), abs=1e-9)
        assert actual.eta[i] == pytest.approx(eta(theta), abs=1e-9)
        assert actual.margin[i] == pytest.approx(eta(theta) - psi(theta), abs=1e-9)
        for true, trained, function in (
            (actual.psi_true_slope, actual.psi_slope, psi),
            (actual.eta_true_slope, actual.eta_slope, eta),
        ):
            expected = slope(function, theta)
            assert true[i] == pytest.approx(expected, rel=1e-4, abs=1e-4)
            expected = 1 if detached else expected
            assert trained[i] == pytest.approx(expected, rel=1e-4, abs=1e-4)


def test_the_sigmoids_of_sface():
    actual = characteristics_of(loss_of_text('SFace(s=9, k=20, a=0.8, b=1.1)'), ANGLES)
    theta = np.deg2rad(ANGLES)
    pull = 1 / (1 + np.exp(-20 * (theta - 0.8)))
    push = 1 / (1 + np.exp(20 * (theta - 1.1)))
    assert np.isnan(actual.psi).all()
    assert np.isnan(actual.margin).all()
    np.testing.assert_allclose(actual.psi_slope, pull, rtol=1e-9)
    np.testing.assert_allclose(actual.eta_slope, push, rtol=1e-9)
    np.testing.assert_allclose(actual.pull, 9 * pull, rtol=1e-9)
    np.testing.assert_allclose(actual.push, 9 * push, rtol=1e-9)


@pytest.mark.parametrize(
    ('text', 'scale'),
    [
        ('SphereFaceR(version=v2, m=1.4, s=11, loss_weight=3)', 11),
        ('SphereFaceR(version=v1, m=1.4, feature_norm=none, loss_weight=3)', 5),
    ],
)
def test_pull_and_push_of_a_softmax(text, scale):
    """Weighted shares of the softmax, by a sum over all classes."""
    own = math.radians(50)
    loss = loss_of_text(text)
    actual = characteristics_of(loss, ANGLES, 5.0, CLASSES, own_angle=50)
    key = 'SphereFaceR(version=v2, m=1.4, feature_norm=soft)'
    if loss.version == 'v1':
        key = 'SphereFaceR(version=v1, m=1.4, feature_norm=none)'
    psi, eta = FORMULAS[key]

    def share(target, others, which):
        terms = [scale * psi(target), *(scale * eta(angle) for angle in others)]
        return math.exp(terms[which]) / sum(map(math.exp, terms))

    right = math.pi / 2
    for i, theta in enumerate(map(math.radians, ANGLES)):
        pull = 1 - share(theta, [right] * (CLASSES - 1), 0)
        push = share(own, [theta] + [right] * (CLASSES - 2), 1)
        assert actual.pull[i] == pytest.approx(3 * scale * pull, rel=1e-9)
        assert actual.push[i] == pytest.approx(3 * scale * push, rel=1e-9)


def test_pull_and_push_of_sphereface2():
    loss = loss_of_text('SphereFace2(lam=0.6, r=20, m=0.3, loss_weight=2)')
    actual = characteristics_of(loss, ANGLES, num_classes=CLASSES)
    # Pull and push balance where all angles are right.
    assert actual.pull[3] == pytest.approx((CLASSES - 1) * actual.push[3], rel=1e-5)
    assert loss.bias.item() == 0  # the loss itself is as it was
    loss.reset_parameters(CLASSES)
    for i, theta in enumerate(map(math.radians, ANGLES)):
        logit = 20 * (g(math.cos(theta)) - 0.3) + loss.bias.item()
        assert actual.pull[i] == pytest.approx(
            2 * 0.6 / (1 + math.exp(logit)), rel=1e-5
        )
        logit = 20 * (g(math.cos(theta)) + 0.3) + loss.bias.item()
        expected = 2 * 0.4 / (1 + math.exp(-logit))
        assert actual.push[i] == pytest.approx(expected, rel=1e-5)


def test_two_classes():
    actual = characteristics_of(loss_of_text('NormFace'), ANGLES, num_classes=2)
    theta = np.deg2rad(ANGLES)
    push = 30 / (1 + np.exp(30 * (0.5 - np.cos(theta))))
    np.testing.assert_allclose(actual.push, push, rtol=1e-9)


def test_curricularface_looks_at_the_own_angle():
    """Harder others than cos(own + m) are squared, t being 0 at the start."""
    actual = characteristics_of(loss_of_text('CurricularFace'), ANGLES, own_angle=60)
    for i, theta in enumerate(map(math.radians, ANGLES)):
        cos = math.cos(theta)
        hard = cos > math.cos(math.pi / 3 + 0.5)
        assert actual.eta[i] == pytest.approx(cos**2 if hard else cos, abs=1e-9)


def test_losses_of_others():
    """A loss needs no more than its terms; without a scale they are not divided."""

    class Mine(SoftmaxLoss):
        def target(self, own, context):
            return 30 * own.square()

        def others(self, cos, context):
            return torch.zeros_like(cos)

    class Decoupled(DecoupledLoss):
        def target(self, own, context):
            return -2 * own

        def others(self, cos, context):
            return cos.square()

    cos = np.cos(np.deg2rad(ANGLES))
    actual = characteristics_of(Mine(), ANGLES)
    np.testing.assert_allclose(actual.psi, 30 * cos**2, atol=1e-12)
    np.testing.assert_allclose(actual.psi_slope, 60 * cos, atol=1e-12)
    assert (actual.eta_slope == 0).all()
    assert (actual.push == 0).all()
    actual = characteristics_of(Decoupled(), ANGLES)
    np.testing.assert_allclose(actual.pull, 2)
    np.testing.assert_allclose(actual.push, 2 * cos, atol=1e-12)
    assert isinstance(draw_characteristics({'$a$': actual}, ''), Figure)


def test_by_default_no_angle_has_an_infinite_slope():
    for name in losses.__all__:
        if name not in ('HypersphereLoss', 'SoftmaxLoss', 'DecoupledLoss'):
            actual = characteristics_of(loss_of_text(name))
            assert np.isfinite(actual.psi_true_slope).all()
            assert np.isfinite([actual.pull, actual.push]).all()


@pytest.mark.parametrize(('norm', 'classes'), [(0.0, 9), (math.nan, 9), (1.0, 1)])
def test_out_of_range(norm, classes):
    with pytest.raises(UserError, match='must be'):
        characteristics_of(loss_of_text('NormFace'), None, norm, classes)


def test_losses_by_name():
    loss = loss_of_text(" SphereFaceRLoss(version='v1', m=2, detach=False) ")
    assert (loss.version, loss.m, loss.detach) == ('v1', 2, False)
    assert loss_of_text('SphereFaceR(version=v1)').version == 'v1'
    assert isinstance(loss_of_text('SFaceLoss'), losses.SFaceLoss)


@pytest.mark.parametrize(
    ('text', 'message'),
    [
        ('SphereFaceR(m=1.4', 'no config .* and no loss like'),
        ('SphereFaceR(1.4)', 'no loss like'),
        ('SphereFaceR(m=f(2))', 'no loss like'),
        ('SphereFaceR(**{"m": 2})', 'no loss like'),
        ('a.b', 'no loss like'),
        ('Sphere', 'there is no loss Sphere; there are .*ArcFaceLoss'),
        ('ArcFace(mm=2)', "unexpected keyword argument 'mm'"),
        ('ArcFace(s=-2)', 's must be positive'),
        ('LinearNeck(in_channels=4, out_channels=4)', 'is no loss of the cosine'),
    ],
)
def test_what_is_no_loss(text, message):
    with pytest.raises(UserError, match=message):
        loss_of_text(text)


def test_losses_of_configs():
    loss = dict(type='SFaceLoss', k=3.0)
    cfg = Config(dict(model=dict(head=dict(loss=loss))))
    assert loss_of_config(cfg).k == 3
    cfg.model.head = None
    with pytest.raises(UserError, match=r'no model\.head\.loss'):
        loss_of_config(cfg)
