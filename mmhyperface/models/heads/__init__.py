from .hypersphere_head import HypersphereHead

__all__ = ['HypersphereHead']
