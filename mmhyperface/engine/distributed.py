"""Several processes, each on a GPU of its own, or on a machine without one."""

import datetime
import inspect
import multiprocessing
import os
from typing import Any

import torch
from mmengine.dist import get_dist_info, init_dist, is_distributed
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
# The rank on its machine, and how many ranks there are.
_ON_MACHINE = {
    'pytorch': ('LOCAL_RANK', 'LOCAL_WORLD_SIZE'),
    'slurm': ('SLURM_LOCALID', 'SLURM_NTASKS_PER_NODE'),
    'mpi': ('OMPI_COMM_WORLD_LOCAL_RANK', 'OMPI_COMM_WORLD_LOCAL_SIZE'),
}
_RANKS_OPTION = {
    'pytorch': 'GPUS of tools/dist_train.sh (--nproc_per_node of torchrun)',
    'slurm': 'GPUS_PER_NODE of tools/slurm_train.sh (--ntasks-per-node of srun)',
    'mpi': 'the processes of mpirun on a machine',
}
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
    """Connect the processes: by mmengine on GPUs, by gloo where there is none.

    A rank that sees one GPU alone, as Slurm's ``--gpus-per-task`` has it, takes that.
    Does nothing without a launcher, or when the processes are already connected.

    Args:
        launcher: ``none``, ``pytorch``, ``slurm`` or ``mpi``.
        dist_cfg: ``env_cfg.dist_cfg`` of the config; its timeout is in seconds.

    Raises:
        UserError: If no launcher has started this process, or there are more ranks
            than GPUs.
    """
    if launcher == 'none' or is_distributed():
        return
    _require_variables(launcher)
    for name, source in _ENVIRONMENT.get(launcher, {}).items():
        os.environ[name] = os.environ[source]
    dist_cfg = dict(dist_cfg or {})
    if torch.cuda.is_available():
        _init_on_gpus(launcher, dist_cfg)
        return
    if launcher != 'pytorch':
        if int(os.environ.get('SLURM_NNODES', 1)) > 1 and not os.environ.get(
            'MASTER_ADDR'
        ):
            raise UserError(
                'several nodes without GPUs must know where rank 0 is: set MASTER_ADDR '
                'to the first node of SLURM_NODELIST'
            )
        os.environ['LOCAL_RANK'] = os.environ.get(_ON_MACHINE[launcher][0], '0')
        os.environ.setdefault('MASTER_ADDR', '127.0.0.1')
        os.environ.setdefault('MASTER_PORT', '29500')
    options: dict[str, Any] = {}
    if dist_cfg.get('timeout') is not None:
        options['timeout'] = datetime.timedelta(seconds=dist_cfg['timeout'])
    torch.distributed.init_process_group(backend='gloo', **options)


def _init_on_gpus(launcher: str, dist_cfg: dict) -> None:
    own, others = _ON_MACHINE[launcher]
    gpus = torch.cuda.device_count()
    ranks = max(int(os.environ.get(others, 0)), int(os.environ.get(own, 0)) + 1)
    visible = f'{gpus} visible GPU' + 's' * (gpus > 1)
    too_many = UserError(
        f'{ranks} ranks on this machine and {visible}: each rank needs its own. Set '
        f'{_RANKS_OPTION[launcher]} to {gpus}, or CUDA_VISIBLE_DEVICES to more GPUs'
    )
    if 1 < gpus < ranks:
        raise too_many
    if gpus == 1:
        # Each rank may see its own GPU, as number 0.
        os.environ[own] = '0'
    method = multiprocessing.get_start_method(allow_none=True)
    init_dist(launcher, **dist_cfg)
    # It has chosen one before the config's env_cfg.mp_cfg can.
    multiprocessing.set_start_method(method, force=True)
    number = torch.cuda.current_device()
    # Of mpirun nobody else says so, and DDP asks for it.
    os.environ['LOCAL_RANK'] = str(number)
    rank, world = get_dist_info()
    # NCCL would wait for long, or end in an error of its own. torch has no public way
    # to the store yet, nor an old one to the identity of a GPU.
    store = torch.distributed.distributed_c10d._get_default_store()
    gpu = torch.cuda.get_device_properties(number)
    store.set(f'GPU of {rank}', str(getattr(gpu, 'uuid', rank)))
    if gpus < ranks:
        taken = store.multi_get([f'GPU of {i}' for i in range(world)])
        if len(set(taken)) < world:
            raise too_many


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
