"""The two families of losses on the hypersphere, and what they have in common.

A loss is analysis: elementwise functions of the cosine between a feature and a
class centre. It knows no rank, no shard and no block of classes.

Legend of shapes: B samples, C classes, c any block of classes, D dimensions;
``own`` [B, 1] is the cosine to the sample's own centre, ``cos`` [B, c] the
cosines to a block of centres.
"""

import functools
import inspect
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmhyperface.utils.errors import UserError

from .batch import Batch, takes_batch
from .characteristic import characteristic

Context = dict[str, Tensor]
"""What else the terms need about a sample: tensors [B, 1] or [1, 1], by name."""


def require(condition: bool, message: str) -> None:
    """Raise ``UserError(message)`` unless ``condition`` holds."""
    if not condition:
        raise UserError(message)


def require_one_of(loss: object, name: str, value: object, allowed: tuple) -> None:
    """Raise ``UserError`` unless a loss's option has one of the allowed values."""
    require(
        value in allowed,
        f'{type(loss).__name__}: {name} must be one of {allowed}, got {value!r}',
    )


def _takes_cosine_alone(function: Callable) -> bool:
    return len(inspect.signature(function).parameters) == 2


def _without_context(function: Callable) -> Callable:
    """A characteristic function of the cosine alone, called with a context too."""

    @functools.wraps(function)
    def call(self: Any, cos: Tensor, context: Context | None = None) -> Tensor:
        return function(self, cos)

    return call


class HypersphereLoss(nn.Module, ABC):
    """Base of all losses: a term of the own cosine, terms of the other cosines.

    ``join(target(own), fold(others(cos)))`` is the loss of each sample. Whoever goes
    through the classes may call ``others`` on any blocks of them and combine their
    ``fold``; the gradient flows through ``own``, ``cos`` and ``context`` alone.

    What the terms of other classes need and training may change belongs into the
    context: an engine may have compiled ``others``.

    Args:
        loss_weight: Factor of the paper's L.
    """

    neutral: float
    """The value of ``others`` that leaves ``fold`` unchanged."""

    additive: bool
    """Whether ``fold`` is a sum; else it is a log-sum-exp."""

    keeps_statistics = False
    """Whether ``observe`` wants to see the global batch."""

    margins: tuple[str, ...] = ()
    """Attributes, numbers, that ``context`` holds as they are in each step."""

    def __init__(self, loss_weight: float = 1.0) -> None:
        super().__init__()
        self.loss_weight = loss_weight

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        for name, method in list(vars(cls).items()):
            if name in ('context', 'observe', 'objective'):
                setattr(cls, name, takes_batch(method))
            elif name in ('psi', 'eta') and _takes_cosine_alone(method):
                setattr(cls, name, _without_context(method))

    def reset_parameters(self, num_classes: int) -> None:
        """Initialise what depends on the number of classes."""

    @takes_batch
    def observe(self, batch: Batch) -> None:
        """Update running statistics from the global batch, in training only."""

    @takes_batch
    def context(self, batch: Batch) -> Context:
        """What ``target`` and ``others`` need besides the cosine.

        The place for random numbers (:meth:`.Batch.normal`), since engines may compute
        ``others`` twice.
        """
        return {
            name: batch.own.new_full((1, 1), getattr(self, name))
            for name in self.margins
        }

    @abstractmethod
    def target(self, own: Tensor, context: Context) -> Tensor:
        """Term of the own class, [B, 1]."""

    @abstractmethod
    def others(self, cos: Tensor, context: Context) -> Tensor:
        """Terms of other classes, elementwise, [B, c]."""

    @abstractmethod
    def fold(self, others: Tensor) -> Tensor:
        """Combine the terms of the other classes, [B, c] -> [B, 1]."""

    @abstractmethod
    def fold_gradient(self, others: Tensor, folded: Tensor) -> Tensor:
        """Derivative of ``fold`` by each of its terms, [B, c] or [B, 1].

        Args:
            others: The terms, [B, c].
            folded: The fold of these and all other terms, [B, 1].
        """

    @abstractmethod
    def join(self, target: Tensor, folded: Tensor) -> Tensor:
        """Loss of each sample, [B, 1], from its two terms."""

    @takes_batch
    def objective(self, data_term: Tensor, batch: Batch) -> Tensor:
        """The scalar to minimise, from the mean loss of the samples."""
        return self.loss_weight * data_term

    def violates_margin(self, own: Tensor, hardest: Tensor, context: Context) -> Tensor:
        """Whether samples are not yet where the loss wants them, bool [B, 1].

        Where a loss does not say better: whether another centre is as near as the
        own, or nearer.

        Args:
            own: Cosines to the own centre, [B, 1].
            hardest: Cosines to the nearest other centre, [B, 1].
            context: See :meth:`context`.
        """
        return own <= hardest

    def monitor(self, target: Tensor, folded: Tensor) -> dict[str, Tensor]:
        """Scalars worth logging; never added to the loss."""
        return {}

    def forward(
        self, cos: Tensor, target: Tensor, norm: Tensor | None = None
    ) -> Tensor:
        """Loss of a full matrix of cosines, for use without the head.

        Args:
            cos: Cosines, [B, C], in [-1, 1].
            target: Class of each sample, int64 [B].
            norm: Norms of the raw features, [B, 1]; ones by default.

        Returns:
            The scalar objective. Terms that need the centres themselves
            (SphereFace+) need :class:`HypersphereHead`.
        """
        norm = torch.ones_like(cos[:, :1]) if norm is None else norm
        own = cos.gather(1, target[:, None])
        batch = Batch(own, norm)
        if self.training and self.keeps_statistics:
            self.observe(Batch(own.detach(), norm.detach()))
        context = self.context(batch)
        others = self.others(cos, context)
        folded = self.fold(others.scatter(1, target[:, None], self.neutral))
        terms = self.join(self.target(own, context), folded)
        return self.objective(terms.mean(), batch)


class SoftmaxLoss(HypersphereLoss):
    """L = -log softmax of the target logit; the terms are logits, scale included.

    The logits are s * psi and s * eta, with the characteristic functions psi (target)
    and eta (others) of SphereFace-R (arXiv 2109.05565, section 3). A loss defines
    these, or ``target`` and ``others`` themselves.

    Args:
        loss_weight: Factor of the paper's L.
        s: Scale of the logits, > 0.
        detach: Characteristic gradient detachment of psi.
    """

    neutral = float('-inf')
    additive = False

    def __init__(
        self, loss_weight: float = 1.0, s: float = 1.0, detach: bool = False
    ) -> None:
        super().__init__(loss_weight)
        require(s > 0, f'{type(self).__name__}: s must be positive, got {s}')
        self.s = s
        self.detach = detach

    def psi(self, own: Tensor, context: Context) -> Tensor:
        """Characteristic function of the own class, [B, 1]."""
        return own

    def eta(self, cos: Tensor, context: Context) -> Tensor:
        """Characteristic function of other classes, elementwise, [B, c]."""
        return cos

    def target(self, own: Tensor, context: Context) -> Tensor:
        psi = functools.partial(self.psi, context=context)
        return self.s * characteristic(own, psi, self.detach)

    def others(self, cos: Tensor, context: Context) -> Tensor:
        return self.s * self.eta(cos, context)

    def violates_margin(self, own: Tensor, hardest: Tensor, context: Context) -> Tensor:
        """Whether the target logit, margin included, is no larger than the nearest's.

        That is psi(theta_y) <= eta(theta_j), both scaled, j being the nearest other
        class; see :meth:`HypersphereLoss.violates_margin`.
        """
        return self.target(own, context) <= self.others(hardest, context)

    def fold(self, others: Tensor) -> Tensor:
        return others.logsumexp(1, keepdim=True)

    def fold_gradient(self, others: Tensor, folded: Tensor) -> Tensor:
        return (others - folded).exp()

    def join(self, target: Tensor, folded: Tensor) -> Tensor:
        # -log(e^t / (e^t + e^f)) = log(1 + e^(f - t)), exact for any gap.
        return -F.logsigmoid(target - folded)


class DecoupledLoss(HypersphereLoss):
    """L = positive term + sum of negative terms: no term couples two classes."""

    neutral = 0.0
    additive = True

    def fold(self, others: Tensor) -> Tensor:
        return others.sum(1, keepdim=True)

    def fold_gradient(self, others: Tensor, folded: Tensor) -> Tensor:
        return torch.ones_like(folded)

    def join(self, target: Tensor, folded: Tensor) -> Tensor:
        return target + folded
