"""What the protocols have in common: results, and the figures that they give."""

import math
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, fields
from itertools import product
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from ..arrays import Floats, Ints

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# What is said instead of a figure that is NaN: of a rate, or of all figures.
NOT_RESOLVABLE = 'not resolvable'
NOT_FINITE = 'not finite'
# Why a figure has no interval.
FEW_SCORES = 'it would take lower scores than were kept'


@dataclass(frozen=True)
class Unit:
    """How the values of a figure are written.

    Attributes:
        name: stands after the figure's label; none for percent, as tables are headed.
        scale: from a value to what is written.
        digits: after the point.
    """

    name: str = ''
    scale: float = 1
    digits: int = 2

    def text(self, value: float, sign: str = '') -> str:
        """The value as it is written, with its sign in any case if that is ``'+'``."""
        return f'{self.scale * value:{sign}.{self.digits}f}'


PERCENT = Unit(scale=100)
NUMBER = Unit('plain number')


@dataclass(frozen=True)
class FigureOfMerit:
    """A figure of a protocol, or one for each of several rates, ranks or numbers.

    Attributes:
        key: its name in metrics and files. In braces stand attributes of the result, of
            whose values each has a figure: ``'tar@far={fars}'``.
        label: its name in tables, with the same braces.
        values: the attribute that holds it: a number, or an array with a dimension for
            each of ``axes``.
        axes: the attributes in braces, in the order of the dimensions.
        value: what the figure is of these values, if not they themselves.
        optional: left out where it is NaN; others are NaN if they are not resolvable.
        spread: the key of the figure that is only written after it, with ±.
    """

    key: str
    label: str
    values: str
    axes: tuple[str, ...] = ()
    unit: Unit = PERCENT
    lower_is_better: bool = False
    value: Callable[[Any], Any] = np.asarray
    optional: bool = False
    spread: str | None = None

    def named(self, result: 'Result', values: Mapping[str, Any]) -> dict[str, float]:
        """The figure, or figures, by name; none if they are not among the values."""
        if self.values not in values:
            return {}
        numbers = np.ravel(self.value(values[self.values])).tolist()
        places = product(*(getattr(result, axis) for axis in self.axes))
        named = {
            self.key.format(**dict(zip(self.axes, map(_name, place), strict=True))): x
            for place, x in zip(places, numbers, strict=True)
        }
        return {
            name: float(x)
            for name, x in named.items()
            if not (self.optional and math.isnan(x))
        }

    def fits(self, name: str) -> bool:
        return self._places(name) is not None

    def label_of(self, name: str) -> str:
        """The words of a table for one of its names."""
        label = self.label.format(**(self._places(name) or {}))
        return f'{label} ({self.unit.name})' if self.unit.name else label

    def _places(self, name: str) -> dict[str, Any] | None:
        key = re.escape(self.key)
        match = re.fullmatch(re.sub(r'\\\{(\w+)\\\}', r'(?P<\1>[^@=]+)', key), name)
        if match is None:
            return None
        return {k: int(x) if x.isdigit() else x for k, x in match.groupdict().items()}


class Plot(NamedTuple):
    """A picture of a report: ``name`` of its file, title, and who draws it."""

    name: str
    title: str
    draw: 'Callable[[Axes], None]'


@dataclass(kw_only=True)
class Result(ABC):
    """One protocol on one test set: the evidence, and all that follows from it.

    The evidence (scores, ranks) is kept so that figures can be made again with other
    weights for the identities.

    Attributes:
        convention: says in words how the figures were computed.
        counts: what the figures stand on, for instance images and templates.
        finite: False if the embeddings admit no figure (some are zero, NaN or
            infinite, or all are alike): all figures are NaN then, and what they would
            stand on means nothing.
    """

    protocol: ClassVar[str]
    FIGURES: ClassVar[tuple[FigureOfMerit, ...]]

    convention: str
    counts: dict[str, int] = field(default_factory=dict)
    finite: bool = True

    def figures(self) -> dict[str, float]:
        """Figures by name, rates as fractions; NaN where a rate cannot be resolved."""
        values = {x.values: getattr(self, x.values) for x in self.FIGURES}
        known = self._named(values)
        return known if self.finite else dict.fromkeys(known, float('nan'))

    def resampler(self) -> tuple[int, Callable[[Ints], dict[str, float]]] | None:
        """The number I of identities, and a function from weights [I] to figures.

        None where identities are not known.
        """
        if self.unknown_identities() is not None:
            return None
        identities, draw = self._resampler()
        return identities, lambda weights: self._named(draw(weights))

    @abstractmethod
    def _resampler(self) -> tuple[int, Callable[[Ints], dict[str, Any]]]:
        """Likewise, to the attributes that hold the figures."""

    def unknown_identities(self) -> str | None:
        """Why identities are not known, in words; None if they are."""
        return None

    def why_no_interval(self, name: str) -> str:
        """In words, of a figure that is a number, but has no interval."""
        return FEW_SCORES

    @abstractmethod
    def tested(self) -> dict[str, list[Any]]:
        """What has to be equal for a paired comparison, in words."""

    @abstractmethod
    def details(self) -> dict[str, Any]:
        """What a report has besides figures: counts, thresholds, and what is its own.

        Plain data, see :mod:`mmhyperface.evaluation.report.writing`.
        """

    @staticmethod
    @abstractmethod
    def pictures(rows: Mapping[str, Any]) -> Iterator[Plot]:
        """What there is to draw of results of this protocol, by name."""

    def state_dict(self) -> dict[str, Any]:
        """Only tensors, numbers, strings, and dicts and lists of them.

        So it is what ``torch.load`` admits by default.
        """
        return {
            item.name: torch.from_numpy(x) if isinstance(x, np.ndarray) else x
            for item in fields(self)
            for x in [getattr(self, item.name)]
        }

    @classmethod
    def from_state_dict(cls, state: dict[str, Any]) -> 'Result':
        values: dict[str, Any] = {
            name: value.cpu().numpy() if isinstance(value, torch.Tensor) else value
            for name, value in state.items()
        }
        return cls(**values)

    def _named(self, values: Mapping[str, Any]) -> dict[str, float]:
        named: dict[str, float] = {}
        for figure in self.FIGURES:
            named |= figure.named(self, values)
        return named


def unknown() -> Floats:
    """The default of rates that are yet to be computed."""
    return np.empty(0)


def rate_name(rate: float) -> str:
    """``0.005`` as ``'5e-03'``."""
    return np.format_float_scientific(rate, trim='-', exp_digits=2)


def _name(place: Any) -> str:
    return str(place) if isinstance(place, int | np.integer) else rate_name(place)


def finite(value: float) -> float | None:
    """A number as JSON has it: None if it is not finite."""
    return float(value) if math.isfinite(value) else None


def threshold_entry(
    figure: str, value: float, threshold: float, gallery: str | None = None
) -> dict[str, Any]:
    """The operating threshold of a figure, and the rate that it gives."""
    return {
        'figure': figure,
        'gallery': gallery,
        'value': finite(value),
        'threshold': finite(threshold),
    }


def far_thresholds(
    fars: Floats, tars: Floats, thresholds: Floats
) -> list[dict[str, Any]]:
    """Of TAR at each FAR, [K] each."""
    return [
        threshold_entry(f'tar@far={rate_name(far)}', tar, threshold)
        for far, tar, threshold in zip(fars, tars, thresholds, strict=True)
    ]


def above_all(rates: npt.NDArray[np.floating]) -> Floats:
    """Drawn rates, where those of a threshold below the scores that were kept are inf.

    They lie above all others.
    """
    return np.where(np.isnan(rates), np.inf, rates)
