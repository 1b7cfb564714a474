"""What a training that goes wrong looks like, and which sample is to blame."""

import math
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from statistics import median
from typing import Any, NamedTuple

import torch
from mmengine.dist import all_gather_object, all_reduce, get_rank
from torch import Tensor, nn

from mmhyperface.centres import storage
from mmhyperface.centres.state import StoredRows
from mmhyperface.models.heads import BatchGeometry
from mmhyperface.utils.errors import UserError
from mmhyperface.utils.global_batch import share_of_batch

ADVICE = (
    'Lower the learning rate (optim_wrapper.optimizer.lr), warm it up (LinearLR in '
    'param_scheduler), clip gradients (optim_wrapper.clip_grad=dict(max_norm=5)), or '
    'begin with a smaller margin (MarginSchedulerHook in custom_hooks)'
)


class Step(NamedTuple):
    """What is kept of an iteration until somebody looks; tensors stay on the device."""

    iteration: int  # counted from 1, as in the log
    outputs: Mapping[str, Any]  # what it logged; ``loss`` is there
    numbers: Sequence[int]  # of the samples of this rank's batch, in their data set
    geometry: BatchGeometry | None  # where they lay, if the head tells
    lr: float
    margin: float | None  # of the loss, if it has one
    grad_norm: Tensor | float | None  # before clipping, if it was clipped

    def figures(self) -> str:
        """The figures of the iteration in one line."""
        others = {'lr': self.lr, 'margin': self.margin, 'grad_norm': self.grad_norm}
        shown = {**self.outputs, **others}
        return ', '.join(
            f'{name}={float(value):.4g}'
            for name, value in shown.items()
            if value is not None
        )


class State(NamedTuple):
    """What the signs of a collapse are read from, the same on all ranks."""

    loss: float  # of the global batch
    norm: float  # mean norm of its features; NaN if the head does not tell
    cosine: float  # mean cosine between two of its samples; NaN likewise


def first_bad(steps: Sequence[Step]) -> int | None:
    """The first of some iterations whose loss is not finite on some rank."""
    losses = [torch.as_tensor(step.outputs['loss']).detach() for step in steps]
    bad = (~torch.stack(losses).isfinite()).float()
    all_reduce(bad, op='max')
    numbers = bad.nonzero().flatten().tolist()
    return numbers[0] if numbers else None


def state_of(step: Step) -> State:
    """The state of the network in an iteration, over all ranks."""
    loss = torch.as_tensor(step.outputs['loss']).detach().float()
    geometry = step.geometry
    values = [loss.view(1)]
    if geometry is not None:
        norms = geometry.norm if len(geometry.norm) else geometry.norm.new_zeros(1)
        # The loss is weighted already.
        share = share_of_batch(geometry.sizes)
        values += [share * norms.mean().view(1), share * geometry.mean_direction]
    mean = torch.cat([value.float() for value in values])
    all_reduce(mean, op='mean')
    host = mean.double().cpu()
    if geometry is None:
        return State(float(host[0]), math.nan, math.nan)
    count = sum(geometry.sizes)
    # ||sum of x||^2 is count plus the cosines of all ordered pairs.
    mean_square = float(host[2:].square().sum())
    cosine = (count * mean_square - 1) / (count - 1) if count > 1 else math.nan
    return State(float(host[0]), float(host[1]), cosine)


@dataclass
class CollapseSigns:
    """Watches for what shows long before a loss is NaN, or instead of it.

    The limits are those of :class:`DivergenceGuardHook`.
    """

    max_cosine: float | None
    norm_range: tuple[float, float] | None
    max_rise: float | None
    patience: int
    # How many earlier losses make the median, or half as many until then.
    window: int = 50
    in_a_row: int = 0
    spread_once: bool = False

    def __post_init__(self) -> None:
        self.losses: deque[float] = deque(maxlen=self.window)

    def see(self, state: State) -> str | None:
        """What is wrong, if it has been for long enough.

        Afterwards ``in_a_row`` tells how many states in a row have been suspicious.
        """
        sign = self._sign(state)
        if sign is None:
            self.in_a_row = 0
            self.losses.append(state.loss)
            return None
        self.in_a_row += 1
        return sign if self.in_a_row >= self.patience else None

    def _sign(self, state: State) -> str | None:
        low, high = self.norm_range or (-math.inf, math.inf)
        if state.norm < low or state.norm > high:
            return (
                f'the mean feature norm is {state.norm:.4g}, outside norm_range='
                f'({low:g}, {high:g})'
            )
        if self.max_cosine is not None:
            self.spread_once |= state.cosine <= self.max_cosine
            if self.spread_once and state.cosine > self.max_cosine:
                return (
                    'the embeddings have become alike: the mean cosine between two '
                    f'samples is {state.cosine:.4f}, above max_cosine='
                    f'{self.max_cosine:g}'
                )
        return self._rise(state.loss)

    def _rise(self, loss: float) -> str | None:
        if self.max_rise is None or 2 * len(self.losses) < self.window:
            return None
        usual = median(self.losses)
        spread = median(abs(other - usual) for other in self.losses)
        if loss - usual <= self.max_rise * max(abs(usual), spread):
            return None
        return (
            f'the loss is {loss:.4g}, far above its running median {usual:.4g} '
            f'(max_rise={self.max_rise:g})'
        )


@dataclass(frozen=True)
class Suspect:
    """A sample that may be the cause."""

    number: int
    path: str
    label: int
    loss: float
    cosine: float
    norm: float
    bad: int  # samples of its rank's batch whose loss is not finite
    count: int  # samples of that batch

    def __str__(self) -> str:
        where = f' ({self.path})' if self.path else ''
        name = f'number {self.number}' if self.number >= 0 else 'an unnumbered one'
        return (
            f'{name} of the training set{where}, label {self.label}: '
            f'loss {self.loss:.4g}, cosine to its own centre {self.cosine:.4g}, '
            f'feature norm {self.norm:.4g}'
        )


def suspects(step: Step, dataset: Any) -> list[Suspect]:
    """The sample of each rank with the highest loss, on all ranks; highest first.

    A loss that is not finite counts as higher than any other.
    """
    gathered = filter(None, all_gather_object(_worst(step, dataset)))
    return sorted(gathered, key=lambda x: (math.isfinite(x.loss), -x.loss))


def _worst(step: Step, dataset: Any) -> Suspect | None:
    geometry, count = step.geometry, len(step.numbers)
    if geometry is None or not count:
        return None
    start = sum(geometry.sizes[: get_rank()]) if geometry.of_all_ranks else 0
    own, norm, loss, target = (
        values[start : start + count].cpu()
        for values in (geometry.own, geometry.norm, geometry.loss, geometry.target)
    )
    bad = ~loss.isfinite()
    worst = int(bad.int().argmax() if bad.any() else loss.argmax())
    number = step.numbers[worst]
    return Suspect(
        number=number,
        path=_path(dataset, number),
        label=int(target[worst]),
        loss=float(loss[worst]),
        cosine=float(own[worst]),
        norm=float(norm[worst]),
        bad=int(bad.sum()),
        count=count,
    )


def _path(dataset: Any, number: int) -> str:
    if number < 0:  # which the data set would take as counted from its end
        return ''
    try:
        return str(dataset.get_data_info(number).get('img_path', ''))
    except Exception:
        # The report of one failure must not end in another, whatever data set it is.
        return ''


def explain(step: Step, before: Step | None, dataset: Any) -> str:
    """Who is to blame for an iteration that went wrong, in words; on all ranks.

    `before` is the iteration before it, if that is remembered.
    """
    worst = suspects(step, dataset)
    if not worst:
        return ''
    bad, count = sum(x.bad for x in worst), sum(x.count for x in worst)
    if not bad:
        return f'The largest loss is that of {worst[0]}. '
    if bad < count:
        return (
            f'{bad} of {count} samples have such a loss; the first is {worst[0]}. '
            'Look at that image, too. '
        )
    text = (
        f'All {count} samples have such a loss: the step before has broken the '
        'weights, or batch normalisation has spread what is wrong with one of them. '
    )
    if before is not None and (earlier := suspects(before, dataset)):
        text += (
            f'In iteration {before.iteration} ({before.figures()}) the largest loss '
            f'was that of {earlier[0]}. '
        )
    return text


def is_good(path: str) -> bool:
    """Whether a training can go back to a checkpoint, and all it holds is finite."""
    try:
        checkpoint = storage.read(path)
    except (UserError, OSError):
        return False
    if not isinstance(checkpoint, dict) or 'optimizer' not in checkpoint:
        return False
    parts = ('state_dict', 'ema_state_dict', 'optimizer')
    return all(_finite(checkpoint.get(part)) for part in parts)


def not_finite_entry(models: Iterable[nn.Module]) -> str | None:
    """The name of a parameter or buffer that is not finite on some rank, on all."""
    entries = (
        name
        for model in models
        for name, value in chain(model.named_parameters(), model.named_buffers())
        if not _finite(value.detach())
    )
    return next(filter(None, all_gather_object(next(entries, None))), None)


def _finite(node: Any) -> bool:
    if isinstance(node, StoredRows):
        return all(_finite(rows) for _, rows in node.pieces)
    if isinstance(node, Tensor):
        return all(bool(part.isfinite().all()) for part in node.flatten().split(2**24))
    if isinstance(node, Mapping):
        return all(map(_finite, node.values()))
    if isinstance(node, list | tuple):
        return all(map(_finite, node))
    return not isinstance(node, float) or math.isfinite(node)
