"""What a head decides from its options, for the head itself and for plans of memory."""

from typing import NamedTuple

from mmhyperface.utils.errors import UserError

# Below these, the block loop and splitting the centres cost more than they save.
FEW_CLASSES = 4096
FEW_ENTRIES = 2**22


def updates_some_rows(sample_rate: float, fused_update: bool) -> bool:
    """Whether an optimizer step sees a part of the centres only, or none of them."""
    return sample_rate < 1 or fused_update


def splits_centres(
    sharded: bool | str,
    num_classes: int,
    in_channels: int,
    some_rows: bool,
    world_size: int,
) -> bool:
    """Whether each rank keeps a part of the centres.

    Args:
        sharded: True, False or ``auto``, which splits many centres.
        num_classes, in_channels: Of the head.
        some_rows: See :func:`updates_some_rows`.
        world_size: Number of processes.

    Raises:
        UserError: If the centres cannot be the same on all ranks, and are to be.
    """
    if sharded == 'auto':
        sharded = some_rows or num_classes * in_channels >= FEW_ENTRIES
    if world_size > 1 and not sharded and some_rows:
        raise UserError(
            'HypersphereHead: sample_rate and fused_update on several processes '
            'need model.head.sharded=True: ranks that keep all centres would part '
            'ways'
        )
    return bool(sharded) and world_size > 1


def is_dense(
    engine: str,
    num_classes: int,
    fused_update: bool = False,
    matmul_dtype: str | None = None,
) -> bool:
    """Whether the dense engine computes the terms of the other classes.

    With ``auto`` it does for few classes, if nothing is asked that it cannot do.
    """
    if engine != 'auto':
        return engine == 'dense'
    return num_classes <= FEW_CLASSES and not fused_update and matmul_dtype is None


class Collective(NamedTuple):
    """What the ranks exchange in a training step.

    Attributes:
        name: What it is.
        kind: ``all-reduce``, ``all-gather`` or ``reduce-scatter``.
        size: Bytes of the whole: of the reduced tensor, or of what all ranks gather.
    """

    name: str
    kind: str
    size: int


def collectives(
    split: bool, additive: bool, samples: int, num_classes: int, in_channels: int
) -> list[Collective]:
    """The collectives of a head, and of DDP for its centres, in a training step.

    Args:
        split: See :func:`splits_centres`.
        additive: See :class:`~mmhyperface.models.losses.HypersphereLoss`.
        samples: Size of the global batch B.
        num_classes, in_channels: Of the head.
    """
    labels = Collective('labels', 'all-gather', 8 * samples)
    numbers = 4 * samples
    features = numbers * in_channels
    if not split:
        centres = 4 * num_classes * in_channels
        return [Collective('gradient of the centres', 'all-reduce', centres), labels]
    if additive:
        statistics = [
            Collective('sums of the loss', 'all-reduce', numbers),
            Collective('hardest cosines, for the log', 'all-reduce', numbers),
        ]
    else:
        statistics = [
            Collective('maxima of the softmax and cosines', 'all-reduce', 2 * numbers),
            Collective('sums of the softmax', 'all-reduce', numbers),
        ]
    return [
        Collective('features', 'all-gather', features),
        Collective('gradient of the features', 'reduce-scatter', features),
        labels,
        Collective('norms of the features', 'all-gather', numbers),
        Collective('own cosines', 'all-reduce', numbers),
        *statistics,
    ]
