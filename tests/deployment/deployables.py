"""Tiny networks with weights that a mistake cannot hide behind, and what they give."""

import copy
import dataclasses

import cv2
import numpy as np
import pytest
import torch
from tiny_network import BACKBONE, build
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
    """By hand, in float64: fused embeddings [B, D] of BGR crops."""
    told = model.convention
    if images.shape[1:3] != told.input_size:
        images = reduced(images, told.input_size)
    if told.channel_order == 'RGB':
        images = images[..., ::-1]
    inputs = (images.astype(np.float64) - told.mean) / told.std
    if model.backbone.in_channels == 1:
        luma = np.array([0.299, 0.587, 0.114])
        inputs = inputs @ (luma if told.channel_order == 'RGB' else luma[::-1])[:, None]
    inputs = inputs.transpose(0, 3, 1, 2)
    backbone = copy.deepcopy(model.backbone).double()
    with torch.no_grad():
        one, other = (
            backbone(torch.from_numpy(np.ascontiguousarray(x)))[-1].numpy()
            for x in (inputs, inputs[..., ::-1])
        )
    if told.flip_fusion == 'concat':
        return np.concatenate([one, other], axis=1)
    return one + other if told.flip_fusion == 'sum' else one


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
