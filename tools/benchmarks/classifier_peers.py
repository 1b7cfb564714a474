"""Official classifiers for ``classifier_step.py``, imported from their checkouts.

Nothing of theirs is copied: the files are looked for below ``DIR/opensphere``,
``DIR/SFace`` and ``DIR/insightface`` (whole checkouts, or their parts). OpenSphere's
revision 032c31b and its later layout both work.
"""

import contextlib
import importlib
import sys
from collections.abc import Callable, Generator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import torch
from common import peer_file
from torch import Tensor, nn


@dataclass(frozen=True)
class Peer:
    """How an official classifier is found and built.

    Attributes:
        folder: Name of the checkout in the folder of peers.
        file: Path of the module, below any folder of the checkout.
        build: ``build(module, num_classes, dim, half)``, ``half`` telling that
            products are wanted in half precision; a module (features [B, D],
            targets [B]) -> loss.
        note: What was done to make it run here.
    """

    folder: str
    file: str
    build: Callable[[ModuleType, int, int, bool], nn.Module]
    note: str = ''


def load(peer_dir: Path, peer: Peer) -> ModuleType:
    """The module of a peer, without running the ``__init__`` of its package.

    Raises:
        UserError: If the folder holds no such file.
    """
    path = peer_file(peer_dir / peer.folder, peer.file)
    package = ModuleType(f'peer_{peer.folder}_{path.parent.name}')
    package.__path__ = [str(path.parent)]
    sys.modules[package.__name__] = package
    return importlib.import_module(f'{package.__name__}.{path.stem}')


def _opensphere(name: str, **options: float) -> Peer:
    return Peer(
        'opensphere',
        f'head/{name.lower()}.py',
        lambda module, classes, dim, _: getattr(module, name)(dim, classes, **options),
    )


class _SFace(nn.Module):
    """SFaceLoss without the other values it returns."""

    def __init__(self, module: ModuleType, classes: int, dim: int, half: bool) -> None:
        super().__init__()
        self.head = module.SFaceLoss(dim, classes, None, s=64.0, k=80.0, a=0.87, b=1.2)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        out = self.head(x, y)
        # (scaled cosines, loss, …): the loss is the first scalar.
        return next(value for value in out if value.ndim == 0)


class _PartialFC(nn.Module):
    """PartialFC with ArcFace's margin on a process group of one."""

    def __init__(
        self, module: ModuleType, classes: int, dim: int, half: bool, rate: float = 1.0
    ) -> None:
        super().__init__()
        if not torch.distributed.is_initialized():
            torch.distributed.init_process_group(
                'nccl' if torch.cuda.is_available() else 'gloo',
                store=torch.distributed.HashStore(),
                rank=0,
                world_size=1,
            )
        losses = importlib.import_module(f'{module.__package__}.losses')
        margin = losses.CombinedMarginLoss(64, 1.0, 0.5, 0.0)
        self.head = module.PartialFC_V2(margin, dim, classes, rate, fp16=half)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        with contextlib.nullcontext() if x.is_cuda else _cuda_is_identity():
            return self.head(x, y)


@contextlib.contextmanager
def _cuda_is_identity() -> Generator[None, None, None]:
    """PartialFC moves all it makes to the GPU; on the CPU it stays where it is."""
    original = torch.Tensor.cuda
    torch.Tensor.cuda = lambda tensor, *args, **kwargs: tensor
    try:
        yield
    finally:
        torch.Tensor.cuda = original


_PARTIAL_FC = 'a process group of one; on the CPU `.cuda()` is the identity'


def peers(rates: list[float]) -> dict[str, Peer]:
    """The official classifiers by name; PartialFC at these sampling rates as well."""

    def partial_fc(rate: float) -> Peer:
        return Peer(
            'insightface',
            'partial_fc_v2.py',
            lambda *args: _PartialFC(*args, rate=rate),
            _PARTIAL_FC,
        )

    return {
        'OpenSphere SphereFace': _opensphere('SphereFace', s=30.0, m=1.5),
        'OpenSphere SphereFace2': _opensphere(
            'SphereFace2', alpha=0.7, r=40.0, m=0.4, t=3.0, lw=1.0
        ),
        'SFace SFaceLoss': Peer('SFace', 'head/metrics.py', _SFace),
        **{
            f'insightface PartialFC ArcFace, rate {rate:g}': partial_fc(rate)
            for rate in (1.0, *rates)
        },
    }
