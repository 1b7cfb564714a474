"""Peers' weights as ours, and ours as theirs."""

from typing import TYPE_CHECKING

from mmhyperface.utils.optional_imports import importing

if TYPE_CHECKING:
    from .architectures import fitted as fitted
    from .architectures import recognise as recognise
    from .network import Network as Network
    from .network import from_checkpoint as from_checkpoint
    from .network import network_of as network_of
    from .network import read_checkpoint as read_checkpoint
    from .network import to_checkpoint as to_checkpoint
    from .publishing import publish as publish
    from .publishing import published as published
    from .reading import read_weights as read_weights

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

if not TYPE_CHECKING:
    __getattr__, __dir__ = importing(__name__, _PLACES)
