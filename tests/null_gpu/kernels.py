"""The Triton kernels of compiled losses, compiled ahead of time for sm_80 and sm_90.

As JSON: of each kernel and size of tile ``loss``, ``name``, ``arch``, ``registers`` and
``spills`` (bytes that a thread stores or loads, whichever is more).
"""

import ctypes
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
    dict(type='SphereFace2Loss', margin_type='C', lam=0.8, r=64.0, m=0.5, t=3.0),
    dict(type='SphereFace2Loss', margin_type='A'),
    dict(type='ArcFaceLoss'),
    dict(type='CosFaceLoss'),
    dict(type='SFaceLoss'),
    dict(type='CurricularFaceLoss'),
    dict(type='SphereFaceRLoss'),
)
# For each the options that ptxas knows it by.
TARGETS = {80: 'sm_80', 90: 'sm_90a'}
PTXAS = Path(triton.__file__).parent / 'backends' / 'nvidia' / 'bin' / 'ptxas'


def statistics(ptx: str, name: str) -> dict[str, int]:
    """What ptxas says of a kernel."""
    with tempfile.NamedTemporaryFile('w', suffix='.ptx') as file:
        file.write(ptx)
        file.flush()
        told = subprocess.run(
            [PTXAS, '-v', f'--gpu-name={name}', file.name, '-o', os.devnull],
            check=True,
            capture_output=True,
            text=True,
        ).stderr
    registers = re.search(r'Used (\d+) registers', told)
    spills = re.findall(r'(\d+) bytes spill', told)
    assert registers is not None, told
    return dict(registers=int(registers[1]), spills=max(map(int, spills)))


def main() -> None:
    library = ctypes.CDLL(f'{os.environ["NULL_GPU"]}/libnullcudart.so')
    compile_one = triton.compile
    asked: list[tuple] = []

    def noted(src: Any, target: Any = None, options: Any = None, **kwargs: Any) -> Any:
        asked.append((src, options))
        return compile_one(src, target=target, options=options, **kwargs)

    triton.compile = noted
    rows = []
    for loss in LOSSES:
        asked.clear()
        head = HypersphereHead(85_742 // 8, 512, loss=dict(loss), engine='blocked')
        head = head.cuda().train()
        labels = torch.arange(64, device='cuda')
        for _ in range(2):
            feats = torch.randn(64, 512).cuda().requires_grad_()
            with NullDevice(library):
                head(feats, labels).backward()
        for src, options in asked:
            for arch, name in TARGETS.items():
                made = compile_one(src, GPUTarget('cuda', arch, 32), options)
                rows.append(
                    dict(loss=str(loss), name=src.name, arch=arch)
                    | statistics(made.asm['ptx'], name)
                )
    print(json.dumps(rows))


if __name__ == '__main__':
    main()
