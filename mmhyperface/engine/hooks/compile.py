"""Compiles the backbone for training."""

from typing import Any

import torch
from mmengine.hooks import Hook
from mmengine.runner import Runner
from torch import nn

from mmhyperface.registry import HOOKS
from mmhyperface.utils.errors import UserError

from .model_parts import bare_model


@HOOKS.register_module()
class CompileHook(Hook):
    """Compiles the backbone in place, by ``torch.compile``, before training.

    mmengine's ``compile=True`` compiles the whole training step, with its loop over
    log values and its optimizer. Here it is the backbone, where the time goes; the
    names in its state dict stay as they are, and it works under DDP. The graph is made
    for the shape of the training batches: a smaller last batch takes one more
    compilation. Validation, whose batches have shapes of their own, runs uncompiled.

    What it costs: the first step waits for the compiler, for minutes with IResNet-100.
    What is compiled stays in torch's cache (``TORCHINDUCTOR_CACHE_DIR``, by default
    below ``/tmp``), where a resumed training on that machine finds it; and rounding
    differs from an uncompiled training's, as between two versions of torch.

    Args:
        backend: Of ``torch.compile``.
        mode: Of ``torch.compile``, such as ``max-autotune``; None for its default.
            ``reduce-overhead`` launches the passes through the backbone as a few CUDA
            graphs, for hosts that cannot keep up with their GPU. DDP's buckets cut
            them: ``model_wrapper_cfg.bucket_cap_mb=256`` leaves few, and less of the
            exchange to overlap with the backward pass. Their memory serves nothing
            else, also during validation; gradients that are accumulated over
            iterations need DDP, in whose buckets they lie.
        fallback: Whether to train uncompiled, with a warning, if the backend does not
            work here, for want of a C++ compiler or Triton, say.

    Raises:
        UserError: Before training, if it does not and `fallback` is False, or the
            model has no backbone.
    """

    # After evaluations that hooks make before training.
    priority = 'LOWEST'

    def __init__(
        self,
        backend: str = 'inductor',
        mode: str | None = None,
        fallback: bool = False,
    ) -> None:
        self.options: dict[str, Any] = dict(backend=backend, mode=mode, dynamic=False)
        self.fallback = fallback
        self.compiled = False
        self._call: Any = None

    def before_train(self, runner: Runner) -> None:
        backbone = _backbone(runner)
        device = next(backbone.parameters()).device
        try:
            # Compilation happens at the first call: try a small one before the night.
            torch.compile(_trial, **self.options)(torch.ones(2, device=device))
            backbone.compile(**self.options)
        except Exception as error:
            # Only its first line; some have none.
            reason = f'{type(error).__name__}: {error}'.strip().splitlines()[0]
            text = f'CompileHook: torch.compile({self.options}) does not work: {reason}'
            if not self.fallback:
                raise UserError(
                    f'{text}. Install what is missing, take another backend, or train '
                    'uncompiled where it is missing: fallback=True of the hook in '
                    'custom_hooks'
                ) from error
            runner.logger.warning(f'{text}. Training goes on uncompiled')
            return
        self.compiled = True
        runner.logger.info(f'The backbone is compiled: {self.options}')

    def before_val(self, runner: Runner) -> None:
        if self.compiled:
            # torch keeps the compiled call beside the plain one, under this name.
            backbone: Any = _backbone(runner)
            self._call = backbone._compiled_call_impl
            backbone._compiled_call_impl = None

    def after_val(self, runner: Runner) -> None:
        if self.compiled:
            backbone: Any = _backbone(runner)
            backbone._compiled_call_impl = self._call


def _trial(x: torch.Tensor) -> torch.Tensor:
    return (x * 2).relu().sum()


def _backbone(runner: Runner) -> nn.Module:
    backbone = getattr(bare_model(runner), 'backbone', None)
    if not isinstance(backbone, nn.Module):
        raise UserError(
            'CompileHook: the model has no backbone to compile; leave the hook out of '
            'custom_hooks'
        )
    return backbone
