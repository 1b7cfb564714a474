"""How much memory a training will take on each GPU, and what the GPUs will exchange.

Little of it is guessed. The network runs forward and backward on tensors without
data, for the batch and the precision of the config, and its allocations are counted.
So are those of the head under the config's own loss, and those of a step of the
config's own optimizer.

A step has three phases, each with a peak of its own: the block loop over the classes,
with all activations of the network waiting for their gradient; the backward pass
through the network; and the update. The caching allocator of CUDA reserves more than
the tensors take: it keeps what has been freed, and a block serves a tensor again only
if that is no larger, and not much smaller. So what lasts from step to step costs its
size, and what is made and freed in each of them leaves gaps.

Legend of shapes: N GPUs, b samples per GPU, B = N b of all GPUs, C classes, R rows of
centres on a GPU, D dimensions.
"""

import copy
import gc
import math
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from mmengine import optim
from mmengine.config import Config
from mmengine.hooks import EMAHook
from mmengine.registry import init_default_scope
from mmengine.utils import digit_version
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.optim import Optimizer
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only

from mmhyperface.centres.shard import Shard
from mmhyperface.compat.fused_sgd import begin_momentum
from mmhyperface.engine.optim_wrappers import (
    AmpOptimWrapper,
    may_fuse,
)
from mmhyperface.models.heads.decisions import (
    collectives,
    is_dense,
    splits_centres,
    updates_some_rows,
)
from mmhyperface.models.heads.hypersphere_head import HypersphereHead, build_loss
from mmhyperface.models.recognizers import image_channels
from mmhyperface.ops import Blocked
from mmhyperface.ops.blocked import default_block
from mmhyperface.ops.terms import FEW_CLASSES, block_terms
from mmhyperface.registry import HOOKS, MODELS, OPTIM_WRAPPERS, OPTIMIZERS, is_a
from mmhyperface.utils.errors import UserError

FLOAT = 4
MOST_BLOCKS = 32
PHASES = ('classifier', 'backward', 'update')
#: What CUDA, cuDNN, cuBLAS and NCCL take beside the tensors: an allowance.
LIBRARIES = 2_000_000_000
OLDEST_TORCH = '2.4'
#: The allocator leaves up to a megabyte of a block unused rather than split it.
SLACK = 1.01
#: Bytes reserved for each that is made and freed in a step, beside its own.
FRAGMENTATION = 0.3
#: What is left over in pools of 2 and 20 MB.
POOLS = 50_000_000
#: Parts that stay from step to step.
KEPT = {
    'network: weights',
    'network: optimizer state',
    'DDP buckets',
    'moving average (EMA)',
    'centres: rows',
    'centres: optimizer state',
    'centres: when each row was last touched',
}
_ASKS_FOR_DATA = {
    getattr(torch.ops.aten, name).default
    for name in ('_local_scalar_dense', 'allclose', 'equal')
}
#: Numbers of GPUs that are tried for a given memory.
FLEETS = (1, 2, 4, *range(8, 1025, 8))


class Allocations(TorchDispatchMode):
    """Counts the bytes of the tensors that are made and freed while it is active.

    Raises:
        UserError: With a torch too old to tell when memory is freed.
    """

    def __init__(self) -> None:
        if digit_version(torch.__version__) < digit_version(OLDEST_TORCH):
            raise UserError(
                f'plan: counting allocations needs torch {OLDEST_TORCH} or newer, got '
                f'{torch.__version__}; plan on another machine, a GPU is not needed'
            )
        super().__init__()
        self.live = 0  # bytes in use
        self.peak = 0  # the most that have been
        self._known: set[int] = set()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        given: set[int] = set()
        # Arguments from before are nobody's allocation.
        tree_map_only(
            Tensor, lambda x: given.add(x.untyped_storage()._cdata), (args, kwargs)
        )
        out = func(*args, **(kwargs or {}))
        tree_map_only(Tensor, lambda x: self._see(x, given), out)
        return out

    def fused(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """A function as one kernel, which allocates no more than its results."""

        def kernel(*args: Any) -> Any:
            peak = self.peak
            out = function(*args)
            self.peak = max(peak, self.live)
            return out

        return kernel

    def _see(self, x: Tensor, given: set[int]) -> None:
        storage = x.untyped_storage()
        key, size = storage._cdata, storage.nbytes()
        if key in given or key in self._known:
            return
        self._known.add(key)
        self.live += size
        self.peak = max(self.peak, self.live)
        weakref.finalize(storage, self._free, key, size)

    def _free(self, key: int, size: int) -> None:
        self._known.discard(key)
        self.live -= size


class WithoutData(TorchDispatchMode):
    """Computes with tensors of ``fake`` and with indices, which have their data."""

    def __init__(self) -> None:
        super().__init__()
        self.fake = FakeTensorMode(allow_non_fake_inputs=True)

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        if FakeTensor not in types:
            return func(*args, **(kwargs or {}))
        if func in _ASKS_FOR_DATA:
            return True
        with self.fake:
            return func(*args, **(kwargs or {}))


class Part(NamedTuple):
    """What takes memory on a GPU."""

    name: str
    bytes: tuple[int, int, int]  # in each of the ``PHASES``


class Exchange(NamedTuple):
    """What the GPUs tell one another in a step."""

    name: str
    collective: str  # all-reduce, all-gather or reduce-scatter
    sent: int  # bytes of each GPU, on a ring


@dataclass(frozen=True)
class Plan:
    """A training's memory on the GPU that has most to keep, and its exchanges."""

    gpus: int
    batch_size: int
    num_classes: int
    dim: int
    rows: int
    engine: str
    parts: list[Part]
    kept: int  # bytes of what stays from step to step
    exchanges: list[Exchange]
    notes: list[str]

    @property
    def phases(self) -> tuple[int, ...]:
        """Bytes of all parts in each of the ``PHASES``."""
        columns = zip(*(part.bytes for part in self.parts), strict=True)
        return tuple(sum(column) for column in columns)

    @property
    def allocated(self) -> int:
        """Most bytes of tensors, as ``torch.cuda.max_memory_allocated`` tells."""
        return int(SLACK * max(self.phases))

    @property
    def reserved(self) -> int:
        """Most bytes that the allocator holds, as ``max_memory_reserved`` tells."""
        passing = self.allocated - self.kept
        return self.allocated + int(FRAGMENTATION * passing) + POOLS

    @property
    def peak(self) -> int:
        """Bytes that a GPU must have."""
        return self.reserved + LIBRARIES

    @property
    def sent(self) -> int:
        """Bytes that each GPU sends per step."""
        return sum(exchange.sent for exchange in self.exchanges)


class Network(NamedTuple):
    """Bytes of backbone and neck."""

    weights: int  # parameters and buffers
    gradients: int  # of what trains
    activations: int  # kept for the backward pass, images included
    backward: int  # the most beside weights during the backward pass


class Classifier(NamedTuple):
    """Bytes of the head beside its rows and their optimizer state."""

    loop: int  # the most from the gathered features [B, D] to their gradient
    # Left when that is over: gradient of the rows, copies of those touched, buffers.
    waiting: int
    update: int  # the most while the rows are updated


class Rule(NamedTuple):
    """What an optimizer needs per byte of the parameters."""

    state: float  # kept from step to step
    temporary: float  # for the time of a step


def measure_network(
    modules: list[nn.Module],
    batch_size: int,
    input_size: tuple[int, int],
    amp: bool,
) -> Network:
    """Count the bytes of a training step of a network, without its data.

    Args:
        modules: Backbone and neck, to be called in their order. They are left
            without data, too.
        batch_size: Images per GPU; 0 to leave the activations out.
        input_size: Height and width of the images.
        amp: Whether to compute in 16 bits where autocast does.
    """
    network = nn.ModuleList(modules).train()
    weights = sum(x.nbytes for x in (*network.parameters(), *network.buffers()))
    gradients = sum(p.nbytes for p in network.parameters() if p.requires_grad)
    if not batch_size:
        return Network(weights, gradients, 0, gradients)
    fake = FakeTensorMode()
    network._apply(fake.from_tensor)
    allocations = Allocations()
    # The types that autocast gives are those of CUDA, in a format as long as float16.
    autocast = torch.autocast('cpu', torch.bfloat16, enabled=amp)
    with fake, allocations:
        with autocast:
            channels = image_channels(modules[0])
            feats: Any = torch.empty(batch_size, channels, *input_size)
            for module in network:
                feats = module(feats)
        embedding = feats[-1] if isinstance(feats, tuple | list) else feats
        activations = allocations.live
        allocations.peak = activations
        if embedding.requires_grad:
            embedding.float().sum().backward()
    return Network(weights, gradients, activations, allocations.peak)


def measure_classifier(
    head: dict,
    optimizer: dict,
    samples: int,
    own: int,
    rows: int,
    block: int | None = None,
) -> Classifier:
    """Count the bytes of a training step of the head, without its data.

    Of very many blocks some are looked at: each takes what the one before it took.

    Args:
        head: Config of the head.
        optimizer: Config of the optimizer.
        samples: Size of the global batch B.
        own: How many of them have their class on this GPU.
        rows: Rows R on this GPU.
        block: Classes in a block; by default as the engine has it on a GPU.
    """
    block = block or default_block(samples, head['in_channels'], True)
    some = math.ceil(MOST_BLOCKS * block / head.get('sample_rate', 1.0)) + 2 * own
    if engine_of(head) == 'dense' or rows <= 2 * some:
        return Classifier(*_measured_step(head, optimizer, samples, own, rows, block))
    less, more = (
        np.array(_measured_step(head, optimizer, samples, own, count, block))
        for count in (some, 2 * some)
    )
    total = more + (rows / some - 2) * (more - less)
    return Classifier(*total.round().astype(int).tolist())


def engine_of(head: dict) -> str:
    """The engine of a head's config, ``blocked`` also where it is compiled."""
    dense_one = is_dense(
        head.get('engine', 'auto'),
        head['num_classes'],
        head.get('fused_update', False),
        head.get('matmul_dtype'),
    )
    return 'dense' if dense_one else 'blocked'


def _measured_step(
    cfg: dict, optimizer_cfg: dict, samples: int, own: int, rows: int, block: int
) -> Classifier:
    """The second step of a head with these rows of many more classes."""
    options = dict(cfg, num_classes=rows, engine=engine_of(cfg))
    options.pop('type', None)
    allocations, without_data = Allocations(), WithoutData()
    with torch.random.fork_rng(devices=[]):
        with torch.device('meta'):
            head = HypersphereHead(**options).train()
        with without_data.fake:
            head._apply(lambda x: torch.empty_like(x, device='cpu'))
        # Its parameters, which are others now, are marked as such.
        head = copy.copy(head)
        head.num_classes = rows + samples
        if options['engine'] == 'blocked':
            # As a GPU goes about it.
            dtype = cfg.get('matmul_dtype')
            head.engine = Blocked(
                block, dtype and getattr(torch, dtype), tile=block, compiled=False
            )
            many = rows * cfg.get('sample_rate', 1.0) >= FEW_CLASSES
            if many or cfg.get('engine') == 'fused':
                kernel = allocations.fused(block_terms)
                head.engine._evaluation = lambda _: kernel  # type: ignore
        optimizer = build_optimizer(optimizer_cfg, list(head.parameters()))
        with without_data, allocations:
            head.attach(optimizer)
        labels = torch.arange(samples)
        labels[:own] %= rows
        labels[own:] += rows
        for _ in range(2):
            gc.collect(1)
            with without_data, allocations:
                with without_data.fake:
                    feats = torch.empty(samples, head.in_channels)
                feats.requires_grad_()
                state = _state_bytes(optimizer)
                allocations.peak = allocations.live
                head(feats, labels).backward()
                loop = allocations.peak
                del feats
                waiting = allocations.live
                allocations.peak = waiting
                optimizer.step()
                update = allocations.peak
                optimizer.zero_grad()
    return Classifier(loop - state, waiting - state, update - state)


def build_optimizer(cfg: dict, parameters: list[nn.Parameter]) -> Optimizer:
    """The optimizer of a config, computing as it would on a GPU.

    Raises:
        UserError: If there is none of that type.
    """
    kind = cfg.get('type')
    if isinstance(kind, str) and OPTIMIZERS.get(kind) is None:
        raise UserError(
            f'plan: there is no optimizer {kind!r}; set optim_wrapper.optimizer.type'
        )
    optimizer = OPTIMIZERS.build(dict(cfg, params=parameters))
    begin_momentum(optimizer)
    # The optimizer wrapper's choice, or torch's own.
    way = 'fused' if may_fuse(optimizer) else 'foreach'
    for group in optimizer.param_groups:
        if group.get(way, False) is None and not group.get('fused'):
            group[way] = True
    return optimizer


def measure_optimizer(cfg: dict) -> Rule:
    """Count what an optimizer allocates for two equal parameters."""
    parameters = [nn.Parameter(torch.ones(64, 64)) for _ in range(2)]
    size = sum(parameter.nbytes for parameter in parameters)
    optimizer = build_optimizer(cfg, parameters)
    allocations = Allocations()
    # The first step makes the state.
    for _ in range(2):
        for parameter in parameters:
            parameter.grad = torch.ones_like(parameter)
        before = allocations.peak = allocations.live
        with allocations:
            optimizer.step()
    return Rule(_state_bytes(optimizer) / size, (allocations.peak - before) / size)


def _state_bytes(optimizer: Optimizer) -> int:
    """Bytes of the state, without counters."""
    return sum(
        value.nbytes
        for values in optimizer.state.values()
        for value in values.values()
        if isinstance(value, Tensor) and value.ndim
    )


class Planner:
    """Plans the memory of a config for any number of GPUs.

    Args:
        cfg: The config; its training is planned as it stands.
        activations: Whether to look at the activations of the network, too.

    Raises:
        UserError: For a config without a :class:`HypersphereHead` of known size,
            without an optimizer or a batch size.
    """

    def __init__(self, cfg: Config, activations: bool = True) -> None:
        init_default_scope(cfg.get('default_scope', 'mmhyperface'))
        self.cfg = cfg
        self.head = _head_of(cfg)
        self.num_classes = self.head['num_classes']
        self.dim = self.head['in_channels']
        self.batch_size: int = (cfg.get('train_dataloader') or {}).get('batch_size', 0)
        if not _is_count(self.batch_size):
            raise UserError(
                'plan: train_dataloader.batch_size, the images per GPU, must be a '
                f'positive number, got {self.batch_size!r}'
            )
        self.fused_update = self.head.get('fused_update', False)
        self.some_rows = updates_some_rows(
            self.head.get('sample_rate', 1.0), self.fused_update
        )
        self.loss = build_loss(self.head['loss'])
        wrapper = cfg.get('optim_wrapper') or {}
        if not wrapper.get('optimizer'):
            raise UserError('plan: the config has no optim_wrapper.optimizer')
        self.clips = bool(
            wrapper.get('clip_grad') and wrapper.get('clip_centres', True)
        )
        self.optimizer = wrapper['optimizer']
        self.accumulates = wrapper.get('accumulative_counts', 1) > 1
        self.parallel = cfg.get('model_wrapper_cfg') or {}
        self.rule = measure_optimizer(self.optimizer)
        amp = is_a(wrapper, OPTIM_WRAPPERS, (AmpOptimWrapper, optim.AmpOptimWrapper))
        backbone = cfg.model.backbone
        with torch.random.fork_rng(devices=[]):
            parts = filter(None, (backbone, cfg.model.get('neck')))
            modules = [MODELS.build(part) for part in parts]
        size = backbone.get('input_size', backbone.get('img_size', 112))
        self.network = measure_network(
            modules,
            self.batch_size if activations else 0,
            (size, size) if isinstance(size, int) else tuple(size),
            amp,
        )
        self.activations = activations

    def plan(self, gpus: int) -> Plan:
        """The plan for a number of GPUs N.

        Raises:
            UserError: If N is no positive number, or the head cannot train so.
        """
        if not _is_count(gpus):
            raise UserError(
                f'plan: the number of GPUs must be positive, got {gpus!r}; give --gpus'
            )
        sharded = splits_centres(
            self.head.get('sharded', 'auto'),
            self.num_classes,
            self.dim,
            self.some_rows,
            gpus,
        )
        rows = len(Shard(self.num_classes, 0, gpus)) if sharded else self.num_classes
        samples = self.batch_size * gpus if sharded else self.batch_size
        parts = [p for p in self._parts(gpus, rows, samples, sharded) if any(p.bytes)]
        return Plan(
            gpus=gpus,
            batch_size=self.batch_size,
            num_classes=self.num_classes,
            dim=self.dim,
            rows=rows,
            engine=engine_of(self.head),
            parts=parts,
            kept=sum(min(p.bytes) for p in parts if p.name in KEPT),
            exchanges=self._exchanges(gpus, sharded),
            notes=self._notes(),
        )

    def least(self, memory: int) -> Plan:
        """The plan for the fewest GPUs of so many bytes that suffice.

        Raises:
            UserError: If even the largest fleet does not.
        """
        for gpus in FLEETS:
            rows = -(-self.num_classes // gpus) * self.dim * FLOAT
            if LIBRARIES + self.network.weights + rows > memory:
                continue
            plan = self.plan(gpus)
            if plan.peak <= memory:
                return plan
            if gpus > 1 and plan.rows == self.num_classes:
                break
        raise UserError(
            f'plan: no number of GPUs up to {FLEETS[-1]} suffices; take fewer images '
            'per GPU (train_dataloader.batch_size), model.head.sharded=True, '
            'model.head.fused_update=True, a lower model.head.sample_rate or '
            'model.head.engine=blocked'
        )

    def _parts(self, gpus: int, rows: int, samples: int, sharded: bool) -> list[Part]:
        network, rule = self.network, self.rule
        centres = rows * self.dim * FLOAT
        rate = self.head.get('sample_rate', 1.0)
        touched = math.ceil(rate * rows) * self.dim * FLOAT
        gradient = 0 if self.fused_update else touched
        copies = (1 + rule.state) * gradient if rate < 1 else 0
        classifier = measure_classifier(
            self.head, self.optimizer, samples, min(self.batch_size, rows), rows
        )
        # What has a line of its own.
        loop, waiting, update = (
            max(0, int(size - gradient - copies)) for size in classifier
        )
        features = 2 * samples * self.dim * FLOAT
        loop = max(0, loop - features)
        shared = network.gradients + (0 if sharded else gradient)
        as_view = self.parallel.get('gradient_as_bucket_view', True)
        buckets = shared if gpus > 1 else 0
        # Those of earlier batches.
        has_others = self.accumulates and not (buckets and as_view)
        earlier = network.gradients if has_others else 0
        of_network = network.activations + earlier, network.backward + earlier
        what = 'activations and gradients' if self.activations else 'gradients'
        average = network.weights + centres if _has_ema(self.cfg) else 0
        state = rule.state * network.gradients
        steps = rows * FLOAT if self.head.get('catch_up') else 0
        temporary = int(rule.temporary * network.gradients)
        return [
            _always('network: weights', network.weights),
            _always('network: optimizer state', state),
            Part(f'network: {what}', (*of_network, network.gradients)),
            # As views the gradients are in them, which at the peak of the backward
            # pass are yet to come.
            Part('DDP buckets', (buckets, buckets, 0 if as_view else buckets)),
            _always('moving average (EMA)', average),
            _always('centres: rows', centres),
            _always('centres: optimizer state', rule.state * centres),
            _always('centres: gradient', gradient),
            _always('centres: copy of the touched rows and their state', copies),
            _always('centres: when each row was last touched', steps),
            Part('classifier: features of all GPUs, and gradient', (features, 0, 0)),
            Part('classifier: cosines and the like', (loop, waiting, waiting)),
            Part('optimizer: temporaries', (0, 0, update - waiting + temporary)),
        ]

    def _exchanges(self, gpus: int, sharded: bool) -> list[Exchange]:
        if gpus == 1:
            return []
        samples = self.batch_size * gpus
        own = sharded, self.loss.additive, samples, self.num_classes, self.dim
        exchanges = []
        for name, kind, size in (
            ('gradient of the network', 'all-reduce', self.network.gradients),
            *collectives(*own),
        ):
            # An all-reduce goes round the ring twice.
            rounds = 2 if kind == 'all-reduce' else 1
            if rounds == 2 and 'gradient' in name and self.parallel.get('comm_dtype'):
                rounds = 1  # of DDP, in 16 bits
            sent = rounds * (gpus - 1) / gpus * size
            exchanges.append(Exchange(name, kind, round(sent)))
        return exchanges

    def _notes(self) -> list[str]:
        notes = []
        engine = self.head.get('engine', 'auto')
        if engine == 'fused' or (engine == 'auto' and engine_of(self.head) != 'dense'):
            notes.append(
                f'engine {engine!r} is counted as blocked, which needs no less memory'
            )
        if self.fused_update and self.clips:
            notes.append(
                'fused_update does not go with clipping of the centres: set '
                'clip_grad to None, or clip_centres to False'
            )
        if not self.activations:
            notes.append('activations of the network are left out')
        return notes


def _always(name: str, size: float) -> Part:
    return Part(name, (int(size),) * 3)


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def _has_ema(cfg: Config) -> bool:
    default = cfg.get('default_hooks') or {}
    hooks = [*(cfg.get('custom_hooks') or ()), *default.values()]
    return any(is_a(hook, HOOKS, EMAHook) for hook in hooks)


def _head_of(cfg: Config) -> dict:
    head: dict = (cfg.get('model') or {}).get('head') or {}
    if not is_a(head, MODELS, HypersphereHead):
        raise UserError(
            f'plan: model.head must be a HypersphereHead, got {head.get("type")!r}'
        )
    if not _is_count(head.get('num_classes')) or head['num_classes'] < 2:
        raise UserError(
            'plan: the number of identities must be at least 2, got '
            f'{head.get("num_classes")!r}; give --num-classes or set '
            'model.head.num_classes'
        )
    return head
