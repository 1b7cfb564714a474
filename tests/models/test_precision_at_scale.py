"""Products in 16 bits at the number of classes that recipes take them for.

What they do to a step is told by the formulas of CosFace in float64, and what they do
to a training by trainings on photographs, where the spread of the seeds is the measure.
"""

import math

import numpy as np
import pytest
import torch
from mmengine.config import Config
from runs import CONFIGS, train
from torch import Tensor

from mmhyperface.engine.launch import count_classes
from mmhyperface.models import HypersphereHead
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


@pytest.mark.slow
def test_a_training_ends_where_fp32_does(real_faces, tmp_path):
    """Within the spread of three seeds."""

    def trained(seed: int, dtype: str | None) -> np.ndarray:
        cfg = Config.fromfile(CONFIGS / 'sface_facefolder.py')
        cfg.work_dir = str(tmp_path / f'{dtype}-{seed}')
        for loader in (cfg.train_dataloader, cfg.val_dataloader):
            loader.num_workers = 0
            loader.dataset.data_root = real_faces
        cfg.merge_from_dict(
            {
                'model.head.loss': dict(
                    _delete_=True, type='CosFaceLoss', s=32.0, m=0.2
                ),
                'model.head.engine': 'blocked',
                'model.head.matmul_dtype': dtype,
                'train_cfg.max_iters': 40,
                'train_cfg.val_interval': 40,
                'param_scheduler': [],
                'optim_wrapper.optimizer.lr': 0.02,
                'randomness.seed': seed,
            }
        )
        count_classes(cfg)
        runner = train(cfg)
        (result,) = runner.val_evaluator.metrics[0].results_by_set.values()
        losses = runner.message_hub.get_scalar('train/loss').data[0]
        return np.array([losses[-10:].mean(), result.auc])

    exact, half = (
        np.array([trained(seed, dtype) for seed in range(3)])
        for dtype in (None, 'bfloat16')
    )
    assert (abs(half.mean(0) - exact.mean(0)) < np.ptp(exact, 0)).all()
    assert exact[:, 1].min() > 0.8
