from .batch_geometry import BatchGeometry
from .hypersphere_head import HypersphereHead

__all__ = ['BatchGeometry', 'HypersphereHead']
