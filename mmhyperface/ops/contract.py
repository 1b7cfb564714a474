"""What the engines expect of those they work for."""

from typing import Protocol

from torch import Tensor

Context = dict[str, Tensor]
"""What else a loss needs about a sample: tensors [B, 1] or [1, 1], by name."""


class Loss(Protocol):
    """A loss as the engines see it: the terms of classes other than the own.

    Attributes:
        additive: Whether the terms of a sample are summed; else their log-sum-exp is
            taken.
    """

    additive: bool

    def others(self, cos: Tensor, context: Context) -> Tensor:
        """Terms, [B, c], of cosines to any c classes: an elementwise function."""


class SkippedSteps(Protocol):
    """The steps that rows have missed while sampling passed them by."""

    def make_up(self, index: Tensor, rows: Tensor, velocity: Tensor | None) -> None:
        """Apply them to copies of some rows and of their momentum, in place."""

    def stepped(self, index: Tensor) -> None:
        """Take note of rows that have made up for them and taken their step."""


class Reduction(Protocol):
    """Sums and maxima over the ranks that share the classes."""

    def sum(self, x: Tensor) -> Tensor:
        """The sum, with its gradient."""

    def max(self, x: Tensor) -> Tensor:
        """The maximum, without a gradient."""
