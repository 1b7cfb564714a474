"""Several processes, each on a GPU of its own, or on a machine without one."""

import datetime
import inspect
import os
import shutil
import subprocess
from typing import Any

import torch
from mmengine.dist import get_dist_info, is_distributed
from mmengine.model import MMDistributedDataParallel
from torch import nn
from torch.distributed.algorithms.ddp_comm_hooks import default_hooks
from torch.nn.parallel import DistributedDataParallel

from mmhyperface.registry import MODEL_WRAPPERS
from mmhyperface.utils.errors import UserError

# Rank and number of ranks, and both on one machine.
_ENVIRONMENT = {
    'pytorch': ('RANK', 'WORLD_SIZE', 'LOCAL_RANK', 'LOCAL_WORLD_SIZE'),
    'slurm': ('SLURM_PROCID', 'SLURM_NTASKS', 'SLURM_LOCALID', 'SLURM_NTASKS_PER_NODE'),
    'mpi': (
        *('OMPI_COMM_WORLD_RANK', 'OMPI_COMM_WORLD_SIZE'),
        *('OMPI_COMM_WORLD_LOCAL_RANK', 'OMPI_COMM_WORLD_LOCAL_SIZE'),
    ),
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
    """Connect the processes: by NCCL on GPUs, by gloo where there is none.

    A rank that sees one GPU alone, as Slurm's ``--gpus-per-task`` has it, takes that.
    Does nothing without a launcher, or when the processes are already connected.

    Args:
        launcher: ``none``, ``pytorch``, ``slurm`` or ``mpi``.
        dist_cfg: ``env_cfg.dist_cfg`` of the config: ``backend`` and what else
            ``torch.distributed.init_process_group`` takes, its timeout in seconds, and
            the ``port`` of rank 0 for slurm and mpi. gloo takes the timeout alone.

    Raises:
        UserError: If no launcher has started this process, there are more ranks than
            GPUs, the timeout is no number, or where rank 0 is cannot be known.
    """
    if launcher == 'none' or is_distributed():
        return
    names = _ENVIRONMENT[launcher]
    for name in names[:2]:
        if name not in os.environ:
            raise UserError(
                f'--launcher {launcher}: {name} is not set, so no launcher has started '
                f'this process: start it with {_STARTED_BY[launcher]}, or leave '
                '--launcher out'
            )
    rank, world, local, ranks = (int(os.environ.get(name, 0)) for name in names)
    os.environ |= {'RANK': f'{rank}', 'WORLD_SIZE': f'{world}'}
    options = dict(dist_cfg or {})
    backend, port = options.pop('backend', 'nccl'), options.pop('port', None)
    if launcher != 'pytorch':
        os.environ['MASTER_PORT'] = str(port or os.environ.get('MASTER_PORT', 29500))
        if not os.environ.get('MASTER_ADDR'):
            os.environ['MASTER_ADDR'] = _address(launcher, world > ranks > 0)
    timeout = options.pop('timeout', None)
    waiting: dict[str, Any] = {}
    try:
        if timeout is not None:
            waiting['timeout'] = datetime.timedelta(seconds=timeout)
    except TypeError as error:
        raise UserError(
            f'env_cfg.dist_cfg.timeout is a number of seconds, got {timeout!r}'
        ) from error
    if torch.cuda.is_available():
        # Slurm may tell of the ranks of a whole job, or of none.
        ranks = max(min(ranks, world), local + 1)
        _init_on_gpus(launcher, local, ranks, backend=backend, **options, **waiting)
        return
    os.environ['LOCAL_RANK'] = str(local)
    torch.distributed.init_process_group(backend='gloo', **waiting)


def _address(launcher: str, several: bool) -> str:
    """Where rank 0 is."""
    if launcher == 'slurm':
        several = int(os.environ.get('SLURM_NNODES', 1)) > 1
        if several and shutil.which('scontrol'):
            command = ['scontrol', 'show', 'hostnames', os.environ['SLURM_NODELIST']]
            return subprocess.check_output(command, text=True).split()[0]
    if several:
        raise UserError(
            'several machines must know where rank 0 is: set MASTER_ADDR to its machine'
        )
    return '127.0.0.1'


def _init_on_gpus(launcher: str, local: int, ranks: int, **options: Any) -> None:
    """Be the `local`-th of as many ranks on this machine, on a GPU of its own."""
    gpus = torch.cuda.device_count()
    visible = f'{gpus} visible GPU' + 's' * (gpus > 1)
    too_many = UserError(
        f'{ranks} ranks on this machine and {visible}: each rank needs its own. Set '
        f'{_RANKS_OPTION[launcher]} to {gpus}, or CUDA_VISIBLE_DEVICES to more GPUs'
    )
    if 1 < gpus < ranks:
        raise too_many
    # Each rank may see its own GPU, as number 0.
    number = local if gpus > 1 else 0
    # mmengine asks for it when it wraps a model.
    os.environ['LOCAL_RANK'] = str(number)
    torch.cuda.set_device(number)
    torch.distributed.init_process_group(**options)
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
