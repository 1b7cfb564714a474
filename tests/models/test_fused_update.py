"""Centres that step in the block loop: as the optimizer would, or refused."""

import itertools

import pytest
import torch
from runs import small_config, train
from test_sampling import (
    BATCHES,
    DECOUPLED,
    C,
    always_draw,
    attached,
    features,
    sampled_head,
    step,
)

from mmhyperface.models import (
    ArcFaceLoss,
    CurricularFaceLoss,
    HypersphereHead,
    MagFaceLoss,
    SphereFaceRLoss,
)
from mmhyperface.ops import blocked
from mmhyperface.utils.errors import UserError

LOSSES = {
    'sphereface2': DECOUPLED['sphereface2-C'],
    'sface': DECOUPLED['sface'],
    'arcface': lambda: ArcFaceLoss(8.0),
    'magface': lambda: MagFaceLoss(8.0, l_a=1.0, u_a=3.0),
    'curricularface': lambda: CurricularFaceLoss(8.0),
    'sphereface-r': lambda: SphereFaceRLoss('v2', 'soft', 8.0, detach=False),
}
CENTRES, RATES = ('normalize', 'project'), (1.0, 0.6)
SETTINGS = {
    'plain': {},
    'decay': dict(weight_decay=0.05),
    'momentum': dict(momentum=0.9),
    'both': dict(momentum=0.9, weight_decay=0.05),
}
OTHERS = ('plain', 'decay', 'momentum')


def fused_head(loss, **options) -> HypersphereHead:
    return sampled_head(
        loss, **{'rate': 1.0, 'engine': 'blocked', 'fused_update': True, **options}
    )


EXACT = [
    *itertools.product(LOSSES, ['both'], CENTRES, RATES),
    *itertools.product(['arcface', 'sphereface2'], OTHERS, ['normalize'], RATES),
]


@pytest.mark.parametrize(('name', 'setting', 'centres', 'rate'), EXACT)
def test_it_is_the_step_of_the_optimizer(name, setting, centres, rate):
    trajectories = []
    for fused in (False, True):
        head = fused_head(
            LOSSES[name](), fused_update=fused, centres=centres, rate=rate
        )
        optimizer = attached(head, lr=0.4, **SETTINGS[setting])
        values = []
        for seed, (y, drawn) in enumerate(BATCHES):
            if rate < 1:
                always_draw(head, drawn)
            optimizer.param_groups[0]['lr'] *= 0.8
            values += step(head, features(3, seed), y, optimizer)
            values.append(head.weight.detach().clone())
            learned = [head.weight, *head.loss_module.parameters()]
            assert {*map(id, optimizer.param_groups[0]['params'])} == {
                *map(id, learned)
            }
            state = optimizer.state[head.weight]
            if state.get('momentum_buffer') is not None:
                values.append(state['momentum_buffer'].clone())
        trajectories.append(values)
    assert len(trajectories[0]) == 5 * (4 if 'momentum' in SETTINGS[setting] else 3)
    for ordinary, fused in zip(*trajectories, strict=True):
        torch.testing.assert_close(fused, ordinary)


@pytest.mark.parametrize('scale', [0.0, 1e-17, 1e20])
@pytest.mark.parametrize('name', ['arcface', 'sphereface2'])
def test_rows_whose_norms_cannot_be_squared(name, scale):
    weights = []
    for fused in (False, True):
        head = fused_head(LOSSES[name](), fused_update=fused).float()
        head.weight.data[3] *= scale
        # As small as the row, or it would be gone after its step.
        optimizer = attached(head, lr=min(scale, 1.0) ** 2)
        step(head, features(3).float(), [1, 4, 1], optimizer)
        weights.append(head.weight.detach())
    assert weights[1].isfinite().all()
    torch.testing.assert_close(*weights)


@pytest.mark.parametrize('momentum', [0.0, 0.9])
@pytest.mark.parametrize('name', ['arcface', 'sphereface2'])
def test_products_of_16_bits_are_those_of_the_ordinary_step(name, momentum):
    weights = []
    for fused, dtype in ((False, 'bfloat16'), (True, 'bfloat16'), (True, None)):
        head = fused_head(LOSSES[name](), fused_update=fused, matmul_dtype=dtype)
        optimizer = attached(head.float(), lr=0.1, momentum=momentum)
        for seed in range(2):
            step(head, features(3, seed).float(), [1, 4, 1], optimizer)
        weights.append(head.weight.detach())
    ordinary, fused, exact = weights
    torch.testing.assert_close(fused, ordinary, rtol=1e-6, atol=1e-6)
    assert (exact - ordinary).abs().max() > 1e-5


@pytest.mark.parametrize('name', ['arcface', 'sphereface2'])
def test_a_forward_pass_that_is_given_up_costs_no_decay(name):
    """Rows that it drew have made up for missed steps either for good or not at all."""
    weights = []
    for given_up in (False, True):
        head = fused_head(LOSSES[name](), rate=0.6, catch_up=True)
        optimizer = attached(head, lr=0.5, weight_decay=0.1)
        always_draw(head, [0, 3])
        step(head, features(3), [1, 4, 1], optimizer)
        if given_up:
            # Without a learning rate its own step changes nothing.
            optimizer.param_groups[0]['lr'] = 0.0
            always_draw(head, [2, 5])
            head.loss(features(3, 1), torch.tensor([1, 4, 1]))
            optimizer.param_groups[0]['lr'] = 0.5
        always_draw(head, [0, 2])
        step(head, features(3, 2), [1, 4, 1], optimizer)
        head.flush()
        weights.append(head.weight.detach())
    torch.testing.assert_close(*weights)


def test_no_gradient_of_all_rows_is_kept():
    head = fused_head(ArcFaceLoss(8.0))
    optimizer = attached(head, momentum=0.9)
    before = head.weight.detach().clone()
    head.loss(features(2), torch.tensor([1, 4]))['loss'].backward()
    assert head.weight.grad is None
    held = optimizer.param_groups[0]['params']
    assert sum(len(parameter) for parameter in held) == 2
    # Others have stepped already, the own rows wait for their gradient's norm.
    assert (head.weight != before).any(1).tolist() == [
        c not in (1, 4) for c in range(C)
    ]


@pytest.mark.parametrize('name', ['arcface', 'sphereface2'])
def test_features_need_not_learn(name):
    """Of a frozen backbone."""
    weights = []
    for fused in (False, True):
        head = fused_head(LOSSES[name](), fused_update=fused)
        optimizer = attached(head, momentum=0.9)
        for seed in range(2):
            out = head.loss(features(3, seed), torch.tensor([0, 4, 4]))
            out['loss'].backward()
            optimizer.step()
            optimizer.zero_grad()
        weights.append(head.weight.detach())
    torch.testing.assert_close(*weights)


def test_settings_come_from_the_group_as_it_is_now():
    """Also after a state dict has replaced the optimizer's groups."""
    weights = []
    for fused in (False, True):
        head = fused_head(ArcFaceLoss(8.0), fused_update=fused)
        optimizer = attached(head, momentum=0.9)
        step(head, features(2), [1, 4], optimizer)
        optimizer.load_state_dict(optimizer.state_dict())
        optimizer.param_groups[0].update(lr=0.1, weight_decay=0.3, momentum=0.5)
        step(head, features(2), [0, 4], optimizer)
        weights.append(head.weight.detach())
    torch.testing.assert_close(*weights)


@pytest.mark.parametrize(
    'optimizer',
    [
        lambda p: torch.optim.AdamW(p),
        lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, nesterov=True),
        lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, dampening=0.1),
        lambda p: torch.optim.SGD(p, lr=0.1, maximize=True),
        lambda p: type('MySGD', (torch.optim.SGD,), {})(p, lr=0.1),
    ],
)
def test_other_optimizers_are_refused(optimizer):
    head = fused_head(ArcFaceLoss())
    with pytest.raises(UserError, match=r'fused_update is exact for torch\.optim\.SGD'):
        head.attach(optimizer(head.parameters()))


def test_accumulation_is_refused():
    head = fused_head(ArcFaceLoss())
    attached(head)
    head.loss(features(2), torch.tensor([1, 4]))['loss'].backward()
    with pytest.raises(UserError, match=r'needs model\.head\.fused_update=False'):
        head.loss(features(2), torch.tensor([1, 4]))


def test_it_must_be_attached():
    head = fused_head(ArcFaceLoss())
    with pytest.raises(UserError, match=r'head\.attach\(optimizer\)'):
        head.loss(features(2), torch.tensor([0, 1]))


def test_a_loss_that_is_scaled_outside_is_told():
    head = fused_head(LOSSES['sphereface2']())
    attached(head)
    loss = head.loss(features(2), torch.tensor([1, 4]))['loss']
    with pytest.raises(UserError, match=r'stepped with .* 1\.0, not 0\.5'):
        (2 * loss).backward()


def test_a_loss_that_is_scaled_outside_ends_on_the_device(monkeypatch):
    """Where the host would have to wait to tell."""
    monkeypatch.setattr(blocked, 'can_look_at', lambda _: False)
    head = fused_head(LOSSES['sphereface2']())
    attached(head)
    loss = head.loss(features(2), torch.tensor([1, 4]))['loss']
    with pytest.raises(RuntimeError, match='fused_update: the rows have stepped'):
        (2 * loss).backward()


@pytest.mark.parametrize('name', ['arcface', 'sphereface2'])
def test_a_second_backward_is_told(name):
    head = fused_head(LOSSES[name]())
    attached(head)
    loss = head.loss(features(2).requires_grad_(), torch.tensor([1, 4]))['loss']
    loss.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match=r'have stepped in|modified by an inplace'):
        loss.backward()


@pytest.mark.parametrize('loss_weight', [0.3, 0.7, 1 / 3, 1e-3, 17.3])
@pytest.mark.parametrize('samples', [3, 7, 12])
@pytest.mark.parametrize('rate', [1.0, 0.6])
def test_rounding_of_the_expected_gradient_is_none_of_its_business(
    monkeypatch, loss_weight, samples, rate
):
    loss = LOSSES['sphereface2']()
    loss.loss_weight = loss_weight
    head = fused_head(loss, rate=rate).float()
    optimizer = attached(head)
    labels = [seed % 3 for seed in range(samples)]
    step(head, features(samples).float(), labels, optimizer)
    loops = []
    run = head._engine().run
    monkeypatch.setattr(
        head._engine(), 'run', lambda *a, **k: loops.append(1) or run(*a, **k)
    )
    step(head, features(samples).float(), labels, optimizer)
    # One over the own rows, one over the others.
    assert len(loops) == 2


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        (
            dict(clip_grad=dict(max_norm=5)),
            r'optim_wrapper\.clip_grad needs.*optim_wrapper\.clip_centres=False',
        ),
        (
            dict(clip_grad=None, accumulative_counts=2),
            r'optim_wrapper\.accumulative_counts accumulates several',
        ),
    ],
)
def test_the_runner_refuses_what_would_not_be_exact(tmp_path, options, message):
    cfg = small_config(
        tmp_path,
        **{'model.head.engine': 'blocked', 'model.head.fused_update': True},
    )
    cfg.optim_wrapper.update(options)
    with pytest.raises(UserError, match=message):
        train(cfg)


@pytest.mark.parametrize('options', [dict(fused_update=True), dict(catch_up=True)])
def test_an_optimizer_may_be_torchs_fused_sgd(options):
    """In plain PyTorch, where the bias has no momentum in the first step."""
    weights = []
    for fused in (False, True):
        head = sampled_head(LOSSES['sphereface2'](), engine='blocked', **options)
        try:
            optimizer = attached(head, lr=0.1, momentum=0.9, fused=fused)
        except RuntimeError as error:  # before torch 2.4
            pytest.skip(str(error))
        for seed, (y, drawn) in enumerate(BATCHES):
            always_draw(head, drawn)
            step(head, features(3, seed), y, optimizer)
        weights += [head.weight.detach(), *head.loss_module.parameters()]
    torch.testing.assert_close(weights[2:], weights[:2])
