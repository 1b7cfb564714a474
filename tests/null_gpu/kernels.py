"""Triton's kernels, compiled ahead of time for sm_80 and sm_90: registers and spills.

As a program, those of the compiled losses, as JSON.
"""

import json
import os
import re
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import torch
import triton
from triton.backends.compiler import GPUTarget

from mmhyperface.models import HypersphereHead

from .device import NullDevice

LOSSES = (
    dict(type='SphereFace2Loss', margin_type='A'),
    dict(type='CosFaceLoss'),
    dict(type='SFaceLoss'),
    dict(type='CurricularFaceLoss'),
    dict(type='SphereFaceRLoss'),
)
# For each the options that ptxas knows it by.
TARGETS = {80: 'sm_80', 90: 'sm_90a'}
PTXAS = Path(triton.__file__).parent / 'backends' / 'nvidia' / 'bin' / 'ptxas'
_compile = triton.compile


def recorded() -> list[tuple]:
    """Kernels and options: all that Triton is asked to compile from now on."""
    asked: list[tuple] = []

    def compile(src: Any, target: Any = None, options: Any = None, **kwargs: Any):
        asked.append((src, options))
        return _compile(src, target=target, options=options, **kwargs)

    triton.compile = compile
    return asked


def spills(asked: list[tuple]) -> dict[str, int]:
    """Bytes that a thread stores or loads, whichever is more, of each NAME@ARCH.

    Torch times several sizes of a tile, and takes the fastest: here the one that
    spills least.
    """
    least: dict[str, int] = {}
    for src, options in asked:
        for arch, name in TARGETS.items():
            made = _compile(src, GPUTarget('cuda', arch, 32), options)
            key, spilt = f'{src.name}@{arch}', _spilt(made.asm['ptx'], name)
            least[key] = min(spilt, least.get(key, spilt))
    return least


def _spilt(ptx: str, name: str) -> int:
    with tempfile.NamedTemporaryFile('w', suffix='.ptx') as file:
        file.write(ptx)
        file.flush()
        told = subprocess.run(
            [PTXAS, '-v', f'--gpu-name={name}', file.name, '-o', os.devnull],
            check=True,
            capture_output=True,
            text=True,
        ).stderr
    return max(map(int, re.findall(r'(\d+) bytes spill', told)))


def main() -> None:
    device = NullDevice()
    asked = recorded()
    found = {}
    for loss in LOSSES:
        asked.clear()
        head = HypersphereHead(85_742 // 8, 512, loss=dict(loss), engine='blocked')
        head = head.cuda().train()
        labels = torch.arange(64).cuda()
        for _ in range(2):
            feats = torch.randn(64, 512).cuda().requires_grad_()
            with device:
                head(feats, labels).backward()
        found[str(loss)] = spills(asked)
    print(json.dumps(found))


if __name__ == '__main__':
    main()
