"""Losses that were written before there was a :class:`.Batch` work as they are.

Then a loss had ``context(own, norm)``, ``observe(own, norm)`` and
``objective(data_term, norm, centres)``, its psi and eta took the cosine alone, and
margins were read from the loss itself.
"""

import functools
import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from .batch import Batch


def takes_batch(method: Callable) -> Callable:
    """A method whose last argument is a batch, written or called in either way."""
    name = method.__name__
    of_centres = name == 'objective'
    former = len(inspect.signature(method).parameters) > (3 if of_centres else 2)

    @functools.wraps(method)
    def call(self: Any, *args: Any) -> Any:
        *first, last = args
        if former and isinstance(last, Batch):
            rest = (last.norm, last.centres) if of_centres else (last.own, last.norm)
            args = (*first, *rest)
        elif not former and not isinstance(last, Batch):
            if of_centres:
                data_term, norm = first
                unknown = torch.full_like(norm, torch.nan)
                args = data_term, Batch(unknown, norm, centres=last)
            else:
                args = (Batch(*args),)
        result = method(self, *args)
        if former and name == 'context':
            # The class that it is derived from reads its margins there.
            return {**Batch(*args).constants(self, self.margins), **result}
        return result

    return call


def takes_context(function: Callable) -> Callable:
    """A characteristic function that is called with a context."""
    if len(inspect.signature(function).parameters) > 2:
        return function

    @functools.wraps(function)
    def call(self: Any, cos: Tensor, context: object = None) -> Tensor:
        return function(self, cos)

    return call


ADAPTED = {
    'context': takes_batch,
    'observe': takes_batch,
    'objective': takes_batch,
    'psi': takes_context,
    'eta': takes_context,
}
