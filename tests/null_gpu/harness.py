"""Runs a program where torch sees eight GPUs that are not there.

from null_gpu.harness import dry_run, missing
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from contextlib import AbstractContextManager
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

HERE = Path(__file__).parent
ROOT = HERE.parent.parent


@cache
def _compiler() -> str | None:
    return next(filter(None, map(shutil.which, ('cc', 'gcc', 'clang'))), None)


@cache
def _headers() -> Path | None:
    """A folder with CUDA's headers: Triton brings them, a toolkit has them."""
    places = [Path(os.environ.get('CUDA_HOME', '/usr/local/cuda'), 'include')]
    triton = find_spec('triton')
    if triton is not None and triton.origin is not None:
        backend = Path(triton.origin).parent / 'backends' / 'nvidia'
        places.insert(0, backend / 'include')
    needed = 'cuda_runtime_api.h', 'crt/host_defines.h'
    return next((x for x in places if all((x / n).is_file() for n in needed)), None)


def missing() -> str | None:
    """Why there can be no null GPU here; None if there can."""
    if torch.version.cuda is None:
        return 'torch is not built for CUDA'
    if sys.platform != 'linux':
        return 'a library can be preloaded on Linux only'
    if _compiler() is None:
        return 'there is no C compiler'
    if _headers() is None:
        return "there are no headers of CUDA's runtime"
    return None


def _build(folder: Path) -> None:
    for source, library in (('cudart', 'libnullcudart.so'), ('driver', 'libcuda.so.1')):
        subprocess.run(
            [
                *(_compiler(), '-shared', '-fPIC', '-O1', '-w', f'-I{_headers()}'),
                *('-o', folder / library, HERE / f'{source}.c', '-lpthread'),
            ],
            check=True,
        )


def run(module: str, *arguments: str, world: int = 8) -> str:
    """What ``python -m null_gpu.MODULE`` prints, see :func:`python`."""
    return python('-m', f'null_gpu.{module}', *arguments, world=world)


def python(*arguments: object, world: int = 8, cache: str | None = None) -> str:
    """What ``python`` with these arguments prints, as rank 0 of `world`.

    Compiled kernels are kept in `cache`; by default all are compiled, to be looked at.

    Raises:
        RuntimeError: With all that it wrote, if it ends with an error.
    """
    folders: AbstractContextManager[str] = tempfile.TemporaryDirectory()
    with folders as folder:
        _build(Path(folder))
        done = subprocess.run(
            [sys.executable, *map(str, arguments)],
            cwd=ROOT,
            env={
                **os.environ,
                'TORCHINDUCTOR_CACHE_DIR': cache or f'{folder}/inductor',
                'NULL_GPU': folder,
                'PYTHONFAULTHANDLER': '1',
                'LD_PRELOAD': f'{folder}/libnullcudart.so',
                'LD_LIBRARY_PATH': folder,
                'PYTHONPATH': f'{ROOT}{os.pathsep}{HERE.parent}',
                'OMP_NUM_THREADS': '1',
                'CUDA_VISIBLE_DEVICES': ','.join(map(str, range(8))),
                'RANK': '0',
                'LOCAL_RANK': '0',
                'WORLD_SIZE': str(world),
                'MASTER_ADDR': '127.0.0.1',
                'MASTER_PORT': '1',
                'TORCHINDUCTOR_COMPILE_THREADS': '1',
            },
            capture_output=True,
            text=True,
        )
    if done.returncode:
        raise RuntimeError(f'{arguments}\n{done.stdout}\n{done.stderr}')
    return done.stdout


def dry_run(
    config: str,
    world: int = 8,
    iters: int = 5,
    options: dict[str, Any] | None = None,
    whole: bool = True,
) -> dict[str, Any]:
    """What a training of a config does on GPUs that are not there.

    Args:
        config: Path below the root of the repository.
        world: Number of ranks, of which this is the first.
        iters: Iterations of training.
        options: As ``--cfg-options``.
        whole: Also validate, save a checkpoint, and resume.

    Returns:
        The report that :mod:`null_gpu.dry_run` describes.
    """
    arguments = ['--iters', str(iters), '--options', json.dumps(options or {})]
    output = run('dry_run', config, *arguments, *['--whole'] * whole, world=world)
    return json.loads(output.splitlines()[-1])
