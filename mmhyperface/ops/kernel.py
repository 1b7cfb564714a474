"""Triton kernels of the fused engine; one of them is written for each loss.

Importing this module imports Triton; :mod:`.fused` does so when it needs to.

A block of products [n, B] is cut into tiles of rows and samples. A kernel's program
(p, q) takes every ``parts``-th tile of rows for one tile of samples. What is summed
over the rows, it adds to its own place in buffers [parts, B] that outlive the block;
what is summed over the samples, it writes to [groups, n]. No place has two writers,
so results do not depend on the order of the programs.
"""

import linecache
from collections.abc import Sequence, Set
from functools import cache
from hashlib import sha256
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from .elementwise import Program
from .kernel_source import LOWEST, source

# Entries of a tile: 8 for each of a program's threads, 16 bytes at a time if 16-bit.
TILE = 2048
MAX_SAMPLES = 128
# Enough programs to fill any GPU a few times over.
PROGRAMS = 1024
# A product and a sum are rounded once where the device can.
OPTIONS = {'num_warps': 8, 'enable_fp_fusion': True}


@triton.jit
def log1p(x):  # type: ignore[no-untyped-def]
    """log(1 + x), exact for tiny x, where 1 + x is rounded."""
    u = 1 + x
    # The error of log(u) is undone by that of u - 1; both are exact from 2^24 on.
    corrected = tl.log(u) * (x / tl.where(u == 1, 1.0, u - 1))
    return tl.where(u == 1, x, tl.where(x > 1e8, tl.log(u), corrected))


@triton.jit
def logaddexp(x, y):  # type: ignore[no-untyped-def]
    """log(e^x + e^y)."""
    # Infinities have no difference, and need none.
    gap = tl.where(x == y, 0.0, tl.abs(x - y))
    larger = tl.maximum(x, y, propagate_nan=tl.PropagateNan.ALL)
    return larger + log1p(tl.exp(-gap))


@triton.jit
def expm1(x):  # type: ignore[no-untyped-def]
    """exp(x) - 1, exact for tiny x, where exp(x) is rounded."""
    u = tl.exp(x)
    small = (u != 1) & (tl.abs(x) < 1)
    corrected = (u - 1) * (x / tl.where(small, tl.log(u), 1.0))
    return tl.where(u == 1, x, tl.where(small, corrected, u - 1))


@triton.jit
def sigmoid(x):  # type: ignore[no-untyped-def]
    return 1 / (1 + tl.exp(-x))


@triton.jit
def tanh(x):  # type: ignore[no-untyped-def]
    t = expm1(-2 * tl.abs(x))
    return tl.where(x < 0, t, -t) / (2 + t)


@triton.jit
def acos(x):  # type: ignore[no-untyped-def]
    """The arc cosine in fp32.

    asin(z) = z + z^3 p(z^2) for |z| <= 1/2 (minimax polynomial of the Cephes library,
    asinf.c); beyond, acos(z) = 2 asin(sqrt((1 - z) / 2)), where 1 - z is exact.
    """
    a = tl.abs(x)
    far = a > 0.5
    square = tl.where(far, 0.5 * (1 - a), x * x)
    z = tl.where(far, tl.sqrt_rn(square), x)
    p = 4.2163199048e-2 * square + 2.4181311049e-2
    p = p * square + 4.5470025998e-2
    p = p * square + 7.4953002686e-2
    p = p * square + 1.6666752422e-1
    asin = z + z * square * p
    # pi / 2 and pi as two numbers each, the first rounded to fp32.
    near = 1.5707963705062866 - (asin + 4.371138828673793e-8)
    back = 3.1415927410125732 - (2 * asin + 8.742277657347586e-8)
    return tl.where(far, tl.where(x < 0, back, 2 * asin), near)


# Triton decides when it decorates a function whether that runs in its interpreter.
INTERPRETED = not isinstance(acos, triton.JITFunction)


@triton.jit(do_not_specialize=['count'])
def measure(  # type: ignore[no-untyped-def]
    raw,
    copy,
    inverse,
    count,
    dims,
    PROJECT: tl.constexpr,
    ROWS: tl.constexpr,
    DIMS: tl.constexpr,
):
    """Norms of rows [count, dims], as :func:`.sphere.unit` takes them.

    Args:
        raw: The rows; with PROJECT they are put on the sphere.
        copy: The rows in another type, [count, dims], or None.
        inverse: 1 / norm, or 1 for a zero row, [count]; None with PROJECT.
    """
    j = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    k = tl.arange(0, DIMS)
    inside = (j < count)[:, None] & (k < dims)[None, :]
    at = j[:, None].to(tl.int64) * dims + k[None, :]
    x = tl.load(raw + at, mask=inside, other=0.0)
    largest = tl.max(tl.abs(x), 1)
    largest = tl.where(largest == 0, 1.0, largest)
    scaled = x / largest[:, None]
    norm = tl.sqrt_rn(tl.sum(scaled * scaled, 1))
    norm = tl.where(norm == 0, 1.0, norm)
    if PROJECT:
        x = scaled / norm[:, None]
        tl.store(raw + at, x, mask=inside)
    else:
        tl.store(inverse + j, 1 / (norm * largest), mask=j < count)
    if copy is not None:
        tl.store(copy + at, x.to(copy.dtype.element_ty), mask=inside)


@triton.jit(do_not_specialize=['count', 'groups'])
def make_tangential(  # type: ignore[no-untyped-def]
    gradient,
    rows,
    radial,
    inverse,
    count,
    dims,
    groups,
    ROWS: tl.constexpr,
    DIMS: tl.constexpr,
):
    """Take the radial part off a gradient of rows, in place.

    Args:
        gradient: The gradient by the rows as if they were free, [count, dims].
        rows: The rows, [count, dims].
        radial: Partial sums over samples of cosine times gradient by it,
            [groups, count].
        inverse: 1 / norm of the rows, [count].
    """
    j = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    k = tl.arange(0, DIMS)
    inside = (j < count)[:, None] & (k < dims)[None, :]
    at = j[:, None].to(tl.int64) * dims + k[None, :]
    total = tl.zeros((ROWS,), tl.float32)
    for group in range(groups):
        total += tl.load(radial + group * count + j, mask=j < count, other=0.0)
    factor = tl.load(inverse + j, mask=j < count, other=0.0)
    unit = tl.load(rows + at, mask=inside, other=0.0).to(tl.float32) * factor[:, None]
    x = tl.load(gradient + at, mask=inside, other=0.0)
    x -= unit * (total * factor)[:, None]
    tl.store(gradient + at, x, mask=inside)


def _row_tiles(rows: Tensor) -> tuple[tuple[int], dict[str, Any]]:
    """Grid and tile of a kernel that goes over rows [n, D] once."""
    count, dims = rows.shape
    wide = triton.next_power_of_2(dims)
    tile = max(1, TILE // wide)
    return (triton.cdiv(count, tile),), {'ROWS': tile, 'DIMS': wide, **OPTIONS}


def onto_sphere(
    raw: Tensor, centres: str, copies: Tensor | None
) -> tuple[Tensor, Tensor | None]:
    """Rows to multiply by, and what makes their products cosines.

    Args:
        raw: Rows in fp32, [n, D], contiguous; put on the sphere, in place, for
            ``project``.
        centres: As in :func:`.dense.dense`.
        copies: Memory [at least n, D] for the rows in another type, if wanted.

    Returns:
        Rows [n, D], and their inverse norms [n] for ``normalize``, else None.
    """
    copy = None if copies is None else copies[: len(raw)]
    if centres == 'unit':
        return (raw, None) if copy is None else (copy.copy_(raw), None)
    factors = raw.new_empty(len(raw)) if centres == 'normalize' else None
    grid, tile = _row_tiles(raw)
    measure[grid](raw, copy, factors, *raw.shape, factors is None, **tile)
    return (raw if copy is None else copy), factors


def take_radial(
    gradient: Tensor, rows: Tensor, radial: Tensor, factors: Tensor
) -> None:
    """Make a gradient of rows tangential; see :func:`make_tangential`."""
    grid, tile = _row_tiles(rows)
    make_tangential[grid](
        gradient, rows, radial, factors, *rows.shape, len(radial), **tile
    )


@cache
def _function(text: str) -> Any:
    """The Triton function of that source text, which Triton reads line by line."""
    name = f'<mmhyperface kernel {sha256(text.encode()).hexdigest()[:16]}>'
    linecache.cache[name] = len(text), None, text.splitlines(keepends=True), name
    functions = acos, expm1, log1p, logaddexp, sigmoid, tanh
    namespace: dict[str, Any] = {f.__name__: f for f in functions}
    namespace.update(triton=triton, tl=tl, __name__=__name__)
    exec(compile(text, name, 'exec'), namespace)
    return namespace['block']


class BlockKernel:
    """The kernel of a program.

    Args:
        program, additive, single: See :func:`.kernel_source.source`.
    """

    def __init__(self, program: Program, additive: bool, single: Set[str]) -> None:
        self.text, self.numbers = source(program, additive, single)
        self.additive = additive
        self.gradient = 'cos' in program.outputs
        # Inputs whose gradient it sums.
        self.wanted = [n for n in program.inputs if n in program.outputs and n != 'cos']

    @property
    def function(self) -> Any:
        """The Triton function, which cannot be copied with the rest."""
        return _function(self.text)


class Gathering:
    """A walk's calls of a kernel, and what they sum over all classes.

    Args:
        kernel: The kernel.
        inputs: Its inputs after ``cos``, [B, 1] or [1, 1].
        target: Row of each sample's own class, int64 [B].
        size: Number of rows of the largest block.
        hidden: Which rows do not count, int8 [c]; None for none.
    """

    def __init__(
        self,
        kernel: BlockKernel,
        inputs: Sequence[Tensor],
        target: Tensor,
        size: int,
        hidden: Tensor | None = None,
    ) -> None:
        self.kernel = kernel
        self.inputs = [value.detach().contiguous() for value in inputs]
        self.target = target.contiguous()
        self.hidden = hidden
        samples = len(target)
        width = min(MAX_SAMPLES, triton.next_power_of_2(samples))
        height = TILE // width
        self.tile = {'ROWS': height, 'SAMPLES': width, **OPTIONS}
        groups = triton.cdiv(samples, width)
        parts = min(triton.cdiv(size, height), max(1, PROGRAMS // groups))
        self.grid = parts, groups
        options: dict[str, Any] = {'device': target.device, 'dtype': torch.float32}
        self.hardest = torch.full((parts, samples), -1.0, **options)
        self.sums = torch.zeros_like(self.hardest)
        self.tops = torch.full_like(self.hardest, float(LOWEST))
        self.context = [torch.zeros_like(self.hardest) for _ in kernel.wanted]

    def add(
        self, products: Tensor, factors: Tensor | None, first: int
    ) -> Tensor | None:
        """Let the kernel go over a block.

        Args:
            products: Products of rows and features, [n, B], contiguous; replaced by
                the gradient by them if the kernel has one.
            factors: What makes them cosines, [n]; None for 1.
            first: First row of the block.

        Returns:
            Partial sums over the samples of cosine times gradient by it,
            [groups, n]; None without ``factors`` or gradient.
        """
        rows, samples = products.shape
        radial = None
        if self.kernel.gradient and factors is not None:
            radial = self.sums.new_empty((self.grid[1], rows))
        self.kernel.function[self.grid](
            products,
            factors,
            self.target,
            self.hidden,
            radial,
            self.hardest,
            self.sums,
            self.tops,
            *self.inputs,
            *self.context,
            *self.kernel.numbers,
            samples,
            rows,
            first,
            **self.tile,
        )
        return radial

    def result(self) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """Fold, hardest cosine and gradients of the context, all [B, 1].

        The fold is of no use where the kernel was given that of all classes.
        """
        if self.kernel.additive:
            folded = self.sums.sum(0)
        else:
            top = self.tops.amax(0)
            folded = (self.sums * (self.tops - top).exp()).sum(0).log() + top
        context = {
            name: sums.sum(0)[:, None]
            for name, sums in zip(self.kernel.wanted, self.context, strict=True)
        }
        return folded[:, None], self.hardest.amax(0)[:, None], context
