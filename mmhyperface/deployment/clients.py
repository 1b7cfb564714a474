"""The real clients, driven as their users drive them.

They get no help: each is opened with the file alone, prepares the pixels itself and
compares embeddings with its own function where it has one.
"""

from pathlib import Path
from typing import Any

import cv2
import numpy as np

from mmhyperface.inference.backends import (
    EmbeddingNetwork,
    ExportedNetwork,
    GraphNetwork,
    OnnxNetwork,
)
from mmhyperface.inference.detection import opencv_errors_only
from mmhyperface.utils.errors import UserError, first_line
from mmhyperface.utils.optional_imports import require


class OnnxClient(GraphNetwork):
    """A client that is given an ONNX file.

    Args:
        path: Of the file.

    Raises:
        UserError: If it is none of ours.
    """

    def __init__(self, path: str | Path) -> None:
        network = OnnxNetwork(path, 'cpu')
        self.source, self.graph = network.source, network.graph
        self.convention, self.crop_size = network.convention, network.crop_size


class OpencvDnnClient(OnnxClient):
    """``cv2.dnn.readNetFromONNX``.

    Args:
        path: Of the file.
        engine: One of ``cv2.dnn.ENGINE_...``, where OpenCV has them.
    """

    def __init__(self, path: str | Path, engine: int | None = None) -> None:
        super().__init__(path)
        options = [] if engine is None else [engine]
        self.net = cv2.dnn.readNetFromONNX(str(path), *options)

    def _run(self, crops: np.ndarray) -> np.ndarray:
        graph = self.graph
        height, width = graph.size
        blob: Any = cv2.dnn.blobFromImages(
            list(crops), 1.0, (width, height), swapRB=graph.channel_order == 'RGB'
        )
        mean, std = (
            np.array(values, np.float32).reshape(3, 1, 1)
            for values in (graph.mean, graph.std)
        )
        self.net.setInput((blob - mean) / std)
        # The next run may write to the same memory.
        return self.net.forward().copy()


class OpencvSfaceClient(OnnxClient):
    """``cv2.FaceRecognizerSF``, one crop at a time."""

    def __init__(self, path: str | Path) -> None:
        super().__init__(path)
        with opencv_errors_only():
            self.recognizer = cv2.FaceRecognizerSF.create(str(path), '')

    def _run(self, crops: np.ndarray) -> np.ndarray:
        return np.concatenate([self.recognizer.feature(x).copy() for x in crops])

    def cosine(self, a: np.ndarray, b: np.ndarray) -> float:
        way = cv2.FaceRecognizerSF_FR_COSINE
        return float(self.recognizer.match(a[None], b[None], way))


class InsightfaceClient(OnnxClient):
    """``insightface.model_zoo.arcface_onnx.ArcFaceONNX``."""

    def __init__(self, path: str | Path) -> None:
        super().__init__(path)
        # It brings a module of this name, and the file of that class in it.
        zoo = require('insightface.model_zoo.arcface_onnx', 'test')
        self.recognizer = zoo.ArcFaceONNX(str(path))
        self.recognizer.prepare(ctx_id=-1)

    def _run(self, crops: np.ndarray) -> np.ndarray:
        return self.recognizer.get_feat(list(crops))

    def cosine(self, a: np.ndarray, b: np.ndarray) -> float:
        return float(self.recognizer.compute_sim(a, b))


def open_client(target: str, path: str | Path) -> EmbeddingNetwork:
    """The client of a target with a file.

    Raises:
        UserError: If the client is not installed, or the file is none of ours.
    """
    if target == 'onnxruntime':
        return OnnxNetwork(path, 'cpu')
    if target == 'torch-export':
        return ExportedNetwork(path, 'cpu')
    kind = {
        'opencv-dnn': OpencvDnnClient,
        'opencv-sface': OpencvSfaceClient,
        'insightface': InsightfaceClient,
    }[target]
    try:
        return kind(path)
    except cv2.error as error:
        raise UserError(f'OpenCV cannot read {path}: {first_line(error)}') from None
