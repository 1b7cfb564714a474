"""Logged figures that leave the device when somebody looks at them."""

from typing import Any

import numpy as np
import torch
from mmengine.logging import HistoryBuffer, MessageHub
from torch import Tensor


class DeferredHistory(HistoryBuffer):
    """mmengine's ``HistoryBuffer`` that waits for no device before it is read.

    Then all figures since the last time take one copy. What is copied into a
    checkpoint is mmengine's.

    Attributes:
        overflows: Whether steps may overflow and be skipped, which have no figures:
            then the mean is that of the others, if there are any.
    """

    overflows = False

    def __init__(self, *args: Any) -> None:
        self._waiting: list[tuple[Tensor | float, int]] = []
        self._fetched: np.ndarray
        self._count_history: np.ndarray
        super().__init__(*args)

    @property
    def latest(self) -> Tensor | float:
        """The last figure, maybe still on its device."""
        return self._waiting[-1][0] if self._waiting else super().current()

    def update(self, log_val: Tensor | float, count: int = 1) -> None:
        """Add a figure: a number, or a tensor of one that nobody changes."""
        if isinstance(log_val, Tensor):
            log_val = log_val.detach()  # else its graph would wait, too
        self._waiting.append((log_val, count))

    def current(self) -> Any:
        """The last figure."""
        latest = self.latest
        return super().current() if isinstance(latest, Tensor) else latest

    def mean(self, window_size: int | None = None) -> Any:
        """The mean of the last figures, see ``overflows``."""
        if self.overflows:
            values = self._log_history[-(window_size or self.max_length) :]
            finite = values[np.isfinite(values)]
            if 0 < len(finite) < len(values):
                return finite.mean()
        return super().mean(window_size)

    # mmengine's methods read this one first.
    @property
    def _log_history(self) -> np.ndarray:
        if self._waiting:
            values, counts = zip(*self._waiting, strict=True)
            self._waiting = []
            tensors = [x.flatten() for x in values if isinstance(x, Tensor)]
            fetched = iter(torch.cat(tensors).tolist() if tensors else ())
            numbers = [next(fetched) if isinstance(x, Tensor) else x for x in values]
            keep = slice(-self.max_length, None)
            self._fetched = np.append(self._fetched, numbers)[keep]
            self._count_history = np.append(self._count_history, counts)[keep]
        return self._fetched

    @_log_history.setter
    def _log_history(self, values: np.ndarray) -> None:
        self._fetched = values

    def __reduce__(self) -> tuple:
        return HistoryBuffer, (*self.data, self.max_length)


def defer(hub: MessageHub) -> None:
    """Let the figures of training that a hub has be deferred from now on."""
    for name, history in hub.log_scalars.items():
        if type(history) is HistoryBuffer and name.startswith('train/'):
            deferred = DeferredHistory(*history.data, history.max_length)
            hub.log_scalars[name] = deferred


def log_scalar(hub: MessageHub, name: str, value: Tensor | float) -> None:
    """``hub.update_scalar``, without a wait for the device where it is deferred."""
    history = hub.log_scalars.get(name)
    if isinstance(history, DeferredHistory):
        history.update(value)
    else:
        hub.update_scalar(name, value)
