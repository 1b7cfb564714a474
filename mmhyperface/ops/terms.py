"""The terms of a loss on one block of classes, their fold and their gradient.

:func:`block_terms` is one plain function of tensors. Autograd evaluates it anywhere.
``torch.compile`` makes one kernel or two of its some thirty elementwise operations,
in C++ or Triton, which takes seconds once. Sizes and numbers of the loss are inputs of
what is compiled: neither another size of a batch nor a margin that moves compiles anew,
and whatever else a loss depends on is among the guards of torch's compiler.

Legend of shapes: B samples, n classes of a block. Tensors of a block are [n, B].
"""

import os
import random
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import cache
from typing import NamedTuple

import numpy as np
import torch
from mmengine.utils import digit_version
from torch import Tensor

from mmhyperface.utils.errors import UserError

from .contract import Context, Loss
from .fold import neutral

# From so many classes on, compiling pays in a training.
FEW_CLASSES = 4096
# torch's compiler knows small blocks from others.
FEW_ENTRIES = 4096
COMPILERS = ['cl'] if sys.platform == 'win32' else ['g++', 'clang++']
# Losses, each with and without gradient and the like, that one process may compile.
MOST_VARIANTS = 64


class BlockTerms(NamedTuple):
    """What a block of classes contributes.

    Attributes:
        folded: The fold of this and all earlier blocks, [B, 1].
        hardest: Largest cosine of this and all earlier blocks, [B, 1].
        slopes: Gradient by the products, [n, B]; None where not asked for.
        radial: Sums over the samples of cosine times gradient by it, [n, 1].
        context: Gradients of the wanted entries of the context, [B, 1].
    """

    folded: Tensor
    hardest: Tensor
    slopes: Tensor | None = None
    radial: Tensor | None = None
    context: Sequence[Tensor] = ()


def block_terms(
    loss: Loss,
    products: Tensor,
    scale: Tensor | None,
    own: Tensor,
    excluded: Tensor | None,
    context: Context,
    wanted: tuple[str, ...],
    folded: Tensor,
    hardest: Tensor,
    upstream: Tensor | None = None,
) -> BlockTerms:
    """Evaluate a loss on a block.

    Args:
        loss: The loss.
        products: Products of rows and unit features, [n, B].
        scale: Factors [n, 1] that make them cosines; None for 1.
        own: Row of the block with the sample's own class, int32 [1, B]; a number
            outside [0, n) where it is not there.
        excluded: Which other rows do not count, bool [n, 1]; None for none.
        context: The loss's context.
        wanted: Entries of the context whose gradient is wanted.
        folded, hardest: Of earlier blocks, [B, 1]. With ``upstream`` the fold of a
            loss that is not additive is that of all blocks.
        upstream: Gradient by the fold of all blocks, [B, 1]; None if no gradient is
            wanted.
    """
    rows = torch.arange(len(products), dtype=own.dtype, device=own.device)
    hidden = rows[:, None] == own
    if excluded is not None:
        hidden = hidden | excluded
    cos = products.clone() if scale is None else products * scale
    cos.clamp_(-1, 1).masked_fill_(hidden, -1)
    leaf = cos.detach().T
    # A gradient for each element of the context, to be summed here.
    learning = [context[name].expand_as(leaf) for name in wanted]

    def evaluate(cos: Tensor, *learning: Tensor) -> Tensor:
        values = {**context, **dict(zip(wanted, learning, strict=True))}
        return loss.others(cos, values).expand_as(leaf)

    if upstream is None:
        others = evaluate(leaf, *learning)
    else:
        others, pull_back = _with_pull_back(evaluate, leaf, *learning)
    terms = others.T.masked_fill(hidden, neutral(loss))
    if loss.additive:
        folded = folded + _sum(terms)
    elif upstream is None:
        folded = torch.logaddexp(folded, _logsumexp(terms))
    if loss.additive or upstream is None:
        # Else an earlier loop over the blocks has seen them.
        hardest = torch.maximum(hardest, cos.amax(0)[:, None])
    if upstream is None:
        return BlockTerms(folded, hardest)

    weights = upstream.T.expand_as(cos)
    if not loss.additive:
        weights = (terms - folded.T).exp_().mul_(weights)
    grads = pull_back(weights.masked_fill(hidden, 0).T)
    # What is hidden has no gradient, whatever the loss's slope is at -1.
    slopes, *by_context = [grad.T.masked_fill(hidden, 0) for grad in grads]
    sums = [_sum(grad) for grad in by_context]
    if scale is None:
        return BlockTerms(folded, hardest, slopes, None, sums)
    radial = cos.mul_(slopes).sum(1, keepdim=True)
    return BlockTerms(folded, hardest, slopes.mul_(scale), radial, sums)


def _with_pull_back(
    function: Callable[..., Tensor], *inputs: Tensor
) -> tuple[Tensor, Callable[[Tensor], Sequence[Tensor]]]:
    """A function's value, and what makes of its gradient those of the inputs."""
    if torch.compiler.is_compiling():
        # Numbers that are first read inside of vjp would be constants. What this
        # computes is computed once, or not at all.
        function(*inputs)
        return torch.func.vjp(function, *inputs)  # type: ignore[return-value]
    leaves = [value.detach().requires_grad_() for value in inputs]
    with torch.enable_grad():
        result = function(*leaves)

    def pull_back(gradient: Tensor) -> Sequence[Tensor]:
        if not result.requires_grad:
            return [torch.zeros_like(value) for value in leaves]
        return torch.autograd.grad(result, leaves, gradient, materialize_grads=True)

    return result.detach(), pull_back


def _sum(terms: Tensor) -> Tensor:
    """Sums [B, 1] over the rows of terms [n, B]."""
    if torch.compiler.is_compiling() and terms.device.type == 'cpu':
        # Compiled sums go on row by row, where torch's add pairs.
        return terms.sum(0, dtype=torch.float64).to(terms.dtype)[:, None]
    return terms.sum(0)[:, None]


def _logsumexp(terms: Tensor) -> Tensor:
    """Log-sum-exp [B, 1] over the rows of terms [n, B]."""
    # Where all terms are -inf, any number will do.
    top = terms.amax(0).clamp_min(torch.finfo(terms.dtype).min)
    sums = _sum((terms - top).exp_())
    return sums.log() + top[:, None]


@cache
def compiled_block_terms() -> Callable[..., BlockTerms]:
    """:func:`block_terms`, compiled; to be called in :func:`compiler_settings`."""
    # All sizes and numbers vary from the beginning, so that what is computed does not
    # depend on which of them came first: a resumed training has the same results.
    return torch.compile(block_terms, fullgraph=True, dynamic=True)


def compiler_settings() -> AbstractContextManager:
    """What torch's compiler must know while something is compiled."""
    config = torch._dynamo.config
    renamed = hasattr(config, 'recompile_limit')  # in torch 2.7
    limit = 'recompile_limit' if renamed else 'cache_size_limit'
    return config.patch({limit: MOST_VARIANTS})


@cache
def compiler_missing(device: str) -> str | None:
    """Why nothing can be compiled for a type of device; None if it can."""
    if digit_version(torch.__version__) < digit_version('2.4'):
        # Earlier ones do not look whether a loss has changed.
        return f'torch {torch.__version__} cannot compile a loss, 2.4 and later can'
    off = os.environ.get('TORCHDYNAMO_DISABLE') == '1'
    if off or torch._dynamo.config.disable:
        names = 'TORCHDYNAMO_DISABLE, TORCH_COMPILE_DISABLE'
        return f'torch.compile is switched off ({names})'
    if device == 'cuda':
        try:
            import triton  # noqa: F401
        except ImportError:
            return 'it needs Triton, which is not installed (pip install triton)'
        return None
    if device != 'cpu':
        return f'it needs CUDA or a CPU, and the class centres are on {device}'
    compilers = [os.environ['CXX']] if 'CXX' in os.environ else COMPILERS
    if any(map(shutil.which, compilers)):
        return None
    return f'it needs a C++ compiler, and there is none ({", ".join(compilers)})'


def pays(device: str, rows: int) -> bool:
    """Whether to compile for so many rows by default.

    Never by what has happened before, since a resumed training must have the same
    results to the last bit.
    """
    return rows >= FEW_CLASSES and compiler_missing(device) is None


def examine(loss: Loss, context: Context, like: Tensor, twice: bool) -> None:
    """Refuse a loss whose gradient could not be that of its value.

    Args:
        loss: The loss.
        context: Its context; entries that learn require a gradient.
        like: Any tensor of the cosines' type.
        twice: Whether its terms are evaluated once for the value and once more for the
            gradient.

    Raises:
        UserError: If it uses a parameter that is not in its context, or would be
            another loss the second time.
    """
    leaves = {
        name: value.detach()[:1].requires_grad_(value.requires_grad)
        for name, value in context.items()
    }
    cos = torch.linspace(-0.9, 0.9, 5, dtype=like.dtype, device=like.device)[None]
    with torch.random.fork_rng([like.device] if like.is_cuda else []):
        with torch.enable_grad():
            first = loss.others(cos.clone().requires_grad_(), leaves)
        _refuse_hidden_parameters(loss, first, leaves)
        if twice:
            second = loss.others(cos.clone(), leaves)
            if not torch.equal(first.nan_to_num(), second.nan_to_num()):
                raise _draws(loss)


def _refuse_hidden_parameters(loss: Loss, terms: Tensor, context: Context) -> None:
    waiting, seen = [terms.grad_fn], set()
    known = {id(value) for value in context.values()}
    while waiting:
        node = waiting.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        leaf = getattr(node, 'variable', None)
        if isinstance(leaf, torch.nn.Parameter) and id(leaf) not in known:
            raise UserError(
                f'{type(loss).__name__}.others uses a parameter that is not in its '
                'context, and would have no gradient: let context() return it'
            )
        waiting += [child for child, _ in node.next_functions]


@contextmanager
def no_draws(loss: Loss, context: Context, like: Tensor) -> Iterator[None]:
    """Raise ``UserError`` if a loss draws random numbers in here.

    Seen are those of torch, Python and numpy. For the arguments see :func:`examine`.
    """
    before, elsewhere = _random_state(like.device), _other_random_states()
    yield
    if not torch.equal(_random_state(like.device), before):
        raise _draws(loss)
    if _other_random_states() != elsewhere:
        # Another thread may have drawn them.
        examine(loss, context, like, twice=True)


def _random_state(device: torch.device) -> Tensor:
    state = torch.get_rng_state()
    if device.type == 'cuda':
        state = torch.cat([state, torch.cuda.get_rng_state(device)])
    return state


def _other_random_states() -> tuple:
    # The one that np.random.rand and the like use.
    state = np.random.get_state(legacy=False)['state']  # noqa: NPY002
    return random.getstate(), state['key'].tobytes(), state['pos']


def _draws(loss: Loss) -> UserError:
    return UserError(
        f'{type(loss).__name__}.others gives other terms each time, as with random '
        'numbers, and the gradient would not be that of the loss: draw them in '
        "context(), or set model.head.engine='dense'"
    )
