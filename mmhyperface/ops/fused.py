"""The fused engine: the blocked walk with one Triton kernel for each block.

Between the product that gives a block's cosines and those that take its gradient to
features and rows, one kernel does everything: cosine, loss, fold, gradient, in fp32
and without memory of its own. It is written (:mod:`.kernel`) from the same traced
program that the blocked engine runs step by step, so a loss knows nothing of it.
"""

import logging
from functools import cache
from typing import TYPE_CHECKING

import torch
from mmengine.logging import print_log
from torch import Tensor

from mmhyperface.utils.errors import UserError

from . import recycled
from .blocked import Blocked, Visit, Walk
from .elementwise import Program
from .products import add_product, product

if TYPE_CHECKING:
    from .kernel import BlockKernel

# Triton that has all of the functions the kernels use.
OLDEST_TRITON = 3
# A block's products and the copies and products of its rows take so many bytes.
BLOCK_BYTES = 30 * 2**20


@cache
def _triton_missing() -> str | None:
    """Why there is no Triton to use; None if there is."""
    try:
        import triton
    except ImportError:
        return 'it needs Triton, which is not installed (pip install triton)'
    if int(triton.__version__.split('.')[0]) < OLDEST_TRITON:
        return (
            f'it needs Triton {OLDEST_TRITON}.0 or later, which torch 2.4 comes with, '
            f'and this is {triton.__version__}'
        )
    return None


@cache
def _compiles(device: torch.device) -> bool:
    """Whether Triton works there: some versions need a C compiler, say."""
    from .kernel import onto_sphere

    try:
        with torch.cuda.device(device):
            onto_sphere(torch.ones(1, 1, device=device), 'normalize', None)
    except Exception as error:
        print_log(
            f'the fused engine cannot be used, since Triton fails ({error}): the '
            'blocked engine takes its place',
            'current',
            logging.WARNING,
        )
        return False
    return True


class Fused(Blocked):
    """An engine that walks the classes in blocks, with a kernel for each.

    What the kernels do not do, the blocked engine does instead: losses with operations
    unknown to them, which is logged, and types other than fp32.

    Args:
        block: Number of classes in a block; by default as many as take 30 MiB.
        matmul_dtype: Type of the operands of the three products, and of cosines and
            their gradient between product and kernel; by default fp32.

    Raises:
        UserError: On a walk, where the kernels cannot run.
    """

    def __init__(
        self, block: int | None = None, matmul_dtype: torch.dtype | None = None
    ) -> None:
        super().__init__(block, matmul_dtype)
        self._kernels: dict[tuple, tuple[Program, BlockKernel | None]] = {}
        self._unfit: set[str] = set()

    @staticmethod
    def suits(device: torch.device) -> bool:
        """Whether this is the engine of choice for rows on that device."""
        return device.type == 'cuda' and _triton_missing() is None and _compiles(device)

    def visit(self, walk: Walk) -> Visit:
        """See :meth:`.Blocked.visit`."""
        features = walk.features
        _require_kernels(features.device)
        stored = walk.weight if walk.update is None else walk.update.weight
        kernel = None
        if features.dtype == stored.dtype == torch.float32 and stored.is_contiguous():
            kernel = self._kernel(walk)
        if kernel is None or not len(walk) or not features.numel():
            return super().visit(walk)
        with torch.cuda.device_of(features):
            return self._fused_visit(kernel, walk)

    def _fused_visit(self, kernel: 'BlockKernel', walk: Walk) -> Visit:
        from .kernel import Gathering, onto_sphere, take_radial

        features, weight, target = walk.features, walk.weight, walk.target
        update, spared, count = walk.update, walk.spared, len(walk)
        # The kernel's inputs after ``cos``.
        inputs = list(walk.context.values())
        if walk.upstream is not None:
            zeros = torch.zeros_like(walk.upstream)
            inputs += [walk.upstream, zeros if walk.folded is None else walk.folded]
        size = min(self.block or self._default_block(features), count)
        hidden = None
        if spared is not None:
            hidden = target.new_zeros(count, dtype=torch.int8).index_fill_(0, spared, 1)
            starts = torch.arange(0, count + size, size, device=spared.device)
            bounds = torch.searchsorted(spared, starts).tolist()
        by_features = torch.zeros_like(features) if kernel.gradient else None
        by_rows = None
        if kernel.gradient and walk.wants_rows and update is None:
            by_rows = recycled.empty(len(weight), weight)

        x = features.to(self.matmul_dtype or features.dtype)
        copies = x.new_empty((size, x.shape[1])) if x.dtype != weight.dtype else None
        products = x.new_empty((size, len(x)))
        gathering = Gathering(kernel, inputs, target, size, hidden)
        for i, start in enumerate(range(0, count, size)):
            stop = min(start + size, count)
            raw = walk.rows(start, stop)
            rows, factors = onto_sphere(raw, walk.centres, copies)
            slopes = torch.mm(rows, x.T, out=products[: stop - start])
            radial = gathering.add(slopes, factors, start)
            if by_features is None:
                continue
            add_product(by_features, slopes.T, rows)
            if update is not None:
                along = here = None
                if factors is not None and radial is not None:
                    along = radial.sum(0).mul_(factors).mul_(factors)[:, None]
                if spared is not None and bounds[i] < bounds[i + 1]:
                    here = spared[bounds[i] : bounds[i + 1]] - start
                update.step(start, stop, raw, slopes, x, along, here)(slice(None))
            elif by_rows is not None:
                product(slopes, x, by_rows[start:stop])
                if factors is not None and radial is not None:
                    take_radial(by_rows[start:stop], rows, radial, factors)
        folded, hardest, by_context = gathering.result()
        return Visit(folded, hardest, by_features, by_rows, by_context)

    def _kernel(self, walk: Walk) -> 'BlockKernel | None':
        """The kernel of a walk's loss; None if there is none."""
        from .kernel import BlockKernel

        program, loss = walk.program, walk.loss
        if not isinstance(program, Program):
            # Which has been logged already.
            return None
        single = frozenset(
            name for name, value in walk.context.items() if len(value) == 1
        )
        held, kernel = self._kernels.get((id(program), single), (None, None))
        if held is not program:
            if len(self._kernels) > 8:
                self._kernels.clear()
            kernel = None
            try:
                kernel = BlockKernel(program, loss.additive, single)
            except NotImplementedError as error:
                self._tell_unfit(type(loss).__name__, str(error))
            self._kernels[id(program), single] = program, kernel
        return kernel

    def _tell_unfit(self, loss: str, why: str) -> None:
        if loss not in self._unfit:
            self._unfit.add(loss)
            print_log(
                f'the fused engine has no kernel for {loss} ({why}): it works as the '
                'blocked engine does',
                'current',
                logging.WARNING,
            )

    def _default_block(self, features: Tensor) -> int:
        samples, dims = features.shape
        dtype = self.matmul_dtype or features.dtype
        # Besides cosines there may be a gradient of rows, and for 16 bits rows too.
        entries = samples + dims * (1 if dtype == features.dtype else 3)
        rows = BLOCK_BYTES // (entries * dtype.itemsize)
        return max(256, rows // 128 * 128)


def _require_kernels(device: torch.device) -> None:
    reason = _triton_missing()
    if reason is None and device.type != 'cuda':
        from .kernel import INTERPRETED

        # Triton's interpreter, for tests, works on any device.
        if not INTERPRETED:
            reason = f'it needs CUDA, and the class centres are on {device.type}'
    if reason is not None:
        raise UserError(
            f"engine='fused' cannot work here: {reason}; set model.head.engine to "
            "'auto' or 'blocked'"
        )
