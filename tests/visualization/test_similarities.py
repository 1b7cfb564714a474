import numpy as np
import pytest
import torch
from small_results import verification

from mmhyperface.models import HypersphereHead
from mmhyperface.utils.errors import UserError
from mmhyperface.visualization import centre_angles, draw_similarities, separation


def test_the_threshold_of_equal_errors():
    """Against all thresholds; of few values, without and with ties."""
    generator = np.random.default_rng(0)
    for digits in (1, 8):
        low = generator.normal(0, 1, 53).round(digits)
        high = generator.normal(1.5, 1, 41).round(digits)
        actual = separation(low, high)
        thresholds = np.union1d(low, high)
        wrong = [
            ((low >= x).mean(), (high < x).mean(), x)
            for x in thresholds
            if (low >= x).mean() >= (high < x).mean()
        ]
        accepted, rejected, threshold = wrong[-1]
        assert actual.threshold == threshold
        assert actual.eer == pytest.approx((accepted + rejected) / 2)
        assert actual.lower.sum() == pytest.approx(1)
        assert actual.higher.sum() == pytest.approx(1)
        common = [min(a, b) for a, b in zip(actual.lower, actual.higher, strict=True)]
        assert actual.overlap == pytest.approx(sum(common))


def test_apart_and_alike():
    apart = separation([0.1, 0.2], [0.8, 0.9, 0.7])
    assert (apart.overlap, apart.eer, apart.threshold) == (0, 0, 0.7)
    alike = separation([0.1, 0.9], [0.1, 0.9])
    assert alike.overlap == 1
    assert alike.eer == 0.5


@pytest.mark.parametrize('high', [[], [0.5], [np.nan, 1]])
def test_nothing_to_tell_apart(high):
    with pytest.raises(UserError):
        separation([0.5, 0.5], high)


def test_angles_to_centres():
    """A loop in float64, over more samples than are held at once."""
    head = HypersphereHead(11, 5, loss=dict(type='mmhyperface.NormFaceLoss'))
    generator = torch.Generator().manual_seed(0)
    rows = 7 * torch.randn(301, 5, generator=generator)
    labels = torch.arange(301) % 11
    with torch.no_grad():
        rows[0] = 3 * head.weight[0]
        rows[2] = -head.weight[2]
    actual = centre_angles(head, rows, labels)
    centres = head.weight.detach().double()
    for i in range(301):
        row = rows[i].double()
        cosines = [float(row @ c / row.norm() / c.norm()) for c in centres]
        angles = [np.arccos(np.clip(cos, -1, 1)) for cos in cosines]
        own = angles.pop(int(labels[i]))
        assert np.deg2rad(actual.own[i]) == pytest.approx(own, abs=1e-3)
        assert np.deg2rad(actual.other[i]) == pytest.approx(min(angles), abs=1e-3)
    nearer = sum(a < b for a, b in zip(actual.own, actual.other, strict=True))
    assert actual.nearest == nearer / 301


def test_rows_and_columns():
    head = HypersphereHead(3, 2, loss=dict(type='mmhyperface.NormFaceLoss'))
    angles = centre_angles(head, torch.randn(9, 2), torch.arange(9) % 3)
    pairs = {
        'a': {'one': verification(), 'two': verification(seed=1)},
        'b': {'two': verification(seed=2)},
    }
    figure = draw_similarities(pairs, {'b': angles})
    assert [ax.axison for ax in figure.axes] == [True, True, False, False, True, True]
    assert len(draw_similarities(pairs, {}).axes) == 4
