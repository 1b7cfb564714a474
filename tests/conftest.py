import os
import sys
from pathlib import Path

import pytest

# The tests share helpers (runs.py, oracles.py, record_files.py), and look into tools
# that import one another by their bare names; spawned processes need them too.
HERE = Path(__file__).parent
FOLDERS = (
    *('', 'models', 'datasets', 'weights', 'evaluation'),
    *('../tools/dataset_converters', '../tools/benchmarks'),
)
sys.path[:0] = [str((HERE / folder).resolve()) for folder in FOLDERS]

REAL_FACES = 'MMHYPERFACE_REAL_FACES'


@pytest.fixture(scope='session', autouse=True)
def _unformatted_configs() -> None:
    from runs import leave_configs_unformatted

    leave_configs_unformatted()


@pytest.fixture
def real_faces() -> str:
    """A folder of real faces, root/identity/image, of at least 20 people."""
    folder = os.environ.get(REAL_FACES)
    if not folder:
        pytest.skip(f'set {REAL_FACES} to a folder of faces: root/identity/image')
    return folder
