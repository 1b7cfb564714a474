"""Clipping and loss scaling: split over ranks as on one; and DDP leaves parts alone."""

import copy
import itertools
import math

import pytest
import torch
from mmengine import optim
from mmengine.dist import all_gather, all_reduce
from mmengine.logging import MessageHub
from mmengine.model import BaseModel
from runs import log_of, small_config, spawn
from torch import nn

from mmhyperface.apis import build_runner
from mmhyperface.centres import Shard
from mmhyperface.engine import optim_wrappers
from mmhyperface.engine import runner as runner_module
from mmhyperface.engine.distributed import (
    FaceDistributedDataParallel,
    init_process_group,
)
from mmhyperface.engine.optim_wrappers import AmpOptimWrapper, OptimWrapper
from mmhyperface.models import HypersphereHead, SphereFace2Loss
from mmhyperface.registry import OPTIM_WRAPPERS
from mmhyperface.utils.errors import UserError

scaled = pytest.mark.skipif(
    not hasattr(torch.amp, 'GradScaler'), reason='torch < 2.3 scales on CUDA only'
)


def parameters(*gradients: torch.Tensor) -> list[nn.Parameter]:
    made = []
    for gradient in gradients:
        made.append(nn.Parameter(torch.zeros_like(gradient)))
        made[-1].grad = gradient.clone()
    return made


def gradients(classes: int) -> list[torch.Tensor]:
    """Of two replicated parameters and of all centres."""
    torch.manual_seed(classes)
    return [torch.randn(5, 2), torch.randn(3), torch.randn(classes, 4)]


def wrapped(cls: type, parts: list[nn.Parameter], **options: object) -> OptimWrapper:
    return cls(optimizer=torch.optim.SGD(parts, lr=0.1), **options)


def logged_norm() -> float:
    return MessageHub.get_current_instance().get_scalar('train/grad_norm').current()


def split(parts: list[nn.Parameter], classes: int, world: int, rank: int) -> Shard:
    """Leave of the last parameter what is the rank's own."""
    shard = Shard(classes, rank, world)
    (rows,) = parameters(parts[-1].grad[shard.start : shard.stop])
    rows.shard = shard
    if not len(shard):
        rows.grad = None
    parts[-1] = rows
    return shard


# ---------------------------------------------------------------- on one process


@pytest.mark.parametrize(
    'clip',
    [
        dict(max_norm=0.7),
        dict(max_norm=0.7, norm_type=1),
        dict(max_norm=0.7, norm_type='inf'),
        dict(max_norm=100, error_if_nonfinite=True),
        dict(type='value', clip_value=0.3),
    ],
)
def test_without_parts_it_is_mmengines(clip):
    clipped = []
    for cls in (OptimWrapper, optim.OptimWrapper):
        parts = parameters(*gradients(5))
        parts[-1].shard = Shard(5)
        wrapper = wrapped(cls, parts, clip_grad=dict(clip))
        wrapper.step()
        norm = logged_norm() if 'max_norm' in clip else 0
        clipped.append((norm, parts))
    (ours, mine), (theirs, yours) = clipped
    assert ours == theirs
    for a, b in zip(mine, yours, strict=True):
        assert torch.equal(a.grad, b.grad)
        assert torch.equal(a, b)


def test_a_config_finds_ours(tmp_path):
    runner = build_runner(small_config(tmp_path))
    assert type(runner.build_optim_wrapper(runner.optim_wrapper)) is OptimWrapper


def amp(**options: object) -> AmpOptimWrapper:
    optimizer = torch.optim.SGD(nn.Linear(3, 2).parameters(), lr=0.1)
    cfg = dict(type='mmhyperface.AmpOptimWrapper', optimizer=optimizer, **options)
    return OPTIM_WRAPPERS.build(cfg)


@pytest.mark.parametrize(
    ('has_instructions', 'options', 'dtype'),
    [
        (True, {}, torch.bfloat16),
        (True, {'dtype': 'float16'}, torch.bfloat16),
        # Many times slower than float32 there.
        (False, {}, torch.float32),
        (False, {'dtype': 'float16'}, torch.float32),
        (False, {'dtype': 'bfloat16'}, torch.bfloat16),
    ],
)
def test_amp_wrapper_on_the_cpu_keeps_its_state(
    monkeypatch, has_instructions, options, dtype
):
    messages = []
    monkeypatch.setattr(
        optim_wrappers, 'has_bfloat16_instructions', lambda: has_instructions
    )
    monkeypatch.setattr(
        optim_wrappers, 'print_log', lambda text, _: messages.append(text)
    )
    wrapper = amp(**options)
    with wrapper.optim_context(nn.Linear(1, 1)):
        assert torch.mm(torch.ones(2, 2), torch.ones(2, 2)).dtype == dtype
    assert any('has no instructions' in x for x in messages) == (dtype == torch.float32)
    assert not wrapper.loss_scaler.is_enabled()
    other = amp()
    other.load_state_dict(wrapper.state_dict())
    assert other.get_lr() == wrapper.get_lr()


@pytest.mark.parametrize(
    ('line', 'expected'),
    [
        ('flags\t\t: fpu avx512f avx512_bf16 amx_tile', True),
        ('flags\t\t: fpu avx512f avx512_vnni', False),
        ('Features\t: fp asimd bf16', True),
        ('Features\t: fp asimd', False),
        (None, False),
    ],
)
def test_instructions_of_the_cpu(monkeypatch, tmp_path, line, expected):
    """As an old torch finds them, which does not know them."""
    for name in ('_is_avx512_bf16_supported', '_is_amx_tile_supported'):
        monkeypatch.delattr(torch.cpu, name, raising=False)
    monkeypatch.setattr(optim_wrappers, 'CPU_INFO', tmp_path / 'cpuinfo')
    if line is not None:
        text = f'processor\t: 0\n{line}\n'
        (tmp_path / 'cpuinfo').write_text(text)
    ask = optim_wrappers.has_bfloat16_instructions.__wrapped__
    assert ask() is expected
    monkeypatch.setattr(
        torch.cpu, '_is_avx512_bf16_supported', lambda: True, raising=False
    )
    assert ask()


@pytest.mark.parametrize('has_instructions', [True, False])
def test_validation_in_half_precision_likewise(tmp_path, monkeypatch, has_instructions):
    monkeypatch.setattr(
        runner_module, 'has_bfloat16_instructions', lambda: has_instructions
    )
    cfg = small_config(tmp_path)
    loader = dict(dataset=[], batch_size=1, sampler=dict(type='DefaultSampler'))
    for phase in ('val', 'test'):
        cfg[f'{phase}_dataloader'] = loader
        cfg[f'{phase}_evaluator'] = []
        cfg[f'{phase}_cfg'] = dict(fp16=True)
    runner = build_runner(cfg)
    assert runner.val_loop.fp16 is runner.test_loop.fp16 is True
    runner.call_hook('before_run')
    assert runner.val_loop.fp16 is runner.test_loop.fp16 is has_instructions
    log = log_of(tmp_path)
    assert ('test_cfg.fp16: float32, for this CPU' in log) != has_instructions


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        (dict(dtype='int8'), 'dtype must be one of'),
        (dict(loss_scale='static'), "must be 'dynamic', a number or a dict"),
    ],
)
def test_amp_wrapper_refuses(options, message):
    with pytest.raises(UserError, match=message):
        amp(**options)


@scaled
def test_a_constant_scale_stays():
    wrapper = amp(loss_scale=8)
    wrapper.loss_scaler = torch.amp.GradScaler('cpu', init_scale=8)
    (weight, _) = wrapper.optimizer.param_groups[0]['params']
    before = weight.detach().clone()
    wrapper.update_params(weight.sum())
    torch.testing.assert_close(weight, before - 0.1)
    assert wrapper.loss_scaler.get_scale() == 8


def fused_sgd(parts: list, **options: object) -> torch.optim.SGD:
    """As on a GPU, whose SGD is fused of its own accord."""
    try:
        return torch.optim.SGD(parts, lr=0.1, momentum=0.9, fused=True, **options)
    except (RuntimeError, TypeError):
        pytest.skip('torch < 2.4 fuses SGD on CUDA only')


@scaled
@pytest.mark.parametrize('clip', [None, dict(max_norm=1.0)])
def test_a_fused_step_that_overflows_is_skipped_without_asking(monkeypatch, clip):
    """The first one, too, whose momentum torch leaves unwritten."""
    trained = []
    for fused in (False, True):
        (weight,) = parts = parameters(torch.ones(6))
        optimizer = torch.optim.SGD(parts, lr=0.1, momentum=0.9, weight_decay=0.1)
        if fused:
            optimizer = fused_sgd(parts, weight_decay=0.1)
        wrapper = AmpOptimWrapper(optimizer=optimizer, clip_grad=clip and dict(clip))
        wrapper.loss_scaler = torch.amp.GradScaler('cpu', init_scale=8)
        for factor in (math.inf, 1.0, 0.5, math.nan, 2.0):
            with monkeypatch.context() as patch:
                if fused and not clip:
                    # Clipping logs, which asks until a hook of the runner defers it.
                    patch.setattr(torch.Tensor, 'item', None)
                wrapper.update_params((weight * factor).sum())
        assert wrapper.loss_scaler.get_scale() == 2
        state = optimizer.state[weight]['momentum_buffer']
        trained.append((weight.detach(), state))
    for ours, expected in zip(*trained, strict=True):
        torch.testing.assert_close(ours, expected)


@scaled
@pytest.mark.parametrize('rows', ['all', 'sampled', 'catch_up'])
def test_rows_of_a_skipped_step_that_is_fused(rows):
    options = dict(all={}, sampled=dict(sample_rate=0.5))
    options['catch_up'] = dict(sample_rate=0.5, catch_up=True)
    trained = []
    for fused in (False, True):
        model = network_and_head(sharded=False, **options[rows])
        parts = list(model.parameters())
        optimizer = torch.optim.SGD(parts, lr=0.1, momentum=0.9, weight_decay=0.1)
        if fused:
            optimizer = fused_sgd(parts, weight_decay=0.1)
        wrapper = AmpOptimWrapper(optimizer=optimizer)
        wrapper.loss_scaler = torch.amp.GradScaler('cpu', init_scale=8)
        model['head'].attach(optimizer)
        for iteration in range(6):
            factor = math.inf if iteration in (0, 3) else 1.0
            torch.manual_seed(iteration)
            wrapper.update_params(loss_of(model) * factor)
            wrapper.zero_grad()
        model['head'].flush()
        trained.append(model.state_dict())
    for name, expected in trained[0].items():
        torch.testing.assert_close(trained[1][name], expected, msg=name)


def test_how_to_step_is_not_loaded():
    fused = wrapped(OptimWrapper, parameters(torch.ones(2)))
    fused.optimizer = fused_sgd(parameters(torch.ones(2)))
    plain = wrapped(OptimWrapper, parameters(torch.ones(2)))
    states = fused.state_dict(), plain.state_dict()
    plain.load_state_dict(states[0])
    fused.load_state_dict(states[1])
    assert not plain.optimizer.param_groups[0]['fused']
    assert plain.optimizer.param_groups[0]['momentum'] == 0.9
    assert fused.optimizer.param_groups[0]['fused']
    assert fused.optimizer.param_groups[0]['momentum'] == 0


# ------------------------------------------------- clipping of the network alone

# Which all gradients here exceed.
CLIP = dict(max_norm=1e-3)
CLASSES = 7


def network_and_head(**options: object) -> nn.ModuleDict:
    """The same on all ranks, but for the rows of centres that a rank keeps."""
    torch.manual_seed(0)
    loss = SphereFace2Loss(r=8.0, m=0.3, loss_weight=20.0)
    head = HypersphereHead(CLASSES, 4, loss, init_std=1.0, **options)
    torch.manual_seed(1)
    return nn.ModuleDict(dict(network=nn.Linear(3, 4), head=head)).train()


def loss_of(model: nn.ModuleDict, rank: int = 0, world: int = 1) -> torch.Tensor:
    generator = torch.Generator().manual_seed(2)
    x = torch.randn(6, 3, generator=generator).chunk(world)[rank]
    y = torch.tensor([0, 5, 2, 2, 6, 0]).chunk(world)[rank]
    return model['head'].loss(model['network'](x), y)['loss']


def clipped_by_torch(clip: dict = CLIP) -> tuple[nn.ModuleDict, float]:
    """Two steps of the network and the head; the network's last norm."""
    model = network_and_head(sharded=False)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5, momentum=0.9)
    for _ in range(2):
        optimizer.zero_grad()
        loss_of(model).backward()
        norm = nn.utils.clip_grad_norm_(model['network'].parameters(), **clip)
        optimizer.step()
    return model, norm.item()


def clipped_by_ours(
    model: nn.ModuleDict, cls: type, clip: dict = CLIP, rank: int = 0, world: int = 1
) -> None:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5, momentum=0.9)
    wrapper = cls(optimizer=optimizer, clip_grad=dict(clip), clip_centres=False)
    model['head'].attach(optimizer)
    for _ in range(2):
        optimizer.zero_grad()
        loss_of(model, rank, world).backward()
        for parameter in model['network'].parameters():
            all_reduce(parameter.grad, op='mean')
        wrapper.step()


def is_the_same(model: nn.ModuleDict, whole: nn.ModuleDict) -> bool:
    shard, expected = model['head'].shard, dict(whole.named_parameters())
    expected['head.weight'] = expected['head.weight'][shard.start : shard.stop]
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter, expected.pop(name), msg=name)
    return not expected


ROWS = {
    'all': {},
    # So many are drawn that all are.
    'sampled': dict(sample_rate=0.999),
    'fused': dict(fused_update=True, engine='blocked'),
}


@pytest.mark.parametrize(
    ('rows', 'cls', 'order'),
    [
        *itertools.product(ROWS, [OptimWrapper, AmpOptimWrapper], [2]),
        *itertools.product(['all'], [OptimWrapper], [1, 3, 'inf']),
    ],
)
def test_the_network_alone_is_clipped(rows, cls, order):
    clip = {**CLIP, 'norm_type': order}
    whole, norm = clipped_by_torch(clip)
    assert norm > 10 * CLIP['max_norm']
    # A copy, as the moving average of a network is one, is clipped alike.
    model = copy.deepcopy(network_and_head(**ROWS[rows]))
    clipped_by_ours(model, cls, clip)
    assert logged_norm() == pytest.approx(norm, rel=1e-5)
    assert is_the_same(model, whole)


def test_values_of_the_network_alone_are_clipped():
    network, centres, bias = parameters(*gradients(5))
    centres.shard, bias.of_classifier = Shard(5), True
    clip = dict(type='value', clip_value=0.1)
    parts = [network, centres, bias]
    wrapped(OptimWrapper, parts, clip_grad=clip, clip_centres=False).step()
    assert network.grad.abs().max().item() == pytest.approx(0.1)
    assert min(p.grad.abs().max().item() for p in parts[1:]) > 0.2


def test_a_frozen_network_leaves_nothing_to_clip():
    model = network_and_head()
    model['network'].requires_grad_(False)
    before = model['head'].weight.detach().clone()
    clip = dict(optimizer=torch.optim.SGD(model.parameters(), 0.5), clip_grad=CLIP)
    OptimWrapper(**clip, clip_centres=False).update_params(loss_of(model))
    assert (model['head'].weight - before).norm() > 0.5 * CLIP['max_norm']


def test_without_centres_they_cannot_be_left_out():
    with pytest.raises(UserError, match=r'clip_centres=False .* holds none'):
        wrapped(OptimWrapper, parameters(torch.ones(2)), clip_centres=False)


# ------------------------------------------------------------ on several processes


def check_clipping(classes: int, world: int, rank: int) -> None:
    for order in (2.0, 1.0, 3, 'inf'):
        for max_norm in (0.5, 1e6):
            clip = dict(max_norm=max_norm, norm_type=order)
            whole = parameters(*gradients(classes))
            wrapped(optim.OptimWrapper, whole, clip_grad=dict(clip)).step()
            expected = logged_norm()
            parts = parameters(*gradients(classes))
            shard = split(parts, classes, world, rank)
            wrapped(OptimWrapper, parts, clip_grad=dict(clip)).step()
            assert math.isclose(logged_norm(), expected, rel_tol=1e-6)
            norms = all_gather(torch.tensor([logged_norm()], dtype=torch.float64))
            assert len({norm.item() for norm in norms}) == 1
            own = slice(shard.start, shard.stop)
            torch.testing.assert_close(parts[0].grad, whole[0].grad)
            torch.testing.assert_close(parts[1], whole[1])
            torch.testing.assert_close(parts[2], whole[2][own])
            replicas = all_gather(parts[0].grad)
            assert all(torch.equal(replica, replicas[0]) for replica in replicas)


def check_clipping_of_the_network(world: int, rank: int) -> None:
    whole, norm = clipped_by_torch()
    for rows in ('all', 'sampled'):
        model = network_and_head(sharded=True, **ROWS[rows])
        clipped_by_ours(model, OptimWrapper, rank=rank, world=world)
        norms = all_gather(torch.tensor([logged_norm()], dtype=torch.float64))
        assert len({value.item() for value in norms}) == 1
        assert logged_norm() == pytest.approx(norm, rel=1e-5)
        assert is_the_same(model, whole)


def check_values_and_mistakes(world: int, rank: int) -> None:
    parts = parameters(*gradients(5))
    split(parts, 5, world, rank)
    wrapped(OptimWrapper, parts, clip_grad=dict(type='value', clip_value=0.1)).step()
    assert max(part.grad.abs().max().item() for part in parts) == pytest.approx(0.1)
    with pytest.raises(UserError, match='norm_type=0'):
        wrapped(OptimWrapper, parts, clip_grad=dict(max_norm=1, norm_type=0)).step()


def check_nonfinite(world: int, rank: int) -> None:
    """An infinity in the rows of one rank is met by all."""
    for strict in (False, True):
        parts = parameters(*gradients(world))
        split(parts, world, world, rank)
        if rank == world - 1:
            parts[-1].grad[0, 0] = math.inf
        clip = dict(max_norm=1, error_if_nonfinite=strict)
        wrapper = wrapped(OptimWrapper, parts, clip_grad=clip)
        if strict:
            with pytest.raises(RuntimeError, match='non-finite'):
                wrapper.step()
        else:
            wrapper.step()
            assert logged_norm() == math.inf
            assert not parts[0].grad.any()


def check_scaling(classes: int, world: int, rank: int) -> None:
    """An overflow on one rank makes all skip, with and without clipping."""
    for clip in (None, dict(max_norm=0.5)):
        for bad in (None, *range(min(classes, world))):
            parts = parameters(*(8 * gradient for gradient in gradients(classes)))
            split(parts, classes, world, rank)
            wrapper = wrapped(AmpOptimWrapper, parts, clip_grad=clip and dict(clip))
            wrapper.loss_scaler = torch.amp.GradScaler('cpu', init_scale=8)
            wrapper.loss_scaler.scale(torch.ones(()))
            if rank == bad:
                parts[-1].grad[0, 0] = math.inf
            wrapper.step()
            assert wrapper.loss_scaler.get_scale() == (8 if bad is None else 4)
            if bad is not None:
                assert not any(part.any() for part in parts)
                continue
            whole = parameters(*gradients(classes))
            wrapped(optim.OptimWrapper, whole, clip_grad=clip and dict(clip)).step()
            torch.testing.assert_close(parts[0], whole[0])
            scale = wrapper.loss_scaler.state_dict()
            assert scale['_growth_tracker'] == 1


def check_scaling_without_a_gradient(rank: int) -> None:
    """A rank on which nothing can overflow learns of the others' overflow."""
    parts = parameters(torch.full((2, 3), math.inf))
    shard = split(parts, 1, 2, rank)
    assert (parts[0].grad is None) == (rank == 1) == (not len(shard))
    wrapper = wrapped(AmpOptimWrapper, parts)
    wrapper.loss_scaler = torch.amp.GradScaler('cpu', init_scale=8)
    wrapper.loss_scaler.scale(torch.ones(()))
    wrapper.step()
    assert wrapper.loss_scaler.get_scale() == 4


def check_exchange_in_half_precision(world: int, rank: int) -> None:
    """The mean gradient, rounded; and no other dtype is taken."""
    torch.manual_seed(0)
    model = nn.Linear(3, 2)
    ddp = FaceDistributedDataParallel(model, comm_dtype='float16')
    ddp(torch.full((4, 3), 0.1 * (rank + 1))).sum().backward()
    mean = torch.full((2, 3), 0.4 * (world + 1) / 2)
    torch.testing.assert_close(model.weight.grad, mean, rtol=2e-3, atol=0)
    assert not torch.allclose(model.weight.grad, mean, rtol=1e-6, atol=0)
    with pytest.raises(UserError, match=r'model_wrapper_cfg.comm_dtype .* got'):
        FaceDistributedDataParallel(nn.Linear(3, 2), comm_dtype='int8')


class Toy(BaseModel):
    """Sums over rows of which each rank has other ones."""

    def __init__(self, rows: int, offset: float) -> None:
        super().__init__()
        self.body = nn.Linear(3, 2)
        self.head = nn.Module()
        self.head.weight = nn.Parameter(torch.ones(rows, 2) + offset)
        self.head.bias = nn.Parameter(torch.full((1,), offset))
        self.head.ddp_ignored = ('weight',)

    def forward(self, inputs: torch.Tensor, mode: str = 'loss') -> dict:
        scores = self.body(inputs) @ self.head.weight.T
        return dict(loss=scores.sum() + self.head.bias.sum())


def check_ddp(world: int, rank: int) -> None:
    torch.manual_seed(rank)
    model = Toy(rows=world - rank, offset=float(rank))
    model._ddp_params_and_buffers_to_ignore = ['body.bias']
    inputs = torch.full((4, 3), rank + 1.0)
    ddp = FaceDistributedDataParallel(model, device_ids=[0])
    assert model._ddp_params_and_buffers_to_ignore == ['body.bias', 'head.weight']
    assert model.head.bias.item() == 0
    assert torch.equal(
        model.head.weight.detach(), torch.full((world - rank, 2), rank + 1.0)
    )
    weights = all_gather(model.body.weight.detach())
    assert all(torch.equal(weight, weights[0]) for weight in weights)
    ddp(inputs)['loss'].backward()
    with torch.no_grad():
        own = model.body(inputs).sum(0)
    torch.testing.assert_close(model.head.weight.grad, own.expand(world - rank, 2))
    # The body's gradient is the mean of the ranks', each of its own rows.
    expected = sum(4 * (r + 1.0) * (world - r) * (r + 1) for r in range(world)) / world
    torch.testing.assert_close(model.body.weight.grad, torch.full((2, 3), expected))


def check_a_model_that_is_one_part(rank: int) -> None:
    """The names are relative to the module that DDP wraps."""
    model = nn.Linear(2, 2)
    model.ddp_ignored = ['bias']
    nn.init.constant_(model.bias, rank)
    FaceDistributedDataParallel(model)
    assert model.bias[0].item() == rank


def check(world: int) -> None:
    init_process_group('pytorch')
    rank = torch.distributed.get_rank()
    for classes in (2, 5):
        check_clipping(classes, world, rank)
        if hasattr(torch.amp, 'GradScaler'):
            check_scaling(classes, world, rank)
    if hasattr(torch.amp, 'GradScaler') and world == 2:
        check_scaling_without_a_gradient(rank)
    check_clipping_of_the_network(world, rank)
    check_values_and_mistakes(world, rank)
    check_nonfinite(world, rank)
    check_ddp(world, rank)
    check_a_model_that_is_one_part(rank)
    check_exchange_in_half_precision(world, rank)


@pytest.mark.parametrize('world', [pytest.param(2, marks=pytest.mark.slow), 3])
def test_parts_on_several_ranks(world):
    spawn(world, check, world)
