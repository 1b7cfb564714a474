"""Losses that look at the batch: on three ranks they are what they are on one."""

import itertools

import oracles
import pytest
import torch
from mmengine.dist import all_reduce, get_dist_info
from runs import spawn
from torch import Tensor

from mmhyperface.engine.distributed import init_process_group
from mmhyperface.models import (
    ArcFaceLoss,
    ElasticFaceLoss,
    HypersphereHead,
    HypersphereLoss,
    MagFaceLoss,
    SoftmaxLoss,
    UniFaceLoss,
)

CLASSES, DIMS, SAMPLES = 11, 6, 12
SEED = 7
# Samples of each rank.
BATCHES = {'equal': (4, 4, 4), 'uneven': (1, 7, 4), 'empty': (5, 0, 7)}


class Shifted(SoftmaxLoss):
    """A loss of one's own, with random numbers and a statistic of the batch."""

    margins = ('m',)

    def __init__(self) -> None:
        super().__init__(s=8.0)
        self.m = 0.2

    def context(self, batch):
        context = super().context(batch)
        shift = batch.part(0.1 * batch.normal())
        return {
            'm': context['m'] + shift,
            'mean': batch.gather(batch.norm).mean(0)[None],
        }

    def psi(self, own, context):
        return own - context['m'] * context['mean']


LOSSES = {
    'elastic': lambda: ElasticFaceLoss('arc', 8.0),
    'elastic+': lambda: ElasticFaceLoss('cos', 8.0, 0.35, plus=True),
    'uniface': lambda: UniFaceLoss(8.0),
    'own': Shifted,
}
CASES = list(
    itertools.product(LOSSES, ('dense', 'blocked'), (False, True), tuple(BATCHES))
)
Outcome = dict[str, Tensor]


def samples() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(SAMPLES, DIMS, generator=generator, dtype=torch.float64)
    return x, torch.randint(CLASSES, (SAMPLES,), generator=generator)


def step(
    loss: HypersphereLoss, engine: str, sharded: bool, x: Tensor, y: Tensor
) -> Outcome:
    """What this rank knows of a step with its share of the samples."""
    _, world = get_dist_info()
    torch.manual_seed(0)
    head = HypersphereHead(
        CLASSES, DIMS, loss, init_std=1.0, engine=engine, sharded=sharded
    )
    head.double().train()
    x = x.clone().requires_grad_()
    torch.manual_seed(SEED + get_dist_info()[0])
    out = head.loss(x, y)
    out['loss'].backward()
    for name, parameter in head.named_parameters():
        # As DDP does it.
        if world > 1 and name not in head.ddp_ignored:
            all_reduce(parameter.grad, op='mean')
    value = out['loss'].detach()
    if world > 1:
        all_reduce(value, op='mean')
    grads = {name: p.grad for name, p in head.named_parameters()}
    return {'loss': value, 'features': x.grad / world, **grads}


def three_ranks(path: str) -> None:
    init_process_group('pytorch')
    rank, _ = get_dist_info()
    x, y = samples()
    outcomes = []
    for loss, engine, sharded, batches in CASES:
        sizes = BATCHES[batches]
        part = x.split(sizes)[rank], y.split(sizes)[rank]
        outcomes.append(step(LOSSES[loss](), engine, sharded, *part))
    torch.save(outcomes, f'{path}.{rank}')


@pytest.fixture(scope='module')
def on_three_ranks(tmp_path_factory):
    path = str(tmp_path_factory.mktemp('ranks') / 'outcomes')
    spawn(3, three_ranks, path)
    ranks = [torch.load(f'{path}.{rank}') for rank in range(3)]
    return dict(zip(CASES, zip(*ranks, strict=True), strict=True))


@pytest.mark.parametrize('case', CASES, ids=str)
def test_three_ranks_are_one_process(on_three_ranks, case):
    loss, _, sharded, _ = case
    expected = step(LOSSES[loss](), 'dense', False, *samples())
    parts = on_three_ranks[case]
    for name, value in expected.items():
        got = [part[name] for part in parts]
        split = name == 'features' or (name == 'weight' and sharded)
        whole = torch.cat(got) if split else got[0]
        torch.testing.assert_close(whole, value, rtol=1e-10, atol=1e-12)


def test_random_margins_follow_the_seed_and_rest_in_evaluation():
    x, y = samples()
    first, again = (step(ElasticFaceLoss(), 'dense', False, x, y) for _ in range(2))
    torch.testing.assert_close(first, again, rtol=0, atol=0)
    head = HypersphereHead(CLASSES, DIMS, ElasticFaceLoss(m=0.3)).double()
    moving = {head(x, y).item() for _ in range(3)}
    assert len(moving) == 3
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
