"""MegaFace: mates to be found among up to a million distractors."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from mmhyperface.registry import METRICS
from mmhyperface.utils.choices import NOISE
from mmhyperface.utils.errors import UserError

from ..arrays import Floats, as_counts, as_rates, check_choice, check_lengths
from ..functional import megaface_identification
from ..functional.megaface import COUNTS, check_probes
from ..protocols import MegaFaceResult
from .base import EmbeddingMetric
from .embeddings import SetFeatures


@METRICS.register_module()
class MegaFaceIdentification(EmbeddingMetric):
    """Rank-k among distractors, and TAR@FAR against all of them.

    Its sets are ``dict(kind='megaface', offset, num_images, subjects, noisy)``:
    ``subjects`` int64 [N], −1 for the distractors, which follow the probes; ``noisy``
    bool [N].

    The figures of a set are ``rank-1@1000000`` … and ``tar@far=1e-06`` …

    Args:
        counts: of distractors; by default 10, 100, … 10⁶, or as many as there are.
        ranks: of the mate, to be counted.
        fars: false accept rates at which to report the true accept rate.
        noise: ``'remove'`` noisy images, or ``'overwrite'`` their features as the
            peers do; see :func:`megaface_identification`.
        kwargs: see :class:`EmbeddingMetric`.
    """

    KIND = 'megaface'
    RESULT = MegaFaceResult

    def __init__(
        self,
        counts: Sequence[int] | None = None,
        ranks: Sequence[int] = (1, 10),
        fars: Sequence[float] = (1e-6,),
        noise: str = 'remove',
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        check_choice('noise', noise, NOISE)
        self.counts = counts
        if counts is not None:
            self.counts = np.unique(as_counts(counts, 'counts')).tolist()
        self.ranks = as_counts(ranks, 'ranks').tolist()
        self.fars = as_rates(fars, 'fars').tolist()
        self.noise = noise

    def check(self, test_set: dict) -> None:
        subjects = test_set['subjects']
        check_lengths(
            num_images=range(test_set['num_images']),
            subjects=subjects,
            noisy=test_set['noisy'],
        )
        probes = int(np.count_nonzero(subjects >= 0))
        if (subjects[:probes] < 0).any():
            raise UserError('its distractors must follow its probes')
        if test_set['noisy'].dtype != np.bool_:
            raise UserError(f'noisy must be booleans, not {test_set["noisy"].dtype}')
        check_probes(subjects[:probes], test_set['noisy'][:probes], self.noise)
        there = len(subjects) - probes
        if not there or max(self.counts or [0]) > there:
            raise UserError(
                f'{max(self.counts or [1])} distractors are asked for, but the set '
                f'has {there}'
            )

    def examine(
        self, name: str, test_set: dict, features: SetFeatures
    ) -> MegaFaceResult:
        probes = int(np.count_nonzero(test_set['subjects'] >= 0))
        rows = features.fused
        return self.search(test_set, rows[:probes], rows[probes:], features.convention)

    def search(
        self, test_set: dict, probes: Floats, distractors: Floats, convention: str
    ) -> MegaFaceResult:
        """What is found out from features [P, D] and [N, D].

        Args:
            convention: of the features, in words.
        """
        first = len(probes)
        there = len(distractors)
        result = megaface_identification(
            probes,
            test_set['subjects'][:first],
            distractors,
            counts=self.counts or sorted({min(count, there) for count in COUNTS}),
            ranks=self.ranks,
            fars=self.fars,
            noisy_probes=test_set['noisy'][:first],
            noisy_distractors=test_set['noisy'][first:],
            noise=self.noise,
        )
        result.convention = f'{result.convention}; {convention}'
        result.counts = {'images': test_set['num_images'], **result.counts}
        return result
