"""What stands for the images of a batch beside their pixels."""

from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import torch
from mmpretrain.structures import DataSample
from torch import Tensor

from mmhyperface.utils.errors import UserError


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


def labels_of(samples: Sequence[DataSample] | FaceSamples) -> Tensor | None:
    """The label of each sample, int64 [B]; None if some have not one.

    Raises:
        UserError: If labels are mixed.
    """
    if isinstance(samples, FaceSamples):
        return samples.gt_label
    if any('gt_score' in sample for sample in samples):
        raise UserError(
            'HypersphereHead: mixed labels (gt_score) have no class centre of their '
            'own; train without Mixup and CutMix: leave '
            'model.train_cfg.augments out'
        )
    labels = [sample.get('gt_label') for sample in samples]
    if not labels or any(y is None or y.numel() != 1 for y in labels):
        return None
    return torch.cat(labels)


def image_numbers(batch: Any) -> list[int]:
    """Numbers of the images of a batch in their data set, -1 if they have none.

    Args:
        batch: As the data loader gives it. What is no dict has no images.
    """
    if not isinstance(batch, dict):
        return []
    if 'sample_idx' in batch:
        return [int(number) for number in batch['sample_idx']]
    samples = batch.get('data_samples', ())
    return [int(sample.get('sample_idx', -1)) for sample in samples]
