"""Where the samples of a training batch lay when their loss was computed."""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class BatchGeometry:
    """What the head has seen of each sample of one batch, for whoever watches.

    These are the tensors of the loss, detached and where they are: nothing is copied,
    and nobody waits for the device until somebody looks.

    Attributes:
        own: Cosines to the own centre, [B].
        hardest: Cosines to the nearest other centre that took part, [B]; with
            ``sample_rate`` < 1 that is the nearest of those drawn.
        norm: Norms of the raw features, [B].
        loss: Losses, [B], without ``loss_weight`` and without what is of the whole
            batch, such as the penalty of a norm.
        violating: Whether the sample has left the margin, bool [B]; see
            :meth:`.HypersphereLoss.violates_margin`.
        target: Classes, int64 [B].
        mean_direction: Mean of the unit features of this rank's batch, [D].
        of_all_ranks: Whether the B samples are those of the global batch, rank by
            rank and the same on all ranks, as where the centres are split; else they
            are those of this rank's batch.
        sizes: How many samples the batch of each rank has, maybe none.
    """

    own: Tensor
    hardest: Tensor
    norm: Tensor
    loss: Tensor
    violating: Tensor
    target: Tensor
    mean_direction: Tensor
    of_all_ranks: bool
    sizes: Sequence[int]
