"""Pure functions on arrays; they need no runner."""

from .verification import (
    INSIGHTFACE_GRID,
    GlobalAccuracy,
    KFoldAccuracy,
    RocCurve,
    TarAtFar,
    auc,
    equal_error_rate,
    global_accuracy,
    kfold_accuracy,
    roc,
    score_pairs,
    stratified_folds,
    tar_at_far,
)

__all__ = [
    'INSIGHTFACE_GRID',
    'GlobalAccuracy',
    'KFoldAccuracy',
    'RocCurve',
    'TarAtFar',
    'auc',
    'equal_error_rate',
    'global_accuracy',
    'kfold_accuracy',
    'roc',
    'score_pairs',
    'stratified_folds',
    'tar_at_far',
]
