"""Training on GPUs that are not there: what can be counted without one.

Not seen are numbers, times, NCCL, and the workspaces of cuDNN.
"""

import json
from typing import Any

import pytest

from mmhyperface.engine.launch import load_config
from mmhyperface.engine.memory_plan import Planner
from null_gpu.harness import ROOT, dry_run, missing, run

pytestmark = pytest.mark.skipif(missing() is not None, reason=str(missing()))

FLAGSHIP = 'configs/sphereface2_r100_ms1m.py'
SOFTMAX = 'configs/arcface_r50_ms1mv3.py'
# DDP takes times in its first ten iterations, and then in one of a hundred.
DDP_TIMES = 'cudaEventSynchronize', 'mmengine/model/wrappers/distributed.py'
# Bytes of registers that a thread may spill into memory.
SPILLS = 16
# Of the blocked engine: a block's terms, and with their gradient.
ENGINE_GRAPHS = 2


def syncs_of(iteration: dict[str, Any]) -> list[list[str]]:
    return [
        sync
        for sync in iteration['syncs']
        if (sync[1], sync[2].partition(':')[0]) != DDP_TIMES
    ]


def require_as_planned(
    report: dict[str, Any], config: str, world: int, options: dict[str, Any]
) -> None:
    plan = Planner(load_config(str(ROOT / config), options)).plan(world)
    for part in ('iterations', 'resumed'):
        for last in report.get(part, [])[-1:]:
            assert plan.allocated == pytest.approx(last['allocated'], rel=0.02)
            assert last['reserved'] <= plan.reserved < 1.2 * last['reserved']


def require_no_losses(
    report: dict[str, Any], config: str, graphs: int, operations: int
) -> None:
    # The third iteration is like all that follow: in the second DDP sorts its buckets.
    steady = report['iterations'][2]
    assert 0.9 * operations < steady['operations'] < 1.05 * operations
    assert report['unknown'] == {}
    assert list(report['convolutions']) == ['channels_last']
    assert report['graphs'] == graphs
    assert report['breaks'] == []
    assert report['spills']
    assert {name: n for name, n in report['spills'].items() if n > SPILLS} == {}
    # NCCL's group is a stand-in that refuses what NCCL does; labels stay on the host.
    by_host = [each for each in steady['exchanges'] if each[1] != 'nccl']
    assert {dtype for _, _, dtype, _ in by_host} == {'int64'}
    assert sum(count for *_, count in by_host) < 2**16
    assert syncs_of(steady) == []
    last = report['iterations'][-1]
    assert last['allocated'] < steady['allocated'] + 2**19, 'memory grows'
    require_as_planned(report, config, 8, {})


def test_the_flagship_trains_validates_saves_and_resumes() -> None:
    report = dry_run(FLAGSHIP, iters=4)
    assert len(report['iterations']) == 4
    assert report['metrics']
    assert report['checkpoint'].endswith('iter_4.pth')
    assert len(report['resumed']) == 2
    require_no_losses(report, FLAGSHIP, ENGINE_GRAPHS, 1_757)


def test_a_softmax_loss_trains_with_its_backbone_as_one_graph() -> None:
    # Dynamo alone, for Inductor takes minutes. The hook tries a graph of its own.
    options = {'custom_hooks': [dict(type='CompileHook', backend='eager')]}
    report = dry_run(SOFTMAX, iters=4, options=options, whole=False)
    require_no_losses(report, SOFTMAX, ENGINE_GRAPHS + 2, 1_028)


def test_what_the_null_gpu_sees_of_a_few_operations() -> None:
    said = json.loads(run('samples', world=3).splitlines()[-1])
    assert said['answers'] == {
        'gpus': 8,
        'sums': [6, 8, 16, 18, 28],
        'positions': [1, 3],
        'chosen': [3, 4, 5],
        'total': 14,
        'product': [3, 5],
        'gathered': [[3, 1, 4, 1, 5]] * 3,
    }
    assert [name for name, waits in said['waiting'].items() if not waits] == []
    assert [name for name, waits in said['queued'].items() if waits] == []
    assert [place.partition(':')[0] for place in said['convolutions']] == ['other']
    assert said['exchanges'] == [
        ['all_reduce', 'nccl', 'float32', 48],
        ['all_reduce', 'gloo', 'float32', 8],
        ['all_gather', 'nccl', 'int64', 40],
    ]
    assert 'tensor of the CPU' in said['refused'][0]
    assert 'not contiguous' in said['refused'][1]


@pytest.mark.slow
def test_a_compiled_backbone_is_queued_as_cuda_graphs() -> None:
    hook = dict(type='CompileHook', mode='reduce-overhead')
    options = {'custom_hooks': [hook], 'model.backbone.depth': 18}
    report = dry_run(FLAGSHIP, iters=4, options=options)
    assert report['checkpoint'].endswith('iter_4.pth')
    # Captured in the second iteration, also of what is resumed.
    steady, last = report['iterations'][2:]
    for each in (steady, last, report['resumed'][1]):
        # There are 20 convolutions and as many norms, forward and backward.
        assert each['replayed'] > 200
    assert steady['operations'] < 400
    assert last['reserved'] < 1.01 * steady['reserved'], 'memory grows'
    assert syncs_of(steady) == []


@pytest.mark.slow
def test_kernels_of_losses_spill_no_registers() -> None:
    losses = json.loads(run('kernels').splitlines()[-1])
    assert all(losses.values())
    most = {loss: max(spills.values()) for loss, spills in losses.items()}
    assert {loss: spills for loss, spills in most.items() if spills > SPILLS} == {}
