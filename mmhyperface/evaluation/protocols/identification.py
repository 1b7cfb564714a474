"""1:N: probes searched for in galleries, whose subject need not be enrolled."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from ..arrays import Floats, Ints, floor_product, rounding
from ..highest import thresholds_among
from . import drawing
from .base import (
    FigureOfMerit,
    Plot,
    Result,
    above_all,
    finite,
    rate_name,
    threshold_entry,
    unknown,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes

CMC_RANKS = 100
CURVE_POINTS = 200
RANK_TICKS = [digit * 10**power for power in range(6) for digit in (1, 2, 5)]


@dataclass(kw_only=True)
class IdentificationResult(Result):
    """1:N: probes searched for in galleries, of which G = 1 if they were merged.

    Attributes:
        galleries: G names.
        subjects: int [P], of each probe, numbered from 0.
        mate_scores: [G, P], to the probe's own subject; NaN where the gallery
            has it not.
        mate_ranks: int [G, P], from 1; 0 where the gallery has it not.
        best_others: [G, P], the highest score of each probe to another subject.
        ranks, rank_rates: [K]; the share of mated searches whose mate is among the
            first so many, over all galleries.
        fpirs, tpirs: [F]; the TPIR is the mean over the galleries.
        gallery_tpirs, thresholds: [G, F].
        cmc: [R], the rates of ranks 1 to R.
        curve_fpirs, curve_tpirs: [X]; TPIR at FPIR, for a picture.
        threshold: which rule made the thresholds, see :func:`.identify`.
        merged: whether all galleries were searched as one.
        impostors, impostor_probes: [M], the highest scores of all comparisons of
            different subjects, descending, and the probes they belong to; M = 0 unless
            merged.
    """

    protocol: ClassVar[str] = '1:N'
    FIGURES: ClassVar[tuple[FigureOfMerit, ...]] = (
        FigureOfMerit('rank-{ranks}', 'rank-{ranks}', 'rank_rates', ('ranks',)),
        FigureOfMerit('tpir@fpir={fpirs}', 'TPIR at FPIR {fpirs}', 'tpirs', ('fpirs',)),
    )

    galleries: list[str]
    subjects: Ints
    mate_scores: Floats
    mate_ranks: Ints
    best_others: Floats
    ranks: Ints
    fpirs: Floats
    rank_rates: Floats = field(default_factory=unknown)
    tpirs: Floats = field(default_factory=unknown)
    gallery_tpirs: Floats = field(default_factory=unknown)
    thresholds: Floats = field(default_factory=unknown)
    cmc: Floats = field(default_factory=unknown)
    curve_fpirs: Floats = field(default_factory=unknown)
    curve_tpirs: Floats = field(default_factory=unknown)
    threshold: str = 'exact'
    merged: bool = False
    impostors: Floats = field(default_factory=unknown)
    impostor_probes: Ints = field(default_factory=lambda: np.empty(0, np.int64))

    def set_rates(self) -> None:
        """Compute all rates, thresholds and curves from the searches."""
        vars(self).update(self.rates(self.ranks, self.fpirs))
        probes = self.mate_ranks.shape[1]
        if self.merged:
            lowest, highest = 1 / probes, float(self.fpirs.max(initial=1 / probes))
        else:
            free = (self.mate_ranks == 0).sum(1).min()
            lowest, highest = 1 / max(free, 1), 1.0
        self.curve_fpirs = np.geomspace(lowest, max(highest, lowest), CURVE_POINTS)
        deepest = int(max(self.mate_ranks.max(), self.ranks.max(initial=1)))
        ranks = np.arange(1, min(CMC_RANKS, deepest) + 1)
        curve = self.rates(ranks, self.curve_fpirs)
        self.cmc, self.curve_tpirs = curve['rank_rates'], curve['tpirs']

    def rates(
        self, ranks: Ints, fpirs: Floats, weights: Ints | None = None
    ) -> dict[str, Floats]:
        """``rank_rates``, ``tpirs``, ``gallery_tpirs`` and ``thresholds``.

        Args:
            ranks: [K].
            fpirs: [F].
            weights: how many times each subject counts, where any FPIR has a threshold;
                None: once, and a FPIR that non-mated probes cannot resolve has none.
        """
        of_probe = (
            np.ones(len(self.subjects), np.int64)
            if weights is None
            else weights[self.subjects]
        )
        mated = self.mate_ranks > 0
        counted = np.where(mated, of_probe, 0)
        within = (self.mate_ranks[..., None] <= ranks) & mated[..., None]
        with np.errstate(invalid='ignore'):
            rank_rates = (within * counted[..., None]).sum((0, 1)) / counted.sum()
            thresholds = np.stack(
                [
                    self._thresholds(gallery, fpirs, of_probe, weights is None)
                    for gallery in range(len(self.galleries))
                ]
            )
            least = thresholds + rounding(self.mate_scores)
            accepted = mated[..., None] & (
                self.mate_scores[..., None] > least[:, None, :]
            )
            if not self.merged:
                accepted &= (self.mate_ranks == 1)[..., None]
            tpirs = (accepted * counted[..., None]).sum(1) / counted.sum(1)[:, None]
        tpirs[np.isnan(thresholds)] = np.nan
        return {
            'rank_rates': rank_rates,
            'tpirs': tpirs.mean(0),
            'gallery_tpirs': tpirs,
            'thresholds': thresholds,
        }

    def _thresholds(
        self, gallery: int, fpirs: Floats, of_probe: Ints, only_resolvable: bool
    ) -> Floats:
        """[F]; NaN where there is nothing to set one by.

        Args:
            only_resolvable: also where non-mated probes cannot resolve the FPIR.
        """
        if self.merged:
            wanted = -floor_product(-fpirs, of_probe.sum())  # ⌈FPIR·P⌉
            weights = of_probe[self.impostor_probes]
            thresholds = thresholds_among(self.impostors, weights, wanted - 1)
            return np.where(wanted > 0, thresholds, np.nan)
        free = self.mate_ranks[gallery] == 0
        scores, weights = self.best_others[gallery][free], of_probe[free]
        order = np.argsort(-scores)
        scores, weights = scores[order], weights[order]
        total = int(weights.sum())
        allowed = floor_product(fpirs, total)
        if self.threshold == 'insightface':
            return thresholds_among(scores, weights, np.maximum(allowed, 1) - 1, total)
        thresholds = thresholds_among(scores, weights, allowed, total)
        if only_resolvable:
            thresholds[allowed <= 0] = np.nan
        return thresholds

    def _resampler(self) -> tuple[int, Callable[[Ints], dict[str, Any]]]:
        def draw(weights: Ints) -> dict[str, Any]:
            drawn = self.rates(self.ranks, self.fpirs, weights)
            return {**drawn, 'tpirs': above_all(drawn['tpirs'])}

        return int(self.subjects.max()) + 1, draw

    def tested(self) -> dict[str, list[Any]]:
        return {
            'probes': [self.subjects],
            'galleries': [self.galleries, self.merged, self.mate_ranks > 0],
            'thresholds': [self.threshold],
        }

    def details(self) -> dict[str, Any]:
        return {
            'thresholds': [
                threshold_entry(
                    f'tpir@fpir={rate_name(fpir)}',
                    self.gallery_tpirs[row, column],
                    self.thresholds[row, column],
                    gallery,
                )
                for column, fpir in enumerate(self.fpirs)
                for row, gallery in enumerate(self.galleries)
            ],
            'merged': self.merged,
            'cmc': [finite(rate) for rate in self.cmc],
        }

    @staticmethod
    def pictures(rows: Mapping[str, 'IdentificationResult']) -> Iterator[Plot]:
        yield Plot('cmc', 'CMC', partial(draw_cmc, results=rows))
        yield Plot('tpir', 'TPIR over FPIR', partial(draw_open_set, results=rows))
        yield from drawing.histograms_of(draw_searches, rows)


def draw_cmc(ax: 'Axes', results: Mapping[str, IdentificationResult]) -> None:
    """Identification rate over the logarithmic rank."""
    for name, result in results.items():
        ranks = np.arange(1, len(result.cmc) + 1)
        ax.plot(ranks, result.cmc, marker='.', label=drawing.label(name))
    ax.set(xscale='log', xlabel='rank', ylabel='share of the mated searches')
    last = max(len(result.cmc) for result in results.values())
    drawing.count_axis(ax, np.array([rank for rank in RANK_TICKS if rank <= last]))
    drawing.finish(ax)


def draw_open_set(ax: 'Axes', results: Mapping[str, IdentificationResult]) -> None:
    """TPIR over a logarithmic FPIR; dots where the report has figures."""
    for name, result in results.items():
        known = (result.curve_fpirs > 0) & ~np.isnan(result.curve_tpirs)
        x, y = result.curve_fpirs[known], result.curve_tpirs[known]
        (line,) = ax.plot(x, y, label=drawing.label(name))
        ax.plot(result.fpirs, result.tpirs, 'o', color=line.get_color())
    ax.set(
        xscale='log',
        ylim=(0, 1.005),
        xlabel='false positive identification rate',
        ylabel='true positive identification rate',
    )
    drawing.finish(ax)


def draw_searches(ax: 'Axes', result: IdentificationResult) -> None:
    """Histograms of what the thresholds separate, with those of an FPIR.

    The FPIR is the lowest that is resolvable.
    """
    mated = result.mate_ranks > 0
    if result.merged:
        others = {'probes, highest of another subject': result.best_others.ravel()}
    else:
        others = {'probes without a mate, highest': result.best_others[~mated]}
    kinds = {**others, 'probes with a mate, that score': result.mate_scores[mated]}
    lines = {}
    resolvable = np.flatnonzero(np.isfinite(result.thresholds).any(axis=0))
    if len(resolvable):
        strictest = resolvable[np.argmin(result.fpirs[resolvable])]
        fpir = f'FPIR {rate_name(result.fpirs[strictest])}'
        for gallery, threshold in zip(
            result.galleries, result.thresholds[:, strictest], strict=True
        ):
            lines[f'{fpir}, {drawing.label(gallery)}'] = threshold
    drawing.histograms(ax, kinds, lines)
    ax.set_ylabel('share of the searches of a kind')
