from .blocked import Blocked
from .dense import dense
from .fold import Fold, merge
from .sphere import clamp_cosine, unit
from .terms import compiler_missing
from .update import Update, split

__all__ = [
    'Blocked',
    'Fold',
    'Update',
    'clamp_cosine',
    'compiler_missing',
    'dense',
    'merge',
    'split',
    'unit',
]
