"""insightface's arcface_torch (https://github.com/deepinsight/insightface).

The backbone is ``model.pt`` (``backbone.pth`` in 2021), a plain state dict of IResNet,
whose names are ours. Each process saves its own rows of the class centres: as a tensor
``rank_R_softmax_weight.pt`` (2021), as the state dict ``softmax_fc_gpu_R.pt`` with the
entry ``weight`` (2022), or, to resume, in ``checkpoint_gpu_R.pt`` (since May 2022) as
``state_dict_softmax_fc`` beside ``state_dict_backbone``. Its input is ours.
"""

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from mmhyperface.utils.errors import UserError

from .network import Network, Peer
from .shards import merged, require_count, split_sizes
from .state_dicts import as_state, unwrapped

PEER = Peer('insightface', (('IResNet', None),))


def to_ours(
    backbone: Any, shards: Sequence[Any] = (), num_classes: int | None = None
) -> Network:
    """The network of an IResNet of insightface.

    Args:
        backbone: What ``model.pt`` or ``checkpoint_gpu_0.pt`` holds.
        shards: What the files of the class centres hold, in the order of the ranks.
        num_classes: How many classes there must be; None for as many as there are.

    Raises:
        UserError: If they are not those of one IResNet.
    """
    if isinstance(backbone, dict):
        backbone = backbone.get('state_dict_backbone', backbone)
    state = unwrapped(as_state(backbone, 'the backbone'))
    centres = None
    if shards:
        centres = merged([rows_of(shard) for shard in shards])
        require_count(len(centres), num_classes)
    return PEER.network(state, centres)


def rows_of(shard: Any) -> Tensor:
    """The class centres [n, D] of one process."""
    if isinstance(shard, dict):
        shard = shard.get('state_dict_softmax_fc', shard)
        shard = shard.get('weight') if isinstance(shard, dict) else shard
    if not isinstance(shard, Tensor):
        raise UserError(
            'a file of class centres holds neither a tensor nor a state dict with '
            '`weight`; it is another'
        )
    return shard


def has_centres(content: Any) -> bool:
    """Whether it is a checkpoint that holds class centres, too."""
    return isinstance(content, dict) and 'state_dict_softmax_fc' in content


def from_ours(network: Network, world_size: int = 1) -> dict[str, Any]:
    """Files for insightface, by name.

    Args:
        world_size: How many processes will read the class centres.

    Raises:
        UserError: If insightface has no such network.
    """
    PEER.require(network)
    files: dict[str, Any] = {'model.pt': network.backbone}
    if network.centres is not None:
        sizes = split_sizes(len(network.centres), world_size)
        for rank, rows in enumerate(network.centres.split(sizes)):
            files[f'softmax_fc_gpu_{rank}.pt'] = {'weight': rows}
    return files
