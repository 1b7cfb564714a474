"""Training steps of the official codes themselves, imported from their checkouts.

The folder named by the environment variable ``MMHYPERFACE_PEERS`` holds checkouts, or
their parts: ``opensphere`` (revision 032c31b), ``opensphere-HEAD``, ``insightface``,
``SFace``, ``AdaFace``, ``MagFace`` and ``CurricularFace``. Nothing of theirs is copied.
Heads and margins are theirs; the loop around them is what their trainers do, whose
imports and devices cannot be had in a test.
"""

import ast
import contextlib
import importlib
import sys
from collections.abc import Callable, Generator, Sequence
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any, NamedTuple
from unittest import mock

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import clip_grad_norm_
from torch.optim import SGD
from torch.optim.lr_scheduler import LRScheduler, MultiStepLR

BIAS = 'head.loss_module.bias'
Loss = Callable[[Tensor, Tensor], Tensor]


class Official(NamedTuple):
    """An official head.

    Attributes:
        file: Its file, below the folder of peers.
        build: From its module, the number of dimensions and of classes.
        weight: Name of the centres in it.
        trainer: What steps: ``032c31b``, ``HEAD``, ``insightface`` or ``plain``.
        loss: How the head is called; by default (features, labels) -> loss.
    """

    file: str
    build: Callable[[ModuleType, int, int], nn.Module]
    weight: str = 'w'
    trainer: str = '032c31b'
    loss: Callable[[nn.Module], Loss] = lambda head: head


def load(folder: Path, file: str) -> ModuleType:
    """A module, without running the ``__init__`` of its package."""
    path = folder / file
    if not path.is_file():
        pytest.skip(f'MMHYPERFACE_PEERS: there is no {path}')
    package = ModuleType(f'official_{path.parent.as_posix().replace("/", "_")}')
    package.__path__ = [str(path.parent)]
    sys.modules[package.__name__] = package
    return importlib.import_module(f'{package.__name__}.{path.stem}')


def _of(name: str, **options: Any) -> Callable[[ModuleType, int, int], nn.Module]:
    return lambda module, dim, classes: getattr(module, name)(dim, classes, **options)


def _old(file: str, name: str, **options: Any) -> Official:
    return Official(f'opensphere/model/head/{file}.py', _of(name, **options))


def _new(file: str, name: str, **options: Any) -> Official:
    folder = 'opensphere-HEAD/opensphere/module/head'
    return Official(f'{folder}/{file}.py', _of(name, **options), trainer='HEAD')


def _spherefacer(version: str, norm: str) -> Official:
    name = f'SphereFaceR_{norm[0].upper()}'
    options = {
        'none': dict(dm=0.2, steps=[1, 2], lw=1.0),
        'hard': dict(s=60.0, m=1.4, lw=50.0),
        'soft': dict(s=60.0, dm=0.2, steps=[1, 2], t=0.01, lw=50.0),
    }[norm]

    def build(module: ModuleType, dim: int, classes: int) -> nn.Module:
        # Two of them call the constructor of classes that do not exist.
        for other in 'NS':
            wrong = f'SphereFace_{other}'
            setattr(module, wrong, getattr(module, f'SphereFaceR_{other}'))
        return getattr(module, name)(dim, classes, magn_type=version, **options)

    return Official('opensphere/model/head/spherefacer.py', build)


def _partial_fc(*margins: float) -> Official:
    def build(module: ModuleType, dim: int, classes: int) -> nn.Module:
        losses = importlib.import_module(f'{module.__package__}.losses')
        margin = losses.CombinedMarginLoss(64, *margins)
        return module.PartialFC_V2(margin, dim, classes)

    file = 'insightface/recognition/arcface_torch/partial_fc_v2.py'
    # The labels are overwritten.
    return Official(
        file, build, 'weight', 'insightface', lambda head: lambda x, y: head(x, +y)
    )


def _adaface(head: nn.Module) -> Loss:
    def loss(x: Tensor, y: Tensor) -> Tensor:
        norm = x.norm(dim=1, keepdim=True)
        return F.cross_entropy(head(x / norm, norm, y), y)

    return loss


def _magface(module: ModuleType, dim: int, classes: int) -> nn.Module:
    head = module.MagLinear(dim, classes, scale=64.0)
    head.loss = module.MagLoss(10, 110, 0.45, 0.8)
    return head


def _magface_loss(head: nn.Module) -> Loss:
    def margin(norm: Tensor) -> Tensor:
        return (0.8 - 0.45) / (110 - 10) * (norm - 10) + 0.45

    def loss(x: Tensor, y: Tensor) -> Tensor:
        logits, norm = head(x, margin, 10, 110)
        entropy, regulariser, _ = head.loss(logits, y, norm)
        return entropy + 35 * regulariser

    return loss


OFFICIAL = {
    'sphereface': _old('sphereface', 'SphereFace', s=30.0, m=1.5),
    'sphereface-head': _new('sphereface', 'SphereFace', s=64.0, m=1.7),
    'sphereface+': _old(
        'spherefaceplus', 'SphereFacePlus', s=30.0, m=1.5, lambda_MHE=0.1
    ),
    **{
        f'spherefacer-{version}-{norm}': _spherefacer(version, norm)
        for version in ('v0', 'v1', 'v2')
        for norm in ('none', 'hard', 'soft')
    },
    **{
        f'sphereface2-{kind}': _old(
            'sphereface2',
            'SphereFace2',
            magn_type=kind,
            alpha=0.7,
            r=40.0,
            m=m,
            t=3.0,
            lw=10.0,
        )
        for kind, m in (('C', 0.4), ('A', 0.5), ('M', 1.7))
    },
    'sphereface2-C-head': _new(
        'sphereface2', 'SphereFace2', alpha=0.8, r=64.0, m=0.5, t=3.0, lw=50.0
    ),
    'arcface': _old('arcface', 'ArcFace', s=30.0, m=0.5),
    'cosface': _old('cosface', 'CosFace', s=30.0, m=0.35),
    'normface': _old('cocoloss', 'CocoLoss', s=30.0),
    'arcface-head': _new('arcface', 'ArcFace', s=64.0, m=0.5),
    'cosface-head': _new('cosface', 'CosFace', s=64.0, m=0.4),
    'arcface-insightface': _partial_fc(1.0, 0.5, 0.0),
    'cosface-insightface': _partial_fc(1.0, 0.0, 0.4),
    'cosface-partialfc': _partial_fc(1.0, 0.0, 0.4),
    'sface': Official(
        'SFace/SFace_torch/head/metrics.py',
        _of('SFaceLoss', device_id=None, s=64.0, k=80.0, a=0.87, b=1.2),
        'weight',
        'plain',
        lambda head: lambda x, y: head(x, y)[1],
    ),
    'magface': Official(
        'MagFace/models/magface.py', _magface, 'weight', 'plain', _magface_loss
    ),
    'adaface': Official(
        'AdaFace/head.py',
        _of('AdaFace', m=0.4, h=0.333, s=64.0, t_alpha=0.01),
        'kernel',
        'plain',
        _adaface,
    ),
    'curricularface': Official(
        'CurricularFace/head/metrics.py',
        _of('CurricularFace', m=0.5, s=64.0),
        'kernel',
        'plain',
        lambda head: lambda x, y: F.cross_entropy(head(x, y)[0], y),
    ),
}


def sface_mxnet(
    folder: Path, x: Tensor, w: Tensor, y: Tensor, params: Sequence[float]
) -> Tensor:
    """The loss of SFace's MXNet code: its ``get_symbol``, of which torch computes.

    Args:
        folder: The checkouts.
        x: Features, [B, D].
        w: Centres, [C, D].
        y: Labels, [B].
        params: Its ``--param-a`` to ``--param-d``.
    """
    path = folder / 'SFace/SFace_mxnet/train_SFace.py'
    if not path.is_file():
        pytest.skip(f'MMHYPERFACE_PEERS: there is no {path}')
    body = ast.parse(path.read_text()).body
    body = [node for node in body if getattr(node, 'name', '') == 'get_symbol']
    symbol = SimpleNamespace(
        Variable=lambda name, **_: {'softmax_label': y, 'fc7_weight': w}[name],
        L2Normalization=lambda data, **_: F.normalize(data),
        FullyConnected=lambda data, weight, **_: data @ weight.T,
        one_hot=lambda label, depth, on_value, off_value: torch.where(
            F.one_hot(label, depth).bool(), on_value, off_value
        ),
        broadcast_mul=torch.mul,
        sum=torch.sum,
        mean=torch.mean,
        arccos=torch.acos,
        exp=torch.exp,
        BlockGrad=torch.detach,
        MakeLoss=lambda loss: loss,
        Softmax=lambda data, **_: data,
        Group=list,
    )
    names: dict[str, Any] = {
        'mx': SimpleNamespace(symbol=symbol, sym=symbol),
        'fresnet': SimpleNamespace(get_symbol=lambda *_, **__: x),
    }
    exec(compile(ast.Module(body, []), str(path), 'exec'), names)
    options = {f'param_{c}': value for c, value in zip('abcd', params, strict=True)}
    args = mock.MagicMock(margin_s=64.0, num_classes=len(w), **options)
    *_, inter, intra = names['get_symbol'](args, None, None)[0]
    return inter + intra


@contextlib.contextmanager
def _surroundings() -> Generator[None, None, None]:
    """What the official codes need: float64, one process, no GPU, an older torch."""
    dtype = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    torch.distributed.init_process_group(
        'gloo', store=torch.distributed.HashStore(), rank=0, world_size=1
    )
    start = LRScheduler.__init__
    stand_ins = {'termcolor': mock.MagicMock(), 'models': mock.MagicMock()}
    try:
        with (
            mock.patch.object(Tensor, 'cuda', lambda tensor, *_: tensor),
            mock.patch.object(
                LRScheduler,
                '__init__',
                lambda self, optimizer, last_epoch=-1, verbose=False: start(
                    self, optimizer, last_epoch
                ),
            ),
            mock.patch.dict(sys.modules, stand_ins),
        ):
            yield
    finally:
        torch.distributed.destroy_process_group()
        torch.set_default_dtype(dtype)


class Trainer:
    """Optimizers, schedules and clipping of a trainer.

    Args:
        name: See :class:`Official`.
        decay: Weight decay.
        excluded: Whether batch norms do not decay.
        warm_up: Iterations of insightface's warm-up; the first is left out.
    """

    def __init__(
        self,
        name: str,
        backbone: nn.Module,
        head: nn.Module,
        decay: float,
        excluded: bool,
        warm_up: int,
        schedule: ModuleType | None,
    ) -> None:
        self.name, self.backbone, self.head = name, backbone, head
        network, classifier = list(backbone.parameters()), list(head.parameters())
        options: dict[str, Any] = dict(lr=0.1, momentum=0.9, weight_decay=decay)
        if name == '032c31b':
            self.optimizers = [SGD(network, **options), SGD(classifier, **options)]
        elif excluded:
            norms = [
                p
                for module in backbone
                for p in module.parameters()
                if isinstance(module, nn.BatchNorm1d)
            ]
            kept = {id(p) for p in norms}
            others = [p for p in network if id(p) not in kept] + classifier
            groups = [{'params': others, 'weight_decay': decay}, {'params': norms}]
            self.optimizers = [SGD(groups, lr=0.1, momentum=0.9)]
        else:
            groups = [{'params': network}, {'params': classifier}]
            options['lr'] = 0.4 if warm_up else 0.1
            self.optimizers = [SGD(groups, **options)]
        self.schedulers: Sequence[LRScheduler]
        if schedule is not None:
            total = warm_up + (2 if warm_up else 3)
            self.schedulers = [
                schedule.PolynomialLRWarmup(self.optimizers[0], warm_up, total)
            ]
            if warm_up:
                self.schedulers[0].step()
        else:
            self.schedulers = [MultiStepLR(o, [1, 2]) for o in self.optimizers]

    def step(self, loss: Tensor) -> None:
        for optimizer in self.optimizers:
            optimizer.zero_grad()
        loss.backward()
        network, classifier = self.backbone.parameters(), self.head.parameters()
        if self.name == '032c31b':
            clip_grad_norm_(network, max_norm=1e5)
            clip_grad_norm_(classifier, max_norm=1e5)
        elif self.name == 'HEAD':
            clip_grad_norm_([*network, *classifier], 100.0)
        elif self.name == 'insightface':
            clip_grad_norm_(network, 5)
        for step in (*self.optimizers, *self.schedulers):
            step.step()


def official_steps(
    name: str,
    folder: Path,
    backbone: nn.Sequential,
    start: dict[str, Tensor],
    batches: list[tuple[Tensor, Tensor]],
    decay: float,
    excluded: bool,
    drawn: Sequence[list[int]] | None,
) -> list[dict[str, Tensor]]:
    """The parameters after each step, under our names.

    Args:
        name: Of ``OFFICIAL``.
        folder: The checkouts.
        backbone: A network, to be trained.
        start: The parameters to start from; only the head's are taken.
        batches: Inputs and labels of each step.
        decay: Weight decay.
        excluded: Whether batch norms do not decay.
        drawn: Classes that are drawn besides those of the batch, in each step; None
            without sampling.
    """
    official = OFFICIAL[name]
    with _surroundings():
        module = load(folder, official.file)
        weight = start['head.weight']
        head = official.build(module, weight.shape[1], weight.shape[0])
        head.double().train()
        centres = getattr(head, official.weight)
        turned = centres.shape != weight.shape
        centres.data.copy_(weight.T if turned else weight)
        if BIAS in start:
            # Ours was rounded to float32.
            torch.testing.assert_close(head.b.data, start[BIAS], rtol=1e-6, atol=0)
            head.b.data.copy_(start[BIAS])
        schedule = None
        if official.trainer == 'insightface':
            file = Path(official.file).with_name('lr_scheduler.py')
            schedule = load(folder, str(file))
        trainer = Trainer(
            official.trainer,
            backbone,
            head,
            decay,
            excluded,
            2 if drawn else 0,
            schedule,
        )
        loss = official.loss(head)
        after = []
        for step, (x, y) in enumerate(batches):
            sampling = contextlib.nullcontext()
            if drawn:
                # The highest scores are drawn, after the batch's own classes.
                scores = torch.zeros(len(weight)).index_fill(
                    0, torch.tensor(drawn[step]), 1.0
                )
                head.sample_rate = 0.5
                head.num_sample = len(y.unique()) + len(drawn[step])
                sampling = mock.patch.object(torch, 'rand', return_value=scores)
            with sampling:
                value = loss(backbone(x), y)
            trainer.step(value)
            now = {f'backbone.{n}': p for n, p in backbone.named_parameters()}
            now['head.weight'] = centres.T if turned else centres
            if BIAS in start:
                now[BIAS] = head.b
            after.append({n: p.detach().clone() for n, p in now.items()})
    return after
