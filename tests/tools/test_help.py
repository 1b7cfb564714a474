"""What every tool tells of itself, at once."""

import ast
import json
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

from mmhyperface.models.backbones import sfnet
from mmhyperface.utils.choices import SFNET_VARIANTS

TOOLS = Path(__file__).parents[2] / 'tools'
# dist_run.py is torchrun, whose options are torch's.
PATHS = [
    str(path)
    for path in sorted(TOOLS.rglob('*.py'))
    if '__main__' in path.read_text(encoding='utf-8') and path.name != 'dist_run.py'
]
# All of them in one process, as long as none of them imports torch.
ASK = """
import contextlib, io, json, os, runpy, sys
answers = {}
for path in sys.argv[1:]:
    sys.argv[:] = [path, '--help']
    sys.path.insert(0, os.path.dirname(path))
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        try:
            runpy.run_path(path, run_name='__main__')
            status = None
        except SystemExit as end:
            status = end.code
    sys.path.pop(0)
    heavy = [name for name in ('torch', 'mmpretrain', 'pandas') if name in sys.modules]
    answers[path] = [status, printed.getvalue(), heavy]
print(json.dumps(answers))
"""


def test_help_comes_without_torch():
    assert len(PATHS) > 40
    command = [sys.executable, '-c', ASK, *PATHS]
    run = subprocess.run(command, capture_output=True, text=True, check=True)
    answers = json.loads(run.stdout)
    assert [path for path in PATHS if answers[path][0] != 0] == []
    assert [path for path in PATHS if not answers[path][1].startswith('usage:')] == []
    assert [(path, answers[path][2]) for path in PATHS if answers[path][2]] == []


def test_names_of_choices_are_those_that_there_are():
    assert tuple(sfnet.VARIANTS) == SFNET_VARIANTS


@pytest.mark.parametrize(
    'name', ['apis', 'deployment', 'evaluation', 'inference', 'weights']
)
def test_names_that_are_imported_when_asked_have_types(name):
    package = import_module(f'mmhyperface.{name}')
    tree = ast.parse(Path(package.__file__).read_text(encoding='utf-8'))
    (typed, _) = (node for node in tree.body if isinstance(node, ast.If))
    places = {
        alias.asname: '.' * line.level + line.module
        for line in typed.body
        for alias in line.names
    }
    assert places == package._PLACES
    assert set(dir(package)) >= set(places)
    assert all(hasattr(package, each) for each in places)
    assert not hasattr(package, 'nothing')
