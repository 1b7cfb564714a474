"""The plan of memory against torch's own allocator, on GPUs that are not there."""

import pytest

from mmhyperface.engine.launch import load_config
from mmhyperface.engine.memory_plan import Planner
from null_gpu.harness import ROOT, missing, peaks

pytestmark = pytest.mark.skipif(missing() is not None, reason=str(missing()))

FLAGSHIP = 'configs/sphereface2_r100_ms1m.py'
MILLIONS = 'configs/cosface_r50_webface42m.py'
SAMPLED = {'model.head.sample_rate': 0.1}
WHOLE = {'model.head.sharded': False}
COPIES = {'model_wrapper_cfg.gradient_as_bucket_view': False}

SLOW = [
    (FLAGSHIP, 1, {}),
    (FLAGSHIP, 8, WHOLE),
    (FLAGSHIP, 64, {}),
    (FLAGSHIP, 8, COPIES),
    *((FLAGSHIP, world, SAMPLED) for world in (1, 8, 64)),
    *((MILLIONS, world, {}) for world in (1, 8, 64)),
]


@pytest.mark.parametrize(
    ('config', 'world', 'options'),
    [
        (FLAGSHIP, 8, {}),
        *(pytest.param(*case, marks=pytest.mark.slow) for case in SLOW),
    ],
    ids=str,
)
def test_peaks_are_as_planned(config, world, options):
    # No loss scaler, which reads from the device whether to step.
    options = {'optim_wrapper.dtype': 'bfloat16', **options}
    allocated, reserved = peaks(config, world, options)
    plan = Planner(load_config(str(ROOT / config), options)).plan(world)
    assert plan.allocated == pytest.approx(allocated, rel=0.02)
    assert allocated < reserved <= plan.reserved
