"""Peers' weights as ours, and ours as theirs."""

from mmhyperface.extras import importing

_PLACES = {
    'Network': '.network',
    'fitted': '.architectures',
    'from_checkpoint': '.network',
    'network_of': '.network',
    'publish': '.publishing',
    'published': '.publishing',
    'read_checkpoint': '.network',
    'read_weights': '.reading',
    'recognise': '.architectures',
    'to_checkpoint': '.network',
}

__all__ = list(_PLACES)

__getattr__ = importing(__name__, _PLACES)
