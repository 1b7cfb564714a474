from mmhyperface.utils.global_batch import (
    batch_sizes,
    gather_batch,
    mean_over_ranks,
    share_of_batch,
)

from .shard import Shard

__all__ = [
    'Shard',
    'batch_sizes',
    'gather_batch',
    'mean_over_ranks',
    'share_of_batch',
]
