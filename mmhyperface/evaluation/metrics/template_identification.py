"""1:N identification of templates: IJB-B and IJB-C."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from mmhyperface.registry import METRICS
from mmhyperface.utils.choices import THRESHOLDS
from mmhyperface.utils.errors import UserError, some

from ..functional import identify
from ..functional.arrays import as_counts, as_rates, check_choice, check_lengths
from ..protocols import IdentificationResult
from .base import EmbeddingMetric, check_rows
from .embeddings import Pooling, SetFeatures, check_templates


@METRICS.register_module()
class TemplateIdentification(EmbeddingMetric):
    """Rank-k and TPIR@FPIR of probes that are searched for in galleries.

    Its sets are those of :class:`TemplateVerification` whose protocol has probes and
    galleries; see :mod:`.template_sets`.

    The figures of a set are ``rank-1`` … and ``tpir@fpir=1e-02`` …

    Args:
        ranks: of the mate, to be counted.
        fpirs: false positive identification rates at which to report the true one.
        merged: search all galleries as one, by OpenSphere's rule, instead of each by
            itself; see :func:`identify`.
        threshold: how it follows from the FPIR; see :func:`identify`.
        norm, detector_scores, media: see :class:`TemplateVerification`.
        kwargs: see :class:`EmbeddingMetric`.
    """

    KIND = 'templates'
    RESULT = IdentificationResult

    def __init__(
        self,
        ranks: Sequence[int] = (1, 5, 10),
        fpirs: Sequence[float] = (0.01, 0.1),
        merged: bool = False,
        threshold: str = 'exact',
        norm: str = 'keep',
        detector_scores: bool = True,
        media: str = 'mean',
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        check_choice('threshold', threshold, THRESHOLDS)
        self.ranks = as_counts(ranks, 'ranks').tolist()
        self.fpirs = as_rates(fpirs, 'fpirs').tolist()
        self.merged = merged
        self.threshold = threshold
        self.pooling = Pooling(norm, detector_scores, media)

    def concerns(self, test_set: dict) -> bool:
        return test_set['protocol'].probes is not None

    def check(self, test_set: dict) -> None:
        count = check_templates(test_set, self.pooling)
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
        enrolled, times = np.unique(np.concatenate(everyone), return_counts=True)
        if (times > 1).any():
            raise UserError(
                f'the galleries {", ".join(protocol.galleries)} hold subject '
                f'{some(enrolled[times > 1])} more than once'
            )
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
