"""ElasticFace: elastic margin loss (arXiv 2109.09416).

Each sample's margin is drawn in each step, E ~ N(m, sigma^2) (eq. 5 and 6):

    arc: psi(theta) = cos(theta + E)        cos: psi(theta) = cos(theta) - E

with eta(theta) = cos(theta) and scale s. ElasticFace+ gives the largest of the drawn
margins to the sample that is furthest from its own centre, and so on (section 3.2).
"""

import torch
from torch import Tensor

from mmhyperface.registry import MODELS
from mmhyperface.utils.errors import require_one_of

from .base import Context, SoftmaxLoss, require
from .batch import Batch
from .characteristic import added_angle

MARGIN_TYPES = ('arc', 'cos')


@MODELS.register_module()
class ElasticFaceLoss(SoftmaxLoss):
    """ArcFace or CosFace with a random margin.

    Published settings, all with s 64: ``arc`` m 0.5, sigma 0.05, with plus 0.0175;
    ``cos`` m 0.35, sigma 0.05, with plus 0.025 (the authors' code: 0.02). That code
    looks up the sorted margins by the order of the cosines instead of their ranks,
    which mixes them; here they go where the paper says. Samples are those of the global
    batch. In evaluation the margin is m.

    Args:
        margin_type: ``arc`` (in radians) or ``cos`` (of the cosine).
        s: Scale of the logits, > 0.
        m: Mean of the margin.
        sigma: Its standard deviation, >= 0.
        plus: Whether larger margins go to samples further from their centres.
        detach: Characteristic gradient detachment; the authors' code has none.
        loss_weight: Factor of L.
    """

    margins = ('m',)

    def __init__(
        self,
        margin_type: str = 'arc',
        s: float = 64.0,
        m: float = 0.5,
        sigma: float = 0.05,
        plus: bool = False,
        detach: bool = False,
        loss_weight: float = 1.0,
    ) -> None:
        super().__init__(loss_weight, s, detach)
        require_one_of(self, 'margin_type', margin_type, MARGIN_TYPES)
        require(sigma >= 0, f'ElasticFaceLoss: sigma must be >= 0, got {sigma}')
        self.margin_type = margin_type
        self.m = m
        self.sigma = sigma
        self.plus = plus

    def context(self, batch: Batch) -> Context:
        context = super().context(batch)
        if not self.training:
            return context
        margins = context['m'] + self.sigma * batch.normal()
        if self.plus:
            nearest_first = batch.gather(batch.own).argsort(dim=0, descending=True)
            smallest_first = margins.sort(dim=0).values
            margins = torch.empty_like(margins).scatter_(
                0, nearest_first, smallest_first
            )
        return {'m': batch.part(margins)}

    def psi(self, own: Tensor, context: Context) -> Tensor:
        if self.margin_type == 'cos':
            return own - context['m']
        return added_angle(own, context['m'], 'none')
