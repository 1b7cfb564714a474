"""What every face backbone does: check its input, save memory, return a tuple."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from itertools import chain
from typing import Any

import torch
from mmengine.model import BaseModule
from mmengine.utils import to_2tuple
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint

from mmhyperface.utils.errors import UserError

# torch has it since 2.3.
_is_compiling = getattr(torch.compiler, 'is_compiling', lambda: False)


def choose(owner: str, argument: str, value: Any, table: dict) -> Any:
    """``table[value]``, or an error that lists what is allowed."""
    if value not in table:
        allowed = ', '.join(map(repr, table))
        raise UserError(
            f'{owner} has no {argument}={value!r}: choose from {allowed} for '
            f'model.backbone.{argument}.'
        )
    return table[value]


@contextmanager
def _buffers_set_aside(block: nn.Module) -> Iterator[None]:
    """Let the block update copies of its buffers."""
    owned = [
        (module, name, buffer)
        for module in block.modules()
        for name, buffer in module.named_buffers(recurse=False)
    ]
    for module, name, buffer in owned:
        setattr(module, name, buffer.clone())
    try:
        yield
    finally:
        for module, name, buffer in owned:
            setattr(module, name, buffer)


def checkpointed(block: nn.Module, x: Tensor) -> Tensor:
    """``block(x)``, computed again in the backward pass instead of stored.

    A plain checkpoint would also move the running statistics of the block's
    batch norms twice per step. The block must draw no random numbers.
    """

    def contexts() -> tuple[AbstractContextManager, AbstractContextManager]:
        return nullcontext(), _buffers_set_aside(block)

    run = partial(checkpoint, use_reentrant=False, preserve_rng_state=False)
    if _is_compiling():  # then the second pass has no side effects as it is
        return run(block, x)
    return run(block, x, context_fn=contexts)


def keep_statistics(module: nn.Module) -> None:
    """Let all batch norms of a module use their running statistics unchanged."""
    for norm in module.modules():
        if isinstance(norm, _BatchNorm):
            norm.eval()


class BatchNorm2d(nn.BatchNorm2d):
    """torch's, of which a :class:`FaceBackbone` counts the batches.

    All of its norms in one operation: with one each, a deep network would have as many
    launches of counters as of norms.
    """

    momentum: float | None

    def forward(self, x: Tensor) -> Tensor:
        """Maps [B, C, H, W] to their like."""
        if self.momentum is None:
            # The mean of all batches depends on their number.
            return super().forward(x)
        affine = self.weight, self.bias, self.training, self.momentum, self.eps
        return functional.batch_norm(x, self.running_mean, self.running_var, *affine)


class FaceBackbone(BaseModule):
    """Faces [B, in_channels, H, W] to ``(embeddings [B, embedding_size],)``.

    A tuple of one, as mmpretrain's backbones return their feature maps: heads
    take the last entry. The embedding is not normalised.

    Abstract: a subclass builds the layers, then calls :meth:`freeze`, and says in
    :meth:`stages` in which order they come. Each of ours halves the image four times,
    rounding up.

    Args:
        input_size: (height, width) of the images, one number for squares. The
            last layer is as large as this asks.
        with_cp: Gradient checkpointing, block by block: less memory for about a
            third more time, same gradients. In training mode only.
        frozen_stages: Stages that do not learn, as in mmpretrain's ResNet: -1, none;
            0, the stem; n, the stem and the first n stages, the last of which are
            the layers that make the embedding. Their batch norms keep their
            statistics and their dropout lets all pass.
        norm_eval: Keep the running statistics of all batch norms and use them in
            training too. Their weights learn on, unless they are frozen.
    """

    def __init__(
        self,
        in_channels: int = 3,
        embedding_size: int = 512,
        input_size: int | tuple[int, int] = 112,
        with_cp: bool = False,
        frozen_stages: int = -1,
        norm_eval: bool = False,
        init_cfg: dict | list[dict] | None = None,
    ) -> None:
        super().__init__(init_cfg)
        self.frozen_stages = frozen_stages
        self.norm_eval = norm_eval
        self.in_channels = in_channels
        self.out_channels = embedding_size
        self.input_size = tuple(to_2tuple(input_size))
        self.map_size = tuple(-(-side // 16) for side in self.input_size)
        self.with_cp = with_cp
        self.flatten = nn.Flatten()
        self._norms: list[BatchNorm2d] = []

    def stages(self) -> Sequence[Iterable[nn.Module]]:
        """Layers of the stem, of each stage and of the end, in their order."""
        raise NotImplementedError

    def freeze(self) -> None:
        """Let what ``frozen_stages`` names not learn.

        Raises:
            UserError: If there are no such stages.
        """
        last = len(self.stages()) - 1
        if not -1 <= self.frozen_stages <= last:
            raise UserError(
                f'{type(self).__name__} has no frozen_stages={self.frozen_stages!r}: '
                f'set model.backbone.frozen_stages to 0 (the stem) to {last} (all '
                'layers) or -1 (none)'
            )
        for module in self._frozen():
            module.requires_grad_(False)
        self.train()

    def _frozen(self) -> list[nn.Module]:
        frozen = self.stages()[: self.frozen_stages + 1]
        return [module for stage in frozen for module in stage]

    def train(self, mode: bool = True) -> 'FaceBackbone':
        """As in any module, but what is frozen stays in evaluation mode."""
        super().train(mode)
        if mode:
            for module in self._frozen():
                module.eval()
            if self.norm_eval:
                keep_statistics(self)
        self._norms = [m for m in self.modules() if isinstance(m, BatchNorm2d)]
        return self

    def forward(self, x: Tensor) -> tuple[Tensor]:
        """Raises UserError when the images do not have the size built for."""
        expected = (self.in_channels, *self.input_size)
        if x.shape[1:] != expected:
            raise UserError(
                f'{type(self).__name__} got images [batch, channels, height, width] '
                f'of shape {list(x.shape)} but was built for '
                f'[batch, {", ".join(map(str, expected))}]: align or resize the '
                'faces to that size in the pipeline of the data set (LoadFace has a '
                'size), or build the backbone with another model.backbone.input_size '
                'or model.backbone.in_channels.'
            )
        embedding = self.embed(x)
        counters: Any = [
            norm.num_batches_tracked
            for norm in self._norms
            if norm.training and norm.momentum is not None
        ]
        if counters:
            torch._foreach_add_(counters, 1)
        return (embedding,)

    def embed(self, x: Tensor) -> Tensor:
        """Images that fit [B, in_channels, H, W] to embeddings [B, D].

        One layer after the other; a network that is no sequence says here what it is.
        """
        stem, *stages, end = self.stages()
        for layer in stem:
            x = layer(x)
        x = self.run_blocks(chain(*stages), x)
        for layer in end:
            x = layer(x)
        return x

    def run_blocks(self, blocks: Iterable[nn.Module], x: Tensor) -> Tensor:
        """One block after the other, checkpointed if asked for."""
        for block in blocks:
            x = checkpointed(block, x) if self.with_cp and self.training else block(x)
        return x
