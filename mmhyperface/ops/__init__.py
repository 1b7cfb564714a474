from .dense import dense
from .sphere import unit

__all__ = ['dense', 'unit']
