"""What 16 bits do to products at the number of classes that recipes take them for.

And to the layers that make an embedding, which insightface keeps in fp32. What they do
to a step is told by the formulas of CosFace in float64, and what they do to a training
by trainings on photographs, where the spread of the seeds is the measure.
"""

import copy
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from mmengine.config import Config
from runs import CONFIGS, train
from torch import Tensor, nn
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only

from mmhyperface.engine.launch import count_classes
from mmhyperface.models import HypersphereHead, IResNet
from mmhyperface.ops import blocked

CLASSES, DIMS, SAMPLES, RATE = 2_059_906, 128, 64, 0.2
S, M = 64.0, 0.4
BLOCK = 2**14


def cosface(x: Tensor, rows: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Loss, gradient of the features [B, D] and of the rows [n, D], in float64."""
    scale = x.double().norm(dim=1, keepdim=True)
    x = x.double() / scale
    samples = torch.arange(len(x))

    def logits(start: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        raw = rows[start : start + BLOCK].double()
        norm = raw.norm(dim=1, keepdim=True)
        unit = raw / norm
        z = x @ unit.T
        here = (labels >= start) & (labels < start + len(raw))
        where = samples[here], labels[here] - start
        z[where] -= M
        return S * z, unit, norm, where

    total = x.new_full((len(x),), -math.inf)
    own = torch.zeros(len(x), dtype=torch.float64)
    for start in range(0, len(rows), BLOCK):
        z, _, _, where = logits(start)
        total = torch.logaddexp(total, z.logsumexp(1))
        own[where[0]] = z[where]
    by_unit, by_rows = torch.zeros_like(x), torch.empty_like(rows)
    for start in range(0, len(rows), BLOCK):
        z, unit, norm, where = logits(start)
        slopes = (z - total[:, None]).exp_()
        slopes[where] -= 1
        slopes *= S / len(x)
        by_unit += slopes @ unit
        by_row = slopes.T @ x
        by_row -= (by_row * unit).sum(1, keepdim=True) * unit
        by_rows[start : start + BLOCK] = by_row / norm
    by_x = (by_unit - (by_unit * x).sum(1, keepdim=True) * x) / scale
    return (total - own).mean(), by_x, by_rows


def product(a: Tensor, b: Tensor, out: Tensor) -> None:
    torch.mm(a.float(), b.float(), out=out)


def add_product(total: Tensor, a: Tensor, b: Tensor) -> None:
    total.addmm_(a.float(), b.float())


def error(actual: Tensor, expected: Tensor) -> float:
    """Norm of the difference, relative to that of what is expected."""
    pairs = zip(actual.split(BLOCK), expected.split(BLOCK), strict=True)
    wrong = sum((a.double() - e).square().sum().item() for a, e in pairs)
    return math.sqrt(wrong) / expected.norm(dtype=torch.float64).item()


def cosines(actual: Tensor, expected: Tensor) -> Tensor:
    """Between the directions of a gradient's rows."""
    return torch.cosine_similarity(actual.double(), expected.double())


@pytest.fixture(scope='module')
def step():
    """One step at two million classes, of which a fifth takes part."""
    torch.manual_seed(0)
    head = HypersphereHead(
        CLASSES,
        DIMS,
        dict(type='CosFaceLoss', s=S, m=M),
        init_std=0.01,
        sample_rate=RATE,
        engine='blocked',
    ).train()
    optimizer = torch.optim.SGD(head.parameters(), lr=0.1)
    head.attach(optimizer)
    labels = torch.randint(CLASSES, (SAMPLES,))
    noise = torch.nn.functional.normalize(torch.randn(SAMPLES, DIMS))

    def run(own: float, dtype: str | None) -> tuple[tuple, tuple]:
        centres = torch.nn.functional.normalize(head.weight.detach()[labels])
        feats = 20 * (own * centres + math.sqrt(1 - own**2) * noise)
        head.matmul_dtype = dtype
        torch.manual_seed(1)
        loss = head(feats.requires_grad_(), labels)
        loss.backward()
        held = optimizer.param_groups[0]['params']
        rows, gradient = (
            torch.cat([t.detach() for t in ts]) for ts in (held, [p.grad for p in held])
        )
        optimizer.zero_grad()
        place = torch.searchsorted(labels.unique(), labels)
        return (loss.detach(), feats.grad, gradient), (feats.detach(), rows, place)

    return run


@pytest.mark.slow
@pytest.mark.parametrize('own', [0.0, 0.6], ids=['at the start', 'trained'])
@pytest.mark.parametrize(
    ('dtype', 'rounding', 'some', 'least'),
    [
        (None, 2**-18, 0.99999, 0.99999),
        ('bfloat16', 2**-8, 0.999, 0.999),
        # More exact by far, but without a loss scaler the smallest slopes are 0.
        ('float16', 2**-11, 0.999, 0.0),
    ],
    ids=str,
)
def test_a_step(step, dtype, rounding, some, least, own, monkeypatch):
    """With sums in fp32, as tensor cores have them."""
    monkeypatch.setattr(blocked, 'product', product)
    monkeypatch.setattr(blocked, 'add_product', add_product)
    (loss, by_x, by_rows), inputs = step(own, dtype)
    expected_loss, expected_by_x, expected_by_rows = cosface(*inputs)
    assert loss.item() == pytest.approx(expected_loss.item(), rel=rounding / 16)
    # Both operands are rounded.
    assert error(by_x, expected_by_x) < 2 * rounding
    assert error(by_rows, expected_by_rows) < 2 * rounding
    assert cosines(by_x, expected_by_x).min() > 1 - rounding**2 * 8
    # Of the batch's own classes, then of some others.
    own_rows = slice(len(inputs[2].unique()))
    others = slice(own_rows.stop, None, 50)
    assert cosines(by_rows[own_rows], expected_by_rows[own_rows]).min() > 1 - rounding
    found = cosines(by_rows[others], expected_by_rows[others])
    assert found.median() > some
    assert found.quantile(0.01) > least
    assert (found.quantile(0.01) < 0.99) == (dtype == 'float16')


class TensorCores(TorchDispatchMode):
    """Products of 16-bit operands with sums in fp32, whatever the processor has."""

    PRODUCTS = (
        torch.ops.aten.convolution.default,
        torch.ops.aten.convolution_backward.default,
        torch.ops.aten.addmm.default,
        torch.ops.aten.mm.default,
    )

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        if func not in self.PRODUCTS:
            return func(*args, **kwargs or {})
        dtype = args[0].dtype
        result = func(*tree_map_only(Tensor, Tensor.float, args), **kwargs or {})
        return tree_map_only(Tensor, lambda t: t.to(dtype), result)


def linear_in_fp32(self: nn.Linear, x: Tensor) -> Tensor:
    """As insightface has the last one; the batch norm after it then gets fp32, too."""
    with torch.autocast('cpu', enabled=False):
        return functional.linear(x.float(), self.weight, self.bias)


@pytest.mark.slow
@pytest.mark.parametrize('steps', [0, 8], ids=['at the start', 'trained'])
def test_last_layers_in_fp32_take_no_error_away(steps, monkeypatch):
    """IResNet-50: the errors are those of the convolutions, in either type."""
    torch.manual_seed(0)
    net = IResNet(50, input_size=64).train().to(memory_format=torch.channels_last)
    centres, people = 0.01 * torch.randn(16, 512), torch.randn(16, 3, 64, 64)

    def batch() -> tuple[Tensor, Tensor]:
        labels = torch.randint(16, (16,))
        images = people[labels] + torch.randn(16, 3, 64, 64)
        return images.contiguous(memory_format=torch.channels_last), labels

    optimizer = torch.optim.SGD(net.parameters(), lr=0.02, momentum=0.9)
    for _ in range(steps):
        images, labels = batch()
        (embedding,) = net(images)
        _, by_embedding, by_centres = cosface(embedding.detach(), centres, labels)
        optimizer.zero_grad()
        embedding.backward(by_embedding.float())
        nn.utils.clip_grad_norm_(net.parameters(), 5.0)
        optimizer.step()
        centres -= 0.02 * by_centres
    images, labels = batch()

    def step(
        net: IResNet,
        images: Tensor,
        dtype: torch.dtype | None = None,
        scale: float = 1.0,
    ) -> dict[str, Tensor]:
        """Loss and embedding, and gradients from the last layer to the first."""
        net.zero_grad()
        with torch.autocast('cpu', dtype, enabled=dtype is not None):
            (embedding,) = net(images)
        loss, by_embedding, _ = cosface(embedding.detach(), centres, labels)
        embedding.backward((scale * by_embedding).to(embedding.dtype))
        found = {'loss': loss, 'embedding': embedding.detach()}
        for name in (
            'features.bias',
            'fc.weight',
            'bn2.weight',
            'layer4.2.conv2.weight',
            'layer1.0.conv1.weight',
            'conv1.weight',
        ):
            found[name] = net.get_parameter(name).grad / scale
        return found

    expected = step(copy.deepcopy(net).double(), images.double())
    for dtype in (torch.bfloat16, torch.float16):

        def errors(linear: Callable, dtype: torch.dtype = dtype) -> np.ndarray:
            monkeypatch.setattr(nn.Linear, 'forward', linear)
            with TensorCores():
                actual = step(net, images, dtype, scale=2**12)
            pairs = [(actual[name].flatten(), expected[name]) for name in expected]
            return np.array([error(a, e.flatten()) for a, e in pairs])

        ours, in_fp32 = errors(nn.Linear.forward), errors(linear_in_fp32)
        monkeypatch.undo()
        print(dtype, *zip(expected, ours, in_fp32, strict=True), sep='\n')
        # The loss is one number: its error is chance.
        assert max(ours[0], in_fp32[0]) < 4 * torch.finfo(dtype).eps
        # So is what of a gradient depends on few samples: the batch is small.
        assert (ours[1:] < 1.25 * in_fp32[1:]).all()
        assert in_fp32[1] > torch.finfo(dtype).eps


def trained(faces: str, work_dir: Path, seed: int, options: dict) -> np.ndarray:
    """Loss and area under the curve after a short training on photographs."""
    cfg = Config.fromfile(CONFIGS / 'sface_facefolder.py')
    cfg.work_dir = str(work_dir)
    for loader in (cfg.train_dataloader, cfg.val_dataloader):
        loader.num_workers = 0
        loader.dataset.data_root = faces
    cfg.merge_from_dict(
        {
            'model.head.loss': dict(_delete_=True, type='CosFaceLoss', s=32.0, m=0.2),
            'model.head.engine': 'blocked',
            'train_cfg.max_iters': 40,
            'train_cfg.val_interval': 40,
            'param_scheduler': [],
            'optim_wrapper.optimizer.lr': 0.02,
            'randomness.seed': seed,
            **options,
        }
    )
    count_classes(cfg)
    runner = train(cfg)
    (result,) = runner.val_evaluator.metrics[0].results_by_set.values()
    losses = runner.message_hub.get_scalar('train/loss').data[0]
    return np.array([losses[-10:].mean(), result.auc])


@pytest.mark.slow
def test_a_training_ends_where_fp32_does(real_faces, tmp_path):
    """Within the spread of three seeds."""

    def run(seed: int, dtype: str | None) -> np.ndarray:
        options = {'model.head.matmul_dtype': dtype}
        return trained(real_faces, tmp_path / f'{dtype}-{seed}', seed, options)

    exact, half = (
        np.array([run(seed, dtype) for seed in range(3)])
        for dtype in (None, 'bfloat16')
    )
    print(exact, half)
    assert (abs(half.mean(0) - exact.mean(0)) < np.ptp(exact, 0)).all()
    assert exact[:, 1].min() > 0.8


@pytest.mark.slow
def test_a_training_ends_no_better_with_last_layers_in_fp32(
    real_faces, tmp_path, monkeypatch
):
    """Than by the spread of three seeds: neither in loss nor in accuracy."""

    def run(seed: int) -> np.ndarray:
        options = {
            'optim_wrapper.type': 'AmpOptimWrapper',
            'optim_wrapper.dtype': 'bfloat16',
        }
        return trained(real_faces, tmp_path, seed, options)

    ours = np.array([run(seed) for seed in range(3)])
    monkeypatch.setattr(nn.Linear, 'forward', linear_in_fp32)
    in_fp32 = np.array([run(seed) for seed in range(3)])
    print(ours, in_fp32)
    gain = (ours.mean(0) - in_fp32.mean(0)) * (1, -1)
    assert (gain < np.ptp(in_fp32, 0)).all()
    assert in_fp32[:, 1].min() > 0.8
