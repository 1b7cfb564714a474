"""Losses of a batch: random margins, learned ones, losses of the former interface.

That they are on several ranks what they are on one is in test_unequal_batches.py.
"""

import oracles
import pytest
import torch
from torch import Tensor

from mmhyperface.models import (
    ArcFaceLoss,
    ElasticFaceLoss,
    HypersphereHead,
    MagFaceLoss,
)

CLASSES, DIMS, SAMPLES = 11, 6, 12


def samples() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(SAMPLES, DIMS, generator=generator, dtype=torch.float64)
    return x, torch.randint(CLASSES, (SAMPLES,), generator=generator)


def test_random_margins_follow_the_seed_and_rest_in_evaluation():
    x, y = samples()
    head = HypersphereHead(CLASSES, DIMS, ElasticFaceLoss(m=0.3)).double()

    def seeded(seed: int) -> float:
        torch.manual_seed(seed)
        return head(x, y).item()

    assert seeded(1) == seeded(1) != seeded(2)
    head.eval()
    fixed = HypersphereHead(CLASSES, DIMS, ArcFaceLoss(m=0.3)).double()
    fixed.load_state_dict(head.state_dict())
    torch.testing.assert_close(head(x, y), fixed(x, y))


@pytest.mark.parametrize('update', [False, True])
def test_random_margins_with_sampled_centres(update):
    """The engines see one and the same sample and margins: that of the seed."""
    x, y = samples()
    losses = []
    for engine in ('blocked' if update else 'dense', 'blocked'):
        torch.manual_seed(0)
        head = HypersphereHead(
            CLASSES,
            DIMS,
            ElasticFaceLoss(s=8.0, plus=True),
            engine=engine,
            sample_rate=0.6,
            fused_update=update,
        )
        optimizer = torch.optim.SGD(head.double().parameters(), 0.1)
        head.attach(optimizer)
        for _ in range(3):
            loss = head(x.clone().requires_grad_(), y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        losses.append(loss.detach())
    torch.testing.assert_close(*losses)
    assert losses[0].isfinite()


class FormerMagFace(MagFaceLoss):
    """Written when a loss saw (own, norm), a function psi the cosine alone."""

    keeps_statistics = True

    def observe(self, own, norm):
        self.seen = own.shape, norm.shape

    def context(self, own, norm):
        return {**super().context(own, norm), 'norm': norm}

    def psi(self, own):
        return own - 0.3

    def objective(self, data_term, norm, centres):
        assert centres().shape[1] == DIMS
        return super().objective(data_term, norm, centres) + norm.mean()


def test_losses_of_the_former_interface():
    x, y = samples()
    head = HypersphereHead(CLASSES, DIMS, FormerMagFace(s=8.0), init_std=1.0).double()
    got = head(x, y).item()
    assert head.loss_module.seen == ((SAMPLES, 1), (SAMPLES, 1))
    x, w, y = x.numpy(), head.weight.detach().numpy(), y.numpy()
    norms = [oracles.norm(row) for row in x]
    clipped = [min(max(norm, 10), 110) for norm in norms]
    expected = oracles.softmax(
        x, w, y, (x, w), lambda i: lambda cos: cos - 0.3, detach=False, scale=8
    )
    expected += sum(35 * (1 / a + a / 110**2) for a in clipped) / SAMPLES
    assert got == pytest.approx(expected + sum(norms) / SAMPLES)
    one = torch.ones(1, 1)
    assert head.loss_module.context(one, one).keys() == {'margin', 'norm'}


class FormerArcFace(ArcFaceLoss):
    """Nothing of its parent's was in the context, and any name was possible."""

    def context(self, cos, length):
        return {'half': 0 * length + 0.5}

    def target(self, own, context):
        return context['half'] * super().target(own, context)

    def others(self, cos, context):
        return context['half'] * super().others(cos, context)


def test_a_loss_derived_from_ours_in_the_former_way():
    x, y = samples()
    heads = [
        HypersphereHead(CLASSES, DIMS, loss, engine='dense')
        for loss in (FormerArcFace(s=16.0), ArcFaceLoss(s=8.0))
    ]
    heads[1].weight = heads[0].weight
    former, plain = (head.double()(x, y) for head in heads)
    torch.testing.assert_close(former, plain)


def test_a_margin_may_be_learned():
    x, y = samples()
    loss = ArcFaceLoss(s=8.0, m=0.3, detach=False)
    loss.m = torch.nn.Parameter(torch.tensor([0.3]))
    head = HypersphereHead(CLASSES, DIMS, loss).double()
    value = head(x, y)
    (slope,) = torch.autograd.grad(value, loss.m)

    def at(m: float) -> float:
        torch.nn.init.constant_(loss.m, m)
        return head(x, y).item()

    assert value.item() == pytest.approx(at(0.3))
    assert slope.item() == pytest.approx((at(0.301) - at(0.299)) / 0.002, rel=1e-4)
