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

from mmhyperface.utils.errors import UserError, some

from .network import Network, network_of, require_kind
from .state_dicts import State, as_state, below, swapped_channels, unwrapped

PEER = 'AdaFace'
KINDS = (('IR', 'tface'),)


def to_ours(checkpoint: Any, with_head: bool = True) -> Network:
    """
    Args:
        checkpoint: What the file holds.
        with_head: Whether to take the class centres, if there are any.

    Raises:
        UserError: If they are not those of an IR of AdaFace.
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
        centres, loss = _centres(head), statistics(head)
    network = network_of(backbone, centres, loss)
    require_kind(network, PEER, KINDS)
    swapped = swapped_channels(network.backbone, network.config)
    return Network(swapped, network.config, network.centres, network.loss)


def _centres(head: State) -> Tensor:
    others = [key for key in head if key not in ('kernel', 't', *_STATISTICS)]
    if others or 'kernel' not in head or head['kernel'].ndim != 2:
        raise UserError(
            f'the head has {some(list(head))}, where class centres `kernel` belong; '
            'convert the backbone alone with --drop-head'
        )
    return head['kernel'].t()


_STATISTICS = {'batch_mean': 'norm_mean', 'batch_std': 'norm_std'}


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
    require_kind(network, PEER, KINDS)
    swapped = swapped_channels(network.backbone, network.config)
    state = {f'model.{key}': value for key, value in swapped.items()}
    if network.centres is not None:
        state['head.kernel'] = network.centres.t()
        buffers = their_statistics(network)
        if buffers:
            # It has been in every checkpoint, and is used nowhere.
            buffers['t'] = torch.zeros(1)
        state |= {f'head.{key}': value for key, value in buffers.items()}
    return {f'adaface_ir{network.config["depth"]}.ckpt': {'state_dict': state}}
