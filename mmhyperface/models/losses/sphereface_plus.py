"""SphereFace+: SphereFace with minimum hyperspherical energy (arXiv 1805.09298).

L = SphereFace + lam_mhe * mean over pairs of distinct target centres of theta^-2,
theta being the angle between two centres, over the classes of the global batch.
"""

import torch
from torch import Tensor

from mmhyperface.registry import MODELS

from .batch import Batch
from .characteristic import angle
from .sphereface import SphereFaceLoss


def hyperspherical_energy(centres: Tensor) -> Tensor:
    """Mean of theta^-2 over the pairs of K unit vectors [K, D]; 0 for K < 2."""
    k = len(centres)
    if k < 2:
        return centres.sum() * 0
    i, j = torch.triu_indices(k, k, offset=1, device=centres.device)
    # Of two centres that coincide the energy is infinite: keep it finite where
    # arccos can no longer tell them apart.
    limit = 1 - torch.finfo(centres.dtype).eps
    cos = (centres @ centres.T)[i, j].clamp(-limit, limit)
    return angle(cos).pow(-2).mean()


@MODELS.register_module()
class SphereFacePlusLoss(SphereFaceLoss):
    """SphereFace plus the energy of the batch's class centres.

    ``lam_mhe`` of :class:`.HypersphereHead` adds it to any other loss.

    Args:
        s: Scale of the logits, > 0.
        m: Margin, a real number >= 1.
        lam_mhe: Weight of the energy (lambda_MHE).
        detach: Characteristic gradient detachment.
        loss_weight: Factor of L, energy included.
    """

    def __init__(
        self,
        s: float = 30.0,
        m: float = 1.5,
        lam_mhe: float = 0.1,
        detach: bool = True,
        loss_weight: float = 1.0,
    ) -> None:
        super().__init__(s, m, detach, loss_weight)
        self.lam_mhe = lam_mhe

    def objective(self, data_term: Tensor, batch: Batch) -> Tensor:
        energy = hyperspherical_energy(batch.centres())
        return self.loss_weight * (data_term + self.lam_mhe * energy)
