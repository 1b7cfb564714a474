"""SphereFace-R: SphereFace revived (arXiv 2109.05565).

| version | psi(theta), target               | eta(theta), others |
|---------|----------------------------------|--------------------|
| v0      | (-1)^k cos(m theta) - 2k         | cos(theta)         |
| v1      | cos(min(m theta, pi))            | cos(theta)         |
| v2      | cos(theta)                       | cos(theta / m)     |

| feature_norm | scale of the logits | extra term                       |
|--------------|---------------------|----------------------------------|
| none         | ||x||               |                                  |
| hard         | s                   |                                  |
| soft         | ||x||               | t * mean | ||x|| - s |, outside  |
|              |                     | loss_weight                      |
"""

from torch import Tensor

from mmhyperface.registry import MODELS
from mmhyperface.utils.errors import require_one_of

from .base import Context, SoftmaxLoss, require
from .batch import Batch
from .characteristic import angle, characteristic, multiplied_angle, unrolled_angle

VERSIONS = ('v0', 'v1', 'v2')
FEATURE_NORMS = ('none', 'hard', 'soft')
PENALTIES = ('absolute', 'squared')


@MODELS.register_module()
class SphereFaceRLoss(SoftmaxLoss):
    """Softmax with a multiplicative margin on the target or on the others.

    The official code weighs the cross entropy by ``lw / s`` for hard and soft
    normalisation: its ``lw`` becomes ``loss_weight = lw / s`` here. Without
    normalisation and with the soft one the margin is annealed from 1: see
    :class:`~mmhyperface.engine.hooks.MarginSchedulerHook`.

    Args:
        version: ``v0``, ``v1`` or ``v2``.
        feature_norm: ``none``, ``hard`` or ``soft``.
        s: Scale (hard) or the norm that features are drawn to (soft), > 0;
            without a role for ``none``.
        m: Margin, a real number >= 1.
        t: Weight of the soft normalisation's penalty.
        penalty: ``absolute``, t * | ||x|| - s |, as in the official code, or
            ``squared``, t * (||x|| - s)^2, as in the paper.
        detach: Characteristic gradient detachment.
        loss_weight: Factor of the cross entropy.
    """

    margins = ('m',)

    def __init__(
        self,
        version: str = 'v2',
        feature_norm: str = 'hard',
        s: float = 60.0,
        m: float = 1.4,
        t: float = 0.01,
        penalty: str = 'absolute',
        detach: bool = True,
        loss_weight: float = 1.0,
    ) -> None:
        super().__init__(loss_weight, s, detach)
        require_one_of(self, 'version', version, VERSIONS)
        require_one_of(self, 'feature_norm', feature_norm, FEATURE_NORMS)
        require_one_of(self, 'penalty', penalty, PENALTIES)
        require(m >= 1, f'SphereFaceRLoss: m must be a real number >= 1, got {m}')
        self.version = version
        self.feature_norm = feature_norm
        self.m = m
        self.t = t
        self.penalty = penalty

    def context(self, batch: Batch) -> Context:
        context = super().context(batch)
        if self.feature_norm != 'hard':
            context['norm'] = batch.norm
        return context

    def psi(self, own: Tensor, context: Context) -> Tensor:
        if self.version == 'v0':
            return unrolled_angle(own, context['m'])
        if self.version == 'v1':
            return multiplied_angle(own, context['m'])
        return own

    def eta(self, cos: Tensor, context: Context) -> Tensor:
        return (angle(cos) / context['m']).cos() if self.version == 'v2' else cos

    def target(self, own: Tensor, context: Context) -> Tensor:
        psi = characteristic(own, lambda own: self.psi(own, context), self.detach)
        return context.get('norm', self.s) * psi

    def others(self, cos: Tensor, context: Context) -> Tensor:
        eta = characteristic(cos, lambda cos: self.eta(cos, context), self.detach)
        return context.get('norm', self.s) * eta

    def objective(self, data_term: Tensor, batch: Batch) -> Tensor:
        loss = self.loss_weight * data_term
        if self.feature_norm != 'soft':
            return loss
        gap = batch.norm - self.s
        penalty = gap.abs() if self.penalty == 'absolute' else gap.square()
        return loss + self.t * penalty.mean()
