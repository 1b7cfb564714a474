"""1:1 verification of templates: IJB-B and IJB-C."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from mmhyperface.registry import METRICS
from mmhyperface.utils.choices import TARS

from ..functional import score_pairs
from ..functional.arrays import Ints, as_rates, check_choice
from ..protocols import VerificationResult
from .base import EmbeddingMetric, check_pairs
from .embeddings import Pooling, SetFeatures, check_templates


@METRICS.register_module()
class TemplateVerification(EmbeddingMetric):
    """EER, AUC and TAR@FAR over all listed pairs of templates.

    Its sets are ``dict(kind='templates', offset, num_images, template_ids, media_ids,
    detector_scores, protocol)`` whose protocol has pairs; see
    :mod:`.template_sets`.

    The figures of a set are ``eer``, ``auc`` and ``tar@far=1e-06`` …

    Args:
        fars: false accept rates at which to report the true accept rate.
        norm: ``'keep'`` or ``'unit'``, of image features; see :func:`pool_templates`.
        detector_scores: whether image features are weighted by the detector's score.
        media: ``'mean'`` or ``'none'``, over the images of a medium.
        interpolation: of TAR@FAR, see :func:`tar_at_far`.
        kwargs: see :class:`EmbeddingMetric`.
    """

    KIND = 'templates'
    RESULT = VerificationResult

    def __init__(
        self,
        fars: Sequence[float] = (1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1),
        norm: str = 'keep',
        detector_scores: bool = True,
        media: str = 'mean',
        interpolation: str = 'exact',
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        check_choice('interpolation', interpolation, TARS)
        self.fars = as_rates(fars, 'fars').tolist()
        self.pooling = Pooling(norm, detector_scores, media)
        self.interpolation = interpolation

    def concerns(self, test_set: dict) -> bool:
        return test_set['protocol'].pairs is not None

    def check(self, test_set: dict) -> None:
        count = check_templates(test_set, self.pooling)
        first, second, same = test_set['protocol'].pairs
        check_pairs(first, second, same, count, 'templates')

    def examine(
        self, name: str, test_set: dict, features: SetFeatures
    ) -> VerificationResult:
        first, second, same = test_set['protocol'].pairs
        templates = features.templates(test_set, self.pooling)
        scores = score_pairs(templates.features, first, second)
        subjects = _numbered(test_set['protocol'].subjects, first, second)
        return VerificationResult.of_pairs(
            scores,
            same,
            self.fars,
            self.interpolation,
            f'cosine of templates; {features.convention}; {self.pooling.convention}',
            identity_a=None if subjects is None else subjects[first],
            identity_b=None if subjects is None else subjects[second],
            counts={
                'images': test_set['num_images'],
                'templates': len(templates.ids),
            },
        )


def _numbered(subjects: Ints, first: Ints, second: Ints) -> Ints | None:
    """Subjects [T] numbered from 0; None if not all that are compared are known."""
    used = np.zeros(len(subjects), np.bool_)
    used[first] = True
    used[second] = True
    if (subjects[used] < 0).any():
        return None
    # As many as there are pairs are kept.
    return np.unique(subjects, return_inverse=True)[1].astype(np.int32)
