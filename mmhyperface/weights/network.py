"""A network between two formats, and our checkpoint of it."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import torch
from mmengine.config import Config
from torch import Tensor

from mmhyperface.centres import storage
from mmhyperface.centres.state import StoredRows
from mmhyperface.utils.errors import UserError, some
from mmhyperface.version import __version__
from mmhyperface.weights.convention import META_KEY, convention_of

from .architectures import fitted, label, recognise
from .reading import refuse_other_kinds
from .state_dicts import State, as_float32, as_state, below, unwrapped


@dataclass(frozen=True)
class Network:
    """A backbone and, if there are any, class centres, for our input and in fp32.

    Args:
        backbone: State dict of our backbone.
        config: That the backbone is built of.
        centres: Class centres [C, D].
        loss: State of the loss: SphereFace2's ``bias``, AdaFace's ``norm_mean`` and
            ``norm_std``.
    """

    backbone: State
    config: dict
    centres: Tensor | None = None
    loss: State = field(default_factory=dict)

    def with_backbone(self, backbone: State) -> 'Network':
        """The same with other weights of the backbone."""
        return replace(self, backbone=backbone)

    def __str__(self) -> str:
        size = self.config['input_size']
        centres = 'no class centres'
        if self.centres is not None:
            centres = f'{len(self.centres)} class centres'
        if self.loss:
            centres += f', {", ".join(self.loss)} of the loss'
        return (
            f'{label(self.config)}, {size} x {size} pixels, embeddings of '
            f'{self.config["embedding_size"]} dimensions, {centres}'
        )


def network_of(
    backbone: State,
    centres: Tensor | None = None,
    loss: State | None = None,
    options: dict | None = None,
) -> Network:
    """The network of weights that are named as ours.

    Args:
        backbone: State dict of the backbone.
        centres: [C, D].
        loss: State dict of our loss.
        options: Of the backbone's config, where the weights do not tell.

    Raises:
        UserError: If the weights are those of no network, or do not fit one another.
    """
    config = recognise(backbone) | (options or {})
    backbone = fitted(backbone, config)
    if centres is not None:
        size = config['embedding_size']
        if centres.ndim != 2 or centres.shape[1] != size:
            raise UserError(
                f'the class centres {list(centres.shape)} are not of the '
                f"embedding's {size} dimensions; they belong to another network"
            )
        centres = as_float32(centres)
    loss = {key: as_float32(value) for key, value in (loss or {}).items()}
    return Network(backbone, config, centres, loss)


class Peer(NamedTuple):
    """A program that trains some of our networks.

    Attributes:
        name: Its name.
        kinds: Of the backbones that it has: type, and variant (None for any).
    """

    name: str
    kinds: tuple[tuple[str, str | None], ...]

    def network(self, backbone: State, *others: Any) -> Network:
        """See :func:`network_of`; raises ``UserError`` if the program has no such."""
        network = network_of(backbone, *others)
        self.require(network)
        return network

    def require(self, network: Network) -> None:
        """Raise ``UserError`` if the program has no such network."""
        kind, variant = network.config['type'], network.config.get('variant')
        if not {(kind, variant), (kind, None)} & {*self.kinds}:
            raise UserError(
                f'{self.name} has no {label(network.config)}; take the converter of '
                'another peer'
            )


def to_checkpoint(network: Network, peer: str, files: Sequence[str]) -> dict:
    """Our checkpoint, as ``tools/test.py`` and ``load_from`` take it.

    Args:
        peer: Where the weights come from.
        files: Names of its files.
    """
    state = {f'backbone.{key}': value for key, value in network.backbone.items()}
    if network.centres is not None:
        state['head.weight'] = network.centres
    for key, value in network.loss.items():
        state[f'head.loss_module.{key}'] = value
    model = {'type': 'FaceRecognizer', 'backbone': network.config}
    meta = {
        'mmhyperface_version': __version__,
        'converted_from': {'peer': peer, 'files': list(files)},
        'backbone': network.config,
        META_KEY: convention_of(Config({'model': model})).to_dict(),
    }
    return {'meta': meta, 'state_dict': state}


def read_checkpoint(path: str) -> dict:
    """Our checkpoint, a file or a folder of parts, with all its centres.

    Raises:
        UserError: If there is none, or it is no checkpoint of a network.
    """
    place = storage.find(path)
    if place.is_file():
        refuse_other_kinds(place)
    checkpoint = storage.read(path)
    if not isinstance(checkpoint, dict) or 'state_dict' not in checkpoint:
        raise UserError(f'{path} is no checkpoint of mmhyperface: it has no state_dict')
    state = checkpoint['state_dict']
    for key, value in state.items():
        if isinstance(value, StoredRows):
            state[key] = torch.empty(value.shape, dtype=value.dtype)
            value.copy_to(state[key], 0)
    checkpoint['state_dict'] = unwrapped(as_state(state, f'{path}: its state_dict'))
    return checkpoint


def from_checkpoint(checkpoint: dict, variant: str | None = None) -> Network:
    """The network of our checkpoint, with ``EMAHook`` the averaged one.

    Args:
        variant: Of an SFNet without batch norm; by default what a converter told of
            it, if it was one.

    Raises:
        UserError: If it has a neck or a backbone that is not ours.
    """
    state = checkpoint['state_dict']
    known = ('backbone.', 'head.', 'data_preprocessor.')
    others = [key for key in state if not key.startswith(known)]
    if others:
        raise UserError(
            f'the checkpoint has {some(others)} beside backbone and head; no peer has '
            'such a network'
        )
    backbone = below(state, 'backbone.')
    config = recognise(backbone)
    if config['type'] == 'SFNet' and 'variant' not in config:
        saved = (checkpoint.get('meta') or {}).get('backbone') or {}
        variant = variant or saved.get('variant')
        config |= {'variant': variant} if variant else {}
    return network_of(
        backbone,
        state.get('head.weight'),
        below(state, 'head.loss_module.'),
        config,
    )
