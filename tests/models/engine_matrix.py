"""Steps of the classifier with every engine, and the formula that they compute.

The formula is dense, on one process, written here with torch alone around the
functions of the loss. In float64 it is the truth; in float32 it tells how much error
the arithmetic itself brings.
"""

import functools
import itertools
import math
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from mmengine.dist import all_reduce, get_dist_info
from mmpretrain.structures import DataSample
from runs import spawn
from test_losses import CASES
from torch import Tensor

from mmhyperface.centres import Shard
from mmhyperface.engine.distributed import init_process_group
from mmhyperface.models import HypersphereHead, HypersphereLoss
from mmhyperface.models.heads import hypersphere_head
from mmhyperface.models.losses.batch import Batch
from mmhyperface.ops import blocked

BATCH, DIMS = 12, 16
SAMPLE_RATE = 0.3
LR, MOMENTUM, DECAY = 1.0, 0.9, 0.01
FLOOR = 4 * torch.finfo(torch.float32).eps
# Several blocks, the last one smaller, for all but the fewest classes.
BLOCK = 100


# Samples of each rank, by the number of ranks.
SIZES: dict[str, dict[int, Sequence[int]]] = {
    'equal': {1: (12,), 2: (6, 6), 3: (4, 4, 4)},
    'uneven': {2: (9, 3), 3: (1, 7, 4)},
    'empty': {2: (0, 12), 3: (5, 0, 7)},
}


class Case(NamedTuple):
    """A setting of the head.

    Attributes:
        loss: A name of ``test_losses.CASES``.
        engine: See the head.
        world: Number of processes.
        classes: Number of classes.
        sampled: Whether some of the classes take part only.
        centres: See the head.
        update: ``ordinary``, or ``fused``: in the engine's loop.
        sharded: Whether the centres are split.
        batches: A key of ``SIZES``.
        lam_mhe: See the head. What it does is tested with one loss of each family.
    """

    loss: str
    engine: str
    world: int
    classes: int
    sampled: bool
    centres: str
    update: str
    sharded: bool
    batches: str = 'equal'
    lam_mhe: float = 0.0

    @property
    def sizes(self) -> Sequence[int]:
        """How many samples each rank has."""
        return SIZES[self.batches][self.world]

    @property
    def allowed(self) -> bool:
        if self.world not in SIZES[self.batches]:
            return False
        if self.lam_mhe and self.loss not in ('cosface', 'sface'):
            return False
        if self.engine == 'dense' and self.update == 'fused':
            return False
        if self.world == 1:
            return not self.sharded
        return self.sharded or not (self.sampled or self.update == 'fused')


OPTIONS: dict[str, Sequence] = dict(
    engine=('dense', 'blocked'),
    world=(1, 2, 3),
    classes=(11, 252, 507),
    sampled=(False, True),
    centres=('normalize', 'project'),
    update=('ordinary', 'fused'),
    sharded=(False, True),
    batches=tuple(SIZES),
    lam_mhe=(0.0, 3.0),
)
# Each loss with each of its options.
FEW_LOSSES = (
    'normface',
    'cosface',
    'sface',
    'sphereface-detached',
    'sphereface+-full',
    'adaface-detached',
    'adaface-full',
    'arcface-none-full',
    'arcface-clip-detached',
    'arcface-linear-full',
    'arcface-easy-detached',
    'magface-none-full',
    'magface-easy-detached',
    'curricularface-linear-full',
    'curricularface-none-detached',
    'sphereface-r-v0-none-absolute-full',
    'sphereface-r-v0-hard-absolute-detached',
    'sphereface-r-v0-soft-squared-full',
    'sphereface-r-v1-none-absolute-detached',
    'sphereface-r-v1-hard-absolute-full',
    'sphereface-r-v1-soft-absolute-detached',
    'sphereface-r-v2-none-absolute-full',
    'sphereface-r-v2-hard-absolute-detached',
    'sphereface-r-v2-soft-squared-full',
    'sphereface2-C-detached',
    'sphereface2-C-full',
    'sphereface2-A-full',
    'sphereface2-M-full',
    'wespeaker-full',
    'elasticface-arc-full',
    'elasticface-cos+',
    'uniface',
)


def every_case(losses: Sequence[str]) -> list[Case]:
    product = itertools.product(losses, *OPTIONS.values())
    return [case for case in map(Case._make, product) if case.allowed]


def pairs(case: Case) -> list[tuple]:
    """The pairs of values of different options."""
    return list(itertools.combinations(case._asdict().items(), 2))


def covering(cases: Sequence[Case]) -> list[Case]:
    """Some of the cases, in which each pair of values occurs that occurs at all."""
    chance = random.Random(0)
    having: dict[tuple, list[Case]] = {}
    for case in cases:
        for pair in pairs(case):
            having.setdefault(pair, []).append(case)
    missing = dict.fromkeys(having)
    chosen = []
    while missing:
        candidates = having[next(iter(missing))]
        candidates = chance.sample(candidates, min(40, len(candidates)))
        best = max(
            candidates, key=lambda case: sum(pair in missing for pair in pairs(case))
        )
        chosen.append(best)
        for pair in pairs(best):
            missing.pop(pair, None)
    return chosen


def batch(classes: int) -> tuple[Tensor, Tensor, Tensor]:
    """Features, centres and labels; some labels occur twice, of 5 one alone."""
    generator = torch.Generator().manual_seed(classes)
    x = torch.randn(BATCH, DIMS, generator=generator)
    w = torch.randn(classes, DIMS, generator=generator) / 2
    y = torch.randint(classes, (BATCH,), generator=generator)
    y[BATCH // 2] = y[0]
    if classes == 5:
        y[:] = 1
    return x, w, y


NORMAL = torch.randn(BATCH, 1, generator=torch.Generator().manual_seed(0))


@dataclass(frozen=True)
class DrawnBatch(Batch):
    """A batch whose random numbers are known."""

    numbers: Tensor = NORMAL

    def normal(self) -> Tensor:
        return self.numbers.to(self.own.dtype)


Outcome = dict[str, Tensor]
"""What a step makes of its batch, by name."""


def formula(
    loss: HypersphereLoss,
    x: Tensor,
    w: Tensor,
    y: Tensor,
    centres: str = 'normalize',
    class_weight: Tensor | None = None,
    numbers: Tensor = NORMAL,
    lam_mhe: float = 0.0,
) -> Outcome:
    """The loss of a batch and what is logged of it.

    Args:
        loss: Any loss.
        x: Features, [B, D].
        w: Centres, [C, D]; on the sphere if ``centres`` is ``project``.
        y: Labels, [B].
        centres: See the head.
        class_weight: How many classes each class [C] counts for, 0 for one that is
            passed by. By default all count once.
        numbers: What a loss draws for each sample, [B, 1].
        lam_mhe: See the head.
    """
    class_weight = torch.ones_like(w[:, 0]) if class_weight is None else class_weight
    norm = x.norm(dim=1, keepdim=True)
    directions = w if centres == 'project' else F.normalize(w)
    cos = (x / norm) @ directions.T
    own = cos.gather(1, y[:, None])
    if loss.keeps_statistics:
        loss.observe(Batch(own.detach(), norm.detach()))
    batch = DrawnBatch(
        own, norm, centres=lambda: directions[y.unique()], numbers=numbers
    )
    context = loss.context(batch)
    others = (class_weight > 0) & ~F.one_hot(y, len(w)).bool()
    terms = loss.others(cos, context)
    if loss.additive:
        folded = (terms * others * class_weight).sum(1, keepdim=True)
    else:
        folded = terms.masked_fill(~others, -math.inf).logsumexp(1, keepdim=True)
    data_term = loss.join(loss.target(own, context), folded).mean()
    objective = loss.objective(data_term, batch)
    if lam_mhe:
        first, second = torch.combinations(y.unique()).T
        between = (directions[first] * directions[second]).sum(1).acos()
        energy = (1 / between**2).mean()
        objective = objective + loss.loss_weight * lam_mhe * energy
    return {
        'loss': objective,
        'cos_own': own.detach().mean(),
        'cos_hardest': cos.detach().masked_fill(~others, -1).amax(1).mean(),
    }


def formula_step(
    case: Case, class_weight: Tensor, dtype: torch.dtype, order: int = 0
) -> Outcome:
    """A step of the formula.

    Args:
        case: The setting, of which it takes the loss and the geometry.
        class_weight: See :func:`formula`.
        dtype: In which it is computed.
        order: Number of a permutation of samples, classes and dimensions, which
            the result does not tell but for rounding; 0 for none.
    """
    generator = torch.Generator().manual_seed(order)
    by_x, by_w, by_d = (
        torch.randperm(size, generator=generator) if order else torch.arange(size)
        for size in (BATCH, case.classes, DIMS)
    )
    x, w, y = batch(case.classes)
    x, start = x[by_x][:, by_d].to(dtype), w[by_w][:, by_d].to(dtype)
    y, class_weight = by_w.argsort()[y[by_x]], class_weight[by_w].to(dtype)

    loss = CASES[case.loss]()[0].train()
    loss.reset_parameters(case.classes)
    loss.to(dtype)
    w = F.normalize(start) if case.centres == 'project' else start.clone()
    x.requires_grad_()
    w.requires_grad_()
    out = formula(loss, x, w, y, case.centres, class_weight, NORMAL[by_x], case.lam_mhe)
    out['loss'].backward()

    with torch.no_grad():
        taken = (class_weight > 0)[:, None]
        momentum = (w.grad + DECAY * w) * taken
        moved = (w - LR * momentum - start) * taken
    back_x, back_w, back_d = by_x.argsort(), by_w.argsort(), by_d.argsort()
    return {
        **out,
        'features': x.grad[back_x][:, back_d],
        'momentum': momentum[back_w][:, back_d],
        'moved': moved[back_w][:, back_d],
        **{name: p.grad for name, p in loss.named_parameters()},
        **dict(loss.named_buffers()),
    }


def rank_step(case: Case) -> Outcome:
    """A step of the head: what this rank knows of it.

    Besides the outcome it holds ``class_weight`` of the rank's own classes, derived
    here from the rows that were drawn.
    """
    rank, _ = get_dist_info()
    x, w, y = batch(case.classes)
    x, y = x.split(case.sizes)[rank].requires_grad_(), y.split(case.sizes)[rank]
    everyone = batch(case.classes)[2]
    torch.manual_seed(rank)
    head = HypersphereHead(
        case.classes,
        DIMS,
        CASES[case.loss]()[0],
        centres=case.centres,
        engine=case.engine,
        sharded=case.sharded,
        sample_rate=SAMPLE_RATE if case.sampled else 1.0,
        fused_update=case.update == 'fused',
        lam_mhe=case.lam_mhe,
    )
    shard = head.shard
    whole = Shard(case.classes), Shard(case.classes, rank, case.world)
    assert str(shard) == str(whole[case.sharded])
    start = w[shard.start : shard.stop]
    head.weight.data.copy_(start)
    learned = list(head.parameters())
    optimizer = torch.optim.SGD(
        head.parameters(), lr=LR, momentum=MOMENTUM, weight_decay=DECAY
    )
    head.attach(optimizer)
    class_weight = torch.ones(len(shard))
    if case.sampled:
        record_draws(head, everyone, class_weight)

    samples = [DataSample().set_gt_label(int(label)) for label in y]
    out = head.train().loss((x,), samples)
    out['loss'].backward()
    assert case.engine == 'dense' or not head._engine()._failed
    for name, parameter in head.named_parameters():
        # As DDP does it.
        if name not in head.ddp_ignored:
            all_reduce(parameter.grad, op='mean')
    parameters = {
        name: parameter.grad.clone()
        for name, parameter in head.loss_module.named_parameters()
    }
    optimizer.step()
    params = optimizer.param_groups[0]['params']
    assert all(a is b for a, b in zip(params, learned, strict=True))
    momentum = optimizer.state[head.weight]['momentum_buffer']
    return {
        'loss': out['loss'].detach(),
        'features': x.grad / case.world,
        'momentum': momentum,
        'moved': head.weight.detach() - start,
        'cos_own': out['cos_own'],
        'cos_hardest': out['cos_hardest'],
        **parameters,
        **dict(head.loss_module.named_buffers()),
        'class_weight': class_weight,
    }


def record_draws(head: HypersphereHead, everyone: Tensor, class_weight: Tensor) -> None:
    """Write to ``class_weight`` what the rows count for that are to be drawn."""
    sampling, shard = head.rows.sampling, head.shard
    draw = sampling.draw
    own = everyone.unique() - shard.start
    own = own[(own >= 0) & (own < len(shard))]

    def recorded(weight: Tensor, classes: Tensor) -> tuple[Tensor, float]:
        drawn, factor = draw(weight, classes)
        assert torch.equal(classes, own)
        assert not set(drawn.tolist()) & set(own.tolist())
        others = len(shard) - len(own)
        wanted = max(math.ceil(SAMPLE_RATE * len(shard)) - len(own), 1)
        assert len(drawn.unique()) == len(drawn) == min(wanted, others)
        class_weight.zero_()
        class_weight[own] = 1
        decoupled = head.loss_module.additive
        class_weight[drawn] = others / max(len(drawn), 1) if decoupled else 1
        return drawn, factor

    sampling.draw = recorded


def run_cases(cases: Sequence[Case], path: str) -> None:
    """Write this rank's outcomes of some cases of one world, a file for each loss."""
    if cases[0].world > 1:
        init_process_group('pytorch')
    rank, _ = get_dist_info()
    hypersphere_head.Batch = DrawnBatch
    blocked.default_block = lambda *_: BLOCK
    for loss, some in itertools.groupby(cases, lambda case: case.loss):
        torch._dynamo.reset()
        torch.save([rank_step(case) for case in some], f'{path}.{loss}.{rank}')


def joined(case: Case, parts: Sequence[Outcome]) -> Outcome:
    """The outcome of all ranks."""
    whole = dict(parts[0])
    for name, first in parts[0].items():
        values = [part[name] for part in parts]
        rows = name in ('momentum', 'moved', 'class_weight')
        if name == 'features' or (rows and case.sharded):
            whole[name] = torch.cat(values)
        elif name in ('loss', 'cos_own', 'cos_hardest') and not case.sharded:
            whole[name] = torch.stack(values).double().mean()
        else:
            # To the last bit, lest the replicas part ways.
            for value in values:
                assert torch.equal(value, first), f'{case}: ranks differ in {name}'
    return whole


def outcomes_of(cases: Sequence[Case], folder: Path) -> Iterator[tuple[Case, Outcome]]:
    """Steps of cases of one world, in one set of processes."""
    world, path = cases[0].world, str(folder / 'outcomes')
    cases = sorted(cases)
    spawn(world, run_cases, cases, path)
    for loss, some in itertools.groupby(cases, lambda case: case.loss):
        ranks = [torch.load(f'{path}.{loss}.{rank}') for rank in range(world)]
        for case, *parts in zip(some, *ranks, strict=True):
            yield case, joined(case, parts)


def error(got: Tensor, truth: Tensor) -> float:
    """Relative to the norm of the truth, or to one if that is zero."""
    scale = truth.norm().item() or 1.0
    return ((got.double() - truth).norm() / scale).item()


@functools.lru_cache(maxsize=64)
def truth_of(
    case: Case, class_weight: tuple[float, ...]
) -> tuple[Outcome, dict[str, float]]:
    """What the formula has in float64, and its errors in float32."""
    counts = torch.tensor(class_weight)
    truth = formula_step(case, counts, torch.float64)
    rounded = [formula_step(case, counts, torch.float32, i) for i in range(3)]
    return truth, {
        name: max(error(other[name], value) for other in rounded)
        for name, value in truth.items()
    }


def excesses(case: Case, outcome: Outcome) -> list[str]:
    """What of an outcome is further from the truth than the arithmetic allows.

    That is twice the error of the formula in float32, the largest over some orders of
    summation: a single number may by chance be right to the last bit. It may be so
    for every order, and in a mean of thousands of terms roundings cancel out while
    those of the constants that an engine folds into one do not: hence ``FLOOR``.
    """
    class_weight = outcome.pop('class_weight')
    # The formula knows neither engine nor process.
    key = Case(
        *(case.loss, '', 1, case.classes, False, case.centres, '', False),
        lam_mhe=case.lam_mhe,
    )
    truth, errors = truth_of(key, tuple(class_weight.tolist()))
    assert outcome.keys() == truth.keys()
    passed_by = class_weight == 0
    assert not outcome['momentum'][passed_by].any(), case
    assert not outcome['moved'][passed_by].any(), case
    result = []
    for name, value in truth.items():
        got = error(outcome[name], value)
        allowed = 2 * errors[name] + FLOOR
        if not got <= allowed:
            result.append(f'{case}: {name} is off by {got:.1e}, not {allowed:.1e}')
    return result
