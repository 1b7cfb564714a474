from .gather import gather_batch, mean_over_ranks

__all__ = ['gather_batch', 'mean_over_ranks']
