"""The two families of losses on the hypersphere, and what they have in common.

A loss is analysis: elementwise functions of the cosine between a feature and a
class centre. It knows no rank, no shard and no block of classes.

Legend of shapes: B samples, C classes, c any block of classes, D dimensions;
``own`` [B, 1] is the cosine to the sample's own centre, ``cos`` [B, c] the
cosines to a block of centres, ``norm`` [B, 1] the norms of the raw features.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmhyperface.utils.errors import UserError

Context = dict[str, Tensor]
"""What else a loss needs about a sample: tensors [B, 1] or [1, 1], by name."""

Centres = Callable[[], Tensor]
"""Gives the unit centres [K, D] of the K distinct classes of the global batch."""


def require(condition: bool, message: str) -> None:
    """Raise ``UserError(message)`` unless ``condition`` holds."""
    if not condition:
        raise UserError(message)


class HypersphereLoss(nn.Module, ABC):
    """Base of all losses: a term of the own cosine, terms of the other cosines.

    ``join(target(own), fold(others(cos)))`` is the loss of each sample. Whoever
    walks the classes may call ``others`` on any blocks of them and combine their
    ``fold``; the gradient flows through ``own``, ``cos`` and ``context`` alone.

    Args:
        loss_weight: Factor of the paper's L.
    """

    neutral: float
    """The value of ``others`` that leaves ``fold`` unchanged."""

    additive: bool
    """Whether ``fold`` is a sum; else it is a log-sum-exp."""

    keeps_statistics = False
    """Whether ``observe`` wants to see the global batch."""

    def __init__(self, loss_weight: float = 1.0) -> None:
        super().__init__()
        self.loss_weight = loss_weight

    def reset_parameters(self, num_classes: int) -> None:
        """Initialise what depends on the number of classes."""

    def observe(self, own: Tensor, norm: Tensor) -> None:
        """Update running statistics from the global batch, in training only."""

    def context(self, own: Tensor, norm: Tensor) -> Context:
        """What ``target`` and ``others`` need besides the cosine.

        The place for random numbers, since engines may compute ``others`` twice. Where
        centres are split, each rank gets the global batch and must draw the same.
        """
        return {}

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

    def fold_others(self, cos: Tensor, target: Tensor, context: Context) -> Tensor:
        """``fold``, [B, 1], of all columns of ``cos`` [B, C] but the own."""
        others = self.others(cos, context)
        return self.fold(others.scatter(1, target[:, None], self.neutral))

    def objective(self, data_term: Tensor, norm: Tensor, centres: Centres) -> Tensor:
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
        if self.training and self.keeps_statistics:
            self.observe(own.detach(), norm.detach())
        context = self.context(own, norm)
        folded = self.fold_others(cos, target, context)
        terms = self.join(self.target(own, context), folded)
        return self.objective(terms.mean(), norm, _no_centres)


def _no_centres() -> Tensor:
    raise UserError(
        'this loss has a term of the class centres: use it in HypersphereHead'
    )


class SoftmaxLoss(HypersphereLoss):
    """L = -log softmax of the target logit; the terms are logits, scale included.

    With the characteristic functions psi (target) and eta (others) of
    SphereFace-R (arXiv 2109.05565, section 3), ``target`` is scale * psi and
    ``others`` is scale * eta.
    """

    neutral = float('-inf')
    additive = False

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
