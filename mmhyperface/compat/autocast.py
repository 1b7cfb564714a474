"""Automatic mixed precision on whatever device there is."""

from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

import torch
from mmengine.logging import print_log
from mmengine.optim import OptimWrapper
from torch import nn

from mmhyperface.errors import UserError
from mmhyperface.registry import OPTIM_WRAPPERS

DTYPES = {'float16': torch.float16, 'bfloat16': torch.bfloat16}


@OPTIM_WRAPPERS.register_module()
class AmpOptimWrapper(OptimWrapper):
    """mmengine's ``AmpOptimWrapper`` that also runs on the CPU.

    Args:
        dtype: ``float16`` or ``bfloat16``; by default float16 on CUDA and bfloat16
            elsewhere. On the CPU float16, which few operations know there, becomes
            bfloat16.
        loss_scale: ``dynamic``, a constant, or the arguments of torch's
            ``GradScaler``. Used with float16 only: the range of bfloat16 is that
            of float32.
        kwargs: Arguments of mmengine's ``OptimWrapper``.
    """

    def __init__(
        self,
        dtype: str | None = None,
        loss_scale: str | float | dict = 'dynamic',
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.device_type = self.optimizer.param_groups[0]['params'][0].device.type
        if dtype is None:
            dtype = 'float16' if self.device_type == 'cuda' else 'bfloat16'
        if dtype not in DTYPES:
            raise UserError(
                f'AmpOptimWrapper: dtype must be one of {(*DTYPES,)}, got {dtype!r}'
            )
        if dtype == 'float16' and self.device_type == 'cpu':
            dtype = 'bfloat16'
            print_log('AmpOptimWrapper: bfloat16 for float16 on the CPU', 'current')
        self.dtype = DTYPES[dtype]
        self.fixed_scale = loss_scale if isinstance(loss_scale, float | int) else None
        options: dict[str, Any] = {}
        if isinstance(loss_scale, dict):
            options = loss_scale
        elif self.fixed_scale is not None:
            options = {'init_scale': float(self.fixed_scale)}
        elif loss_scale != 'dynamic':
            raise UserError(
                "AmpOptimWrapper: loss_scale must be 'dynamic', a number or a dict, "
                f'got {loss_scale!r}'
            )
        enabled = self.dtype == torch.float16
        self.loss_scaler = _grad_scaler(self.device_type, enabled, options)

    def backward(self, loss: torch.Tensor, **kwargs: Any) -> None:
        self.loss_scaler.scale(loss).backward(**kwargs)
        self._inner_count += 1

    def step(self, **kwargs: Any) -> None:
        if self.clip_grad_kwargs:
            self.loss_scaler.unscale_(self.optimizer)
            self._clip_grad()
        self.loss_scaler.step(self.optimizer, **kwargs)
        self.loss_scaler.update(self.fixed_scale)

    def state_dict(self) -> dict:
        return {**super().state_dict(), 'loss_scaler': self.loss_scaler.state_dict()}

    def load_state_dict(self, state_dict: dict) -> None:
        state_dict = dict(state_dict)
        scaler = state_dict.pop('loss_scaler', None)
        # A run in bfloat16 has no scale to give to one in float16.
        if scaler:
            self.loss_scaler.load_state_dict(scaler)
        super().load_state_dict(state_dict)

    @contextmanager
    def optim_context(self, model: nn.Module) -> Generator[None, None, None]:
        with (
            super().optim_context(model),
            torch.autocast(self.device_type, dtype=self.dtype),
        ):
            yield


def _grad_scaler(device_type: str, enabled: bool, options: dict) -> Any:
    if hasattr(torch.amp, 'GradScaler'):
        return torch.amp.GradScaler(device_type, enabled=enabled, **options)
    # torch < 2.3 knows only the CUDA one.
    return torch.cuda.amp.GradScaler(
        enabled=enabled and device_type == 'cuda', **options
    )
