"""The smallest network that is one: SFNet-4 for images of 32 x 32, untrained."""

import copy
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from mmengine.config import Config

from mmhyperface.apis import get_model
from mmhyperface.models.recognizers import FaceRecognizer

SIZE, DIMENSIONS = 32, 8
BACKBONE = dict(
    type='SFNet',
    depth=4,
    widths=(4, 4, 8, 8),
    input_size=SIZE,
    embedding_size=DIMENSIONS,
)


def config(**model: Any) -> Config:
    """Of a recognizer without head; `model` overrides its entries."""
    return Config({'model': dict(type='FaceRecognizer', backbone=BACKBONE) | model})


def build(**model: Any) -> FaceRecognizer:
    """With the same random weights each time."""
    torch.manual_seed(0)
    return get_model(config(**model), None, 'cpu')


def by_hand(model: FaceRecognizer, images: Sequence[np.ndarray]) -> np.ndarray:
    """Fused embeddings [B, D] of BGR crops [B, H, W, 3], in float64."""
    message = model.convention
    if message.channel_order == 'RGB':
        images = np.asarray(images)[..., ::-1]
    inputs = (np.asarray(images, np.float64) - message.mean) / message.std
    if model.backbone.in_channels == 1:
        luma = np.array([0.299, 0.587, 0.114])
        inputs = (
            inputs @ (luma if message.channel_order == 'RGB' else luma[::-1])[:, None]
        )
    inputs = inputs.transpose(0, 3, 1, 2)
    backbone = copy.deepcopy(model.backbone).double()
    with torch.no_grad():
        one, other = (
            backbone(torch.from_numpy(np.ascontiguousarray(x)))[-1].numpy()
            for x in (inputs, inputs[..., ::-1])
        )
    if message.flip_fusion == 'concat':
        return np.concatenate([one, other], axis=1)
    return one + other if message.flip_fusion == 'sum' else one
