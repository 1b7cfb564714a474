from .gather import gather_batch, mean_over_ranks
from .shard import Shard

__all__ = ['Shard', 'gather_batch', 'mean_over_ranks']
