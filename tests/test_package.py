"""What a wheel holds, and what the pages say of the files."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
LIST = """
from setuptools import distutils
build = distutils.core.run_setup('setup.py', stop_after='init').get_command_obj(
    'build_py')
build.ensure_finalized()
print(*(file for _, source, _, files in build.data_files for file in files))
"""


def test_a_wheel_holds_what_users_run_and_no_benchmarks():
    command = [sys.executable, '-c', LIST]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    packed = set(done.stdout.split())
    assert {'py.typed', '.mim/model-index.yml'} <= packed
    for folder in ('tools', 'configs'):
        files = {
            f'.mim/{path.relative_to(ROOT)}'
            for path in (ROOT / folder).rglob('*')
            if path.suffix in ('.py', '.sh', '.yml')
        }
        benchmarks = {name for name in files if 'benchmarks/' in name}
        assert packed & files == files - benchmarks
        assert (folder == 'tools') == bool(benchmarks)


@pytest.mark.parametrize('page', ['README.md', 'docs/architecture.md'])
def test_links_lead_to_files(page):
    path = ROOT / page
    links = re.findall(r'\]\(([^)#\s]+)', path.read_text(encoding='utf-8'))
    local = [link for link in links if '://' not in link]
    assert local
    assert [link for link in local if not (path.parent / link).exists()] == []


def test_the_map_shows_every_room():
    page = (ROOT / 'docs' / 'architecture.md').read_text(encoding='utf-8')
    shown = re.findall(r'^\| \[`(\w+)`\]', page, re.M)
    rooms = {
        path.stem
        for path in (ROOT / 'mmhyperface').iterdir()
        if path.suffix == '.py' or (path / '__init__.py').is_file()
    }
    assert sorted(shown) == sorted(rooms - {'__init__', 'version'})
