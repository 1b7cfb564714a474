"""Pure functions on arrays; they need no runner.

Those that return the result of a protocol, which other functions here are to make, are
imported when they are first asked for.
"""

from typing import TYPE_CHECKING

from mmhyperface.utils.optional_imports import importing

from ..pair_rates import (
    INSIGHTFACE_GRID,
    GlobalAccuracy,
    KFoldAccuracy,
    RocCurve,
    SortedScores,
    TarAtFar,
    auc,
    d_prime,
    equal_error_rate,
    global_accuracy,
    kfold_accuracy,
    roc,
    stratified_folds,
    tar_at_far,
)
from .pair_scores import score_pairs
from .templates import Templates, pool_templates, template_rows

if TYPE_CHECKING:
    from .identification import identify
    from .megaface import megaface_identification
else:
    __getattr__, __dir__ = importing(
        __name__,
        {'identify': '.identification', 'megaface_identification': '.megaface'},
    )

__all__ = [
    'INSIGHTFACE_GRID',
    'GlobalAccuracy',
    'KFoldAccuracy',
    'RocCurve',
    'SortedScores',
    'TarAtFar',
    'Templates',
    'auc',
    'd_prime',
    'equal_error_rate',
    'global_accuracy',
    'identify',
    'kfold_accuracy',
    'megaface_identification',
    'pool_templates',
    'roc',
    'score_pairs',
    'stratified_folds',
    'tar_at_far',
    'template_rows',
]
