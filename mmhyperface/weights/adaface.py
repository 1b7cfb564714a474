"""AdaFace (https://github.com/mk-minchul/AdaFace).

A checkpoint of Lightning, ``*.ckpt``, holds under ``state_dict`` the backbone's names,
which are ours, after ``model.``, and the head's after ``head.``: class centres
``kernel`` [D, C], and of the loss AdaFace ``batch_mean`` and ``batch_std``. Its input
is ours in BGR, so the channels of the first layer change places. Its network divides
the embedding by its norm and gives both; ours gives the embedding.
"""

from typing import Any

import torch
from torch import Tensor

from .network import Network, Peer
from .state_dicts import (
    DROP_HEAD,
    State,
    as_state,
    below,
    centres_in,
    swapped_channels,
    unwrapped,
)

PEER = Peer('AdaFace', (('IR', 'tface'),))
_STATISTICS = {'batch_mean': 'norm_mean', 'batch_std': 'norm_std'}


def to_ours(checkpoint: Any, with_head: bool = True) -> Network:
    """The network of an IR of AdaFace; raises ``UserError`` for another.

    Args:
        checkpoint: What the file holds.
        with_head: Whether to take the class centres, if there are any.
    """
    if isinstance(checkpoint, dict):
        checkpoint = checkpoint.get('state_dict', checkpoint)
    state = unwrapped(as_state(checkpoint, 'the checkpoint'))
    head = below(state, 'head.')
    # Released weights are also found as the backbone alone.
    backbone = below(state, 'model.') or state
    centres: Tensor | None = None
    loss: State = {}
    if head and with_head:
        # `t` has been in every checkpoint, and is used nowhere.
        centres = centres_in(head, ['kernel'], ['t', *_STATISTICS], DROP_HEAD).t()
        loss = statistics(head)
    network = PEER.network(backbone, centres, loss)
    return network.with_backbone(swapped_channels(network.backbone, network.config))


def statistics(head: State) -> State:
    """The state of our AdaFaceLoss, if it is that of AdaFace's head."""
    return {
        ours: head[theirs].reshape(())
        for theirs, ours in _STATISTICS.items()
        if theirs in head
    }


def their_statistics(network: Network) -> State:
    """The reverse of :func:`statistics`."""
    return {
        theirs: network.loss[ours].reshape(1)
        for theirs, ours in _STATISTICS.items()
        if ours in network.loss
    }


def from_ours(network: Network) -> dict[str, Any]:
    """The file for AdaFace, by name.

    Raises:
        UserError: If AdaFace has no such network.
    """
    PEER.require(network)
    swapped = swapped_channels(network.backbone, network.config)
    state = {f'model.{key}': value for key, value in swapped.items()}
    if network.centres is not None:
        state['head.kernel'] = network.centres.t()
        buffers = their_statistics(network)
        if buffers:
            buffers['t'] = torch.zeros(1)
        state |= {f'head.{key}': value for key, value in buffers.items()}
    return {f'adaface_ir{network.config["depth"]}.ckpt': {'state_dict': state}}
