"""The blocked engine: a walk over the classes that never holds B x C.

For a block of rows W_j with norms n_j and unit features x_i:

    cos_ij = x_i . W_j / n_j,  o_ij = others(cos_ij),  g_ij = dL / d cos_ij
    dL / d x_i = sum_j g_ij W_j / n_j
    dL / d W_j = (sum_i g_ij x_i - (sum_i g_ij cos_ij) W_j / n_j) / n_j,

so the rows are never copied to be normalised. Where the fold is a sum, g needs the
terms of no other class, and one visit to each block does all: three products. Where
it is a log-sum-exp the first visit finds that, and the second, in backward, computes
the cosines again: four products.
"""

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from mmengine.logging import print_log
from torch import Tensor

from mmhyperface.utils.errors import UserError

from . import recycled
from .block import Block, Frame
from .denormals import denormals_flushed
from .elementwise import (
    Bindable,
    Buffers,
    Program,
    RandomTermsError,
    Terms,
    operations,
    trace,
)
from .fold import Fold
from .products import add_product, product
from .sphere import are_exact, project, row_norms, unit
from .update import Update

if TYPE_CHECKING:
    from mmhyperface.models.losses.base import Context, HypersphereLoss


# Entries of the rows of a tile: a megabyte in fp32.
TILE_ENTRIES = 2**18


@dataclass
class Walk:
    """What is to be visited, and what for.

    Attributes:
        features, weight, target, context, loss, centres, update: As in
            :func:`.dense.dense`; ``centres`` may also be ``unit``, for rows that are
            on the sphere already.
        program: The loss as it was when its value was asked for.
        upstream: Gradient of the fold, [B, 1], if gradients are wanted.
        folded: The fold of all classes, [B, 1], where a gradient needs it.
        wants_rows: Whether the gradient of the rows is wanted.
        norms: Norms of the rows of each block, where an earlier visit took them.
    """

    features: Tensor
    weight: Tensor
    target: Tensor
    context: 'Context'
    loss: 'HypersphereLoss'
    centres: str
    program: Bindable
    upstream: Tensor | None = None
    folded: Tensor | None = None
    update: Update | None = None
    wants_rows: bool = True
    norms: Sequence[Tensor | None] = ()

    def __len__(self) -> int:
        """Number of rows to be visited."""
        return len(self.weight if self.update is None else self.update)

    def rows(self, start: int, stop: int) -> Tensor:
        """Some of them, as they are stored."""
        if self.update is None:
            return self.weight.data[start:stop]
        return self.update.rows(start, stop)

    @property
    def spared(self) -> Tensor | None:
        """Rows that do not count, sorted int64 [K]."""
        return None if self.update is None else self.update.spared


@dataclass
class Visit:
    """What one walk over the classes yields.

    Attributes:
        folded: Fold of the terms, [B, 1].
        hardest: Largest cosine to another centre, [B, 1].
        features, rows: Gradients, [B, D] and [c, D]; None where not asked for.
        context: Gradients of the context, [B, 1], by name.
        norms: Norms of the rows of each block, for a second visit.
    """

    folded: Tensor
    hardest: Tensor
    features: Tensor | None = None
    rows: Tensor | None = None
    context: dict[str, Tensor] | None = None
    norms: list[Tensor | None] = field(default_factory=list)


class Blocked:
    """An engine that walks the classes in blocks.

    Args:
        block: Number of classes in a block; by default as many as stay in a
            processor's cache, or keep a GPU busy.
        matmul_dtype: Type of the operands of the three products, such as
            ``torch.bfloat16``; by default that of the features.
        tile: Number of rows of a block that one product takes; by default as many as
            stay near a processor from one to the next, and all on a GPU.
    """

    def __init__(
        self,
        block: int | None = None,
        matmul_dtype: torch.dtype | None = None,
        tile: int | None = None,
    ) -> None:
        self.block = block
        self.tile = tile
        self.matmul_dtype = matmul_dtype
        # What backward was given last time, as a multiple of what was expected.
        self.upstream_scale = 1.0
        self._programs: dict[tuple, dict[bool, Program | None]] = {}
        self._untraced: set[str] = set()
        self._buffers: Buffers | None = None

    def __call__(
        self,
        features: Tensor,
        weight: Tensor,
        target: Tensor,
        context: 'Context',
        loss: 'HypersphereLoss',
        centres: str = 'normalize',
        expected: float = 1.0,
        update: Update | None = None,
    ) -> Fold:
        """See :func:`.dense.dense`."""
        names = tuple(context)
        if update is not None:
            # Rows may step in backward, which must come even if no feature learns.
            features = features if features.requires_grad else _leaf(features)
        folded, hardest = _WalkFunction.apply(
            self,
            loss,
            centres,
            expected,
            update,
            names,
            features,
            weight,
            target,
            *context.values(),
        )
        return Fold(folded, hardest)

    @denormals_flushed()
    def visit(self, walk: Walk) -> Visit:
        """Visit all classes once."""
        features, loss, upstream = walk.features, walk.loss, walk.upstream
        # On CPUs two of the three products are faster with column-major operands.
        x = features.to(self.matmul_dtype or features.dtype).T.contiguous().T
        total = features.new_full((len(features), 1), loss.neutral)
        hardest = torch.full_like(total, -1)
        visit = Visit(total, hardest)
        inputs: dict[str, Tensor] = dict(walk.context)
        if upstream is not None:
            inputs['upstream'] = upstream
            inputs['folded'] = total if walk.folded is None else walk.folded
            visit.features = features.new_zeros(features.shape)
            visit.context = {
                name: torch.zeros_like(total)
                for name, value in walk.context.items()
                if value.requires_grad
            }
            if walk.wants_rows and walk.update is None:
                visit.rows = recycled.empty(len(walk.weight), walk.weight)
        frames: dict[int, Frame] = {}
        for i, block in enumerate(self._blocks(walk)):
            size = block.stop - block.start
            if size not in frames:
                assert self._buffers is not None
                frames[size] = Frame(size, walk.program, inputs, self._buffers)
            frame = frames[size]
            known = walk.norms[i] if walk.norms else None
            norms = self._prepare(x, block, walk.centres, frame.products, known)
            visit.norms.append(norms)
            frame.evaluate(block)
            if upstream is None or loss.additive:
                # Otherwise an earlier visit has seen the terms.
                frame.hardest(visit.hardest)
                add = frame.add_sum if loss.additive else frame.add_logsumexp
                add(visit.folded, 'others', block)
            if upstream is not None:
                for name, sums in (visit.context or {}).items():
                    frame.add_sum(sums, name, block)
                self._collect(x, block, *frame.slopes(block), visit, walk.update)
        return visit

    def programs(
        self, loss: 'HypersphereLoss', context: 'Context', like: Tensor, trains: bool
    ) -> dict[bool, Bindable]:
        """A loss as it is now, without and with its gradient.

        Args:
            loss: The loss.
            context: Its context; entries that require a gradient get one.
            like: Any tensor of the cosines' type.
            trains: Whether the gradient will be wanted.

        Returns:
            What evaluates the loss in a visit, by whether that wants gradients; those
            that there will be.

        Raises:
            UserError: If it would be another loss in the second of two visits.
        """
        # A sum has its gradient from the only visit.
        twice = trains and not loss.additive
        kinds = [False, True] if twice else [trains]
        wanted = tuple((name, value.requires_grad) for name, value in context.items())
        try:
            now = operations(loss, context, like, trains)
        except NotImplementedError as error:
            if twice and isinstance(error, RandomTermsError):
                raise _chance(loss) from error
            self._tell_untraced(loss, error)
            return {kind: Terms(loss, context, kind) for kind in kinds}
        key = (now, wanted, like.dtype, like.device, trains, loss.additive)
        if key not in self._programs:
            if len(self._programs) > 8:
                self._programs.clear()
            if twice and operations(loss, context, like, trains) != now:
                raise _chance(loss)
            self._programs[key] = {
                kind: self._trace(loss, context, like, kind) for kind in kinds
            }
        return {
            kind: program or Terms(loss, context, kind)
            for kind, program in self._programs[key].items()
        }

    def _trace(
        self, loss: 'HypersphereLoss', context: 'Context', like: Tensor, gradient: bool
    ) -> Program | None:
        try:
            return trace(loss, context, like, gradient)
        except NotImplementedError as error:
            self._tell_untraced(loss, error)
            return None

    def _tell_untraced(self, loss: 'HypersphereLoss', why: Exception) -> None:
        name = type(loss).__name__
        if name not in self._untraced:
            self._untraced.add(name)
            print_log(
                f'{name} cannot be traced ({why}): autograd evaluates it, which takes '
                'longer',
                'current',
                logging.WARNING,
            )

    def _blocks(self, walk: Walk) -> Iterator[Block]:
        features, target, spared = walk.features, walk.target, walk.spared
        samples, count = len(features), len(walk)
        size = min(self.block or default_block(features), max(count, 1))
        buffers = self._buffers
        if buffers is None or not buffers.fit(features, samples, size):
            self._buffers = Buffers(features, samples, size)
        starts = torch.arange(0, count + size, size, device=target.device)
        order = target.argsort()
        ordered = target[order]
        own = ordered * samples + order
        own_bounds = torch.searchsorted(ordered, starts).tolist()
        if spared is not None:
            spared_bounds = torch.searchsorted(spared, starts).tolist()
        for i, start in enumerate(range(0, count, size)):
            stop = min(start + size, count)
            block = Block(start, stop, walk.rows(start, stop))
            low, high = own_bounds[i : i + 2]
            if low < high:
                block.own = own[low:high] - start * samples
            if spared is not None:
                low, high = spared_bounds[i : i + 2]
                if low < high:
                    block.spared = spared[low:high] - start
            yield block

    def _prepare(
        self,
        x: Tensor,
        block: Block,
        centres: str,
        products: Tensor,
        norms: Tensor | None = None,
    ) -> Tensor | None:
        """Put a block's rows on the sphere, or tell how, and multiply them by ``x``.

        Args:
            x: The features [B, D], in the type of the product's operands.
            block: Gets ``rows``, ``to_cosine`` and ``to_gradient``; its ``raw`` rows
                are changed for ``project``.
            centres: As in :func:`.dense.dense`; ``unit`` for rows on the sphere.
            products: Filled in, [n, B].
            norms: Those of the rows, [n], if they are known.

        Returns:
            The norms; None where they do not tell the directions exactly, or need not.
        """
        if centres == 'project':
            project(block.raw)
        block.rows = block.raw.to(products.dtype)
        measures = centres == 'normalize' and norms is None
        lengths = []
        for tile in self._tiles(block.rows):
            if measures:
                lengths.append(row_norms(block.rows[tile]))
            product(block.rows[tile].to(x.dtype), x.T, products[tile])
        if measures:
            norms = torch.cat(lengths)
        if norms is None or not are_exact(norms):
            if centres == 'normalize':
                block.rows, length = unit(block.rows)
                block.to_gradient = 1 / length.masked_fill_(length == 0, 1)
                product(block.rows.to(x.dtype), x.T, products)
            return None
        block.to_cosine = block.to_gradient = norms.reciprocal().unsqueeze(1)
        return norms

    def _tiles(self, rows: Tensor) -> list[slice]:
        """Parts of a block's rows."""
        count, dims = rows.shape
        usual = max(1, count) if rows.is_cuda else max(64, TILE_ENTRIES // dims)
        size = self.tile or usual
        return [slice(low, low + size) for low in range(0, count, size)]

    def _collect(
        self,
        x: Tensor,
        block: Block,
        by_row: Tensor,
        radial: Tensor | None,
        visit: Visit,
        update: Update | None,
    ) -> None:
        """Add a block's gradients, or let the rows step at once."""
        assert visit.features is not None
        if block.to_gradient is not None and radial is not None:
            radial.mul_(block.to_gradient)
            if block.to_cosine is not None:
                radial.mul_(block.to_cosine)
            elif update is not None:
                # From directions to the rows themselves.
                radial.mul_(block.to_gradient)
        step = gradient = None
        if update is not None:
            step = update.step(
                block.start,
                block.stop,
                block.raw,
                by_row,
                x,
                radial,
                block.spared,
            )
        elif visit.rows is not None:
            gradient = visit.rows[block.start : block.stop]
        for tile in self._tiles(block.rows):
            rows, slopes = block.rows[tile], by_row[tile]
            add_product(visit.features, slopes.T.to(x.dtype), rows.to(x.dtype))
            if block.to_gradient is not None and block.to_cosine is None:
                slopes.mul_(block.to_gradient[tile])
            if step is not None:
                step(tile)
            elif gradient is not None:
                here = gradient[tile]
                product(slopes.to(x.dtype), x, here)
                if radial is not None:
                    here.addcmul_(radial[tile].to(here), rows.to(here), value=-1)


def default_block(features: Tensor) -> int:
    """Number of classes in a block for features [B, D]."""
    samples, dims = max(1, features.shape[0]), features.shape[1]
    if features.is_cuda:
        return max(1024, 2**24 // samples)
    # Cosines of half a megabyte, in rows of four.
    return max(128, min(2**17 // samples, 2**20 // dims))


class _WalkFunction(torch.autograd.Function):
    """The fold of all classes, with its gradients."""

    @staticmethod
    def forward(
        ctx: Any,
        engine: Blocked,
        loss: 'HypersphereLoss',
        centres: str,
        expected: float,
        update: Update | None,
        names: tuple[str, ...],
        features: Tensor,
        weight: Tensor,
        target: Tensor,
        *context: Tensor,
    ) -> tuple[Tensor, Tensor]:
        needs = ctx.needs_input_grad
        ctx.engine, ctx.loss, ctx.names, ctx.update = engine, loss, names, update
        # Once projected, the rows are on the sphere in backward too, but for copies.
        projected = centres == 'project' and (update is None or update.index is None)
        ctx.centres = 'unit' if projected else centres
        ctx.expected = expected
        ctx.wants = needs[6], needs[7], needs[9:]
        ctx.gradients, ctx.over = None, False
        values = _requiring(names, context, ctx.wants[2])
        trains = any(needs) or update is not None
        upstream = None
        if loss.additive and trains:
            upstream = features.new_full(
                (len(features), 1), expected * engine.upstream_scale
            )
        ctx.programs = engine.programs(loss, values, features, trains)
        program = ctx.programs[upstream is not None]
        walk = Walk(features, weight, target, values, loss, centres, program, upstream)
        walk.update, walk.wants_rows = update, needs[7]
        visit = engine.visit(walk)
        if upstream is not None:
            ctx.gradients = upstream, visit
        # Norms of rows that have been projected, or stepped, are others by now.
        ctx.norms = visit.norms if centres == 'normalize' and update is None else ()
        ctx.save_for_backward(features, weight, target, visit.folded, *context)
        ctx.mark_non_differentiable(visit.hardest)
        return visit.folded, visit.hardest

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        if torch.is_grad_enabled():
            raise UserError(
                'HypersphereHead: second derivatives (create_graph=True) need '
                "model.head.engine='dense'"
            )
        if ctx.over:
            raise RuntimeError(
                'fused_update: the rows have stepped in an earlier backward of this '
                'loss; train with model.head.fused_update=False'
            )
        ctx.over = ctx.update is not None
        features, weight, target, folded, *context = ctx.saved_tensors
        upstream = grads[0]
        ready, ctx.gradients = ctx.gradients, None
        if ready is not None and _same(ready[0], upstream):
            visit = ready[1]
        else:
            if ready is not None and ctx.update is not None:
                raise UserError(
                    'fused_update: the rows have stepped with a gradient that backward '
                    f'now says is {upstream[0].item()}, not {ready[0][0].item()}. '
                    'Reload a checkpoint; to scale the loss set '
                    'model.head.loss.loss_weight, or train with '
                    'model.head.fused_update=False'
                )
            if ctx.loss.additive and len(upstream) and ctx.expected:
                # A loss scaler: expect the same next time.
                ctx.engine.upstream_scale = upstream[0].item() / ctx.expected
            visit = ctx.engine.visit(
                Walk(
                    features,
                    weight,
                    target,
                    _requiring(ctx.names, context, ctx.wants[2]),
                    ctx.loss,
                    ctx.centres,
                    ctx.programs[True],
                    upstream,
                    folded,
                    ctx.update,
                    ctx.wants[1],
                    ctx.norms,
                )
            )
        by_context = [
            _sum_to(visit.context[name], value) if wanted else None
            for name, value, wanted in zip(
                ctx.names, context, ctx.wants[2], strict=True
            )
        ]
        by_features = visit.features if ctx.wants[0] else None
        none = (None,) * 6
        return (*none, by_features, visit.rows, None, *by_context)


def _requiring(
    names: tuple[str, ...], context: Any, wanted: tuple[bool, ...]
) -> 'Context':
    """The context as leaves, marked by whether a gradient is wanted."""
    return {
        name: value.detach().requires_grad_(wants)
        for name, value, wants in zip(names, context, wanted, strict=True)
    }


def _chance(loss: 'HypersphereLoss') -> UserError:
    return UserError(
        f'{type(loss).__name__}.others gives other terms each time, as with random '
        'numbers, and the gradient would not be that of the loss: draw them in '
        "context(), or set model.head.engine='dense'"
    )


def _leaf(x: Tensor) -> Tensor:
    return x.detach().requires_grad_()


def _same(expected: Tensor, upstream: Tensor) -> bool:
    """Whether two factors are one number, perhaps rounded on different ways to it."""
    rounding = 8 * torch.finfo(upstream.dtype).eps
    return torch.allclose(expected, upstream, rtol=rounding, atol=0)


def _sum_to(grad: Tensor, like: Tensor) -> Tensor:
    return grad.sum(0, keepdim=True) if len(like) == 1 else grad
