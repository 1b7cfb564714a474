"""Face verification on lists of image pairs: LFW, CFP-FP, AgeDB-30 and their like."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from mmhyperface.registry import METRICS
from mmhyperface.utils.choices import ACCURACIES, TARS
from mmhyperface.utils.errors import UserError

from ..arrays import (
    Bools,
    Floats,
    Ints,
    as_rates,
    check_choice,
    check_lengths,
)
from ..functional import (
    INSIGHTFACE_GRID,
    global_accuracy,
    kfold_accuracy,
    score_pairs,
    stratified_folds,
)
from ..pair_rates import check_folds
from ..protocols import VerificationResult
from .base import EmbeddingMetric, check_pairs
from .embeddings import SetFeatures


@METRICS.register_module()
class FaceVerification(EmbeddingMetric):
    """Accuracy, EER, AUC, d' and TAR@FAR of each list of pairs in the data set.

    Its sets are ``dict(kind='pairs', offset, num_images, index_a, index_b, same,
    folds, identities)``; see :mod:`.pair_sets`.

    The figures of a set are ``accuracy``, ``accuracy_std`` (not for
    ``accuracy='global'``), ``eer``, ``auc``, ``d_prime`` and ``tar@far=1e-03`` …

    Args:
        fars: false accept rates at which to report the true accept rate.
        folds: number of folds for a list that is not organised in folds; such a
            list gets stratified ones.
        folds_seed: the seed they are drawn from.
        accuracy: ``'exact'``, ``'grid'`` (insightface) or ``'global'`` (OpenSphere);
            see :func:`kfold_accuracy` and :func:`global_accuracy`.
        interpolation: of TAR@FAR, see :func:`tar_at_far`.
        kwargs: see :class:`EmbeddingMetric`.
    """

    KIND = 'pairs'
    RESULT = VerificationResult

    def __init__(
        self,
        fars: Sequence[float] = (1e-4, 5e-4, 1e-3, 5e-3, 1e-2),
        folds: int = 10,
        folds_seed: int = 0,
        accuracy: str = 'exact',
        interpolation: str = 'exact',
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        check_choice('accuracy', accuracy, ACCURACIES)
        check_choice('interpolation', interpolation, TARS)
        if not isinstance(folds, int) or folds < 2:
            raise UserError(f'folds is a number from 2 on, not {folds!r}')
        self.fars = as_rates(fars, 'fars').tolist()
        self.folds = folds
        self.folds_seed = folds_seed
        self.accuracy = accuracy
        self.interpolation = interpolation

    def check(self, test_set: dict) -> None:
        same = np.asarray(test_set['same'], bool)
        if test_set['folds'] is not None:
            check_lengths(same=same, folds=test_set['folds'])
        count = test_set['num_images']
        identities = test_set.get('identities')
        if identities is not None:
            check_lengths(num_images=range(count), identities=identities)
        check_pairs(test_set['index_a'], test_set['index_b'], same, count, 'images')
        if self.accuracy != 'global':
            self._folds(same, test_set['folds'])

    def examine(
        self, name: str, test_set: dict, features: SetFeatures
    ) -> VerificationResult:
        index_a, index_b = test_set['index_a'], test_set['index_b']
        scores = score_pairs(features.fused, index_a, index_b)
        same = np.asarray(test_set['same'], bool)
        identities = test_set.get('identities')
        accuracy, words = self._accuracy(scores, same, test_set['folds'])
        return VerificationResult.of_pairs(
            scores,
            same,
            self.fars,
            self.interpolation,
            f'cosine of the embeddings, {features.convention}; accuracy: {words}',
            identity_a=None if identities is None else identities[index_a],
            identity_b=None if identities is None else identities[index_b],
            counts={'images': len(np.union1d(index_a, index_b))},
            **accuracy,
        )

    def _accuracy(
        self, scores: Floats, same: Bools, folds: Ints | None
    ) -> tuple[dict[str, Any], str]:
        how = ACCURACIES[self.accuracy]
        if self.accuracy == 'global':
            accuracy, threshold = global_accuracy(scores, same)
            return dict(
                accuracy=accuracy, accuracy_thresholds=np.array([threshold])
            ), how
        if folds is None:
            origin = f'stratified from seed {self.folds_seed}'
        else:
            origin = 'from the list'
        folds = self._folds(same, folds)
        grid = INSIGHTFACE_GRID if self.accuracy == 'grid' else None
        mean, std, accuracies, thresholds = kfold_accuracy(scores, same, folds, grid)
        return dict(
            accuracy=mean,
            accuracy_std=std,
            accuracy_thresholds=thresholds,
            folds=folds if grid is None else None,
        ), f'{len(accuracies)} folds {origin}, {how}, mean ± std (ddof 0)'

    def _folds(self, same: Bools, folds: Ints | None) -> Ints:
        """The fold of each pair, numbered from 0."""
        if folds is None:
            fewest = min(np.count_nonzero(same), np.count_nonzero(~same))
            try:
                folds = stratified_folds(same, self.folds, self.folds_seed)
            except UserError as error:
                fewer = f'test_evaluator.folds={fewest} (or val_evaluator.folds), or '
                raise UserError(
                    f'{error}; set {fewer if fewest > 1 else ""}'
                    'test_evaluator.accuracy=global (or val_evaluator.accuracy)'
                ) from None
        return check_folds(folds, same)
