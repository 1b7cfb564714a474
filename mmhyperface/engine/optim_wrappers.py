"""mmengine's optimizer wrappers, exact where each rank keeps its own rows.

A parameter whose rows are split over the ranks tells so by its attribute ``shard``,
a :class:`mmhyperface.centres.Shard`. Its gradient is a part of a bigger one, so what
concerns the whole gradient takes an exchange: the norm that clips it, and whether
it overflowed. Without such parameters nothing differs from mmengine.

All class centres have that attribute, split or not; other parameters of the head,
such as SphereFace2's bias, have the attribute ``of_classifier``.
"""

from collections.abc import Generator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import torch
from mmengine import optim
from mmengine.dist import all_gather, all_reduce
from mmengine.logging import print_log
from torch import Tensor, nn
from torch.optim import SGD, Optimizer

from mmhyperface.compat.fused_sgd import begin_momentum
from mmhyperface.engine.deferred_history import DeferredHistory, log_scalar
from mmhyperface.registry import OPTIM_WRAPPERS
from mmhyperface.utils.errors import UserError

DTYPES = {'float16': torch.float16, 'bfloat16': torch.bfloat16}
# Of torch's optimizers: ways to step that are equal but for rounding.
WAYS = ('fused', 'foreach')
CPU_INFO = '/proc/cpuinfo'
# As Linux calls them: of x86 processors, and of ARM's.
BFLOAT16_FLAGS = {'avx512_bf16', 'amx_bf16', 'bf16'}


@cache
def has_bfloat16_instructions() -> bool:
    """Whether this CPU computes in bfloat16, and does not only convert to it.

    torch knows of x86 since 2.6, and its question whether oneDNN can do it is
    answered yes by any CPU with AVX-512. Linux knows of all.
    """
    asked = [
        getattr(torch.cpu, name, None)
        for name in ('_is_avx512_bf16_supported', '_is_amx_tile_supported')
    ]
    if any(question is not None and question() for question in asked):
        return True
    try:
        lines = Path(CPU_INFO).read_text().splitlines()
    except OSError:
        return False
    flags = (line.partition(':')[2] for line in lines if line[:5] in ('flags', 'Featu'))
    return any(BFLOAT16_FLAGS & set(names.split()) for names in flags)


@OPTIM_WRAPPERS.register_module()
class OptimWrapper(optim.OptimWrapper):
    """mmengine's ``OptimWrapper`` that clips by the norm over all ranks.

    The norm that is logged is the one that clips, of all ranks. It leaves the device
    with the log, and an overflow that a loss scaler skips is not in its mean.

    torch's SGD on a GPU steps in one kernel per some tensors (``fused``), unless the
    config gives ``optimizer.fused`` or ``optimizer.foreach``.

    Args:
        args: Arguments of mmengine's ``OptimWrapper``.
        clip_centres: Whether ``clip_grad`` concerns the class centres, too. If not,
            it concerns the network alone, as ``clip_grad_norm_(backbone.parameters(),
            5)`` of insightface's arcface_torch does, and all that belongs to
            :class:`~mmhyperface.models.HypersphereHead` steps unclipped: the centres
            and the loss's own parameters.
        kwargs: Arguments of mmengine's ``OptimWrapper``.

    Raises:
        UserError: With ``clip_centres=False``, if the optimizer holds no centres.
    """

    def __init__(self, *args: Any, clip_centres: bool = True, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.clip_centres = clip_centres
        groups = self.optimizer.param_groups
        parameters = [p for group in groups for p in group['params']]
        if not (clip_centres or any(map(_is_classifier, parameters))):
            raise UserError(
                f'{type(self).__name__}: clip_centres=False leaves the centres of a '
                'HypersphereHead out of clipping, but the optimizer holds none; leave '
                'optim_wrapper.clip_centres out'
            )
        if all(p.is_cuda for p in parameters) and may_fuse(self.optimizer):
            for group in groups:
                group['fused'] = True
        begin_momentum(self.optimizer)

    def load_state_dict(self, state_dict: dict) -> None:
        """Load a state; how to step is for the device that is here to say."""
        groups = self.optimizer.param_groups
        ways = [{name: group.get(name) for name in WAYS} for group in groups]
        super().load_state_dict(state_dict)
        for group, way in zip(self.optimizer.param_groups, ways, strict=True):
            group.update({name: way[name] for name in WAYS if name in group})

    def _clip_grad(self) -> None:
        clipped = [
            parameter
            for parameter in self._parameters()
            if parameter.grad is not None
            and (self.clip_centres or not _is_classifier(parameter))
        ]
        parts = self._sharded() if self.clip_centres else []
        norm: Tensor | None = None
        # Clipping by value knows no other element.
        if parts and self.grad_name == 'grad_norm':
            norm = self._clip_with(parts, clipped)
        elif clipped:
            # DDP gives all ranks the same gradient of the network.
            norm = self.clip_func(clipped, **self.clip_grad_kwargs)
        if norm is not None:
            log_scalar(self.message_hub, f'train/{self.grad_name}', norm)

    def _clip_with(
        self, parts: list[nn.Parameter], clipped: list[nn.Parameter]
    ) -> Tensor:
        """Clip by the norm of gradients of which some are split."""
        order = float(self.clip_grad_kwargs.get('norm_type', 2))
        if not order > 0:
            raise UserError(
                f'optim_wrapper.clip_grad.norm_type={order} cannot be computed of '
                'centres that are split over the ranks; set it to a positive number '
                "or 'inf', or model.head.sharded=False"
            )
        known = {id(part) for part in parts}
        whole = [parameter for parameter in clipped if id(parameter) not in known]
        grads = [part.grad for part in parts if part.grad is not None]
        # The norms of the parts stand for the gradient of one more parameter that
        # all ranks have: the norm, and so the replicas, agree to the last bit.
        norms = [torch.linalg.vector_norm(x, order) for x in grads if x.numel()]
        norm = torch.linalg.vector_norm(
            torch.stack(norms or [torch.zeros(())]), order
        ).to(parts[0])
        whole.append(nn.Parameter(torch.cat(all_gather(norm.view(1)))))
        whole[-1].grad = whole[-1].detach()
        total = self.clip_func(whole, **self.clip_grad_kwargs)
        scale = (self.clip_grad_kwargs['max_norm'] / (total + 1e-6)).clamp(max=1)
        for grad in grads:
            grad.mul_(scale)
        return total

    def _parameters(self) -> list[nn.Parameter]:
        # Asked anew each time: sampling puts the touched rows into the groups.
        groups = self.optimizer.param_groups
        return [p for group in groups for p in group['params'] if p.requires_grad]

    def _sharded(self) -> list[nn.Parameter]:
        """The parameters of which each rank has other rows; maybe no rows."""
        shards = ((p, getattr(p, 'shard', None)) for p in self._parameters())
        return [p for p, shard in shards if shard is not None and shard.world_size > 1]


@OPTIM_WRAPPERS.register_module()
class AmpOptimWrapper(OptimWrapper):
    """mmengine's ``AmpOptimWrapper`` that also runs on the CPU.

    All ranks skip a step in which the gradient of any of them overflowed.

    Args:
        dtype: ``float16`` or ``bfloat16``; by default float16 on CUDA and bfloat16
            elsewhere. On the CPU float16, which few operations know there, becomes
            bfloat16. A CPU without instructions for bfloat16, which is many times
            slower in it, stays in float32 unless `dtype` is ``bfloat16``.
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
        if dtype not in (None, *DTYPES):
            raise UserError(
                'AmpOptimWrapper: optim_wrapper.dtype must be one of '
                f'{(*DTYPES,)}, got {dtype!r}'
            )
        default = 'float16' if self.device_type == 'cuda' else 'bfloat16'
        self.dtype = DTYPES[dtype or default]
        if self.device_type == 'cpu' and dtype != 'bfloat16':
            self.dtype, note = torch.bfloat16, dtype and f'{dtype} on the CPU'
            if not has_bfloat16_instructions():
                self.dtype = torch.float32
                note = (
                    'this CPU has no instructions for bfloat16; '
                    "optim_wrapper.dtype='bfloat16' takes it all the same"
                )
            if note:
                name = str(self.dtype).removeprefix('torch.')
                print_log(f'AmpOptimWrapper: {name}, for {note}', 'current')
        self.fixed_scale: float | None = None
        options: dict[str, Any] = {}
        if isinstance(loss_scale, dict):
            options = loss_scale
        elif isinstance(loss_scale, float | int):
            self.fixed_scale = options['init_scale'] = float(loss_scale)
        elif loss_scale != 'dynamic':
            raise UserError(
                "AmpOptimWrapper: optim_wrapper.loss_scale must be 'dynamic', a number "
                f'or a dict, got {loss_scale!r}'
            )
        enabled = self.dtype == torch.float16
        self.loss_scaler = _grad_scaler(self.device_type, enabled, options)

    def backward(self, loss: Tensor, **kwargs: Any) -> None:
        self.loss_scaler.scale(loss).backward(**kwargs)
        self._inner_count += 1

    def step(self, **kwargs: Any) -> None:
        sharded = self._sharded()
        if sharded or self.clip_grad_kwargs:
            self.loss_scaler.unscale_(self.optimizer)
        if sharded and self.loss_scaler.is_enabled():
            self._share_overflow(sharded[0].device)
        if self.clip_grad_kwargs:
            self._clip_grad()
            norms = self.message_hub.log_scalars.get(f'train/{self.grad_name}')
            if isinstance(norms, DeferredHistory):
                norms.overflows = self.loss_scaler.is_enabled()
        # A fused step reads on the device whether to be skipped. The host must know
        # if others count the steps that were taken.
        self.optimizer._step_supports_amp_scaling = (  # type: ignore[attr-defined]
            all(group.get('fused') for group in self.optimizer.param_groups)
            and not self.optimizer._optimizer_step_post_hooks
        )
        self.loss_scaler.step(self.optimizer, **kwargs)
        self.loss_scaler.update(self.fixed_scale)

    def _share_overflow(self, device: torch.device) -> None:
        # Where torch's own ShardedGradScaler looks, too.
        state = self.loss_scaler._per_optimizer_states[id(self.optimizer)]
        flags = state['found_inf_per_device']
        overflow = torch.zeros((), device=device)
        for flag in flags.values():
            overflow = torch.maximum(overflow, flag.to(device))
        all_reduce(overflow, op='max')
        flags.update({where: overflow.to(where) for where in (device, *flags)})

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
        half = self.dtype != torch.float32
        autocast = torch.autocast(self.device_type, self.dtype if half else None, half)
        with super().optim_context(model), autocast:
            yield


def _grad_scaler(device_type: str, enabled: bool, options: dict) -> Any:
    if hasattr(torch.amp, 'GradScaler'):
        return torch.amp.GradScaler(device_type, enabled=enabled, **options)
    # torch < 2.3 knows only the CUDA one.
    return torch.cuda.amp.GradScaler(
        enabled=enabled and device_type == 'cuda', **options
    )


def may_fuse(optimizer: Optimizer) -> bool:
    """Whether it is SGD, and nobody has said how it is to step."""
    return type(optimizer) is SGD and all(
        group.get('fused', False) is group['foreach'] is None
        and not (group['dampening'] or group['differentiable'])
        for group in optimizer.param_groups
    )


def _is_classifier(parameter: nn.Parameter) -> bool:
    return hasattr(parameter, 'shard') or hasattr(parameter, 'of_classifier')
