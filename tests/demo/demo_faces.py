"""A network of chance and pictures for it."""

from pathlib import Path

import cv2
import numpy as np
import torch
from mmengine.config import Config
from tiny_network import BACKBONE, SIZE

from mmhyperface.apis import get_model
from mmhyperface.datasets import SyntheticFaces
from mmhyperface.inference import TorchNetwork
from mmhyperface.models.recognizers import FaceRecognizer
from mmhyperface.weights.convention import OperatingPoint

CONFIGS = Path(__file__).parent.parent.parent / 'configs'
THRESHOLD = 0.5
POINTS = (OperatingPoint('drawn', 0.01, THRESHOLD, 0.9, 1000),)


def checkpoint(path: Path, points: tuple[OperatingPoint, ...] = POINTS) -> str:
    """A checkpoint of the quickstart's kind, small and untrained, with thresholds."""
    cfg = Config.fromfile(CONFIGS / 'sphereface2_quickstart.py')
    cfg.model.backbone = BACKBONE
    cfg.model.head.in_channels = 8
    torch.manual_seed(0)
    model = get_model(cfg, None, 'cpu')
    _centre(model)
    metadata = {
        **model.convention.to_dict(),
        'operating_points': [vars(x) for x in points],
    }
    content = {'state_dict': model.state_dict(), 'meta': {'convention': metadata}}
    torch.save(content, path)
    return str(path)


@torch.inference_mode()
def _centre(model: FaceRecognizer) -> None:
    """Else all embeddings of a network of chance point the same way."""
    drawn = SyntheticFaces(10, 2, image_size=SIZE)
    faces = [drawn.get_data_info(i)['img'] for i in range(len(drawn))]
    network = TorchNetwork(model)
    mean = torch.from_numpy(network.embed(np.stack(faces)).mean(0))
    last = [x for x in model.backbone.modules() if isinstance(x, torch.nn.Linear)][-1]
    # An embedding is a sum of two, of an image and its mirror image.
    last.bias -= mean / 2


def picture(path: Path, person: int, number: int) -> str:
    """A drawn face in a file."""
    drawn = SyntheticFaces(person + 1, number + 1, image_size=SIZE)
    image = drawn.get_data_info(person * (number + 1) + number)['img']
    assert cv2.imwrite(str(path), image)
    return str(path)
