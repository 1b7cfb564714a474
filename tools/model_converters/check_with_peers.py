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
from collections.abc import Callable, Iterator
from contextlib import redirect_stdout
from dataclasses import dataclass, field
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
        net: Built by the peer's code.
        to_ours: From what the peer saves.
        from_ours: The network's state dict and the heads', as the peer loads them.
        embed: The embeddings of images in BGR [B, 3, H, W], 0 to 255, by the peer's
            preprocessing.
        heads: Built by the peer's code, of each rank.
    """

    name: str
    net: nn.Module
    to_ours: Callable[[], Network]
    from_ours: Callable[[Network], list[dict]]
    embed: Callable[[Tensor], Tensor]
    heads: list[nn.Module] = field(default_factory=list)


def load(folder: Path, name: str) -> Any:
    """A module of a folder, whose package is not imported."""
    package = f'peer{abs(hash(folder))}'
    if package not in sys.modules:
        sys.modules[package] = types.ModuleType(package)
        sys.modules[package].__path__ = [str(folder)]
    return importlib.import_module(f'{package}.{name}')


def settle(case: Case, images: Tensor) -> None:
    """Draw what starts at 0 and 1, and let batch norms see images, lest it explode."""
    import torch
    from torch import nn

    kinds = (nn.BatchNorm1d, nn.BatchNorm2d)
    norms = [m for m in case.net.modules() if isinstance(m, kinds)]
    for module in case.net.modules():
        if isinstance(module, kinds) and module.affine:
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, 0, 0.2)
        if isinstance(module, nn.PReLU):
            nn.init.uniform_(module.weight, 0, 0.5)
    for module in norms:
        module.momentum = 1
    case.net.train()
    case.embed(images)
    for module in norms:
        deviation = module.running_var.sqrt()
        module.running_mean += 0.2 * deviation * torch.randn_like(deviation)
        module.running_var *= torch.empty_like(deviation).uniform_(0.8, 1.25)
    case.net.eval()


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


def insightface_cases(root: Path) -> Iterator[Case]:
    from torch import nn

    from mmhyperface.weights import insightface

    folder = root / 'recognition' / 'arcface_torch'
    nets = load(folder / 'backbones', 'iresnet')
    partial_fc = load(folder, 'partial_fc_v2').PartialFC_V2
    for depth in (18, 50, 100):
        net = getattr(nets, f'iresnet{depth}')()
        heads = []
        for rank in range(RANKS):
            with as_rank(rank, RANKS):
                heads.append(partial_fc(nn.Identity(), 512, CLASSES))

        def to_ours(net: nn.Module = net, heads: list = heads) -> Network:
            shards = [{'state_dict_softmax_fc': head.state_dict()} for head in heads]
            backbone = {'state_dict_backbone': net.state_dict()}
            return insightface.to_ours(backbone, shards, CLASSES)

        def from_ours(network: Network) -> list[dict]:
            return list(insightface.from_ours(network, RANKS).values())

        def embed(images: Tensor, net: nn.Module = net) -> Tensor:
            return net(rgb(images))

        yield Case(f'iresnet{depth}', net, to_ours, from_ours, embed, heads)


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
    for name, net in built.items():
        head = heads.SphereFace2(512, CLASSES)

        def to_ours(net: nn.Module = net, head: nn.Module = head) -> Network:
            model = {'backbone': net.state_dict(), 'head': head.state_dict()}
            return opensphere.to_ours({'model': model})

        def from_ours(network: Network) -> list[dict]:
            (model,) = opensphere.from_ours(network, '2023').values()
            return [model['backbone'], model['head']]

        def embed(images: Tensor, net: nn.Module = net) -> Tensor:
            return net(rgb(images))

        yield Case(name, net, to_ours, from_ours, embed, [head])


def opensphere_2022_cases(root: Path) -> Iterator[Case]:
    from torch import nn

    from mmhyperface.weights import opensphere

    backbones = root / 'model' / 'backbone'
    deprecated, newer = load(backbones, 'sfnet_deprecated'), load(backbones, 'sfnet')
    built = {
        ('sfnet20_deprecated', 'paper'): deprecated.sfnet20_deprecated(),
        ('sfnet64_deprecated', 'paper'): deprecated.sfnet64_deprecated(),
        ('sfnet20', 'opensphere'): newer.sfnet20(),
        ('sfnet20 with BN', None): newer.sfnet20(norm_layer=nn.BatchNorm2d),
        ('iresnet100', None): load(backbones, 'iresnet').iresnet100(),
    }
    for (name, variant), net in built.items():
        head = load(root / 'model' / 'head', 'sphereface2').SphereFace2(512, CLASSES)
        # Saved from DistributedDataParallel, which needs a process group.
        wrapped = [nn.ModuleDict({'module': module}) for module in (net, head)]

        def to_ours(wrapped: list = wrapped, variant: str | None = variant) -> Network:
            return opensphere.to_ours(*(each.state_dict() for each in wrapped), variant)

        def from_ours(network: Network) -> list[dict]:
            return list(opensphere.from_ours(network, '2022').values())

        def embed(images: Tensor, net: nn.Module = net) -> Tensor:
            return net(rgb(images))

        yield Case(name, wrapped[0], to_ours, from_ours, embed, wrapped[1:])


def sface_cases(root: Path) -> Iterator[Case]:
    from mmhyperface.weights import sface

    folder = root / 'SFace_torch'
    nets = load(folder / 'backbone', 'model_irse')
    mobile = load(folder / 'backbone', 'model_mobilefacenet')
    built = {
        'IR_50': nets.IR_50([112, 112]),
        'IR_101': nets.IR_101([112, 112]),
        'MobileFaceNet': mobile.MobileFaceNet(512),
    }
    for name, net in built.items():
        head = load(folder / 'head', 'metrics').SFaceLoss(512, CLASSES, None)

        def to_ours(net: nn.Module = net, head: nn.Module = head) -> Network:
            return sface.to_ours(net.state_dict(), head.state_dict())

        def from_ours(network: Network) -> list[dict]:
            return list(sface.from_ours(network).values())

        def embed(images: Tensor, net: nn.Module = net) -> Tensor:
            return net(images.flip(1))

        yield Case(name, net, to_ours, from_ours, embed, [head])


def evolve_cases(root: Path) -> Iterator[Case]:
    from mmhyperface.weights import sface

    # Its heads are in a file that cannot be imported.
    net = load(root / 'backbone', 'model_irse').IR_50([112, 112])

    def to_ours() -> Network:
        return sface.to_ours(net.state_dict(), origin='evolve')

    def from_ours(network: Network) -> list[dict]:
        return list(sface.from_ours(network, 'evolve').values())

    yield Case('IR_50', net, to_ours, from_ours, lambda images: net(rgb(images)))


def adaface_cases(root: Path) -> Iterator[Case]:
    from torch import nn

    from mmhyperface.weights import adaface

    nets, heads = load(root, 'net'), load(root, 'head')
    for name in ('ir_18', 'ir_50', 'ir_101'):
        net = nets.build_model(name)
        with redirect_stdout(io.StringIO()):  # it tells its arguments
            head = heads.build_head('adaface', 512, CLASSES, 0.4, 0.01, 0.333, 64.0)
        both = nn.ModuleDict({'model': net, 'head': head})

        def to_ours(both: nn.Module = both) -> Network:
            return adaface.to_ours({'state_dict': both.state_dict()})

        def from_ours(network: Network) -> list[dict]:
            return [file['state_dict'] for file in adaface.from_ours(network).values()]

        def embed(images: Tensor, net: nn.Module = net) -> Tensor:
            unit, norm = net(bgr(images))
            return unit * norm

        yield Case(name, both, to_ours, from_ours, embed)


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
    built = {
        ('ir50', 'rgb'): nets.IR_50((112, 112)),
        ('ir101', 'bgr'): nets.IR_101((112, 112)),
        ('iresnet_insightface ir101', 'rgb'): load(
            models / 'iresnet_insightface', 'model'
        ).iresnet100(),
    }
    for (name, channels), net in built.items():
        whole = nn.ModuleDict({'net': net})

        def to_ours(whole: nn.Module = whole, channels: str = channels) -> Network:
            return cvlface.to_ours(whole.state_dict(), (), channels)

        def from_ours(network: Network, channels: str = channels) -> list[dict]:
            return list(cvlface.from_ours(network, channels=channels).values())

        def embed(
            images: Tensor, net: nn.Module = net, channels: str = channels
        ) -> Tensor:
            return net(rgb(images) if channels == 'rgb' else bgr(images))

        yield Case(f'{name}, {channels}', whole, to_ours, from_ours, embed)


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

    settle(case, images)
    theirs = case.embed(images)
    # Not the very tensors, which the way back fills.
    network = copy.deepcopy(case.to_ours())
    model = {'type': 'FaceRecognizer', 'backbone': network.config}
    ours = MODELS.build(model).eval()
    state = to_checkpoint(network, '', [])['state_dict']
    ours.load_state_dict(state)
    inputs = ours.data_preprocessor({'inputs': images.to(torch.uint8)})['inputs']
    there = difference(theirs, ours(inputs))
    modules = [case.net, *case.heads]
    before = [
        {key: value.clone() for key, value in head.state_dict().items()}
        for head in case.heads
    ]
    for parameter in case.net.parameters():
        parameter.zero_()
    for module, files in zip(modules, case.from_ours(network), strict=True):
        module.load_state_dict(files)
    for head, old in zip(case.heads, before, strict=True):
        for key, value in head.state_dict().items():
            if not torch.equal(value, old[key]):
                raise UserError(f'{case.name}: {key} of the head came back changed')
    return there, difference(theirs, case.embed(images))


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
