import pytest

from mmhyperface.datasets import face_dataset
from mmhyperface.datasets.readers import ijb_meta


@pytest.fixture(autouse=True)
def cache_folders(tmp_path, monkeypatch):
    """Indexes of records are kept nowhere else."""
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'cache'))


@pytest.fixture
def warnings(monkeypatch):
    """What data sets warn of."""
    lines = []
    for module in (face_dataset, ijb_meta):
        monkeypatch.setattr(module, 'print_log', lambda text, *_: lines.append(text))
    return lines
