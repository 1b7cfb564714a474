"""Metrics of templates, IJB-B and IJB-C: 1:1 verification and 1:N identification."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from mmhyperface.registry import METRICS
from mmhyperface.utils.choices import TARS, THRESHOLDS
from mmhyperface.utils.errors import UserError

from ..arrays import (
    Ints,
    as_counts,
    as_rates,
    check_choice,
    check_lengths,
    check_rows,
)
from ..functional import identify, score_pairs
from ..functional.identification import check_subjects
from ..functional.templates import image_weights
from ..protocols import IdentificationResult, VerificationResult
from .base import EmbeddingMetric, check_pairs
from .embeddings import Pooling, SetFeatures


class TemplateMetric(EmbeddingMetric):
    """A metric of templates.

    Its sets are ``dict(kind='templates', offset, num_images, template_ids, media_ids,
    detector_scores, protocol)``; see :mod:`.template_sets`.

    Args:
        norm: ``'keep'`` or ``'unit'``, of image features; see :func:`pool_templates`.
        detector_scores: whether image features are weighted by the detector's score.
        media: ``'mean'`` or ``'none'``, over the images of a medium.
        kwargs: see :class:`EmbeddingMetric`.
    """

    KIND = 'templates'

    def __init__(
        self,
        norm: str = 'keep',
        detector_scores: bool = True,
        media: str = 'mean',
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.pooling = Pooling(norm, detector_scores, media)

    def check_templates(self, test_set: dict[str, Any]) -> int:
        """The number of templates of a test set, which can be pooled so.

        Raises:
            UserError: If it cannot, or its lists disagree.
        """
        lists = {name: test_set[name] for name in ('template_ids', 'media_ids')}
        if self.pooling.detector_scores:
            lists['detector_scores'] = test_set['detector_scores']
            if lists['detector_scores'] is None:
                raise UserError(
                    'it has no detector scores; set detector_scores=False of the '
                    'metric in test_evaluator, or --no-detector-scores'
                )
        check_lengths(num_images=range(test_set['num_images']), **lists)
        ids = np.asarray(test_set['template_ids'])
        image_weights(lists.get('detector_scores'), ids)
        count = len(np.unique(ids))
        if len(test_set['protocol'].subjects) != count:
            raise UserError(
                f'subjects of {len(test_set["protocol"].subjects)} templates, but the '
                f'set has {count}'
            )
        return count


@METRICS.register_module()
class TemplateVerification(TemplateMetric):
    """EER, AUC, d' and TAR@FAR over all listed pairs of templates.

    Its sets are those of :class:`TemplateMetric` whose protocol has pairs. The figures
    of a set are ``eer``, ``auc``, ``d_prime`` and ``tar@far=1e-06`` …

    Args:
        fars: false accept rates at which to report the true accept rate.
        interpolation: of TAR@FAR, see :func:`tar_at_far`.
        kwargs: see :class:`TemplateMetric`.
    """

    RESULT = VerificationResult

    def __init__(
        self,
        fars: Sequence[float] = (1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1),
        interpolation: str = 'exact',
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        check_choice('interpolation', interpolation, TARS)
        self.fars = as_rates(fars, 'fars').tolist()
        self.interpolation = interpolation

    def concerns(self, test_set: dict) -> bool:
        return test_set['protocol'].pairs is not None

    def check(self, test_set: dict) -> None:
        count = self.check_templates(test_set)
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


@METRICS.register_module()
class TemplateIdentification(TemplateMetric):
    """Rank-k and TPIR@FPIR of probes that are searched for in galleries.

    Its sets are those of :class:`TemplateMetric` whose protocol has probes and
    galleries. The figures of a set are ``rank-1`` … and ``tpir@fpir=1e-02`` …

    Args:
        ranks: of the mate, to be counted.
        fpirs: false positive identification rates at which to report the true one.
        merged: search all galleries as one, by OpenSphere's rule, instead of each by
            itself; see :func:`identify`.
        threshold: how it follows from the FPIR; see :func:`identify`.
        kwargs: see :class:`TemplateMetric`.
    """

    RESULT = IdentificationResult

    def __init__(
        self,
        ranks: Sequence[int] = (1, 5, 10),
        fpirs: Sequence[float] = (0.01, 0.1),
        merged: bool = False,
        threshold: str = 'exact',
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        check_choice('threshold', threshold, THRESHOLDS)
        self.ranks = as_counts(ranks, 'ranks').tolist()
        self.fpirs = as_rates(fpirs, 'fpirs').tolist()
        self.merged = merged
        self.threshold = threshold

    def concerns(self, test_set: dict) -> bool:
        return test_set['protocol'].probes is not None

    def check(self, test_set: dict) -> None:
        count = self.check_templates(test_set)
        protocol = test_set['protocol']
        if not protocol.galleries:
            raise UserError('it has probes, but no gallery')
        rows, subjects = protocol.probes
        check_lengths(probes=rows, subjects_of_probes=subjects)
        check_rows('probes', rows, count, 'templates')
        for name, (rows, subjects) in protocol.galleries.items():
            check_lengths(**{f'gallery {name}': rows, 'its subjects': subjects})
            check_rows(f'gallery {name}', rows, count, 'templates')
        everyone = [subjects for _, subjects in protocol.galleries.values()]
        enrolled = check_subjects(list(protocol.galleries), everyone)
        if not np.isin(protocol.probes[1], enrolled).any():
            raise UserError('no probe has a mate in a gallery')

    def examine(
        self, name: str, test_set: dict, features: SetFeatures
    ) -> IdentificationResult:
        protocol = test_set['protocol']
        templates = features.templates(test_set, self.pooling)
        rows, subjects = protocol.probes
        result = identify(
            templates.features[rows],
            subjects,
            [
                (templates.features[members], those)
                for members, those in protocol.galleries.values()
            ],
            ranks=self.ranks,
            fpirs=self.fpirs,
            merged=self.merged,
            threshold=self.threshold,
            names=list(protocol.galleries),
        )
        result.convention = (
            f'{result.convention}; {features.convention}; {self.pooling.convention}'
        )
        result.counts = {
            'images': test_set['num_images'],
            'templates': len(templates.ids),
            **result.counts,
        }
        return result
