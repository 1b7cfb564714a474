"""Who has left the margin, against the papers' formulas in a loop."""

import functools
import math

import oracles
import pytest
import torch

from mmhyperface.models import losses

COSINES = [-1.0, -0.6, -0.1, 0.0, 0.2, 0.45, 0.6, 0.75, 0.9, 1.0]
NORM = 7.0


g = functools.partial(oracles.adjusted, t=3)


def sphereface2(own, other):
    return 40 * (g(own) - 0.3) - 1.5 <= 0 or 40 * (g(other) + 0.3) - 1.5 >= 0


def sphereface2_angle(own, other):
    moved = oracles.additive(0.2, 'clip')(own)
    return 40 * g(moved) - 1.5 <= 0 or 40 * g(other) - 1.5 >= 0


def curricularface(own, other):
    # Its running mean is 0: a harder class than cos(theta + m) counts cos^2.
    threshold = oracles.additive(0.5)(own)
    psi = oracles.additive(0.5, 'linear')(own)
    return psi <= (other * other if other > threshold else other)


CASES = {
    'normface': (losses.NormFaceLoss(s=16.0), lambda own, other: own <= other),
    'cosface': (
        losses.CosFaceLoss(s=16.0, m=0.35),
        lambda own, other: own - 0.35 <= other,
    ),
    'arcface': (
        losses.ArcFaceLoss(m=0.5),
        lambda own, other: oracles.additive(0.5)(own) <= other,
    ),
    'spherefacer v2': (
        losses.SphereFaceRLoss('v2', 'none', m=1.4),
        lambda own, other: own <= oracles.v2(1.4)(other),
    ),
    'spherefacer v1': (
        losses.SphereFaceRLoss('v1', 'hard', m=1.4),
        lambda own, other: oracles.v1(1.4)(own) <= other,
    ),
    # Of a norm below l_a.
    'magface': (
        losses.MagFaceLoss(),
        lambda own, other: oracles.additive(0.45)(own) <= other,
    ),
    'uniface': (
        losses.UniFaceLoss(s=16.0, m=0.4),
        lambda own, other: 16 * (own - 0.4) <= -1.5 or 16 * other >= -1.5,
    ),
    'curricularface': (losses.CurricularFaceLoss(m=0.5), curricularface),
    'sphereface2 C': (losses.SphereFace2Loss('C', r=40.0, m=0.3, t=3.0), sphereface2),
    'sphereface2 A': (
        losses.SphereFace2Loss('A', r=40.0, m=0.2, t=3.0),
        sphereface2_angle,
    ),
    'sface': (
        losses.SFaceLoss(a=0.87, b=1.2),
        lambda own, other: math.acos(own) > 0.87 or math.acos(other) < 1.2,
    ),
}


@pytest.mark.parametrize('name', CASES)
def test_a_sample_violates_where_the_formula_says_so(name):
    loss, formula = CASES[name]
    if hasattr(loss, 'bias'):
        torch.nn.init.constant_(loss.bias, -1.5)
    own, other = (
        x.reshape(-1, 1).double()
        for x in torch.meshgrid(
            torch.tensor(COSINES), torch.tensor(COSINES) - 0.013, indexing='ij'
        )
    )
    own, other = own.clamp(-1, 1), other.clamp(-1, 1)
    context = loss.context(own, torch.full_like(own, NORM))
    violating = loss.violates_margin(own, other, context)
    assert violating.dtype == torch.bool
    assert violating.shape == own.shape
    expected = [
        formula(a, b)
        for a, b in zip(own.flatten().tolist(), other.flatten().tolist(), strict=True)
    ]
    assert violating.flatten().tolist() == expected
    assert len(set(expected)) == 2


def test_a_loss_that_does_not_say_compares_the_cosines():
    class Plain(losses.DecoupledLoss):
        def target(self, own, context):
            return -own

        def others(self, cos, context):
            return cos

    own, other = torch.full((3, 1), 0.3), torch.tensor([[0.2], [0.3], [0.4]])
    violating = Plain().violates_margin(own, other, {})
    assert violating.flatten().tolist() == [False, True, True]
