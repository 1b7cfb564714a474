"""Images that cannot be used, and the account of those that were passed over."""

import numpy as np
import torch

from mmhyperface.utils.errors import UserError


class DamagedImage(UserError):
    """An image, or its record, that cannot be used; the message says which and why."""


class Skipped:
    """Which images have been passed over, in memory that all workers share.

    Args:
        count: Number of images.
    """

    def __init__(self, count: int) -> None:
        # A bit each; two workers that write to one byte at once may lose one of two.
        self.bits = torch.zeros(-(-count // 8), dtype=torch.uint8).share_memory_()

    def add(self, number: int) -> None:
        self.bits[number // 8] |= 1 << number % 8

    def numbers(self) -> np.ndarray:
        """The images, ascending int64."""
        return np.flatnonzero(np.unpackbits(self.bits.numpy(), bitorder='little'))
