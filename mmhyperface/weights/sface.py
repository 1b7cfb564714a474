"""SFace's torch code (https://github.com/zhongyy/SFace), and face.evoLVe.

Backbone and head are plain state dicts of their own, in ``Backbone_*_checkpoint.pth``
and ``Head_*_checkpoint.pth``. Names are ours; the class centres are ``weight`` [C, D],
or ``kernel`` [D, C] in some heads. The backbones of SFace take pixels of 0 to 255, in
RGB, and compute (x − 127.5) · 0.078125 in their forward pass, where we feed
(x − 127.5) / 127.5: the first layer takes up the factor. face.evoLVe, whose IR it is,
feeds what we do.
"""

from typing import Any

from mmhyperface.utils.choices import ORIGINS

from .architectures import label
from .network import Network, Peer
from .state_dicts import as_state, centres_in, scaled_input, unwrapped

PEER = Peer(ORIGINS['sface'], (('IR', 'evolve'), ('MobileFaceNet', None)))
#: What each feeds its first layer, in units of our input.
SCALES = {'sface': 0.078125 * 127.5, 'evolve': 1.0}


def to_ours(backbone: Any, head: Any = None, origin: str = 'sface') -> Network:
    """The network of one of SFace's, or of face.evoLVe's IR.

    Args:
        backbone: What ``Backbone_*.pth`` holds.
        head: What ``Head_*.pth`` holds.
        origin: ``sface`` or ``evolve``, whose program trained them.

    Raises:
        UserError: If they are not those of one of its networks.
    """
    state = unwrapped(as_state(backbone, 'the backbone'))
    centres = None
    if head is not None:
        head = unwrapped(as_state(head, 'the head'))
        centres = centres_in(head, ['weight', 'kernel'])
        if 'kernel' in head:
            centres = centres.t()
    network = PEER.network(state, centres)
    scaled = scaled_input(network.backbone, network.config, SCALES[origin])
    return network.with_backbone(scaled)


def from_ours(network: Network, origin: str = 'sface') -> dict[str, Any]:
    """Files for SFace, by name.

    The input's factor is taken out of the first layer, up to one rounding to fp32.

    Raises:
        UserError: If SFace has no such network.
    """
    PEER.require(network)
    state = scaled_input(network.backbone, network.config, 1 / SCALES[origin])
    name = label({**network.config, 'variant': ''}).split()[0].replace('-', '_')
    files = {f'Backbone_{name}_checkpoint.pth': state}
    if network.centres is not None:
        files['Head_SFaceLoss_checkpoint.pth'] = {'weight': network.centres}
    return files
