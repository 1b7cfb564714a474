"""Tiny networks with weights that a mistake cannot hide behind, and what they give."""

import copy
import dataclasses

import cv2
import numpy as np
import pytest
import torch
from tiny_network import BACKBONE, build, by_hand
from torch import nn

MEAN, STD = (120.0, 110.0, 131.0), (127.5, 60.0, 128.0)


def require_torch_export():
    """Skip the test where torch has none for any batch."""
    if not hasattr(torch.export, 'Dim'):
        pytest.skip('torch.export is too old')


def network(backbone=BACKBONE, flip_fusion='sum', to_rgb=True, mean=MEAN, std=STD):
    """As of ``get_model``, with unequal means and norms of the channels."""
    model = build(
        backbone=dict(backbone),
        flip_fusion=flip_fusion,
        data_preprocessor=dict(
            type='FaceDataPreprocessor', mean=mean, std=std, to_rgb=to_rgb
        ),
    )
    for module in model.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            module.running_mean.normal_(std=0.3)
            module.running_var.uniform_(0.5, 1.5)
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.3)
        elif isinstance(module, nn.PReLU):
            nn.init.uniform_(module.weight, 0.1, 0.6)
        elif isinstance(module, nn.Conv2d | nn.Linear):
            nn.init.kaiming_normal_(module.weight)
    return model


def crops(count, size, seed=0):
    """Blurred noise, uint8 [count, *size, 3]."""
    rng = np.random.default_rng(seed)
    noise = rng.integers(0, 256, (count, *size, 3)).astype(np.float32)
    smooth = np.stack([cv2.GaussianBlur(image, (0, 0), 2) for image in noise])
    return ((smooth - 127) * 5 + 127).clip(0, 255).round().astype(np.uint8)


def reduced(images, size):
    return np.stack([cv2.resize(x, size[::-1], interpolation=3) for x in images])


def oracle(model, images):
    """Fused embeddings [B, D] of BGR crops of any size, in float64."""
    size = model.convention.input_size
    if images.shape[1:3] != size:
        images = reduced(images, size)
    return by_hand(model, images)


def difference(got, expected):
    assert got.shape == expected.shape
    assert got.dtype == np.float32
    return float(
        (
            np.linalg.norm(got - expected, axis=1) / np.linalg.norm(expected, axis=1)
        ).max()
    )


def with_convention(model, **changes):
    """A copy that tells another convention, of the same weights."""
    other = copy.deepcopy(model)
    other.convention = dataclasses.replace(model.convention, **changes)
    return other
