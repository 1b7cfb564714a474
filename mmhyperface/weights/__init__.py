"""Peers' weights as ours, and ours as theirs."""

from .architectures import fitted, recognise
from .network import (
    Network,
    from_checkpoint,
    network_of,
    read_checkpoint,
    to_checkpoint,
)
from .publishing import publish, published
from .reading import read_weights

__all__ = [
    'Network',
    'fitted',
    'from_checkpoint',
    'network_of',
    'publish',
    'published',
    'read_checkpoint',
    'read_weights',
    'recognise',
    'to_checkpoint',
]
