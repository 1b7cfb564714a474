"""What stands for the images of a batch beside their pixels."""

from collections.abc import Iterator
from functools import cached_property
from typing import Any

import numpy as np
import torch
from mmpretrain.structures import DataSample
from torch import Tensor


class FaceSamples:
    """The data samples of a batch, which are made only if they are asked for.

    Training needs no more than the labels, and a hundred objects for each batch would
    have to be made, and sent from a worker to the main process.

    Args:
        sample_idx: Numbers of the images in their data set, int64 [B].
        gt_label: Their labels, int64 [B], if they have any.
    """

    def __init__(
        self, sample_idx: Tensor | np.ndarray, gt_label: Tensor | np.ndarray | None
    ) -> None:
        self.sample_idx = torch.as_tensor(sample_idx)
        self.gt_label = None if gt_label is None else torch.as_tensor(gt_label)

    @cached_property
    def _samples(self) -> list[DataSample]:
        numbers = self.sample_idx.tolist()
        samples = [DataSample(metainfo={'sample_idx': number}) for number in numbers]
        if self.gt_label is not None:
            for sample, label in zip(samples, self.gt_label, strict=True):
                sample.set_gt_label(label)
        return samples

    def __len__(self) -> int:
        return len(self.sample_idx)

    def __iter__(self) -> Iterator[DataSample]:
        return iter(self._samples)

    def __getitem__(self, which: int | slice) -> Any:
        return self._samples[which]
