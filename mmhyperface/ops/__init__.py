from .blocked import Blocked
from .dense import dense
from .fold import Fold, merge
from .fused import Fused
from .sphere import clamp_cosine, unit
from .update import Update, split

__all__ = [
    'Blocked',
    'Fold',
    'Fused',
    'Update',
    'clamp_cosine',
    'dense',
    'merge',
    'split',
    'unit',
]
