"""What the fused engine is where, and its kernels (fused_kernels.py)."""

import inspect
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from runs import run_script

from mmhyperface.models import HypersphereHead
from mmhyperface.ops import Blocked, Fused, fused
from mmhyperface.ops.elementwise import trace
from mmhyperface.utils.errors import UserError

TRITON = fused._triton_missing() is None
SLOW = pytest.mark.slow


@pytest.mark.skipif(not TRITON, reason=f'{fused._triton_missing()}')
@pytest.mark.parametrize('which', ['not slow', pytest.param('slow', marks=SLOW)])
def test_kernels(which):
    path = Path(__file__).with_name('fused_kernels.py')
    interpreted = {} if torch.cuda.is_available() else {'TRITON_INTERPRET': '1'}
    result = run_script(path, '-m', which, env={**os.environ, **interpreted})
    assert result.returncode == 0, result.stdout[-5000:]


def compile_for_hopper(function, types: dict[str, str], **constants) -> None:
    """Compile a Triton function to machine code, which needs no GPU."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    names = function.arg_names
    signature = {n: 'constexpr' if n in constants else types[n] for n in names}
    source = ASTSource(fn=function, signature=signature, constexprs=constants)
    compiled = triton.compile(
        source, target=GPUTarget('cuda', 90, 32), options={'enable_fp_fusion': True}
    )
    assert compiled.asm['cubin']


def can_compile() -> bool:
    if not TRITON:
        return False
    from triton.compiler import ASTSource

    return 'constexprs' in inspect.signature(ASTSource).parameters


compiles = pytest.mark.skipif(not can_compile(), reason='Triton of another interface')


@compiles
@pytest.mark.parametrize(
    ('name', 'gradient', 'product', 'absent'),
    [
        ('softmax', False, 'bf16', ['hidden', 'radial']),
        ('softmax', True, 'bf16', ['hidden']),
        ('decoupled', True, 'fp16', []),
        ('functions', True, 'fp32', ['factors', 'radial']),
    ],
)
def test_kernels_compile(name, gradient, product, absent, monkeypatch, tmp_path):
    """What the interpreter lets pass: types, shapes, sizes."""
    from fused_kernels import TWO_FAMILIES, OneFunction, every_function

    from mmhyperface.ops.kernel import BlockKernel

    monkeypatch.setenv('TRITON_CACHE_DIR', str(tmp_path))
    losses = TWO_FAMILIES | {'functions': lambda: OneFunction(every_function)}
    loss, own = losses[name](), torch.full((2, 1), 0.3, requires_grad=True)
    context = loss.context(own, own + 5)
    single = {name for name, value in context.items() if len(value) == 1}
    program = trace(loss, context, own.detach(), gradient)
    kernel = BlockKernel(program, loss.additive, single)
    types = {'target': '*i64', 'hidden': '*i8', 'products': f'*{product}'}
    types |= {name: 'i32' for name in ('samples', 'rows', 'first')}
    for arg in kernel.function.arg_names:
        number = arg[0] == 'n' and arg[1:].isdigit()
        types.setdefault(arg, 'fp32' if number else '*fp32')
    constants = {'ROWS': 4, 'SAMPLES': 128} | dict.fromkeys(absent)
    compile_for_hopper(kernel.function, types, **constants)


@compiles
def test_kernels_of_rows_compile(monkeypatch, tmp_path):
    from mmhyperface.ops import kernel

    monkeypatch.setenv('TRITON_CACHE_DIR', str(tmp_path))
    types = dict.fromkeys(('raw', 'inverse', 'gradient', 'radial'), '*fp32')
    types |= {'copy': '*bf16', 'rows': '*bf16'}
    types |= dict.fromkeys(('count', 'dims', 'groups'), 'i32')
    tile = {'ROWS': 4, 'DIMS': 512}
    compile_for_hopper(kernel.measure, types, PROJECT=False, **tile)
    absent = {'inverse': None, 'copy': None}
    compile_for_hopper(kernel.measure, types, PROJECT=True, **absent, **tile)
    compile_for_hopper(kernel.make_tangential, types, **tile)


def test_the_cpu_has_no_fused_engine(monkeypatch):
    if TRITON:
        monkeypatch.setattr('mmhyperface.ops.kernel.INTERPRETED', False)
    head = HypersphereHead(10, 4, dict(type='ArcFaceLoss'), engine='fused')
    message = 'needs CUDA' if TRITON else 'needs Triton'
    with pytest.raises(UserError, match=message):
        head._loss(torch.randn(2, 4), torch.tensor([1, 2]))


def test_without_triton(monkeypatch):
    monkeypatch.setitem(sys.modules, 'triton', None)
    fused._triton_missing.cache_clear()
    try:
        assert not Fused.suits(torch.device('cuda'))
        head = HypersphereHead(5000, 4, dict(type='ArcFaceLoss'))
        assert type(head._engine(torch.device('cuda'))) is Blocked
        head.engine = 'fused'
        with pytest.raises(UserError, match='not installed'):
            head._loss(torch.randn(2, 4), torch.tensor([1, 2]))
    finally:
        fused._triton_missing.cache_clear()


def test_auto(monkeypatch):
    head = HypersphereHead(5000, 4, dict(type='ArcFaceLoss'))
    blocked = head._engine(torch.device('cpu'))
    assert type(blocked) is Blocked
    assert head._engine(torch.device('cpu')) is blocked
    monkeypatch.setattr(fused, '_triton_missing', lambda: None)
    monkeypatch.setattr(fused, '_compiles', lambda device: True)
    engine = head._engine(torch.device('cuda'))
    assert type(engine) is Fused
    assert head._engine(torch.device('cuda')) is engine


def test_triton_is_imported_only_when_needed():
    code = 'import sys, mmhyperface.ops; sys.exit("triton" in sys.modules)'
    assert subprocess.run([sys.executable, '-c', code]).returncode == 0


@pytest.mark.parametrize('dtype', [None, torch.bfloat16], ids=str)
def test_memory_of_a_block(dtype):
    """At most a twentieth of the logits of 360,232 classes in 16 bits."""
    engine = Fused(matmul_dtype=dtype)
    samples, classes, dims = 1024, 360_232, 512
    rows = engine._default_block(torch.empty(samples, dims, device='meta'))
    width = 4 if dtype is None else 2
    cosines, gradient = rows * samples * width, rows * dims * 4
    copies = 0 if dtype is None else rows * dims * width
    share = (cosines + gradient + copies) / (samples * classes * 2)
    assert 0.035 < share < 0.045
