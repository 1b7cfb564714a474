"""Several processes on a machine without a GPU."""

import datetime
import inspect
import os
from typing import Any

import torch
from mmengine.dist import is_distributed
from mmengine.model import MMDistributedDataParallel
from torch import nn
from torch.distributed.algorithms.ddp_comm_hooks import default_hooks
from torch.nn.parallel import DistributedDataParallel

from mmhyperface.registry import MODEL_WRAPPERS
from mmhyperface.utils.errors import UserError

_ENVIRONMENT = {
    'slurm': {'RANK': 'SLURM_PROCID', 'WORLD_SIZE': 'SLURM_NTASKS'},
    'mpi': {'RANK': 'OMPI_COMM_WORLD_RANK', 'WORLD_SIZE': 'OMPI_COMM_WORLD_SIZE'},
}
_LOCAL_RANK = {'slurm': 'SLURM_LOCALID', 'mpi': 'OMPI_COMM_WORLD_LOCAL_RANK'}
_STARTED_BY = {
    'pytorch': 'tools/dist_train.sh, tools/dist_test.sh or torchrun',
    'slurm': 'tools/slurm_train.sh, tools/slurm_test.sh or srun',
    'mpi': 'mpirun',
}
# The name of the option that torch 2.15 began to warn about, and its successor's.
_BUFFERS_OPTION = (
    'forward_sync_buffers'
    if 'forward_sync_buffers' in inspect.signature(DistributedDataParallel).parameters
    else 'broadcast_buffers'
)

_COMM_HOOKS = {
    'float16': default_hooks.fp16_compress_hook,
    'bfloat16': default_hooks.bf16_compress_hook,
}


def init_process_group(launcher: str, dist_cfg: dict | None = None) -> None:
    """Start gloo where mmengine would call ``torch.cuda.set_device`` in vain.

    Does nothing where a GPU is visible, without a launcher, or when the processes
    are already connected: mmengine's runner does the rest.

    Args:
        launcher: ``none``, ``pytorch``, ``slurm`` or ``mpi``.
        dist_cfg: ``env_cfg.dist_cfg`` of the config; its timeout, in seconds, is
            respected.
    """
    if launcher == 'none' or is_distributed():
        return
    _require_variables(launcher)
    if torch.cuda.is_available():
        return
    for name, source in _ENVIRONMENT.get(launcher, {}).items():
        os.environ[name] = os.environ[source]
    if launcher in _LOCAL_RANK:
        if int(os.environ.get('SLURM_NNODES', 1)) > 1 and not os.environ.get(
            'MASTER_ADDR'
        ):
            raise UserError(
                'several nodes without GPUs must know where rank 0 is: set MASTER_ADDR '
                'to the first node of SLURM_NODELIST'
            )
        os.environ['LOCAL_RANK'] = os.environ.get(_LOCAL_RANK[launcher], '0')
        os.environ.setdefault('MASTER_ADDR', '127.0.0.1')
        os.environ.setdefault('MASTER_PORT', '29500')
    timeout = (dist_cfg or {}).get('timeout')
    options: dict[str, Any] = {}
    if timeout is not None:
        options['timeout'] = datetime.timedelta(seconds=timeout)
    torch.distributed.init_process_group(backend='gloo', **options)


def _require_variables(launcher: str) -> None:
    """Raise ``UserError`` if no launcher has started this process."""
    needed = {'pytorch': ['RANK', 'WORLD_SIZE']}
    needed |= {name: list(each.values()) for name, each in _ENVIRONMENT.items()}
    for name in needed.get(launcher, ()):
        if name not in os.environ:
            raise UserError(
                f'--launcher {launcher}: {name} is not set, so no launcher has started '
                f'this process: start it with {_STARTED_BY[launcher]}, or leave '
                '--launcher out'
            )


@MODEL_WRAPPERS.register_module()
class FaceDistributedDataParallel(MMDistributedDataParallel):
    """mmengine's DistributedDataParallel, on the GPU and on the CPU.

    mmengine names a GPU for each process, which DDP refuses for a module that
    lies on the CPU.

    What a rank does not share with the others stays out of DDP, which would give it
    rank 0's values and the mean gradient: the parameters that a submodule names in
    its attribute ``ddp_ignored``, a sequence of names of its own parameters.

    Args:
        module: The model.
        device_ids: As mmengine gives it; dropped on the CPU.
        broadcast_buffers: Off by default, as in mmengine: statistics that must
            agree are gathered by whoever keeps them.
        comm_dtype: In what gradients are exchanged: ``float16`` or ``bfloat16``, at
            half the bytes, or None, in their own. With float16 the loss should be
            scaled (:class:`.AmpOptimWrapper`), which then skips a step whose sum
            overflows on the way.
        kwargs: Further options of ``torch.nn.parallel.DistributedDataParallel``, of
            which ``gradient_as_bucket_view`` is on: gradients lie where they are
            exchanged, and there is no second copy of them.

    Raises:
        UserError: For any other ``comm_dtype``.
    """

    def __init__(
        self,
        module: nn.Module,
        device_ids: list | None = None,
        broadcast_buffers: bool = False,
        comm_dtype: str | None = None,
        **kwargs: Any,
    ) -> None:
        if comm_dtype not in (None, *_COMM_HOOKS):
            raise UserError(
                'FaceDistributedDataParallel: model_wrapper_cfg.comm_dtype must be one '
                f'of {(*_COMM_HOOKS,)} or None, got {comm_dtype!r}'
            )
        if next(module.parameters()).device.type == 'cpu':
            device_ids = None
        ignored = [
            f'{path}.{name}' if path else name
            for path, part in module.named_modules()
            for name in getattr(part, 'ddp_ignored', ())
        ]
        if ignored:
            others = getattr(module, '_ddp_params_and_buffers_to_ignore', ())
            # torch has no public way to say so yet.
            self._set_params_and_buffers_to_ignore_for_model(
                module, [*others, *ignored]
            )
        kwargs[_BUFFERS_OPTION] = broadcast_buffers
        kwargs.setdefault('gradient_as_bucket_view', True)
        super().__init__(module=module, device_ids=device_ids, **kwargs)
        if comm_dtype is not None:
            self.register_comm_hook(None, _COMM_HOOKS[comm_dtype])
