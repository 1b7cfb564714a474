"""Pure functions on arrays; they need no runner."""

from .identification import identify
from .megaface import megaface_identification
from .pair_scores import score_pairs
from .templates import Templates, pool_templates, template_rows
from .verification import (
    INSIGHTFACE_GRID,
    GlobalAccuracy,
    KFoldAccuracy,
    RocCurve,
    SortedScores,
    TarAtFar,
    auc,
    equal_error_rate,
    global_accuracy,
    kfold_accuracy,
    roc,
    stratified_folds,
    tar_at_far,
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
