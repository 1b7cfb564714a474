"""Compare converted weights with the code of those they come from.

    check_with_peers.py --peer-dir DIR

DIR holds checkouts called insightface, opensphere (of 2023), opensphere-032c31b, SFace,
face.evoLVe, AdaFace and CVLface; those that are missing are left out. Of each, networks
are built by its own code with random weights, batch norms' statistics too. Printed are
the largest differences of the embeddings of random images, divided by the largest norm:
ours against theirs, and theirs after the way back, which they load strictly.
"""

from __future__ import annotations

import argparse
import copy
import importlib
import io
import sys
import types
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest import mock

from rich.console import Console
from rich.table import Table

from mmhyperface.utils.command_line import report_errors
from mmhyperface.utils.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor, nn

    from mmhyperface.weights import Network

CLASSES, RANKS = 10, 3
TOLERANCE = 1e-5


@dataclass
class Case:
    """A network of a peer, and the way there and back.

    Args:
        name: Of the network.
        modules: The network and its heads, built by the peer's code.
        to_ours: From their state dicts.
        from_ours: To files whose contents they load, in their order.
        embed: What the network makes of images in BGR [B, 3, H, W], 0 to 255, with the
            peer's preprocessing.
    """

    name: str
    modules: Sequence[nn.Module]
    to_ours: Callable[..., Network]
    from_ours: Callable[[Network], Mapping[str, dict]]
    embed: Callable[[Any, Tensor], Tensor]


def load(folder: Path, name: str) -> Any:
    """A module of a folder, whose package is not imported."""
    package = f'peer{abs(hash(folder))}'
    if package not in sys.modules:
        sys.modules[package] = types.ModuleType(package)
        sys.modules[package].__path__ = [str(folder)]
    return importlib.import_module(f'{package}.{name}')


def settle(net: nn.Module, embed: Callable[[], Tensor]) -> None:
    """Draw what starts at 0 and 1, and let batch norms see images, lest it explode."""
    import torch
    from torch import nn

    kinds = (nn.BatchNorm1d, nn.BatchNorm2d)
    norms = [m for m in net.modules() if isinstance(m, kinds)]
    for module in net.modules():
        if isinstance(module, kinds) and module.affine:
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, 0, 0.2)
        if isinstance(module, nn.PReLU):
            nn.init.uniform_(module.weight, 0, 0.5)
    for module in norms:
        module.momentum = 1
    net.train()
    embed()
    for module in norms:
        deviation = module.running_var.sqrt()
        module.running_mean += 0.2 * deviation * torch.randn_like(deviation)
        module.running_var *= torch.empty_like(deviation).uniform_(0.8, 1.25)
    net.eval()


def as_rank(rank: int, world_size: int) -> Any:
    """Lets the peer's code believe that it is one of several processes."""
    import torch

    return mock.patch.multiple(
        torch.distributed,
        is_initialized=lambda: True,
        get_rank=lambda: rank,
        get_world_size=lambda: world_size,
    )


def rgb(images: Tensor) -> Tensor:
    return (images.flip(1) - 127.5) / 127.5


def bgr(images: Tensor) -> Tensor:
    return (images - 127.5) / 127.5


def embed_rgb(net: nn.Module, images: Tensor) -> Tensor:
    return net(rgb(images))


def insightface_cases(root: Path) -> Iterator[Case]:
    from torch import nn

    from mmhyperface.weights import insightface

    folder = root / 'recognition' / 'arcface_torch'
    nets = load(folder / 'backbones', 'iresnet')
    partial_fc = load(folder, 'partial_fc_v2').PartialFC_V2

    def to_ours(net: dict, *heads: dict) -> Network:
        shards = [{'state_dict_softmax_fc': head} for head in heads]
        return insightface.to_ours({'state_dict_backbone': net}, shards, CLASSES)

    from_ours = partial(insightface.from_ours, world_size=RANKS)
    for depth in (18, 50, 100):
        modules = [getattr(nets, f'iresnet{depth}')()]
        for rank in range(RANKS):
            with as_rank(rank, RANKS):
                modules.append(partial_fc(nn.Identity(), 512, CLASSES))
        yield Case(f'iresnet{depth}', modules, to_ours, from_ours, embed_rgb)


def opensphere_cases(root: Path) -> Iterator[Case]:
    from torch import nn

    from mmhyperface.weights import opensphere

    nets = load(root / 'opensphere' / 'module' / 'backbone', 'sfnet')
    iresnets = load(root / 'opensphere' / 'module' / 'backbone', 'iresnet')
    heads = load(root / 'opensphere' / 'module' / 'head', 'sphereface2')
    built = {
        'sfnet20': nets.sfnet20(),
        'sfnet64 with BN': nets.sfnet64(norm_layer=nn.BatchNorm2d),
        'iresnet50': iresnets.iresnet50(),
    }

    def to_ours(net: dict, head: dict) -> Network:
        return opensphere.to_ours({'model': {'backbone': net, 'head': head}})

    def from_ours(network: Network) -> dict[str, dict]:
        (model,) = opensphere.from_ours(network, '2023').values()
        return model

    for name, net in built.items():
        modules = [net, heads.SphereFace2(512, CLASSES)]
        yield Case(name, modules, to_ours, from_ours, embed_rgb)


def opensphere_2022_cases(root: Path) -> Iterator[Case]:
    from torch import nn

    from mmhyperface.weights import opensphere

    backbones = root / 'model' / 'backbone'
    heads = load(root / 'model' / 'head', 'sphereface2')
    deprecated, newer = load(backbones, 'sfnet_deprecated'), load(backbones, 'sfnet')
    built = {
        ('sfnet20_deprecated', 'paper'): deprecated.sfnet20_deprecated(),
        ('sfnet64_deprecated', 'paper'): deprecated.sfnet64_deprecated(),
        ('sfnet20', 'opensphere'): newer.sfnet20(),
        ('sfnet20 with BN', None): newer.sfnet20(norm_layer=nn.BatchNorm2d),
        ('iresnet100', None): load(backbones, 'iresnet').iresnet100(),
    }
    from_ours = partial(opensphere.from_ours, revision='2022')
    for (name, variant), net in built.items():
        # Saved from DistributedDataParallel, which needs a process group.
        modules = [
            nn.ModuleDict({'module': module})
            for module in (net, heads.SphereFace2(512, CLASSES))
        ]
        to_ours = partial(opensphere.to_ours, variant=variant)
        yield Case(
            name, modules, to_ours, from_ours, lambda net, x: net['module'](rgb(x))
        )


def sface_cases(root: Path) -> Iterator[Case]:
    from mmhyperface.weights import sface

    folder = root / 'SFace_torch'
    nets = load(folder / 'backbone', 'model_irse')
    mobile = load(folder / 'backbone', 'model_mobilefacenet')
    heads = load(folder / 'head', 'metrics')
    built = {
        'IR_50': nets.IR_50([112, 112]),
        'IR_101': nets.IR_101([112, 112]),
        'MobileFaceNet': mobile.MobileFaceNet(512),
    }
    for name, net in built.items():
        modules = [net, heads.SFaceLoss(512, CLASSES, None)]
        yield Case(
            name, modules, sface.to_ours, sface.from_ours, lambda net, x: net(x.flip(1))
        )


def evolve_cases(root: Path) -> Iterator[Case]:
    from mmhyperface.weights import sface

    # Its heads are in a file that cannot be imported.
    modules = [load(root / 'backbone', 'model_irse').IR_50([112, 112])]
    ways = (partial(way, origin='evolve') for way in (sface.to_ours, sface.from_ours))
    yield Case('IR_50', modules, *ways, embed_rgb)


def adaface_cases(root: Path) -> Iterator[Case]:
    from torch import nn

    from mmhyperface.weights import adaface

    nets, heads = load(root, 'net'), load(root, 'head')

    def to_ours(both: dict) -> Network:
        return adaface.to_ours({'state_dict': both})

    def from_ours(network: Network) -> dict[str, dict]:
        (checkpoint,) = adaface.from_ours(network).values()
        return checkpoint

    def embed(both: nn.ModuleDict, images: Tensor) -> Tensor:
        unit, norm = both['model'](bgr(images))
        return unit * norm

    for name in ('ir_18', 'ir_50', 'ir_101'):
        with redirect_stdout(io.StringIO()):  # it tells its arguments
            head = heads.build_head('adaface', 512, CLASSES, 0.4, 0.01, 0.333, 64.0)
        both = nn.ModuleDict({'model': nets.build_model(name), 'head': head})
        yield Case(name, [both], to_ours, from_ours, embed)


def cvlface_cases(root: Path) -> Iterator[Case]:
    from torch import nn

    from mmhyperface.weights import cvlface

    # Its networks count their operations with fvcore, only when run as a program.
    sys.modules.setdefault('fvcore', types.ModuleType('fvcore'))
    stub = sys.modules.setdefault('fvcore.nn', types.ModuleType('fvcore.nn'))
    stub.flop_count = None
    models = (
        root / 'cvlface' / 'research' / 'recognition' / 'code' / 'run_v1' / 'models'
    )
    nets = load(models / 'iresnet', 'model')
    others = load(models / 'iresnet_insightface', 'model')
    for name, net, channels, prepare in (
        ('ir50', nets.IR_50((112, 112)), 'rgb', rgb),
        ('ir101', nets.IR_101((112, 112)), 'bgr', bgr),
        ('iresnet_insightface ir101', others.iresnet100(), 'rgb', rgb),
    ):
        yield Case(
            f'{name}, {channels}',
            [nn.ModuleDict({'net': net})],
            partial(cvlface.to_ours, channels=channels),
            partial(cvlface.from_ours, channels=channels),
            lambda whole, images, prepare=prepare: whole['net'](prepare(images)),
        )


PEERS: dict[str, Callable[[Path], Iterator[Case]]] = {
    'insightface': insightface_cases,
    'opensphere': opensphere_cases,
    'opensphere-032c31b': opensphere_2022_cases,
    'SFace': sface_cases,
    'face.evoLVe': evolve_cases,
    'AdaFace': adaface_cases,
    'CVLface': cvlface_cases,
}


def difference(one: Tensor, other: Tensor) -> float:
    return float((one - other).abs().max() / one.norm(dim=1).max())


def compare(case: Case, images: Tensor) -> tuple[float, float]:
    """Ours against theirs, and theirs after the way back."""
    import torch

    from mmhyperface.registry import MODELS
    from mmhyperface.weights import to_checkpoint

    net, *heads = case.modules
    embed = partial(case.embed, net, images)
    settle(net, embed)
    theirs = embed()
    # Not the very tensors, which the way back fills.
    states = [copy.deepcopy(module.state_dict()) for module in case.modules]
    network = case.to_ours(*states)
    ours = MODELS.build({'type': 'FaceRecognizer', 'backbone': network.config}).eval()
    ours.load_state_dict(to_checkpoint(network, '', [])['state_dict'])
    inputs = ours.data_preprocessor({'inputs': images.to(torch.uint8)})['inputs']
    there = difference(theirs, ours(inputs))
    for parameter in net.parameters():
        parameter.zero_()
    returned = case.from_ours(network).values()
    for module, state in zip(case.modules, returned, strict=True):
        module.load_state_dict(state)
    for head, before in zip(heads, states[1:], strict=True):
        for key, value in head.state_dict().items():
            if not torch.equal(value, before[key]):
                raise UserError(f'{case.name}: {key} of the head came back changed')
    return there, difference(theirs, embed())


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('--peer-dir', required=True, help='folder of the checkouts')
    args = parser.parse_args()

    import torch

    checkouts = {name: Path(args.peer_dir, name) for name in PEERS}
    checkouts = {name: path for name, path in checkouts.items() if path.is_dir()}
    if not checkouts:
        raise UserError(f'{args.peer_dir} has none of {", ".join(PEERS)}')
    torch.manual_seed(0)
    images = torch.randint(0, 256, (2, 3, 112, 112)).float()
    table = Table('peer', 'network', 'ours', 'there and back')
    worst = 0.0
    for name, path in checkouts.items():
        for case in PEERS[name](path):
            with torch.no_grad():
                differences = compare(case, images)
            worst = max(worst, *differences)
            table.add_row(name, case.name, *(f'{each:.1e}' for each in differences))
    Console().print(table)
    if not worst < TOLERANCE:
        raise UserError(f'the largest difference, {worst:.1e}, is above {TOLERANCE}')


if __name__ == '__main__':
    with report_errors():
        main()
