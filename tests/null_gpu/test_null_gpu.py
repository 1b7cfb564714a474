"""Training on GPUs that are not there: what can be counted without one.

Not seen are numbers, times, NCCL, and the workspaces of cuDNN.
"""

import json
from collections import Counter
from typing import Any

import pytest

from null_gpu.harness import dry_run, missing, run

pytestmark = pytest.mark.skipif(missing() is not None, reason=str(missing()))

FLAGSHIP = 'configs/sphereface2_r100_ms1m.py'
SOFTMAX = 'configs/arcface_r50_ms1mv3.py'
# Most times that the host waits for the device in an iteration, and none before the
# backward pass is queued.
HOST_SYNCS = 2
# DDP takes times in its first ten iterations, and then in one of a hundred.
DDP_TIMES = 'cudaEventSynchronize', 'mmengine/model/wrappers/distributed.py'
# Bytes of registers that a thread may spill into memory.
SPILLS = 16


def syncs_of(iteration: dict[str, Any]) -> list[tuple[str, ...]]:
    """Where the host waited in an iteration."""
    return [
        tuple(sync)
        for sync in iteration['syncs']
        if (sync[1], sync[2].partition(':')[0]) != DDP_TIMES
    ]


def require_no_losses(report: dict[str, Any]) -> None:
    # The third iteration is like all that follow: in the second DDP sorts its buckets.
    steady = report['iterations'][2]
    assert steady['operations'] > 1000
    assert report['unknown'] == {}
    assert list(report['convolutions']) == ['channels_last']
    assert report['graphs'] >= 1  # the blocked engine's
    assert report['breaks'] == []
    # NCCL's group is a stand-in that refuses what NCCL does; labels stay on the host.
    by_host = [each for each in steady['exchanges'] if each[1] != 'nccl']
    assert {dtype for _, _, dtype, _ in by_host} == {'int64'}
    assert sum(count for *_, count in by_host) < 2**16
    last = report['iterations'][-1]
    assert last['allocated'] < 1.01 * steady['allocated'], 'memory grows'
    syncs = syncs_of(steady)
    assert len(syncs) <= HOST_SYNCS, Counter(syncs)
    early = [sync for sync in syncs if sync[0] in ('forward', 'backward')]
    assert early == []


def test_the_flagship_trains_validates_saves_and_resumes() -> None:
    report = dry_run(FLAGSHIP, iters=4)
    assert report['checkpoint'].endswith('iter_4.pth')
    assert len(report['resumed']) == 2
    require_no_losses(report)


def test_a_softmax_loss_trains() -> None:
    require_no_losses(dry_run(SOFTMAX, iters=4, whole=False))


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
    assert said['quiet'] == 0
    assert said['syncs'] == [
        'copy to pageable memory',
        *('nonzero', 'copy to pageable memory'),
        *('boolean index', 'copy to pageable memory'),
        'cudaStreamSynchronize',
        'copy from pageable memory',
        'cudaDeviceSynchronize',
        *['copy to pageable memory'] * 3,
    ]
    assert [place.partition(':')[0] for place in said['convolutions']] == ['other']
    assert said['exchanges'] == [
        ['all_reduce', 'nccl', 'float32', 48],
        ['all_reduce', 'gloo', 'float32', 8],
        ['all_gather', 'nccl', 'int64', 40],
    ]
    assert 'tensor of the CPU' in said['refused'][0]
    assert 'not contiguous' in said['refused'][1]


@pytest.mark.slow
def test_a_compiled_backbone_is_one_graph() -> None:
    hook = dict(type='CompileHook', backend='eager')
    report = dry_run(FLAGSHIP, 8, 4, {'custom_hooks': [hook]}, whole=False)
    # With the engine's, and that of the hook's trial.
    assert report['graphs'] == 3
    require_no_losses(report)


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
    kernels = json.loads(run('kernels').splitlines()[-1])
    assert {kernel['arch'] for kernel in kernels} == {80, 90}
    # Torch times several sizes of a tile, and takes the fastest.
    least: dict[tuple, int] = {}
    for kernel in kernels:
        key = kernel['loss'], kernel['name'], kernel['arch']
        least[key] = min(kernel['spills'], least.get(key, kernel['spills']))
    assert {key: spills for key, spills in least.items() if spills > SPILLS} == {}
