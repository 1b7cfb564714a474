"""The two families of losses on the hypersphere, and what they have in common.

A loss is analysis: elementwise functions of the cosine between a feature and a
class centre. It knows no rank, no shard and no block of classes.

Legend of shapes: B samples, C classes, c any block of classes, D dimensions;
``own`` [B, 1] is the cosine to the sample's own centre, ``cos`` [B, c] the
cosines to a block of centres.
"""

from abc import ABC, abstractmethod
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmhyperface.ops.contract import Context
from mmhyperface.ops.fold import fold, neutral
from mmhyperface.utils.errors import UserError

from .batch import Batch
from .characteristic import characteristic
from .former import ADAPTED, takes_batch


def require(condition: bool, message: str) -> None:
    """Raise ``UserError(message)`` unless ``condition`` holds."""
    if not condition:
        raise UserError(message)


class HypersphereLoss(nn.Module, ABC):
    """Base of all losses: a term of the own cosine, terms of the other cosines.

    ``join(target(own), fold(others(cos)))`` is the loss of each sample, ``fold`` being
    a sum or a log-sum-exp. Engines call ``others`` on any blocks of the classes,
    perhaps compiled: what it needs and training may change belongs into the context.
    The gradient flows through ``own``, ``cos`` and ``context`` alone.

    Args:
        loss_weight: Factor of the paper's L.
    """

    additive: bool
    """Whether terms of other classes are summed; else their log-sum-exp is taken."""

    keeps_statistics = False
    """Whether ``observe`` wants to see the global batch."""

    margins: tuple[str, ...] = ()
    """Attributes, numbers, that ``context`` holds as they are in each step."""

    def __init__(self, loss_weight: float = 1.0) -> None:
        super().__init__()
        self.loss_weight = loss_weight

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        for name in ADAPTED.keys() & vars(cls).keys():
            setattr(cls, name, ADAPTED[name](vars(cls)[name]))

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
        return batch.constants(self, self.margins)

    @abstractmethod
    def target(self, own: Tensor, context: Context) -> Tensor:
        """Term of the own class, [B, 1]."""

    @abstractmethod
    def others(self, cos: Tensor, context: Context) -> Tensor:
        """Terms of other classes, elementwise, [B, c]."""

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
        others = self.others(cos, context).scatter(1, target[:, None], neutral(self))
        folded = fold(others, self)
        terms = self.join(self.target(own, context), folded)
        return self.objective(terms.mean(), batch)


class SoftmaxLoss(HypersphereLoss):
    """L = -log softmax of the target logit; the terms are logits, scale included.

    The logits are s * psi and s * eta, with the characteristic functions psi (target)
    and eta (others) of SphereFace-R (arXiv 2109.05565, section 3). A loss defines
    these, or ``target`` and ``others`` themselves.

    Args:
        loss_weight: Factor of the paper's L.
        s: Scale of the logits, > 0, of losses that define psi or eta.
        detach: Their characteristic gradient detachment, of psi.
    """

    additive = False

    def __init__(
        self, loss_weight: float = 1.0, s: float | None = None, detach: bool = False
    ) -> None:
        super().__init__(loss_weight)
        if s is not None:
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
        psi = characteristic(own, lambda own: self.psi(own, context), self.detach)
        return self.s * psi

    def others(self, cos: Tensor, context: Context) -> Tensor:
        return self.s * self.eta(cos, context)

    def violates_margin(self, own: Tensor, hardest: Tensor, context: Context) -> Tensor:
        """Whether the target logit, margin included, is no larger than the nearest's.

        That is psi(theta_y) <= eta(theta_j), both scaled, j being the nearest other
        class; see :meth:`HypersphereLoss.violates_margin`.
        """
        return self.target(own, context) <= self.others(hardest, context)

    def join(self, target: Tensor, folded: Tensor) -> Tensor:
        # -log(e^t / (e^t + e^f)) = log(1 + e^(f - t)), exact for any gap.
        return -F.logsigmoid(target - folded)


class DecoupledLoss(HypersphereLoss):
    """L = positive term + sum of negative terms: no term couples two classes."""

    additive = True

    def join(self, target: Tensor, folded: Tensor) -> Tensor:
        return target + folded
