"""CVLface (https://github.com/mk-minchul/CVLface): IR and insightface's IResNet.

``model.pt`` is a state dict with names after ``net.`` (``model.net.`` in the wrapper of
the released weights), ours otherwise. Each process saves its rows of the class centres
in ``classifier_rankR.pt`` as ``partial_fc.weight``, to which classes are added until
the number of processes divides it, or, without partial FC, the first all of them as
``classifier.weight``. The input is ours; in RGB, unless the config of the network says
``color_space: BGR``, as that of weights which AdaFace trained. (``model.yaml`` beside
``model.pt`` says RGB in either case.)
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from mmhyperface.utils.errors import UserError, some

from .adaface import statistics, their_statistics
from .network import Network, Peer
from .shards import merged, split_sizes
from .state_dicts import State, as_state, below, swapped_channels, unwrapped

PEER = Peer('CVLface', (('IR', 'tface'), ('IResNet', None)))
_CLASSIFIERS = ('partial_fc.', 'classifier.')


def to_ours(
    model: Any,
    shards: Sequence[Any] = (),
    channels: str = 'rgb',
    num_classes: int | None = None,
) -> Network:
    """The network of one of CVLface's convolutional ones.

    Args:
        model: What ``model.pt`` holds.
        shards: What ``classifier_rankR.pt`` hold, in the order of the ranks.
        channels: The order that the network takes, of :data:`.CHANNELS`.
        num_classes: Of the data set, to leave out those that were added; None to
            leave them in.

    Raises:
        UserError: If it is another, or files of class centres are missing.
    """
    state = unwrapped(as_state(model, 'the model'), ('module.', 'model.', 'net.'))
    centres: Tensor | None = None
    loss: State = {}
    if shards:
        heads = [_classifier(shard) for shard in shards]
        rows = merged([head['weight'] for head in heads])
        centres = _without_added(rows, len(shards), num_classes)
        loss = statistics(heads[0])
    network = PEER.network(state, centres, loss)
    if channels == 'rgb':
        return network
    return network.with_backbone(swapped_channels(network.backbone, network.config))


def _classifier(shard: Any) -> State:
    state = unwrapped(as_state(shard, 'a file of class centres'))
    for prefix in _CLASSIFIERS:
        head = below(state, prefix)
        if 'weight' in head:
            return head
    raise UserError(
        f'a file of class centres has {some(list(state))}, where partial_fc.weight or '
        'classifier.weight belongs; it is another'
    )


def _without_added(rows: Tensor, world_size: int, num_classes: int | None) -> Tensor:
    if num_classes is not None and not 0 <= len(rows) - num_classes < world_size:
        raise UserError(
            f'there are {len(rows)} class centres of {world_size} processes, which is '
            f'not what {num_classes} classes make; files of processes are missing, or '
            'the number is another'
        )
    return rows[:num_classes]


def from_ours(
    network: Network, world_size: int = 1, channels: str = 'rgb'
) -> dict[str, Any]:
    """Files for CVLface, by name.

    Args:
        world_size: How many processes will read the class centres.
        channels: The order that the network is to take.

    Raises:
        UserError: If CVLface has no such network.
    """
    PEER.require(network)
    state = network.backbone
    if channels == 'bgr':
        state = swapped_channels(state, network.config)
    files = {'model.pt': {f'net.{key}': value for key, value in state.items()}}
    if network.centres is not None:
        rows = network.centres
        added = rows.new_zeros((-len(rows) % world_size, rows.shape[1]))
        rows = torch.cat([rows, added])
        buffers = their_statistics(network)
        for rank, part in enumerate(rows.split(split_sizes(len(rows), world_size))):
            head = {'weight': part, **buffers}
            files[f'classifier_rank{rank}.pt'] = {
                f'partial_fc.{key}': value for key, value in head.items()
            }
    return files
