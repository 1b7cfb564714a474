"""The blocked engine: a loop over blocks of classes that never holds B x C.

For a block of rows W_j with norms n_j and unit features x_i:

    cos_ij = x_i . W_j / n_j,  o_ij = others(cos_ij),  g_ij = dL / d cos_ij
    dL / d x_i = sum_j g_ij W_j / n_j
    dL / d W_j = (sum_i g_ij x_i - (sum_i g_ij cos_ij) W_j / n_j) / n_j,

so the rows are never copied to be normalised. Where the fold is a sum, g needs the
terms of no other class, and one loop does all: three products. Where it is a
log-sum-exp the first loop finds that, and the second, in backward, computes the
cosines again: four products.

Between the products :mod:`.terms` evaluates the loss, compiled where that pays.
"""

import logging
import math
import weakref
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from mmengine.logging import print_log
from torch import Tensor

from mmhyperface.utils.errors import UserError

from . import recycled
from .contract import Context, Loss
from .denormals import denormals_flushed
from .fold import Fold, neutral
from .products import add_product, product
from .sphere import are_exact, project, row_norms, unit
from .terms import (
    FEW_ENTRIES,
    BlockTerms,
    block_terms,
    compiled_block_terms,
    compiler_missing,
    compiler_settings,
    examine,
    no_draws,
    pays,
)
from .update import Update

# Entries of the rows of a tile: a megabyte in fp32.
TILE_ENTRIES = 2**18
_examined: weakref.WeakSet = weakref.WeakSet()


@dataclass
class Task:
    """A loop over all rows, and what it is for.

    Attributes:
        features, weight, target, context, loss, centres, update: As in
            :func:`.dense.dense`; entries of the context that require a gradient get
            one. ``centres`` may also be ``unit``, for rows that are on the sphere.
        upstream: Gradient of the fold, [B, 1], if gradients are wanted.
        folded: The fold of all classes, [B, 1], where a gradient needs it.
        wants_rows: Whether the gradient of the rows is wanted.
        norms: Norms of the rows of each block, where an earlier loop took them.
    """

    features: Tensor
    weight: Tensor
    target: Tensor
    context: Context
    loss: Loss
    centres: str
    update: Update | None = None
    upstream: Tensor | None = None
    folded: Tensor | None = None
    wants_rows: bool = True
    norms: Sequence[Tensor | None] = ()

    def __len__(self) -> int:
        """Number of rows."""
        return len(self.weight if self.update is None else self.update)

    def rows(self, start: int, stop: int) -> Tensor:
        """Some of them, as they are stored."""
        if self.update is None:
            return self.weight.data[start:stop]
        return self.update.rows(start, stop)

    def excluded(self, start: int, stop: int) -> Tensor | None:
        """Which of them do not count, bool [n, 1]; None for none."""
        if self.update is None or self.update.excluded is None:
            return None
        return self.update.excluded[start:stop].clone()


@dataclass
class Outcome:
    """What a loop yields.

    Attributes:
        folded: Fold of the terms, [B, 1].
        hardest: Largest cosine to another centre, [B, 1].
        features, rows: Gradients, [B, D] and [c, D]; None where not asked for.
        context: Gradients of the context, [B, 1], by name.
        norms: Norms of the rows of each block, for a second loop.
    """

    folded: Tensor
    hardest: Tensor
    features: Tensor | None = None
    rows: Tensor | None = None
    context: dict[str, Tensor] = field(default_factory=dict)
    norms: list[Tensor | None] = field(default_factory=list)

    def rescale(self, expected: Tensor, upstream: Tensor) -> bool:
        """Whether the gradients are those for ``upstream``, or are made so, [B, 1].

        The ratio is exact for powers of two, as those of loss scalers are. Where it can
        be seen for nothing, another loop is exact for any.
        """
        if can_look_at(upstream):
            return bool(_same(expected, upstream))
        ratio = upstream[:1] / expected[:1]
        for gradient in (self.features, self.rows, *self.context.values()):
            if gradient is not None:
                gradient.mul_(ratio)
        return True


@dataclass
class Block:
    """The n rows from ``start`` on, ready to be multiplied.

    Attributes:
        start: The first row.
        raw: The rows as they are stored, [n, D].
        rows: The rows to multiply by, [n, D], in the features' type.
        norms: Those of the rows, [n]; None where they do not tell the directions
            exactly, or need not.
        to_cosine: Factors [n, 1] that make the products of ``rows`` and features
            cosines; None where the rows are on the sphere, to which their gradient
            need not be tangential.
        to_gradient: 1 / n_j, [n, 1], where the rows were divided by n_j.
    """

    start: int
    raw: Tensor
    rows: Tensor
    norms: Tensor | None = None
    to_cosine: Tensor | None = None
    to_gradient: Tensor | None = None


class Blocked:
    """An engine that goes over the classes in blocks.

    Args:
        block: Number of classes in a block; by default as many as stay in a
            processor's cache, or keep a GPU busy.
        matmul_dtype: Type of the operands of the three products, such as
            ``torch.bfloat16``; by default that of the features.
        tile: Number of rows of a block that one product takes; by default as many as
            stay near a processor from one to the next, and all on a GPU.
        compiled: Whether ``torch.compile`` makes kernels of the loss; by default
            where there are many classes and what it needs. What cannot be compiled
            autograd evaluates, which is logged.

    Raises:
        UserError: When called, if ``compiled`` is asked for where nothing can be
            compiled.
    """

    def __init__(
        self,
        block: int | None = None,
        matmul_dtype: torch.dtype | None = None,
        tile: int | None = None,
        compiled: bool | None = None,
    ) -> None:
        self.block = block
        self.tile = tile
        self.matmul_dtype = matmul_dtype
        self.compiled = compiled
        # What backward was given last time, as a multiple of what was expected.
        self.upstream_scale: float | Tensor | None = None
        # Losses that could not be compiled.
        self._failed: set[str] = set()

    def __call__(
        self,
        features: Tensor,
        weight: Tensor,
        target: Tensor,
        context: Context,
        loss: Loss,
        centres: str = 'normalize',
        expected: float | None = None,
        update: Update | None = None,
    ) -> Fold:
        """See :func:`.dense.dense`; ``update`` lets rows step in the loop."""
        if self.compiled and (reason := compiler_missing(features.device.type)):
            raise UserError(
                f"engine='fused' cannot work here: {reason}; set model.head.engine to "
                "'auto' or 'blocked'"
            )
        if update is not None and not features.requires_grad:
            # Rows may step in backward, which must come even if no feature learns.
            features = features.detach().requires_grad_()
        options = self, loss, centres, expected, update, tuple(context)
        tensors = features, weight, target, *context.values()
        return Fold(*_BlockLoop.apply(*options, *tensors))

    def expect(self, upstream: Tensor, expected: float) -> None:
        """Expect the factor of a loss scaler again that backward shows, [B, 1]."""
        if can_look_at(upstream):
            self.upstream_scale = upstream[0].item() / expected
            return
        scale = upstream[0].double() / expected
        # Not if it has gone too far, or somebody multiplies by 0.
        usable = (scale > 0) & (scale < math.inf)
        before = 1.0 if self.upstream_scale is None else self.upstream_scale
        self.upstream_scale = torch.where(usable, scale, before)

    def run(self, task: Task) -> Outcome:
        """Go over all blocks once."""
        evaluate = self._evaluation(task)
        compiles = evaluate is not block_terms
        with denormals_flushed(), compiler_settings() if compiles else nullcontext():
            return self._run(task, evaluate)

    def _run(self, task: Task, evaluate: Callable[..., BlockTerms]) -> Outcome:
        features, loss, upstream = task.features, task.loss, task.upstream
        count = len(task)
        # On CPUs two of the three products are faster with column-major operands.
        x = features.to(self.matmul_dtype or features.dtype).T.contiguous().T
        total = features.new_full((len(features), 1), neutral(loss))
        outcome = Outcome(total, torch.full_like(total, -1))
        wanted: tuple[str, ...] = ()
        if upstream is not None:
            wanted = tuple(k for k, v in task.context.items() if v.requires_grad)
            outcome.features = torch.zeros_like(features)
            outcome.context = {name: torch.zeros_like(total) for name in wanted}
            if task.wants_rows and task.update is None:
                outcome.rows = recycled.empty(len(task.weight), task.weight)
            if not loss.additive and task.folded is not None:
                outcome.folded = task.folded
        context = {name: value.detach() for name, value in task.context.items()}
        usual = default_block(len(features), features.shape[1], features.is_cuda)
        size = min(self.block or usual, max(count, 1))
        products = features.new_empty((size, len(features)))
        for i, start in enumerate(range(0, count, size)):
            stop = min(start + size, count)
            if stop - start != len(products):
                # No view: torch's compiler would look at what it is a view of.
                products = features.new_empty((stop - start, len(features)))
            known = task.norms[i] if task.norms else None
            block = self._multiplied(x, task, start, stop, products, known)
            terms = evaluate(
                loss,
                products,
                block.to_cosine,
                (task.target - start).to(torch.int32)[None],
                task.excluded(start, stop),
                context,
                wanted,
                outcome.folded,
                outcome.hardest,
                upstream,
            )
            outcome.norms.append(block.norms)
            outcome.folded, outcome.hardest = terms.folded, terms.hardest
            for name, sums in zip(wanted, terms.context, strict=True):
                outcome.context[name] += sums
            if terms.slopes is not None:
                self._collect(x, block, terms.slopes, terms.radial, outcome, task)
        return outcome

    def _evaluation(self, task: Task) -> Callable[..., BlockTerms]:
        """:func:`block_terms`, or what evaluates a block compiled.

        What decides is the same in a resumed training, lest its results differ in
        their last bits.
        """
        device, loss = task.features.device.type, task.loss
        name = type(loss).__name__
        chosen = pays(device, len(task)) if self.compiled is None else self.compiled
        if not chosen or name in self._failed:
            return block_terms
        least = 0 if self.compiled else FEW_ENTRIES

        def evaluate(loss: Loss, products: Tensor, *args: Any) -> BlockTerms:
            # Sizes of 0 and 1 would be compiled for themselves.
            small = min(products.shape) < 2 or products.numel() <= least
            if small or name in self._failed:
                return block_terms(loss, products, *args)
            try:
                return compiled_block_terms()(loss, products, *args)
            except Exception as error:
                reason = str(error)
            # Out of there, where the traceback keeps tensors. Autograd fails too, if
            # it is the loss that does.
            terms = block_terms(loss, products, *args)
            self._failed.add(name)
            print_log(
                f'{name} cannot be compiled ({reason}): autograd evaluates it, which '
                'takes longer',
                'current',
                logging.WARNING,
            )
            return terms

        return evaluate

    def _multiplied(
        self,
        x: Tensor,
        task: Task,
        start: int,
        stop: int,
        products: Tensor,
        norms: Tensor | None,
    ) -> Block:
        """A block's products, with what makes cosines of them.

        Args:
            x: The features [B, D], in the type of the product's operands.
            task: Its rows are put on the sphere, in place, for ``project``.
            start, stop: The rows.
            products: Filled in, [n, B].
            norms: Those of the rows, [n], if they are known.
        """
        raw = task.rows(start, stop)
        if task.centres == 'project':
            project(raw)
        block = Block(start, raw, raw.to(products.dtype))
        measures = task.centres == 'normalize' and norms is None
        lengths = []
        for tile in self._tiles(block.rows):
            if measures:
                lengths.append(row_norms(block.rows[tile]))
            product(block.rows[tile].to(x.dtype), x.T, products[tile])
        if task.centres != 'normalize':
            return block
        block.norms = torch.cat(lengths) if norms is None else norms
        if are_exact(block.norms):
            block.to_cosine = block.to_gradient = block.norms.reciprocal()[:, None]
            return block
        block.norms = None
        block.rows, length = unit(block.rows)
        block.to_gradient = 1 / length.masked_fill_(length == 0, 1)
        block.to_cosine = torch.ones_like(length)
        product(block.rows.to(x.dtype), x.T, products)
        return block

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
        outcome: Outcome,
        task: Task,
    ) -> None:
        """Add a block's gradients, or let the rows step at once.

        Args:
            x: See :meth:`_multiplied`.
            block: The block.
            by_row: Gradient by the products, [n, B].
            radial: Sums of cosine times gradient by it, [n, 1], where rows are
                normalised.
            outcome: To be added to.
            task: Says who takes the gradient of the rows.
        """
        assert outcome.features is not None
        inverse = block.to_gradient
        if inverse is not None and radial is not None:
            radial.mul_(inverse)
            if block.norms is not None or task.update is not None:
                # From directions to the rows themselves.
                radial.mul_(inverse)
        step = gradient = None
        if task.update is not None:
            step = task.update.step(block.start, block.raw, by_row, x, radial)
        elif outcome.rows is not None:
            gradient = outcome.rows[block.start : block.start + len(block.rows)]
        for tile in self._tiles(block.rows):
            rows, slopes = block.rows[tile], by_row[tile].to(x.dtype)
            add_product(outcome.features, slopes.T, rows.to(x.dtype))
            if inverse is not None and block.norms is None:
                slopes = by_row[tile].mul_(inverse[tile]).to(x.dtype)
            if step is not None:
                step(tile)
            elif gradient is not None:
                here = gradient[tile]
                product(slopes, x, here)
                if radial is not None:
                    here.addcmul_(radial[tile].to(here), rows.to(here), value=-1)


def default_block(samples: int, dims: int, on_gpu: bool) -> int:
    """Number of classes in a block for features [B, D]."""
    samples = max(1, samples)
    if on_gpu:
        return max(1024, 2**25 // samples)
    # Cosines of half a megabyte, in rows of four.
    return max(128, min(2**17 // samples, 2**20 // dims))


class _BlockLoop(torch.autograd.Function):
    """The fold of all classes, with its gradients."""

    @staticmethod
    def forward(
        ctx: Any,
        engine: Blocked,
        loss: Loss,
        centres: str,
        expected: float | None,
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
        # A loss scaler's factor matters to 16-bit products, and is unknown at first.
        # Where it will be seen, or rows step at once, it is taken for 1.
        scale = engine.upstream_scale
        if scale is None and (update is not None or can_look_at(features)):
            scale = 1.0
        task = Task(features, weight, target, values, loss, centres, update)
        task.wants_rows = needs[7]
        if trains and loss.additive and expected and scale is not None:
            # A sum has its gradient from the only loop.
            task.upstream = features.new_ones(len(features), 1).mul_(expected * scale)
        twice = trains and task.upstream is None
        if trains and loss not in _examined:
            examine(loss, values, features, twice)
            _examined.add(loss)
        if twice:
            with no_draws(loss, values, features):
                outcome = engine.run(task)
        else:
            outcome = engine.run(task)
        if task.upstream is not None:
            ctx.gradients = task.upstream, outcome
        # Norms of rows that have been projected, or stepped, are others by now.
        ctx.norms = outcome.norms if centres == 'normalize' and update is None else ()
        ctx.save_for_backward(features, weight, target, outcome.folded, *context)
        ctx.mark_non_differentiable(outcome.hardest)
        return outcome.folded, outcome.hardest

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
        ready, ctx.gradients, outcome = ctx.gradients, None, None
        if ready is not None:
            expected, outcome = ready
            if ctx.update is not None:
                _require_same(expected, upstream)
            elif not outcome.rescale(expected, upstream):
                outcome = None
        is_news = outcome is None or not can_look_at(upstream)
        if is_news and ctx.loss.additive and ctx.expected and len(upstream):
            ctx.engine.expect(upstream, ctx.expected)
        if outcome is None:
            values = _requiring(ctx.names, context, ctx.wants[2])
            task = Task(
                features, weight, target, values, ctx.loss, ctx.centres, ctx.update
            )
            task.upstream, task.folded = upstream, folded.detach()
            task.wants_rows, task.norms = ctx.wants[1], ctx.norms
            outcome = ctx.engine.run(task)
        by_context = [
            outcome.context[name].sum_to_size(len(value), 1) if wanted else None
            for name, value, wanted in zip(
                ctx.names, context, ctx.wants[2], strict=True
            )
        ]
        by_features = outcome.features if ctx.wants[0] else None
        return (*(None,) * 6, by_features, outcome.rows, None, *by_context)


def _same(expected: Tensor, upstream: Tensor) -> Tensor:
    """Whether two factors are one number, perhaps rounded on different ways to it."""
    rounding = 8 * torch.finfo(upstream.dtype).eps
    return ((expected - upstream).abs() <= rounding * upstream.abs()).all()


def _require_same(expected: Tensor, upstream: Tensor) -> None:
    same, looks = _same(expected, upstream), can_look_at(upstream)
    if looks and same:
        return
    factors = f'{upstream[0].item()}, not {expected[0].item()}' if looks else 'another'
    message = (
        'fused_update: the rows have stepped with a gradient that backward now says is '
        f'{factors}. Reload a checkpoint; to scale the loss set '
        'model.head.loss.loss_weight, or train with model.head.fused_update=False'
    )
    if looks:
        raise UserError(message)
    # Nobody waits, and the device goes no further.
    torch._assert_async(same, message)


def can_look_at(x: Tensor) -> bool:
    """Whether nobody waits for a GPU to see numbers."""
    return x.device.type == 'cpu'


def _requiring(
    names: tuple[str, ...], context: Any, wanted: tuple[bool, ...]
) -> Context:
    """The context as leaves, marked by whether a gradient is wanted."""
    return {
        name: value.detach().requires_grad_(wants)
        for name, value, wants in zip(names, context, wanted, strict=True)
    }
