import os
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import NamedTuple

import pytest

# The tests share helpers (runs.py, oracles.py, record_files.py), and look into tools
# by their bare names; spawned processes need them too. Python has a module `test`.
HERE = Path(__file__).parent
FOLDERS = '', 'models', 'datasets', 'weights', 'evaluation'
sys.path[:0] = [str(HERE / name) for name in FOLDERS]
TOOLS = HERE.parent / 'tools'
sys.path += [str(TOOLS), *(str(path) for path in TOOLS.iterdir() if path.is_dir())]

REAL_FACES = 'MMHYPERFACE_REAL_FACES'


@pytest.fixture(scope='session', autouse=True)
def _unformatted_configs() -> None:
    from runs import leave_configs_unformatted

    leave_configs_unformatted()


@pytest.fixture
def call_main(monkeypatch, capsys) -> Callable[..., str]:
    """Call the ``main`` of a tool: what it prints. Errors are raised as they are."""

    def call(tool: str, *arguments: object) -> str:
        monkeypatch.setattr(sys, 'argv', [f'{tool}.py', *map(str, arguments)])
        import_module(tool).main()
        return capsys.readouterr().out

    return call


class Done(NamedTuple):
    """A tool that has ended."""

    status: int
    out: str
    err: str


@pytest.fixture
def run_tool(monkeypatch, capsys) -> Callable[..., Done]:
    """Be a script of tools/, in the process of the test, for imports take long."""
    from runs import call_tool

    def run(tool: str, *arguments: object) -> Done:
        status = 0
        try:
            call_tool(monkeypatch, tool, *arguments)
        except SystemExit as stop:
            status = stop.code or 0
        return Done(status, *capsys.readouterr())

    return run


@pytest.fixture
def real_faces() -> str:
    """A folder of real faces, root/identity/image, of at least 20 people."""
    folder = os.environ.get(REAL_FACES)
    if not folder:
        pytest.skip(f'set {REAL_FACES} to a folder of faces: root/identity/image')
    return folder
