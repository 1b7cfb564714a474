"""Ranks with more or fewer samples, or none, against one process with all of them."""

import itertools
from typing import Any
from unittest import mock

import pytest
import torch
from mmengine.dist import get_dist_info
from runs import spawn
from torch import Tensor, nn

from mmhyperface.engine.distributed import init_process_group
from mmhyperface.engine.divergence import Step, state_of, suspects
from mmhyperface.engine.hooks.angle_statistics import gather_samples
from mmhyperface.models import FaceRecognizer, HypersphereHead, losses
from mmhyperface.models.face_samples import FaceSamples
from mmhyperface.utils.global_batch import batch_sizes, gather_batch, share_of_batch

# Of three ranks in two steps. The second data set has labels from 10 on.
SIZES = [(4, 1, 2), (0, 5, 2)]
LABELS = [(0, 10, 1, 2, 11, 2, 3), (10, 1, 1, 0, 3, 2, 12)]
PIXELS = 12


class Small(nn.Module):
    """A backbone in which samples do not meet."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(PIXELS, 6)

    def forward(self, x: Tensor) -> tuple[Tensor]:
        return (self.fc(x.flatten(1)).tanh(),)


class TwoSets(FaceRecognizer):
    """A network with a head of its own for a second data set."""

    def __init__(self, head: HypersphereHead, second: HypersphereHead) -> None:
        super().__init__(Small(), head, data_preprocessor=dict(mean=0.0, std=1.0))
        self.second = second

    def loss(self, inputs: Tensor, data_samples: FaceSamples) -> dict[str, Tensor]:
        (feats,) = self.extract_feat(inputs)
        labels = data_samples.gt_label
        values = {}
        for name, head, first in (('', self.head, 0), ('_2', self.second, 10)):
            its = (labels >= 10) == (first == 10)
            samples = FaceSamples(data_samples.sample_idx[its], labels[its] - first)
            for key, value in head.loss((feats[its],), samples).items():
                values[key + name] = value
        return values


class Shifted(losses.SoftmaxLoss):
    """A loss of one's own, with random numbers and a statistic of the batch."""

    margins = ('m',)

    def __init__(self) -> None:
        super().__init__(s=8.0)
        self.m = 0.2

    def context(self, batch):
        context = super().context(batch)
        shift = batch.part(0.1 * batch.normal())
        return {
            'm': context['m'] + shift,
            'mean': batch.gather(batch.norm).mean(0)[None],
        }

    def psi(self, own, context):
        return own - context['m'] * context['mean']


# Of the two heads. Some need the centres of the whole batch, its statistics, or random
# numbers that are the same on all ranks.
LOSSES = {
    'plain': lambda: (losses.SphereFace2Loss(), losses.CurricularFaceLoss()),
    'statistics': lambda: (losses.SphereFacePlusLoss(), losses.AdaFaceLoss()),
    'random': lambda: (
        losses.ElasticFaceLoss(s=8.0),
        losses.ElasticFaceLoss('cos', 8.0, 0.35, plus=True),
    ),
    'own': lambda: (Shifted(), losses.UniFaceLoss(8.0)),
    'energy': lambda: (losses.SFaceLoss(), losses.MagFaceLoss()),
}


def network(loss: str, sharded: bool, engine: str) -> TwoSets:
    torch.manual_seed(0)
    options = dict(sharded=sharded, engine=engine, lam_mhe=0.5 * (loss == 'energy'))
    heads = [
        HypersphereHead(classes, 6, module, init_std=1.0, **options)
        for classes, module in zip((4, 3), LOSSES[loss](), strict=True)
    ]
    return TwoSets(*heads).double().train()


def batches(rank: int | None) -> list[dict]:
    """The batches of two steps, of one rank or of all."""
    generator = torch.Generator().manual_seed(1)
    made = []
    for sizes, labels in zip(SIZES, LABELS, strict=True):
        pixels = torch.rand(7, 3, 2, 2, generator=generator)
        part = slice(None)
        if rank is not None:
            part = slice(sum(sizes[:rank]), sum(sizes[: rank + 1]))
        samples = FaceSamples(torch.arange(7)[part], torch.tensor(labels)[part])
        made.append(dict(inputs=pixels[part].double(), data_samples=samples))
    return made


def steps(model: nn.Module, bare: TwoSets, rank: int | None) -> list[dict[str, Any]]:
    """What is known after each step."""
    known = []
    for batch in batches(rank):
        model.zero_grad()
        # The first rank's generator is the one that counts.
        torch.manual_seed(rank or 0)
        loss, scalars = bare.parse_losses(model(**batch, mode='loss'))
        loss.backward()
        numbers = batch['data_samples'].sample_idx
        numbers = numbers[batch['data_samples'].gt_label < 10].tolist()
        wrong = torch.tensor([float(number % 2) for number in numbers]).double()
        step = Step(1, scalars, numbers, bare.head.last, 0.1, None, None)
        known.append(
            dict(
                scalars=scalars,
                grads={
                    name: p.grad.clone()
                    for name, p in bare.named_parameters()
                    if not (name.endswith('head.weight') or 'second.weight' in name)
                },
                rows=[bare.head.weight.grad.clone(), bare.second.weight.grad.clone()],
                buffers={
                    name: buffer.clone()
                    for name, buffer in bare.second.loss_module.named_buffers()
                },
                samples=gather_samples([bare.head.last], [wrong]),
                state=state_of(step),
                suspects=suspects(step, None),
            )
        )
    return known


CASES = list(itertools.product(LOSSES, (True, False), ('dense', 'blocked')))


def train(root: str) -> None:
    init_process_group('pytorch')
    rank, _ = get_dist_info()
    exchange()
    for case in CASES:
        model = network(*case)
        ignored = [
            f'{head}.{parameter}'
            for head in ('head', 'second')
            for parameter in getattr(model, head).ddp_ignored
        ]
        ddp = nn.parallel.DistributedDataParallel
        ddp._set_params_and_buffers_to_ignore_for_model(model, ignored)
        parallel = ddp(model, broadcast_buffers=False)
        torch.save(steps(parallel, model, rank), f'{root}/{case}.{rank}')


def exchange() -> None:
    """The functions by themselves: of ranks with 0, 1 and 2 rows, or none at all."""
    rank, world = get_dist_info()
    rows = torch.full((rank, 2), float(rank))
    assert batch_sizes(rows) == [0, 1, 2]
    assert gather_batch(rows)[:, 0].tolist() == [1, 2, 2]
    assert share_of_batch([0, 1, 2]) == rank
    assert gather_batch(rows[:0]).shape == (0, 2)
    # As beside a backend that knows GPUs only.
    with mock.patch('torch.distributed.get_backend', return_value='another'):
        assert batch_sizes(rows) == [0, 1, 2]
        assert gather_batch(rows)[:, 0].tolist() == [1, 2, 2]
    # To the last bit: batches of one size are what they have always been.
    assert all(share_of_batch([size] * world) == 1 for size in range(1, 999))


@pytest.fixture(scope='module')
def ranks(tmp_path_factory) -> dict[str, list]:
    root = tmp_path_factory.mktemp('ranks')
    spawn(3, train, str(root))
    return {
        case: [torch.load(root / f'{case}.{r}', weights_only=False) for r in range(3)]
        for case in CASES
    }


@pytest.mark.parametrize('case', CASES, ids=str)
def test_a_head_per_data_set(ranks, case):
    """Gradients, what is logged, statistics and what hooks see of it."""
    loss, sharded, _ = case
    model = network(loss, sharded, 'dense')
    truth = steps(model, model, None)
    for number, expected in enumerate(truth):
        actual = [rank[number] for rank in ranks[case]]
        for rank in actual:
            for key in ('scalars', 'grads', 'buffers'):
                torch.testing.assert_close(rank[key], expected[key])
            for key, value in expected['samples']._asdict().items():
                assert getattr(rank['samples'], key) == pytest.approx(value), key
            assert rank['state'] == pytest.approx(expected['state'])
            (worst,), (suspect, *_) = expected['suspects'], rank['suspects']
            assert suspect.number == worst.number
            assert suspect.loss == pytest.approx(worst.loss)
        for head, rows in enumerate(expected['rows']):
            parts = [rank['rows'][head] for rank in actual]
            whole = torch.cat(parts) if sharded else parts[0]
            torch.testing.assert_close(whole, rows)


def test_no_sample_at_all():
    """Of one of several heads: nothing to learn, and nothing that fails."""
    for engine in ('dense', 'blocked'):
        model = network('plain', False, engine)
        feats = torch.zeros(0, 6, dtype=torch.float64, requires_grad=True)
        out = model.second.loss((feats,), [])
        assert out['loss'].item() == 0
        out['loss'].backward()
        assert not any(p.grad.any() for p in model.second.parameters())
        assert feats.grad.shape == (0, 6)
        assert model.second.last is None
        assert model.second.loss_module.t == 0
        again = model.head.loss((feats,), [])['loss']
        again.backward(retain_graph=True)
        again.backward()
        assert not any(p.grad.any() for p in model.head.parameters())
