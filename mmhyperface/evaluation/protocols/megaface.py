"""MegaFace: mates to be found among up to a million distractors."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from ..arrays import Floats, Ints, floor_product, rounding
from ..highest import thresholds_among
from . import drawing
from .base import FigureOfMerit, Plot, Result, above_all, far_thresholds, unknown

if TYPE_CHECKING:
    from matplotlib.axes import Axes


@dataclass(kw_only=True)
class MegaFaceResult(Result):
    """Mates to be found among distractors.

    Attributes:
        distractors: int [C], how many were asked for; ``used`` [C], how many of them
            are left without the noisy ones.
        ranks: [K]; ``rates`` [C, K], share of the ordered pairs whose mate is among
            the first so many.
        fars, tars, thresholds: [F], of verification against all distractors.
        subjects: int [Q], of each ordered pair (probe, mate), numbered from 0.
        mate_scores: [Q]; ``mate_ranks`` int [C, Q], one more than the highest of
            ``ranks`` for all beyond it.
        impostors, impostor_subjects: [M], the highest scores of all probes to all
            distractors, and the probes' subjects; ``num_impostors`` int [S], how many
            comparisons each subject has.
    """

    protocol: ClassVar[str] = 'MegaFace'
    FIGURES: ClassVar[tuple[FigureOfMerit, ...]] = (
        FigureOfMerit(
            'rank-{ranks}@{distractors}',
            'rank-{ranks}, {distractors:,} distractors',
            'rates',
            ('distractors', 'ranks'),
        ),
        FigureOfMerit('tar@far={fars}', 'TAR at FAR {fars}', 'tars', ('fars',)),
    )

    distractors: Ints
    used: Ints
    ranks: Ints
    fars: Floats
    rates: Floats = field(default_factory=unknown)
    tars: Floats = field(default_factory=unknown)
    thresholds: Floats = field(default_factory=unknown)
    subjects: Ints
    mate_scores: Floats
    mate_ranks: Ints
    impostors: Floats
    impostor_subjects: Ints
    num_impostors: Ints

    def set_rates(self) -> None:
        """Compute all rates and thresholds from the searches."""
        vars(self).update(self.drawn_rates())

    def drawn_rates(self, weights: Ints | None = None) -> dict[str, Floats]:
        """``rates``, ``tars`` and ``thresholds``.

        Args:
            weights: how many times each subject counts, where any FAR has a threshold;
                None: once, and a FAR that the impostors cannot resolve has none.
        """
        resolvable = weights is None
        if weights is None:
            weights = np.ones(len(self.num_impostors), np.int64)
        counted = weights[self.subjects]
        within = self.mate_ranks[..., None] <= self.ranks  # C x Q x K
        total = int(weights @ self.num_impostors)
        allowed = floor_product(self.fars, total)
        thresholds = thresholds_among(
            self.impostors, weights[self.impostor_subjects], allowed, total
        )
        if resolvable:
            thresholds[allowed == 0] = np.nan
        accepted = self.mate_scores[:, None] > thresholds + rounding(self.mate_scores)
        with np.errstate(invalid='ignore'):
            rates = np.einsum('cqk,q->ck', within, counted) / counted.sum()
            tars = counted @ accepted / counted.sum()
        tars[np.isnan(thresholds)] = np.nan
        return {'rates': rates, 'tars': tars, 'thresholds': thresholds}

    def _resampler(self) -> tuple[int, Callable[[Ints], dict[str, Any]]]:
        def draw(weights: Ints) -> dict[str, Any]:
            drawn = self.drawn_rates(weights)
            return {**drawn, 'tars': above_all(drawn['tars'])}

        return len(self.num_impostors), draw

    def tested(self) -> dict[str, list[Any]]:
        return {
            'probes': [self.subjects],
            'distractors': [self.distractors, self.used, self.num_impostors],
        }

    def details(self) -> dict[str, Any]:
        return {
            'thresholds': far_thresholds(self.fars, self.tars, self.thresholds),
            'distractors': [
                {'asked': int(asked), 'used': int(used)}
                for asked, used in zip(self.distractors, self.used, strict=True)
            ],
        }

    @staticmethod
    def pictures(rows: Mapping[str, 'MegaFaceResult']) -> Iterator[Plot]:
        title = 'identification among distractors'
        yield Plot('distractors', title, partial(draw_distractors, results=rows))


def draw_distractors(ax: 'Axes', results: Mapping[str, MegaFaceResult]) -> None:
    """Rank-k rates over the logarithmic number of distractors."""
    for name, result in results.items():
        for rates, rank in zip(result.rates.T, result.ranks, strict=True):
            label = f'{drawing.label(name)}, rank-{rank}'
            ax.plot(result.distractors, rates, marker='o', label=label)
    ax.set(
        xscale='log',
        xlabel='distractors',
        ylabel='share of the ordered pairs of mates',
    )
    counts = np.unique(np.concatenate([x.distractors for x in results.values()]))
    drawing.count_axis(ax, counts)
    drawing.finish(ax)
