"""Products of matrices against cv2.resize, on bytes."""

import cv2
import numpy as np
import pytest
import torch
from deployables import crops

from mmhyperface.datasets.transforms import LoadFace
from mmhyperface.deployment.module import resizing


@pytest.mark.parametrize('new', [28, 32, 56, 64, 80, 96, 100, 111, 113, 128, 144, 224])
def test_as_loading(new):
    images = crops(2, (112, 112))
    load = LoadFace(new)
    expected = np.stack([load.transform(dict(img=image))['img'] for image in images])
    pixels = torch.from_numpy(images).permute(0, 3, 1, 2).float()
    got = resizing(112, new)(pixels).permute(0, 2, 3, 1).numpy()
    wrong = abs(got - expected)
    assert wrong.max() <= 1
    exact = new in (28, 32, 56, 64, 80, 96)
    assert (wrong > 0).mean() <= (0 if exact else 0.001 if new < 112 else 0.005)


def test_of_extremes():
    """Nothing below 0 or above 255 comes out of noise, or of a white picture."""
    noise = np.random.default_rng(0).choice([0, 255], (1, 112, 112, 3)).astype(np.uint8)
    for images in (noise, np.full_like(noise, 255)):
        pixels = torch.from_numpy(images).permute(0, 3, 1, 2).float()
        for new in (48, 64, 160):
            got = resizing(112, new)(pixels).numpy()
            assert got.min() >= 0
            assert got.max() <= 255
            way = cv2.INTER_AREA if new < 112 else cv2.INTER_LINEAR
            expected = cv2.resize(images[0], (new, new), interpolation=way)
            assert abs(got[0].transpose(1, 2, 0) - expected).max() <= 1
