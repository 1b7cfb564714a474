"""The plan of memory against torch's own allocator, on GPUs that are not there."""

import pytest

from null_gpu.harness import dry_run, missing
from null_gpu.test_null_gpu import require_as_planned

pytestmark = pytest.mark.skipif(missing() is not None, reason=str(missing()))

FLAGSHIP = 'configs/sphereface2_r100_ms1m.py'
MILLIONS = 'configs/cosface_r50_webface42m.py'
SAMPLED = {'model.head.sample_rate': 0.1}
WHOLE = {'model.head.sharded': False}
COPIES = {'model_wrapper_cfg.gradient_as_bucket_view': False}


@pytest.mark.slow
@pytest.mark.parametrize(
    ('config', 'world', 'options'),
    [
        (FLAGSHIP, 1, {}),
        (FLAGSHIP, 8, WHOLE),
        (FLAGSHIP, 64, {}),
        (FLAGSHIP, 8, COPIES),
        *((FLAGSHIP, world, SAMPLED) for world in (1, 8, 64)),
        *((MILLIONS, world, {}) for world in (1, 8, 64)),
    ],
    ids=str,
)
def test_peaks_are_as_planned(config, world, options):
    # No loss scaler, which reads from the device whether to step.
    options = {'optim_wrapper.dtype': 'bfloat16', **options}
    report = dry_run(config, world, 4, options, whole=False)
    require_as_planned(report, config, world, options)
