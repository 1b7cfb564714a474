"""What an examination leaves: its figures, what they stand on, and by which convention.

A result keeps the evidence (scores, ranks) from which its figures were made, so that
:mod:`mmhyperface.evaluation.intervals` can make them again with other weights for the
identities.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass, field, fields
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import torch

Floats = npt.NDArray[np.floating]
Ints = npt.NDArray[np.integer]

# What is said instead of a figure that is NaN: of a rate, or of all figures.
NOT_RESOLVABLE = 'not resolvable'
NOT_FINITE = 'not finite'


def rate_name(rate: float) -> str:
    """``0.005`` as ``'5e-03'``."""
    return np.format_float_scientific(rate, trim='-', exp_digits=2)


def _unknown() -> Floats:
    return np.empty(0)


@dataclass(kw_only=True)
class Result(ABC):
    """One protocol on one test set.

    Attributes:
        convention: says in words how the figures were computed.
        counts: what the figures stand on, for instance images and templates.
        finite: False if the embeddings admit no figure (some are zero, NaN or
            infinite, or all are alike): all figures are NaN then, and what they would
            stand on means nothing.
    """

    protocol: ClassVar[str]

    convention: str
    counts: dict[str, int] = field(default_factory=dict)
    finite: bool = True

    def figures(self) -> dict[str, float]:
        """Fractions by name; NaN where what was tested cannot resolve a rate."""
        known = self._figures()
        return known if self.finite else dict.fromkeys(known, float('nan'))

    @abstractmethod
    def _figures(self) -> dict[str, float]:
        """The figures of a result that is finite."""

    def state_dict(self) -> dict[str, Any]:
        """Only tensors, numbers, strings, and dicts and lists of them.

        So it is what ``torch.load`` admits by default.
        """
        return {item.name: _plain(getattr(self, item.name)) for item in fields(self)}

    @classmethod
    def from_state_dict(cls, state: dict[str, Any]) -> 'Result':
        values: dict[str, Any] = {
            name: value.cpu().numpy() if isinstance(value, torch.Tensor) else value
            for name, value in state.items()
        }
        return cls(**values)


def _plain(value: Any) -> Any:
    return torch.from_numpy(value) if isinstance(value, np.ndarray) else value


@dataclass(kw_only=True)
class VerificationResult(Result):
    """1:1 on pairs of images or of templates.

    Attributes:
        scores, same: [P], of all pairs.
        accuracy, accuracy_std: NaN where the protocol has none, or no folds.
        accuracy_thresholds: one for each fold; empty without accuracy.
        eer, auc: fractions.
        fars, tars, thresholds: [K]; NaN where the FAR is not resolvable.
        interpolation: of the TARs, see :func:`.tar_at_far`.
        folds: [P], the fold of each pair, if the accuracy is exact over folds.
        identity_a, identity_b: int [P], whom the images of a pair show, numbered
            from 0; None where that is not known.
    """

    protocol: ClassVar[str] = '1:1'

    scores: Floats
    same: npt.NDArray[np.bool_]
    accuracy: float = float('nan')
    accuracy_std: float = float('nan')
    accuracy_thresholds: Floats = field(default_factory=_unknown)
    eer: float
    auc: float
    fars: Floats
    tars: Floats
    thresholds: Floats
    interpolation: str = 'exact'
    folds: Ints | None = None
    identity_a: Ints | None = None
    identity_b: Ints | None = None

    @property
    def num_same(self) -> int:
        return int(np.count_nonzero(self.same))

    @property
    def num_different(self) -> int:
        return len(self.same) - self.num_same

    def _figures(self) -> dict[str, float]:
        """``accuracy``, ``accuracy_std``, ``eer``, ``auc``, ``tar@far=1e-03`` …"""
        figures = {'accuracy': self.accuracy, 'accuracy_std': self.accuracy_std}
        figures = {name: x for name, x in figures.items() if not np.isnan(x)}
        figures |= {'eer': self.eer, 'auc': self.auc}
        for far, tar in zip(self.fars, self.tars, strict=True):
            figures[f'tar@far={rate_name(far)}'] = float(tar)
        return figures


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

    galleries: list[str]
    subjects: Ints
    mate_scores: Floats
    mate_ranks: Ints
    best_others: Floats
    ranks: Ints
    fpirs: Floats
    rank_rates: Floats = field(default_factory=_unknown)
    tpirs: Floats = field(default_factory=_unknown)
    gallery_tpirs: Floats = field(default_factory=_unknown)
    thresholds: Floats = field(default_factory=_unknown)
    cmc: Floats = field(default_factory=_unknown)
    curve_fpirs: Floats = field(default_factory=_unknown)
    curve_tpirs: Floats = field(default_factory=_unknown)
    threshold: str = 'exact'
    merged: bool = False
    impostors: Floats = field(default_factory=_unknown)
    impostor_probes: Ints = field(default_factory=lambda: np.empty(0, np.int64))

    def _figures(self) -> dict[str, float]:
        """``rank-1`` …, ``tpir@fpir=1e-02`` …"""
        figures = {
            f'rank-{rank}': float(rate)
            for rank, rate in zip(self.ranks, self.rank_rates, strict=True)
        }
        for fpir, tpir in zip(self.fpirs, self.tpirs, strict=True):
            figures[f'tpir@fpir={rate_name(fpir)}'] = float(tpir)
        return figures


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

    distractors: Ints
    used: Ints
    ranks: Ints
    fars: Floats
    rates: Floats = field(default_factory=_unknown)
    tars: Floats = field(default_factory=_unknown)
    thresholds: Floats = field(default_factory=_unknown)
    subjects: Ints
    mate_scores: Floats
    mate_ranks: Ints
    impostors: Floats
    impostor_subjects: Ints
    num_impostors: Ints

    def _figures(self) -> dict[str, float]:
        """``rank-1@1000000`` …, ``tar@far=1e-06`` …"""
        figures = {
            f'rank-{rank}@{count}': float(self.rates[row, column])
            for row, count in enumerate(self.distractors)
            for column, rank in enumerate(self.ranks)
        }
        for far, tar in zip(self.fars, self.tars, strict=True):
            figures[f'tar@far={rate_name(far)}'] = float(tar)
        return figures
