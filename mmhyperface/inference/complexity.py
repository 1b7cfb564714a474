"""How large a network is, and what an image costs it.

Parameters and multiply-adds are counted on tensors without data, of the true size; a
multiply-add is one multiplication with its addition, which others count as two
operations (FLOPs). Those of convolutions and matrix products count; normalisations,
activations and additions, some per cent of the time, do not.
"""

from dataclasses import dataclass
from typing import Any

import torch
from mmengine.config import Config, ConfigDict
from mmengine.registry import init_default_scope
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from mmhyperface.models.heads import HypersphereHead
from mmhyperface.models.recognizers import image_channels
from mmhyperface.registry import MODELS
from mmhyperface.utils.errors import UserError


@dataclass(frozen=True)
class Size:
    """A part of a network.

    Attributes:
        parameters: How many numbers are trained or frozen.
        macs: Multiply-adds of one image.
    """

    parameters: int
    macs: int


@dataclass(frozen=True)
class Complexity:
    """A network and its classifier.

    Attributes:
        input_size: Height and width of an image.
        backbone, neck, head: Its parts; None where there is none. The head is a
            ``HypersphereHead`` of a known number of identities; its multiply-adds are
            those of the cosines to all centres, in training alone.
        activations: Bytes that wait for the backward pass, per image, in single
            precision; of backbone and neck. A whole training is planned by
            :mod:`mmhyperface.engine.memory_plan`.
    """

    input_size: tuple[int, int]
    backbone: Size
    neck: Size | None
    head: Size | None
    activations: int


def complexity_of(cfg: Config, input_size: tuple[int, int] | None = None) -> Complexity:
    """Count a config's network without making its weights.

    Args:
        input_size: By default the backbone's own, else 112 x 112.

    Raises:
        UserError: For a config without a backbone.
    """
    size = input_size or _input_size(_backbone_of(cfg))
    sizes = []
    with torch.device('meta'), torch.no_grad():
        modules = build_modules(cfg, 'meta')
        features: Any = torch.empty(1, image_channels(modules[0]), *size)
        for module in modules:
            with FlopCounterMode(display=False) as counter:
                features = module.eval()(features)
            macs = counter.get_total_flops() // 2
            sizes.append(Size(_parameters(module), macs))
        head = _head_size(cfg)
    return Complexity(
        size,
        sizes[0],
        sizes[1] if len(sizes) > 1 else None,
        head,
        _activations(build_modules(cfg, 'meta'), size),
    )


def build_modules(cfg: Config, device: str | torch.device) -> list[nn.Module]:
    """Backbone and, if there is one, neck of a config, on a device."""
    init_default_scope(cfg.get('default_scope', 'mmhyperface'))
    backbone = _backbone_of(cfg)
    parts = (backbone, cfg.model.get('neck'))
    with torch.device(device):
        return [MODELS.build(part) for part in parts if part is not None]


def _backbone_of(cfg: Config) -> ConfigDict:
    backbone = (cfg.get('model') or {}).get('backbone')
    if not backbone:
        raise UserError(f'{cfg.filename} has no model.backbone')
    return backbone


def _input_size(backbone: ConfigDict) -> tuple[int, int]:
    size = backbone.get('input_size', backbone.get('img_size', 112))
    return (size, size) if isinstance(size, int) else tuple(size)


def _parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def _activations(modules: list[nn.Module], size: tuple[int, int]) -> int:
    """Bytes that wait for the backward pass, per image, of modules without data."""
    own = {
        parameter.untyped_storage()._cdata
        for module in modules
        for parameter in module.parameters()
    }
    # Kept, lest another takes the place of one that is gone.
    kept: dict[int, torch.UntypedStorage] = {}

    def keep(saved: Tensor) -> Tensor:
        storage = saved.untyped_storage()
        kept[storage._cdata] = storage
        return saved

    # Of one image, batch norms would have no deviation.
    channels = image_channels(modules[0])
    features: Any = torch.empty(2, channels, *size, device='meta')
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda saved: saved):
        for module in modules:
            features = module.train()(features)
    return sum(x.nbytes() for place, x in kept.items() if place not in own) // 2


def _head_size(cfg: Config) -> Size | None:
    head = cfg.model.get('head')
    if not head or not isinstance(head.get('num_classes'), int):
        return None
    built = MODELS.build(head)
    if not isinstance(built, HypersphereHead):
        return None
    return Size(_parameters(built), built.num_classes * built.in_channels)
