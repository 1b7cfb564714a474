"""Sampled centres: unbiased sums, and an optimizer that sees the sampled rows alone."""

import itertools
import math
from collections.abc import Callable, Sequence

import pytest
import torch
from engine_matrix import formula
from torch import Tensor

from mmhyperface.centres.rows import Sampling
from mmhyperface.models import (
    ArcFaceLoss,
    HypersphereHead,
    HypersphereLoss,
    SFaceLoss,
    SphereFace2Loss,
)
from mmhyperface.ops import Blocked
from mmhyperface.utils.errors import UserError

C, D = 6, 4
ENGINES = ('dense', 'blocked')


def sampled_head(
    loss: HypersphereLoss, rate: float = 0.6, classes: int = C, **options: object
) -> HypersphereHead:
    torch.manual_seed(0)
    head = HypersphereHead(
        classes, D, loss, sharded=False, sample_rate=rate, init_std=1.0, **options
    )
    if options.get('engine') == 'blocked' and not options.get('matmul_dtype'):
        head.engine = Blocked(block=4)
    return head.double().train()


def attached(head: HypersphereHead, **options: float) -> torch.optim.SGD:
    optimizer = torch.optim.SGD(head.parameters(), **{'lr': 1.0, **options})
    head.attach(optimizer)
    return optimizer


def always_draw(head: HypersphereHead, drawn: Sequence[int]) -> None:
    """Let these rows be drawn, whatever the chance, and then those that are left."""
    sampling, rows = head.rows.sampling, torch.tensor(drawn)

    def draw(weight: Tensor, classes: Tensor) -> tuple[Tensor, float]:
        others = [row for row in range(len(weight)) if row not in classes]
        left = [row for row in others if row not in drawn]
        sampling.first, sampling.size = classes, len(drawn)
        sampling.order = torch.tensor([others.index(row) for row in (*drawn, *left)])
        return rows, sampling.weight(weight, classes, rows)

    sampling.draw = draw


def features(samples: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(samples, D, generator=generator, dtype=torch.float64)


def step(
    head: HypersphereHead, x: Tensor, y: Sequence[int], optimizer: torch.optim.Optimizer
) -> tuple[Tensor, Tensor]:
    """A training step; its loss and the features' gradient."""
    x = x.clone().requires_grad_()
    out = head.loss(x, torch.as_tensor(y))
    out['loss'].backward()
    optimizer.step()
    optimizer.zero_grad()
    return out['loss'].detach(), x.grad


DECOUPLED = {
    'sphereface2-C': lambda: SphereFace2Loss('C', r=8.0),
    'sphereface2-A': lambda: SphereFace2Loss('A', r=8.0, m=0.5),
    'sphereface2-M': lambda: SphereFace2Loss('M', r=8.0, m=1.7, detach=False),
    'sface': lambda: SFaceLoss(8.0, 5.0, 0.9, 1.3),
}


@pytest.mark.parametrize('engine', ENGINES)
@pytest.mark.parametrize('centres', ['normalize', 'project'])
@pytest.mark.parametrize('name', DECOUPLED)
def test_sums_are_right_in_expectation(name, centres, engine):
    """The mean over all draws, each as likely as any other, is the full loss."""
    x, y = features(2), [1, 4]
    results = []
    for drawn in itertools.combinations((0, 2, 3, 5), 2):
        head = sampled_head(DECOUPLED[name](), centres=centres, engine=engine)
        optimizer = attached(head, momentum=0.9)
        always_draw(head, drawn)
        loss, by_features = step(head, x, y, optimizer)
        # What SGD remembers of its first step is the gradient.
        by_centres = optimizer.state[head.weight]['momentum_buffer']
        by_bias = [
            optimizer.state[p]['momentum_buffer'] for p in head.loss_module.parameters()
        ]
        assert not by_centres[[c for c in (0, 2, 3, 5) if c not in drawn]].any()
        results.append([loss, by_features, by_centres, *by_bias])
    assert len(results) == 6

    loss = DECOUPLED[name]()
    loss.reset_parameters(C)
    loss.double()
    w = sampled_head(DECOUPLED[name]()).weight.detach()
    w = torch.nn.functional.normalize(w) if centres == 'project' else w.clone()
    x.requires_grad_()
    w.requires_grad_()
    value = formula(loss, x, w, torch.tensor(y), centres)['loss']
    value.backward()
    full = [value.detach(), x.grad, w.grad, *(p.grad for p in loss.parameters())]
    for parts, whole in zip(zip(*results, strict=True), full, strict=True):
        torch.testing.assert_close(torch.stack(parts).mean(0), whole)


def test_every_sample_is_as_likely_as_any_other():
    torch.manual_seed(0)
    sampling, weight, own = Sampling(0.5, True), torch.empty(7, 1), torch.tensor([2, 5])
    counts: dict[tuple, int] = {}
    for _ in range(6000):
        drawn, class_weight = sampling.draw(weight, own)
        assert class_weight == 5 / 2
        counts[tuple(drawn.tolist())] = counts.get(tuple(drawn.tolist()), 0) + 1
    assert set(counts) == set(itertools.combinations((0, 1, 3, 4, 6), 2))
    # 600 expected; the standard deviation is 23.
    assert all(abs(count - 600) < 100 for count in counts.values())


@pytest.mark.parametrize('rate', [0.01, 0.3, 0.5, 0.99])
@pytest.mark.parametrize('own', [0, 1, 5, 39, 40])
def test_size_of_the_sample(rate, own):
    drawn, class_weight = Sampling(rate, True).draw(
        torch.empty(40, 1), torch.arange(own)
    )
    wanted = max(math.ceil(rate * 40), own + math.ceil(rate * (40 - own) / 2))
    assert own + len(drawn) == min(wanted, 40)
    assert (drawn >= own).all()
    if len(drawn):
        assert class_weight == (40 - own) / len(drawn)
    assert Sampling(rate, False).draw(torch.empty(40, 1), torch.arange(own))[1] == 1


OPTIMIZERS: dict[str, Callable] = {
    'sgd': lambda p: torch.optim.SGD(p, lr=0.3),
    'momentum': lambda p: torch.optim.SGD(
        p, lr=0.3, momentum=0.9, weight_decay=0.01, foreach=False
    ),
    'foreach': lambda p: torch.optim.SGD(
        p, lr=0.3, momentum=0.9, weight_decay=0.01, foreach=True
    ),
    'nesterov': lambda p: torch.optim.SGD(p, lr=0.3, momentum=0.9, nesterov=True),
    'adamw': lambda p: torch.optim.AdamW(p, lr=0.03, foreach=False),
    'adamw-foreach': lambda p: torch.optim.AdamW(
        p, lr=0.03, amsgrad=True, foreach=True
    ),
    'adagrad': lambda p: torch.optim.Adagrad(p, lr=0.1),
    'rmsprop': lambda p: torch.optim.RMSprop(p, lr=0.03, momentum=0.5),
}
BATCHES = [
    ([1, 4, 1], [0, 3]),
    ([0, 0, 0], [2, 5]),
    ([2, 4, 5], [0]),
    ([0, 1, 2], [3, 4, 5]),
    ([3, 1, 4], [5]),
]


@pytest.mark.parametrize('engine', ENGINES)
@pytest.mark.parametrize('name', OPTIMIZERS)
def test_a_step_is_an_ordinary_step_of_a_smaller_head(name, engine):
    """Partial FC: a softmax over the sampled classes, and their state alone."""
    head = sampled_head(ArcFaceLoss(8.0), engine=engine)
    optimizer = OPTIMIZERS[name](head.parameters())
    head.attach(optimizer)
    weight = head.weight
    whole = weight.detach().clone()
    state: dict[str, object] = {}
    for seed, (y, drawn) in enumerate(BATCHES):
        rows = torch.tensor(sorted({*y, *drawn}))
        rest = [row for row in range(C) if row not in rows]
        small = HypersphereHead(len(rows), D, ArcFaceLoss(8.0)).double()
        small.weight.data.copy_(whole[rows])
        other = OPTIMIZERS[name](small.parameters())
        if state:
            other.state[small.weight] = {
                key: value[rows] if is_rows(value) else copy(value)
                for key, value in state.items()
            }
        x = features(3, seed)
        expected = step(small, x, torch.searchsorted(rows, torch.tensor(y)), other)
        whole[rows] = small.weight.detach()
        for key, value in other.state[small.weight].items():
            if isinstance(value, Tensor) and value.ndim == 2:
                state.setdefault(key, torch.zeros_like(whole))[rows] = value
            else:
                state[key] = value

        before = weight.detach().clone()
        held = {k: copy(v) for k, v in optimizer.state[weight].items() if is_rows(v)}
        always_draw(head, drawn)
        got = step(head, x, y, optimizer)
        assert head.weight is weight
        assert optimizer.param_groups[0]['params'] == [weight]
        assert set(optimizer.state) <= {weight}
        assert torch.equal(weight[rest], before[rest])
        for key, value in held.items():
            assert torch.equal(optimizer.state[weight][key][rest], value[rest])
        torch.testing.assert_close(got, expected)
        torch.testing.assert_close(weight.detach(), whole)
        assert optimizer.state[weight].keys() == state.keys()
        for key, value in state.items():
            torch.testing.assert_close(optimizer.state[weight][key], value, msg=key)


def is_rows(value: object) -> bool:
    return isinstance(value, Tensor) and value.shape == (C, D)


def copy(value: object) -> object:
    return value.clone() if isinstance(value, Tensor) else value


def test_the_optimizer_holds_the_sampled_rows_until_it_has_stepped():
    """Whoever clips or scales gradients meanwhile sees these and no other."""
    head = sampled_head(SphereFace2Loss(r=8.0))
    optimizer = attached(head, momentum=0.9)
    always_draw(head, [0, 3])
    head.loss(features(2), torch.tensor([1, 4]))['loss'].backward()
    held = optimizer.param_groups[0]['params']
    assert not any(parameter is head.weight for parameter in held)
    assert sum(len(p) for p in held if p.ndim == 2) == 4
    assert all(p.grad.abs().sum() > 0 for p in held)
    assert all(p.shard is head.shard for p in held if p.ndim == 2)
    assert head.weight.grad is None
    optimizer.step()
    bias, weight = head.loss_module.bias, head.weight
    assert {*map(id, optimizer.param_groups[0]['params'])} == {id(weight), id(bias)}
    assert {*optimizer.state} == {weight, bias}


@pytest.mark.parametrize('engine', ENGINES)
@pytest.mark.parametrize('centres', ['normalize', 'project'])
@pytest.mark.parametrize(
    'loss', [lambda: ArcFaceLoss(8.0), lambda: SphereFace2Loss(r=8.0)]
)
def test_accumulated_batches_share_their_sample(loss, centres, engine):
    """The second batch has a class of the sample, whose place another row takes."""
    batches = [(features(2, 0), [1, 4]), (features(2, 1), [3, 2])]
    drawn = [0, 3]
    head = sampled_head(loss(), classes=8, centres=centres, engine=engine)
    optimizer = attached(head, momentum=0.9)
    start = head.weight.detach().clone()
    always_draw(head, drawn)
    for x, y in batches:
        head.loss(x, torch.tensor(y))['loss'].backward()
        always_draw(head, [7])  # in vain
    optimizer.step()

    w = start.clone()
    if centres == 'project':
        w[:6] = torch.nn.functional.normalize(w[:6])
    w.requires_grad_()
    module = loss()
    module.reset_parameters(8)
    module.double()
    # Own classes 1 and 4 with 0 and 3 for the rest; then 3 and 2 are own ones too,
    # and 0 and 5 stand for the rest: the one after 3, which is 2, is an own one.
    counts = (0, 2, 3, 5, 6, 7), (0, 5, 6, 7)
    for (x, y), own, drawn, others in zip(
        batches, ([1, 4], [1, 2, 3, 4]), ([0, 3], [0, 5]), counts, strict=True
    ):
        class_weight = torch.zeros(8, dtype=torch.float64)
        class_weight[own] = 1
        class_weight[drawn] = len(others) / len(drawn) if module.additive else 1
        out = formula(module, x, w, torch.tensor(y), centres, class_weight)
        out['loss'].backward()
    buffer = optimizer.state[head.weight]['momentum_buffer']
    torch.testing.assert_close(buffer, w.grad)
    torch.testing.assert_close(head.weight.detach()[:6], (w - w.grad).detach()[:6])
    assert torch.equal(head.weight[6:], start[6:])
    for mine, theirs in zip(
        head.loss_module.parameters(), module.parameters(), strict=True
    ):
        torch.testing.assert_close(
            optimizer.state[mine]['momentum_buffer'], theirs.grad
        )


@pytest.mark.parametrize('backward', [False, True])
@pytest.mark.parametrize('centres', ['normalize', 'project'])
def test_a_step_that_is_not_taken_leaves_everything_as_it_was(centres, backward):
    heads = [sampled_head(ArcFaceLoss(8.0), centres=centres) for _ in range(2)]
    optimizers = [attached(head, momentum=0.9) for head in heads]
    for head, optimizer in zip(heads, optimizers, strict=True):
        always_draw(head, [0, 3])
        step(head, features(2), [1, 4], optimizer)

    before = heads[0].weight.detach().clone()
    always_draw(heads[0], [2])
    loss = heads[0].loss(features(2, 1), torch.tensor([0, 5]))['loss']
    if backward:
        loss.backward()
    optimizers[0].zero_grad()
    assert torch.equal(heads[0].weight, before)
    heads[0].eval().loss(features(2, 1), torch.tensor([0, 5]))
    assert torch.equal(heads[0].train().weight, before)

    for head, optimizer in zip(heads, optimizers, strict=True):
        always_draw(head, [3, 4])
        step(head, features(2, 2), [2, 2], optimizer)
        assert optimizer.param_groups[0]['params'] == [head.weight]
        assert [*optimizer.state] == [head.weight]
    assert torch.equal(heads[0].weight, heads[1].weight)
    buffers = [
        o.state[h.weight]['momentum_buffer']
        for o, h in zip(optimizers, heads, strict=True)
    ]
    assert torch.equal(*buffers)


@pytest.mark.parametrize('engine', ENGINES)
@pytest.mark.parametrize('loss', [ArcFaceLoss, SphereFace2Loss])
def test_a_sample_of_everything_is_no_sample(loss, engine):
    results = []
    for rate in (1.0, 0.999):
        head = sampled_head(loss(), rate, 30, engine=engine, centres='project')
        optimizer = attached(head, momentum=0.9, weight_decay=0.01, lr=0.1)
        for seed in range(3):
            step(head, features(4, seed), [seed, 7, 11, 29], optimizer)
        results.append(
            [head.weight.detach(), optimizer.state[head.weight]['momentum_buffer']]
        )
    torch.testing.assert_close(*results)


def test_state_of_the_optimizer_can_be_saved_and_loaded():
    """By another head and optimizer, attached before or after."""
    weights = []
    for attach_first in (None, True, False):
        head = sampled_head(ArcFaceLoss(8.0))
        optimizer = attached(head, momentum=0.9, lr=0.5)
        always_draw(head, [0, 3])
        step(head, features(2), [1, 4], optimizer)
        if attach_first is not None:
            saved = optimizer.state_dict()
            rows = head.weight.detach().clone()
            head = sampled_head(ArcFaceLoss(8.0))
            head.weight.data.copy_(rows)
            optimizer = torch.optim.SGD(head.parameters(), lr=9.0)
            if attach_first:
                head.attach(optimizer)
            optimizer.load_state_dict(saved)
            if not attach_first:
                head.attach(optimizer)
            always_draw(head, [0, 3])
        optimizer.param_groups[0]['lr'] = 0.25
        step(head, features(2, 1), [1, 4], optimizer)
        assert optimizer.param_groups[0]['params'] == [head.weight]
        weights.append(head.weight.detach())
    assert torch.equal(weights[0], weights[1])
    assert torch.equal(weights[0], weights[2])


@pytest.mark.parametrize('momentum', [0.0, 0.9])
def test_a_state_dict_is_whole_while_rows_are_lent(momentum):
    """Between two accumulated batches, or after a step that was not taken."""
    weights = []
    for saves in (False, True):
        head = sampled_head(SphereFace2Loss(r=8.0))
        optimizer = attached(head, momentum=momentum)
        always_draw(head, [0, 3])
        step(head, features(2), [1, 4], optimizer)
        expected = optimizer.state_dict()
        buffer = optimizer.state[head.weight].get('momentum_buffer')
        before = None if buffer is None else buffer.clone()
        for seed in (1, 2):
            head.loss(features(2, seed), torch.tensor([1, 2]))['loss'].backward()
            if saves:
                saved = optimizer.state_dict()
                assert saved['param_groups'] == expected['param_groups']
                assert saved['state'].keys() == expected['state'].keys()
                if before is not None:
                    assert torch.equal(saved['state'][0]['momentum_buffer'], before)
        optimizer.step()
        assert {*optimizer.state} <= {*head.parameters()}
        weights.append(head.weight.detach())
    assert torch.equal(*weights)


def test_loading_a_state_dict_drops_rows_that_are_lent():
    head = sampled_head(ArcFaceLoss(8.0))
    optimizer = attached(head, momentum=0.9)
    always_draw(head, [0, 3])
    step(head, features(2), [1, 4], optimizer)
    saved = optimizer.state_dict()
    head.loss(features(2, 1), torch.tensor([1, 2]))['loss'].backward()
    optimizer.load_state_dict(saved)
    assert optimizer.param_groups[0]['params'] == [head.weight]
    assert [*optimizer.state] == [head.weight]


def test_it_must_be_attached():
    head = sampled_head(ArcFaceLoss())
    with pytest.raises(UserError, match=r'head\.attach\(optimizer\).*CentresHook'):
        head.loss(features(2), torch.tensor([0, 1]))
    # Not for validation.
    assert head.eval().loss(features(2), torch.tensor([0, 1]))['loss'].isfinite()
    others = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    with pytest.raises(UserError, match="does not hold the head's weight"):
        head.attach(others)


@pytest.mark.parametrize('fused', [False, True])
@pytest.mark.parametrize('momentum', [0.0, 0.9])
@pytest.mark.parametrize(
    'loss', [lambda: ArcFaceLoss(8.0), lambda: SphereFace2Loss(r=8.0)]
)
def test_rows_that_were_passed_by_catch_up(loss, momentum, fused):
    """As if they had taken each step with a gradient of zero."""
    head = sampled_head(loss(), catch_up=True, fused_update=fused, engine='blocked')
    optimizer = attached(head, momentum=momentum, weight_decay=0.1, lr=0.5)
    module = loss()
    module.reset_parameters(C)
    module.double()
    # Of the bias, if there is one.
    others = torch.optim.SGD(
        [*module.parameters(), torch.zeros(1)], 0.5, momentum, weight_decay=0.1
    )
    w, velocity = head.weight.detach().clone(), torch.zeros(C, D).double()
    for seed, (y, drawn) in enumerate(BATCHES * 2):
        lr = 0.5 * 0.8**seed
        class_weight = torch.zeros(C).double()
        class_weight[drawn] = 1
        if module.additive:
            class_weight[drawn] = (C - len({*y})) / len(drawn)
        class_weight[y] = 1
        leaf = w.clone().requires_grad_()
        out = formula(
            module, features(3, seed), leaf, torch.tensor(y), class_weight=class_weight
        )
        out['loss'].backward()
        velocity = momentum * velocity + leaf.grad + 0.1 * w
        w = w - lr * velocity
        others.param_groups[0]['lr'] = lr
        others.step()
        others.zero_grad()

        optimizer.param_groups[0]['lr'] = lr
        always_draw(head, drawn)
        got, _ = step(head, features(3, seed), y, optimizer)
        torch.testing.assert_close(got, out['loss'].detach())
        if seed in (4, 9):
            head.flush()
            torch.testing.assert_close(head.weight.detach(), w)
            if momentum:
                buffer = optimizer.state[head.weight]['momentum_buffer']
                torch.testing.assert_close(buffer, velocity)


@pytest.mark.skipif(
    not hasattr(torch.amp, 'GradScaler'), reason='torch < 2.3 scales on CUDA only'
)
def test_with_a_loss_scaler_and_a_step_that_it_skips():
    weights = []
    for scaled in (False, True):
        head = sampled_head(SphereFace2Loss(r=8.0), engine='blocked')
        optimizer = attached(head, momentum=0.9)
        scaler = torch.amp.GradScaler('cpu', enabled=scaled, init_scale=256.0)
        for seed, overflows in enumerate((False, True, False)):
            if overflows and not scaled:
                continue
            always_draw(head, [0, 3])
            loss = head.loss(features(2, seed), torch.tensor([1, 4]))['loss']
            scaler.scale(loss * (torch.inf if overflows else 1)).backward()
            scaler.step(optimizer)
            scaler.update()
            optimizer.zero_grad()
        weights.append(head.weight.detach())
    torch.testing.assert_close(*weights)
