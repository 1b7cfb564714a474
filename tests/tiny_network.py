"""The smallest network that is one: SFNet-4 for images of 32 x 32, untrained."""

from typing import Any

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
