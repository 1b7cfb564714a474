"""The planned memory against what the allocator sees, and against arithmetic."""

import json
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmengine.utils import digit_version
from runs import ROOT, call
from torch.autograd.profiler import profile

from mmhyperface.engine import memory_plan
from mmhyperface.engine.memory_plan import (
    LIBRARIES,
    OLDEST_TORCH,
    Planner,
    build_optimizer,
    measure_classifier,
    measure_network,
    measure_optimizer,
)
from mmhyperface.engine.optim_wrappers import AmpOptimWrapper
from mmhyperface.models import HypersphereHead, SFNet
from mmhyperface.ops import Blocked
from mmhyperface.ops.terms import FEW_CLASSES
from mmhyperface.utils.errors import UserError

pytestmark = pytest.mark.skipif(
    digit_version(torch.__version__) < digit_version(OLDEST_TORCH),
    reason='older torch cannot tell when memory is freed',
)
TOOL = ROOT / 'tools/analysis_tools/plan_memory.py'
SGD = dict(type='SGD', lr=0.1, momentum=0.9, weight_decay=5e-4)


@pytest.fixture(autouse=True, scope='module')
def scope():
    init_default_scope('mmhyperface')


def allocated(prof: profile) -> int:
    """The most that the CPU's allocator had given out, from its own record."""
    events = [
        e for e in prof.kineto_results.events() if e.name() == '[memory]' and e.nbytes()
    ]
    at = 'start_ns' if hasattr(events[0], 'start_ns') else 'start_us'
    live = peak = 0
    for event in sorted(events, key=lambda event: getattr(event, at)()):
        live += event.nbytes()
        peak = max(peak, live)
    return peak


def measured_head(cfg: dict, samples: int, own: int, rows: int, block: int) -> int:
    """Peak of two real steps, without rows and momentum."""
    head = HypersphereHead(rows, 48, **cfg).train()
    head.num_classes += samples
    if cfg['engine'] == 'blocked':
        head.engine = Blocked(block, compiled=False)
    optimizer = build_optimizer(SGD, list(head.parameters()))
    head.attach(optimizer)
    labels = torch.tensor([i if i < own else rows + i for i in range(samples)])
    with profile(profile_memory=True) as prof:
        for _ in range(2):
            feats = torch.randn(samples, 48).requires_grad_()
            head(feats, labels).backward()
            optimizer.step()
            optimizer.zero_grad()
    return allocated(prof) - head.weight.nbytes


HEADS = [
    dict(engine='dense'),
    dict(engine='blocked'),
    dict(engine='blocked', fused_update=True, sample_rate=0.25),
]
MORE_HEADS = [
    dict(engine='dense', sample_rate=0.25),
    dict(engine='blocked', centres='project'),
    dict(engine='blocked', sample_rate=0.25),
    dict(engine='blocked', fused_update=True),
]


@pytest.mark.parametrize(
    ('loss', 'options'),
    [
        *(('SphereFace2Loss', options) for options in HEADS),
        # The other family folds otherwise; what else there is does not know it.
        ('ArcFaceLoss', HEADS[1]),
        *(
            pytest.param(loss, options, marks=pytest.mark.slow)
            for loss in ('SphereFace2Loss', 'ArcFaceLoss')
            for options in MORE_HEADS
        ),
    ],
    ids=str,
)
def test_heads_take_what_was_planned(loss, options):
    """Within 15 %, from heads of fewer classes in shorter blocks.

    A processor's kernels have some memory of their own.
    """
    cfg = dict(loss=dict(type=loss), **options)
    # Of more classes the loss would be counted as compiled.
    sizes = dict(samples=96, own=24, rows=FEW_CLASSES - 1, block=512)
    planned = measure_classifier(
        dict(cfg, in_channels=48, num_classes=20_000), SGD, **sizes
    )
    assert max(planned) == pytest.approx(measured_head(cfg, **sizes), rel=0.15)


@pytest.mark.parametrize('options', HEADS[1:], ids=str)
def test_many_blocks_are_known_from_some(options, monkeypatch):
    cfg = dict(options, loss=dict(type='ArcFaceLoss'), in_channels=48)
    sizes = dict(samples=64, own=8, rows=100_000, block=256)
    some = measure_classifier(dict(cfg, num_classes=100_000), SGD, **sizes)
    monkeypatch.setattr(memory_plan, 'MOST_BLOCKS', 10**6)
    every = measure_classifier(dict(cfg, num_classes=100_000), SGD, **sizes)
    # Among more rows the draw of the sample may come to be the peak.
    assert some == pytest.approx(tuple(every), rel=0.02, abs=100_000)


def test_few_classes_are_measured_as_they_are():
    cfg = dict(loss=dict(type='SFaceLoss'), engine='dense')
    sizes = dict(samples=64, own=64, rows=70, block=512)
    planned = measure_classifier(
        dict(cfg, in_channels=48, num_classes=70), SGD, **sizes
    )
    assert max(planned) == pytest.approx(measured_head(cfg, **sizes), rel=0.02)


NETWORK = dict(depth=20, widths=(16, 32, 64, 64), input_size=64, embedding_size=32)


@pytest.mark.parametrize('amp', [False, True])
def test_networks_keep_what_was_planned(amp):
    network = SFNet(**NETWORK).train()
    own = {p.untyped_storage()._cdata for p in network.parameters()}
    kept: dict[int, int] = {}

    def keep(x: torch.Tensor) -> torch.Tensor:
        kept[x.untyped_storage()._cdata] = x.untyped_storage().nbytes()
        return x

    with (
        torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x),
        torch.autocast('cpu', torch.bfloat16, enabled=amp),
    ):
        feats = network(torch.randn(8, 3, 64, 64))
    saved = sum(size for key, size in kept.items() if key not in own)
    planned = measure_network([SFNet(**NETWORK)], 8, (64, 64), amp)
    assert planned.activations == pytest.approx(saved, rel=0.05)
    assert len(feats) == 1
    weights = sum(x.nbytes for x in network.state_dict().values())
    assert planned.weights == weights
    assert planned.gradients == sum(p.nbytes for p in network.parameters())


def test_networks_take_what_was_planned():
    network = SFNet(**NETWORK).train()
    with profile(profile_memory=True) as prof:
        network(torch.randn(8, 3, 64, 64))[-1].sum().backward()
    planned = measure_network([SFNet(**NETWORK)], 8, (64, 64), amp=False)
    peak = max(planned.activations, planned.backward)
    assert peak == pytest.approx(allocated(prof), rel=0.1)


@pytest.mark.parametrize(
    ('cfg', 'state', 'temporary'),
    [
        (dict(type='SGD', lr=0.1), 0, 0),
        (dict(type='SGD', lr=0.1, momentum=0.9), 1, 0),
        # Fused, as the optimizer wrapper has it on GPUs.
        (SGD, 1, 0),
        (dict(SGD, foreach=True), 1, 1),
        (dict(SGD, dampening=0.1), 1, 1),
        (dict(type='SGD', lr=0.1, weight_decay=0.1, foreach=False), 0, 0.5),
        (dict(type='AdamW', lr=0.1), 2, 1),
        (dict(type='Adam', lr=0.1, amsgrad=True, weight_decay=0), 3, 1),
    ],
    ids=str,
)
def test_optimizers_are_measured(cfg, state, temporary):
    rule = measure_optimizer(cfg)
    assert rule.state == state
    assert rule.temporary == pytest.approx(temporary, abs=0.01)


# ----------------------------------------------------------------------- arithmetic


def config(**options: object) -> Config:
    cfg = Config.fromfile(ROOT / 'configs/sphereface2_quickstart.py')
    cfg.merge_from_dict(
        {
            'model.backbone': dict(
                _delete_=True,
                type='SFNet',
                depth=4,
                widths=(8, 8, 8, 8),
                input_size=32,
                embedding_size=16,
            ),
            'model.head.in_channels': 16,
            'model.head.num_classes': 1_000_003,
            'train_dataloader.batch_size': 8,
            **options,
        }
    )
    return cfg


def sizes(cfg: Config, gpus: int, activations: bool = False) -> dict[str, tuple]:
    plan = Planner(cfg, activations).plan(gpus)
    return {part.name: part.bytes for part in plan.parts}


def test_parts_add_up():
    plan = Planner(config()).plan(4)
    parts = {part.name: part.bytes for part in plan.parts}
    network = SFNet(depth=4, widths=(8,) * 4, input_size=32, embedding_size=16)
    gradients = sum(p.nbytes for p in network.parameters())
    rows = 250_001 * 16 * 4
    assert plan.rows == 250_001
    for name, size in {
        'network: optimizer state': gradients,
        'centres: rows': rows,
        'centres: optimizer state': rows,
        'centres: gradient': rows,
    }.items():
        assert parts[name] == (size,) * 3
    # At the update they are the gradients themselves.
    assert parts['DDP buckets'] == (gradients, gradients, 0)
    assert parts['classifier: features of all GPUs, and gradient'][0] == 2 * 32 * 16 * 4
    # A fused step makes nothing.
    assert 'optimizer: temporaries' not in parts
    most = max(sum(column) for column in zip(*parts.values(), strict=True))
    assert most < plan.allocated < 1.02 * most
    assert plan.allocated < plan.reserved < 1.3 * plan.allocated + 10**8
    assert plan.peak == plan.reserved + LIBRARIES


@pytest.mark.parametrize('clips', [True, False])
def test_a_fused_update_does_not_go_with_clipped_centres(clips):
    options = {'model.head.fused_update': True, 'optim_wrapper.clip_centres': clips}
    notes = Planner(config(**options), activations=False).plan(4).notes
    assert any('clip_centres' in note for note in notes) == clips


def test_options_change_their_parts():
    rows = 250_001 * 16 * 4
    ema = dict(custom_hooks=[dict(type='mmengine.EMAHook')])
    assert sizes(config(**ema), 4)['moving average (EMA)'][0] > rows
    fused = sizes(config(**{'model.head.fused_update': True}), 4)
    assert 'centres: gradient' not in fused
    sampled = sizes(config(**{'model.head.sample_rate': 0.1}), 4)
    touched = 25_001 * 16 * 4
    assert sampled['centres: gradient'] == (touched,) * 3
    copies = sampled['centres: copy of the touched rows and their state']
    assert copies == (2 * touched,) * 3
    alone = sizes(config(), 1)
    assert 'DDP buckets' not in alone
    assert alone['centres: rows'][0] == 1_000_003 * 16 * 4
    whole = sizes(config(**{'model.head.sharded': False}), 4)
    assert whole['DDP buckets'][0] > whole['centres: rows'][0] == 1_000_003 * 16 * 4
    # The gradients are in them, which are there before any gradient is.
    *before, update = sizes(config(), 4)['DDP buckets']
    assert update == 0
    copied = {'model_wrapper_cfg.gradient_as_bucket_view': False}
    assert sizes(config(**copied), 4)['DDP buckets'] == (*before, before[0])
    # Another way to step makes a second gradient of everything for weight decay.
    whole_step = sizes(config(**{'optim_wrapper.optimizer.foreach': True}), 4)
    gradients, rows = before[0], whole_step['centres: gradient'][2]
    assert whole_step['optimizer: temporaries'][2] == pytest.approx(
        gradients + rows, rel=0.001
    )


@pytest.mark.parametrize(
    ('gpus', 'views', 'more'), [(1, True, True), (4, True, False), (4, False, True)]
)
def test_gradients_of_earlier_batches_wait(gpus, views, more):
    """In DDP's buckets, where they are views of them, which are there anyway."""
    options = {'model_wrapper_cfg.gradient_as_bucket_view': views}
    twice = {'optim_wrapper.accumulative_counts': 2, **options}
    (*once, gradients), (*several, left) = (
        sizes(config(**each), gpus, True)['network: activations and gradients']
        for each in (options, twice)
    )
    assert left == gradients
    assert several == [size + more * gradients for size in once]


@pytest.mark.parametrize('kind', ['AmpOptimWrapper', AmpOptimWrapper])
def test_half_precision_halves_activations(kind):
    name, half = 'network: activations and gradients', {'optim_wrapper.type': kind}
    low, full = (sizes(cfg, 1, True)[name][0] for cfg in (config(**half), config()))
    assert low < 0.7 * full


def exchanges(cfg: Config, gpus: int) -> dict[str, int]:
    plan = Planner(cfg, activations=False).plan(gpus)
    assert plan.sent == sum(e.sent for e in plan.exchanges)
    return {e.name: e.sent for e in plan.exchanges}


def test_exchanges_are_those_of_a_ring():
    batch, numbers = 4 * 8, 4 * 8 * 4 * 3 // 4
    sent = exchanges(config(), 4)
    network = SFNet(depth=4, widths=(8,) * 4, input_size=32, embedding_size=16)
    assert sent.pop('gradient of the network') == round(
        1.5 * sum(p.nbytes for p in network.parameters())
    )
    assert sent == {
        'features': batch * 16 * 4 * 3 // 4,
        'gradient of the features': batch * 16 * 4 * 3 // 4,
        'labels': 2 * numbers,
        'norms of the features': numbers,
        'own cosines': 2 * numbers,
        'sums of the loss': 2 * numbers,
        'hardest cosines, for the log': 2 * numbers,
    }
    softmax = exchanges(
        config(**{'model.head.loss': dict(_delete_=True, type='ArcFaceLoss')}), 4
    )
    assert softmax['maxima of the softmax and cosines'] == 4 * numbers
    assert softmax['sums of the softmax'] == 2 * numbers
    whole = exchanges(config(**{'model.head.sharded': False}), 4)
    assert whole['gradient of the centres'] == round(1.5 * 1_000_003 * 16 * 4)
    assert 'features' not in whole
    # DDP's alone, which are those of the network and of centres that are not split.
    half = {'model_wrapper_cfg.comm_dtype': 'float16'}
    halved = exchanges(config(**half, **{'model.head.sharded': False}), 4)
    assert halved.pop('labels') == whole['labels']
    assert halved == {name: whole[name] // 2 for name in halved}
    assert exchanges(config(), 1) == {}


def test_the_fewest_gpus_that_suffice():
    planner = Planner(config(), activations=False)
    # The first measurement of a process differs by what torch sets up once.
    planner.plan(16)
    # The first plan of a process is some KB off, by what is traced then.
    memory = round(1.001 * planner.plan(16).peak)
    plan = planner.least(memory)
    assert plan.gpus == 16
    assert planner.plan(8).peak > memory
    assert planner.least(10**12).gpus == 1
    with pytest.raises(UserError, match=r'head\.engine=blocked'):
        planner.least(LIBRARIES)


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        ({'model.head': None}, 'must be a HypersphereHead'),
        ({'model.head.type': 'LinearClsHead'}, 'must be a HypersphereHead'),
        ({'model.head.num_classes': 'auto'}, 'give --num-classes'),
        ({'model.head.sample_rate': 2}, 'sample_rate'),
        (
            {'model.head.sample_rate': 0.5, 'model.head.sharded': False},
            'head.sharded=T',
        ),
        ({'train_dataloader.batch_size': 0}, 'batch_size'),
        ({'optim_wrapper.optimizer': None}, 'no optim_wrapper.optimizer'),
        ({'optim_wrapper.optimizer.type': 'Sgd'}, 'set optim_wrapper.optimizer.type'),
        (
            {
                'model.head.fused_update': True,
                'optim_wrapper.optimizer': dict(_delete_=True, type='Adam', lr=0.1),
            },
            'fused_update is exact for torch.optim.SGD',
        ),
    ],
    ids=str,
)
def test_what_cannot_be_planned(options, message):
    with pytest.raises(UserError, match=message):
        Planner(config(**options), activations=False).plan(2)


def test_random_numbers_go_on_as_before():
    state = torch.random.get_rng_state()
    Planner(config(), activations=False).plan(2)
    assert torch.equal(torch.random.get_rng_state(), state)


# ------------------------------------------------------------------------- the tool


def test_the_tool_lays_out_a_hundred_million_identities(tmp_path):
    """Network, rows and momentum without the gradient: on 8 GPUs of 80 GB."""
    done = call(
        'python',
        TOOL,
        ROOT / 'configs/sphereface2_r100_ms1m.py',
        '--gpu-memory=80',
        '--num-classes=100_000_000',
        '--sample-rate=0.1',
        '--fused-update',
        '--no-activations',
        '--json',
        tmp_path / 'plan.json',
        '--cfg-options',
        'optim_wrapper.clip_grad=None',
    )
    assert '8 GPUs with' in done.stdout
    assert 'fits in 80 GB' in done.stdout
    assert 'clip_grad' not in done.stdout
    plan = json.loads(Path(tmp_path, 'plan.json').read_text())
    assert plan['gpus'] == 8
    rows = 12_500_000 * 512 * 4
    assert 2 * rows < plan['allocated'] < plan['reserved'] < 2 * rows + 4e9
    assert plan['peak'] == plan['reserved'] + LIBRARIES


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        ([], 'give --gpus'),
        (['--gpus=0'], 'number of GPUs must be positive, got 0; give --gpus'),
    ],
    ids=str,
)
def test_the_tool_tells_mistakes(call_main, arguments, message):
    config = str(ROOT / 'configs/sphereface2_quickstart.py')
    with pytest.raises(UserError, match=message):
        call_main('plan_memory', config, '--no-activations', *arguments)
