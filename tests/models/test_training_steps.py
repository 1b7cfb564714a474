"""Training steps as the official codes take them, three for each method.

The reference is a loop in float64 over formulas that are written here, from the
papers and from what the official steps do: when the centres are put back on the
sphere and what their gradient is, what is clipped, what decays, which learning rate
an iteration has. Ours takes its steps through the real head, with the optimizer,
the schedule and the loss of the recipe in ``configs``.
"""

import copy
import functools
import math
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import pytest
import torch
from mmengine.config import Config
from mmengine.logging import MessageHub
from mmengine.optim import build_optim_wrapper
from mmengine.registry import init_default_scope
from official_steps import BIAS, OFFICIAL, official_steps, sface_mxnet
from torch import Tensor, nn

from mmhyperface.engine.hooks import MarginSchedulerHook
from mmhyperface.engine.optim_wrappers import OptimWrapper
from mmhyperface.models import HypersphereHead, SFaceLoss
from mmhyperface.models.face_samples import FaceSamples
from mmhyperface.registry import MODELS, PARAM_SCHEDULERS

CONFIGS = Path(__file__).parents[2] / 'configs'
SAMPLES, INPUTS, HIDDEN, DIMS, CLASSES = 9, 6, 8, 5, 7
STEPS = 3
# Classes of no sample that take part in the steps, where they are sampled.
DRAWN = ([6], [5], [5])
NORMS = ('backbone.1.weight', 'backbone.1.bias')
Parameters = dict[str, Tensor]


# --------------------------------------------------------------------- the losses


class Seen(NamedTuple):
    """What a loss is computed from.

    Attributes:
        cos: Cosines, [B, C].
        own: Whether a class is the own one, [B, C].
        norm: Norms of the features, [B, 1].
        centres: Unit centres, [C, D].
        bias: SphereFace2's.
        step: Number of the step, from 0.
        memory: What the loss remembers from step to step.
    """

    cos: Tensor
    own: Tensor
    norm: Tensor
    centres: Tensor
    bias: Tensor | None
    step: int
    memory: dict[str, Any]


Loss = Callable[[Seen], Tensor]


def held(cos: Tensor, value: Tensor) -> Tensor:
    """The value, with the cosine's gradient."""
    return cos + (value - cos).detach()


def cross_entropy(logits: Tensor, own: Tensor) -> Tensor:
    return (logits.logsumexp(1) - logits[own]).mean()


def unrolled(cos: Tensor, m: float) -> Tensor:
    k = (m * cos.acos() / math.pi).floor()
    return (-1) ** k * (m * cos.acos()).cos() - 2 * k


def clipped(cos: Tensor, m: float) -> Tensor:
    return (m * cos.acos()).clamp(max=math.pi).cos()


def softmax(s: float, psi: Callable[[Tensor], Tensor], detach: bool = True) -> Loss:
    def loss(seen: Seen) -> Tensor:
        value = held(seen.cos, psi(seen.cos)) if detach else psi(seen.cos)
        return cross_entropy(s * torch.where(seen.own, value, seen.cos), seen.own)

    return loss


def normface(s: float) -> Loss:
    return softmax(s, lambda cos: cos)


def cosface(s: float, m: float) -> Loss:
    return softmax(s, lambda cos: cos - m)


def arcface(s: float, m: float, clip: bool) -> Loss:
    top = math.pi if clip else math.inf
    return softmax(s, lambda cos: (cos.acos() + m).clamp(max=top).cos())


def sphereface(s: float, m: float) -> Loss:
    return softmax(s, lambda cos: unrolled(cos, m))


def sphereface_plus(s: float, m: float, lam: float) -> Loss:
    def loss(seen: Seen) -> Tensor:
        centres = seen.centres[seen.own.any(0)]
        first, second = torch.triu_indices(len(centres), len(centres), 1)
        angles = (centres[first] * centres[second]).sum(1).acos()
        return sphereface(s, m)(seen) + lam * (angles**-2).mean()

    return loss


def sphereface_r(
    version: str, norm: str, s: float, m: float | Sequence[float], lw: float
) -> Loss:
    """``m`` of each step, where it is annealed; the penalty's weight is 0.01."""

    def loss(seen: Seen) -> Tensor:
        margin = m if isinstance(m, float) else m[seen.step]
        cos, scale = seen.cos, s if norm == 'hard' else seen.norm
        own, others = cos, cos
        if version == 'v2':
            others = held(cos, (cos.acos() / margin).cos())
        else:
            own = held(cos, (unrolled if version == 'v0' else clipped)(cos, margin))
        entropy = cross_entropy(scale * torch.where(seen.own, own, others), seen.own)
        if norm == 'none':
            return lw * entropy
        penalty = (seen.norm - s).abs().mean() if norm == 'soft' else 0
        return lw / s * entropy + 0.01 * penalty

    return loss


def sphereface2(kind: str, lam: float, r: float, m: float, t: float, lw: float) -> Loss:
    def g(z: Tensor) -> Tensor:
        return 2 * ((z + 1) / 2) ** t - 1

    def loss(seen: Seen) -> Tensor:
        cos = seen.cos
        if kind == 'C':
            own, others = g(cos) - m, g(cos) + m
        else:
            theta = cos.acos() + m if kind == 'A' else cos.acos() * m
            own, others = g(theta.clamp(max=math.pi).cos()), g(cos)
        positive = lam / r * (1 + (-r * held(cos, own) - seen.bias).exp()).log()
        negative = (1 - lam) / r * (1 + (r * held(cos, others) + seen.bias).exp()).log()
        return lw * torch.where(seen.own, positive, negative).sum(1).mean()

    return loss


def sface(s: float, k: float, a: float, b: float) -> Loss:
    def loss(seen: Seen) -> Tensor:
        theta = seen.cos.detach().acos()
        pull = 1 / (1 + (-k * (theta - a)).exp())
        push = 1 / (1 + (k * (theta - b)).exp())
        weight = torch.where(seen.own, -pull, push)
        return (weight * s * seen.cos).sum(1).mean()

    return loss


def magface(s: float, low: float, high: float, lam: float) -> Loss:
    """Margins from 0.45 to 0.8; an easy margin."""

    def loss(seen: Seen) -> Tensor:
        a = seen.norm.clamp(low, high)
        margin = 0.45 + (0.8 - 0.45) / (high - low) * (a - low)
        own = torch.where(seen.cos > 0, (seen.cos.acos() + margin).cos(), seen.cos)
        entropy = cross_entropy(s * torch.where(seen.own, own, seen.cos), seen.own)
        return entropy + lam * (1 / a + a / high**2).mean()

    return loss


def adaface(s: float, m: float, h: float, momentum: float) -> Loss:
    def loss(seen: Seen) -> Tensor:
        norm = seen.norm.detach().clamp(1e-3, 100)
        deviation = ((norm - norm.mean()) ** 2).sum() / (len(norm) - 1)
        for name, new, first in (
            ('mean', norm.mean(), 20),
            ('std', deviation.sqrt(), 100),
        ):
            old = seen.memory.get(name, first)
            seen.memory[name] = momentum * new + (1 - momentum) * old
        z = (norm - seen.memory['mean']) / (seen.memory['std'] + 1e-3) * h
        z = z.clamp(-1, 1)
        theta = (seen.cos.acos() - m * z).clamp(1e-3, math.pi - 1e-3)
        own = theta.cos() - (m + m * z)
        return cross_entropy(s * torch.where(seen.own, own, seen.cos), seen.own)

    return loss


def curricularface(s: float, m: float, momentum: float) -> Loss:
    def loss(seen: Seen) -> Tensor:
        cos = seen.cos
        moved = (cos.acos() + m).cos()
        own = torch.where(cos.acos() + m < math.pi, moved, cos - m * math.sin(m))
        mean = cos[seen.own].mean().detach()
        t = momentum * mean + (1 - momentum) * seen.memory.get('t', 0)
        seen.memory['t'] = t
        others = torch.where(cos > moved[seen.own][:, None], cos * (t + cos), cos)
        return cross_entropy(s * torch.where(seen.own, own, others), seen.own)

    return loss


# ----------------------------------------------------------------------- the steps


class Step(NamedTuple):
    """What happens between two batches.

    Attributes:
        rates: Learning rate of each step.
        project: Whether the centres are overwritten by their directions before the
            loss, which then takes them as they are.
        clip: ``network`` or ``all``, and the largest norm; or None.
        decay: Weight decay.
        excluded: Parameters that do not decay.
        sampled: Whether some of the centres take part: ``all`` of them decay and
            have momentum, or those that are ``drawn``.
        first: Iteration of the first step.
    """

    rates: tuple[float, ...] = (0.1, 0.01, 0.001)
    project: bool = False
    clip: tuple[str, float] | None = None
    decay: float = 5e-4
    excluded: tuple[str, ...] = ()
    sampled: str = ''
    first: int = 0


OPENSPHERE = Step(project=True)
OPENSPHERE_HEAD = Step(project=True, clip=('all', 100.0))
INSIGHTFACE = Step((0.1, 0.1 * 2 / 3, 0.1 / 3), clip=('network', 5.0))
# Of two iterations of warm-up and two of decay the last three.
PARTIAL_FC = INSIGHTFACE._replace(rates=(0.2, 0.4, 0.2), sampled='all', first=1)
# Its first code, partial_fc.py, which gave the optimizer the drawn rows alone.
PARTIAL_FC_2021 = PARTIAL_FC._replace(sampled='drawn')
SFACE = Step(excluded=NORMS)


def features(p: Parameters, x: Tensor) -> Tensor:
    """Linear, batch norm, PReLU, linear."""
    x = x @ p['backbone.0.weight'].T + p['backbone.0.bias']
    x = x - x.mean(0)
    x = x / ((x**2).mean(0) + 1e-5).sqrt()
    x = x * p['backbone.1.weight'] + p['backbone.1.bias']
    x = x.clamp(min=0) + p['backbone.2.weight'] * x.clamp(max=0)
    return x @ p['backbone.3.weight'].T


def objective(
    p: Parameters,
    batch: tuple[Tensor, Tensor],
    rows: Tensor,
    loss: Loss,
    project: bool,
    step: int,
    memory: dict[str, Any],
) -> Tensor:
    x, y = batch
    x, centres = features(p, x), p['head.weight'][rows]
    if not project:
        centres = centres / (centres**2).sum(1, keepdim=True).sqrt()
    norm = (x**2).sum(1, keepdim=True).sqrt()
    cos = (x / norm) @ centres.T
    own = y[:, None] == rows
    return loss(Seen(cos, own, norm, centres, p.get(BIAS), step, memory))


def reference(
    p: Parameters, batches: list[tuple[Tensor, Tensor]], loss: Loss, how: Step
) -> list[Parameters]:
    """The parameters after each step."""
    velocity = {name: torch.zeros_like(value) for name, value in p.items()}
    memory: dict[str, Any] = {}
    after = []
    for step, (batch, rate) in enumerate(zip(batches, how.rates, strict=True)):
        rows = torch.arange(CLASSES)
        if how.sampled:
            rows = torch.tensor(sorted({*batch[1].tolist(), *DRAWN[step]}))
        p = {name: value.clone() for name, value in p.items()}
        if how.project:
            p['head.weight'] /= (p['head.weight'] ** 2).sum(1, keepdim=True).sqrt()
        p = {name: value.requires_grad_() for name, value in p.items()}
        value = objective(p, batch, rows, loss, how.project, step, memory)
        grads = dict(zip(p, torch.autograd.grad(value, list(p.values())), strict=True))
        if how.clip is not None:
            names = [n for n in p if how.clip[0] == 'all' or 'backbone' in n]
            total = math.sqrt(sum(float((grads[n] ** 2).sum()) for n in names))
            assert step or total > how.clip[1], 'the first step should be clipped'
            for name in names:
                grads[name] = grads[name] * min(1, how.clip[1] / (total + 1e-6))
        stepped = {}
        for name, value in p.items():
            value = value.detach()
            decay = 0 if name in how.excluded else how.decay
            new = 0.9 * velocity[name] + grads[name] + decay * value
            if how.sampled == 'drawn' and name == 'head.weight':
                new = velocity[name].index_copy(0, rows, new[rows])
                stepped[name] = value.index_add(0, rows, -rate * new[rows])
            else:
                stepped[name] = value - rate * new
            velocity[name] = new
        p = stepped
        after.append(p)
    return after


# ------------------------------------------------------------------------ the cases


class Case(NamedTuple):
    """A recipe and what it should do.

    Attributes:
        config: Name of the recipe.
        loss: The published loss.
        step: The official step.
        options: What differs from the recipe.
        schedule: The recipe whose optimizer and schedule are taken.
        annealed: Whether the margin goes from 1 to 1.2 and 1.4.
        spread: Of the embedding's weights. Small ones make small features and large
            gradients, which are clipped.
    """

    config: str
    loss: Loss
    step: Step
    options: dict[str, Any] | None = None
    schedule: str = ''
    annealed: bool = False
    spread: float = 0.02


# Norms on both sides of 10, from where MagFace's margin grows.
WIDE = 4.0


def of_sphereface_r(version: str, norm: str) -> Case:
    margin = 1.4 if norm == 'hard' else (1.0, 1.2, 1.4)
    lw = 1.0 if norm == 'none' else 50.0
    options = {
        'model.head.loss.version': version,
        'model.head.loss.feature_norm': norm,
        'model.head.loss.loss_weight': 1.0 if norm == 'none' else 50 / 60,
    }
    return Case(
        'spherefacer_sfnet20_vggface2',
        sphereface_r(version, norm, 60.0, margin, lw),
        OPENSPHERE,
        # The published one is as it is.
        None if (version, norm) == ('v2', 'hard') else options,
        annealed=norm != 'hard',
        # Where the norm is the scale, it is not to be small.
        spread=0.02 if norm == 'hard' else WIDE,
    )


NORMALIZE = {'model.head.centres': 'normalize'}
CASES = {
    'sphereface': Case('sphereface_sfnet20_vggface2', sphereface(30, 1.5), OPENSPHERE),
    'sphereface-head': Case(
        'sphereface_r100_ms1m', sphereface(64, 1.7), OPENSPHERE_HEAD
    ),
    'sphereface+': Case(
        'sphereface_plus_sfnet20_vggface2', sphereface_plus(30, 1.5, 0.1), OPENSPHERE
    ),
    **{
        f'spherefacer-{version}-{norm}': of_sphereface_r(version, norm)
        for version in ('v0', 'v1', 'v2')
        for norm in ('none', 'hard', 'soft')
    },
    'sphereface2-C': Case(
        'sphereface2_sfnet20_vggface2',
        sphereface2('C', 0.7, 40, 0.4, 3, 10),
        OPENSPHERE,
    ),
    'sphereface2-A': Case(
        'sphereface2a_sfnet20_vggface2',
        sphereface2('A', 0.7, 40, 0.5, 3, 10),
        OPENSPHERE,
    ),
    'sphereface2-M': Case(
        'sphereface2m_sfnet20_vggface2',
        sphereface2('M', 0.7, 40, 1.7, 3, 10),
        OPENSPHERE,
    ),
    'sphereface2-C-head': Case(
        'sphereface2_r100_ms1m',
        sphereface2('C', 0.8, 64, 0.5, 3, 50),
        OPENSPHERE_HEAD,
    ),
    'arcface': Case('arcface_sfnet20_vggface2', arcface(30, 0.5, True), OPENSPHERE),
    'cosface': Case('cosface_sfnet20_vggface2', cosface(30, 0.35), OPENSPHERE),
    'normface': Case('normface_sfnet20_vggface2', normface(30), OPENSPHERE),
    'arcface-head': Case('arcface_r100_ms1m', arcface(64, 0.5, True), OPENSPHERE_HEAD),
    'cosface-head': Case('cosface_r100_ms1m', cosface(64, 0.4), OPENSPHERE_HEAD),
    'arcface-insightface': Case(
        'arcface_r50_ms1mv3', arcface(64, 0.5, False), INSIGHTFACE
    ),
    'cosface-insightface': Case(
        'cosface_r50_glint360k', cosface(64, 0.4), INSIGHTFACE._replace(decay=1e-4)
    ),
    'cosface-partialfc': Case('cosface_r50_webface42m', cosface(64, 0.4), PARTIAL_FC),
    'cosface-partialfc-2021': Case(
        'cosface_r50_webface42m',
        cosface(64, 0.4),
        PARTIAL_FC_2021,
        {'model.head.catch_up': False},
    ),
    'sface': Case('sface_ir50_casia', sface(64, 80, 0.87, 1.2), SFACE),
    'magface': Case(
        'magface_r100_ms1m',
        magface(64, 10, 110, 35),
        Step(),
        NORMALIZE,
        'sface_r100_ms1m',
        spread=WIDE,
    ),
    'adaface': Case(
        'adaface_r100_ms1m',
        adaface(64, 0.4, 0.333, 0.01),
        SFACE,
        NORMALIZE,
        'sface_ir50_casia',
    ),
    'curricularface': Case(
        'curricularface_r100_ms1m',
        curricularface(64, 0.5, 0.01),
        SFACE,
        NORMALIZE,
        'sface_ir50_casia',
    ),
}


# ----------------------------------------------------------------------------- ours


class Recognizer(nn.Module):
    """A network of the reference's shape and the recipe's head."""

    def __init__(self, head: HypersphereHead, spread: float) -> None:
        super().__init__()
        self.backbone = nn.Sequential(
            nn.Linear(INPUTS, HIDDEN),
            nn.BatchNorm1d(HIDDEN),
            nn.PReLU(HIDDEN),
            nn.Linear(HIDDEN, DIMS, bias=False),
        )
        nn.init.normal_(self.backbone[3].weight, std=spread)
        self.double().train()
        self.head = head.double().train()
        with torch.no_grad():
            # Not far from where the samples are, lest all softmaxes be saturated.
            for x, y in batches():
                head.weight[y] += nn.functional.normalize(self.backbone(x))
            # But for one class, the angles of which are large.
            head.weight[0] *= -1


@functools.cache
def recipe(name: str) -> Config:
    return Config.fromfile(CONFIGS / f'{name}.py')


def recognizer(case: Case, **options: Any) -> Recognizer:
    cfg = copy.deepcopy(recipe(case.config))
    cfg.merge_from_dict(case.options or {})
    sizes = dict(num_classes=CLASSES, in_channels=DIMS, init_std=0.5)
    # What is compared is compared in float64.
    cfg.model.head.update(sizes, matmul_dtype=None, **options)
    torch.manual_seed(0)
    return Recognizer(MODELS.build(cfg.model.head), case.spread)


def soon(schedulers: Any) -> list[dict]:
    """A recipe's schedulers, with all that happens in them in the first iterations."""
    if isinstance(schedulers, dict):
        assert schedulers.type == 'MultiStepLR'
        return [{**schedulers, 'milestones': [1, 2], 'end': 9}]
    if len(schedulers) == 1:
        assert schedulers[0].end in (101_161, 333_821)
        return [{**schedulers[0], 'end': STEPS + 1}]
    warm_up, decay = schedulers
    assert (warm_up.end, decay.begin, decay.end) == (20_739, 20_738, 207_381)
    # Ours cannot start from a rate of nothing.
    return [
        {**warm_up, 'start_factor': 1e-13, 'end': 3},
        {**decay, 'begin': 2, 'end': 5},
    ]


def draw_these(head: HypersphereHead) -> None:
    drawn = (torch.tensor(rows) for rows in DRAWN)
    head.rows.sampling.draw = lambda weight, classes: (next(drawn), 1.0)


def ours(
    model: Recognizer, batches: list[tuple[Tensor, Tensor]], case: Case
) -> list[Parameters]:
    """The parameters after each step."""
    init_default_scope('mmhyperface')
    training = recipe(case.schedule or case.config)
    wrapper = build_optim_wrapper(model, copy.deepcopy(training.optim_wrapper))
    assert isinstance(wrapper, OptimWrapper)
    schedulers = [
        PARAM_SCHEDULERS.build(scheduler, default_args=dict(optimizer=wrapper))
        for scheduler in soon(training.param_scheduler)
    ]
    model.head.attach(wrapper.optimizer)
    if case.step.sampled:
        draw_these(model.head)
    hook = MarginSchedulerHook(milestones=[1, 2], dm=0.2) if case.annealed else None
    hub = MessageHub.get_instance('steps')
    after = []
    for step in range(-case.step.first, len(batches)):
        if step >= 0:
            if hook is not None:
                runner = SimpleNamespace(model=model, iter=step, message_hub=hub)
                hook.before_train_iter(runner, step)
            assert wrapper.get_lr()['lr'][0] == pytest.approx(case.step.rates[step])
            x, y = batches[step]
            feats = (model.backbone(x),)
            loss = model.head.loss(feats, FaceSamples(torch.arange(len(y)), y))['loss']
            wrapper.update_params(loss)
            after.append(parameters(model))
        for scheduler in schedulers:
            scheduler.step()
    if model.head.catch_up:
        # Only the end is comparable: centres make up for what they missed.
        model.head.flush()
        after[-1] = parameters(model)
    return after


def parameters(model: nn.Module) -> Parameters:
    return {name: p.detach().clone() for name, p in model.named_parameters()}


def batches() -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(1)
    shape = (STEPS, SAMPLES, INPUTS)
    x = torch.randn(shape, generator=generator, dtype=torch.float64)
    y = torch.randint(5, (STEPS, SAMPLES), generator=generator)
    means = torch.randn(CLASSES, INPUTS, generator=generator, dtype=torch.float64)
    return list(zip(0.3 * x + means[y], y, strict=True))


def difference(mine: Parameters, other: Parameters) -> float:
    """The largest, relative to the largest number of each parameter."""
    assert mine.keys() == other.keys()
    return max(
        ((mine[name] - other[name]).abs().max() / other[name].abs().max()).item()
        for name in mine
    )


def all_differences(
    mine: list[Parameters], others: list[Parameters], case: Case
) -> list[float]:
    pairs = list(zip(mine, others, strict=True))
    if case.step.sampled == 'all':
        pairs = pairs[-1:]
    return [difference(a, b) for a, b in pairs]


# One of each way to step, and of what losses ask of an engine.
BLOCKED = (
    'sphereface+',
    'spherefacer-v1-none',
    'spherefacer-v2-soft',
    'sphereface2-C-head',
    'arcface-insightface',
    'cosface-partialfc',
    'sface',
    'curricularface',
)
# The first iteration of a warm-up is left out: its rate is not the official one.
pytestmark = pytest.mark.filterwarnings('ignore:Detected call of')


@pytest.mark.parametrize(
    ('name', 'engine', 'fused'),
    [
        *((name, 'dense', False) for name in CASES),
        *((name, 'blocked', False) for name in BLOCKED),
        # Centres that step in the block loop, while the network is clipped.
        ('cosface-insightface', 'blocked', True),
        ('cosface-partialfc', 'blocked', True),
    ],
)
def test_steps_are_those_of_the_official_code(name, engine, fused):
    case = CASES[name]
    model = recognizer(case, engine=engine, fused_update=fused)
    expected = reference(parameters(model), batches(), case.loss, case.step)
    differences = all_differences(ours(model, batches(), case), expected, case)
    assert max(differences) < 1e-10, differences


@pytest.fixture
def peers() -> Path:
    folder = os.environ.get('MMHYPERFACE_PEERS')
    if folder is None:
        pytest.skip(
            'set MMHYPERFACE_PEERS to a folder with checkouts named opensphere (at '
            '032c31b), opensphere-HEAD, insightface, SFace, AdaFace, MagFace and '
            'CurricularFace'
        )
    return Path(folder)


def test_sface_with_two_slopes_is_that_of_the_mxnet_code(peers):
    torch.manual_seed(0)
    loss = SFaceLoss(k=7.0, a=0.87, b=1.2, k_inter=20.0)
    head = HypersphereHead(CLASSES, DIMS, loss).double()
    x = torch.randn(SAMPLES, DIMS, dtype=torch.float64, requires_grad=True)
    y = torch.randint(CLASSES, (SAMPLES,))
    wanted = [x, head.weight]
    theirs = sface_mxnet(peers, x, head.weight, y, (7.0, 0.87, 20.0, 1.2))
    ours = head(x, y)
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=0)
    expected = torch.autograd.grad(theirs, wanted)
    for got, gradient in zip(torch.autograd.grad(ours, wanted), expected, strict=True):
        torch.testing.assert_close(got, gradient, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize('name', OFFICIAL)
def test_steps_are_those_that_the_official_code_takes(name, peers):
    case = CASES[name]
    model = recognizer(case, engine='dense')
    start = parameters(model)
    theirs = official_steps(
        name,
        peers,
        copy.deepcopy(model.backbone),
        start,
        batches(),
        case.step.decay,
        bool(case.step.excluded),
        DRAWN if case.step.sampled else None,
    )
    differences = all_differences(ours(model, batches(), case), theirs, case)
    print(f'{name}: {max(differences):.1e}')
    assert max(differences) < 1e-9, differences
