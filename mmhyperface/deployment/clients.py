"""The real clients, driven as their users drive them.

They get no help: each is opened with the file alone, prepares the pixels itself and
compares embeddings with its own function where it has one.
"""

from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch

from mmhyperface.inference.detection import opencv_errors_only
from mmhyperface.inference.exported_metadata import Graph
from mmhyperface.inference.networks import ExportedNetwork, OnnxNetwork, as_input
from mmhyperface.utils.errors import UserError
from mmhyperface.utils.optional_imports import require


class Client(ABC):
    """A client with an exported model.

    Attributes:
        graph: What the file tells of itself.
        crop_size: (height, width) of the crops it takes.
    """

    graph: Graph

    @property
    def crop_size(self) -> tuple[int, int]:
        return self.graph.size

    @abstractmethod
    def embed(self, crops: np.ndarray) -> np.ndarray:
        """Embeddings, float32 [B, D], of crops, uint8 [B, H, W, 3] BGR."""

    def cosine(self, a: np.ndarray, b: np.ndarray) -> float:
        """Of two embeddings [D]; here of clients that have no function for it."""
        return float(a @ b / (np.linalg.norm(a) * np.linalg.norm(b)))


class _Batched(Client):
    """Clients that run whole batches."""

    def embed(self, crops: np.ndarray) -> np.ndarray:
        size = self.graph.batch or len(crops)
        rest = -len(crops) % size
        filled = np.concatenate([crops, np.repeat(crops[-1:], rest, axis=0)])
        parts = [
            self._run(filled[start : start + size])
            for start in range(0, len(filled), size)
        ]
        return np.concatenate(parts)[: len(crops)]

    @abstractmethod
    def _run(self, crops: np.ndarray) -> np.ndarray: ...


class OnnxruntimeClient(_Batched):
    """``onnxruntime.InferenceSession``."""

    def __init__(self, path: str | Path) -> None:
        network = OnnxNetwork(path, 'cpu')
        self.graph, self.session = network.graph, network.session

    def _run(self, crops: np.ndarray) -> np.ndarray:
        return self.session.run(None, {'input': as_input(crops, self.graph)})[0]


class OpencvDnnClient(_Batched):
    """``cv2.dnn.readNetFromONNX``.

    Args:
        engine: One of ``cv2.dnn.ENGINE_...``, where OpenCV has them.
    """

    def __init__(self, path: str | Path, engine: int | None = None) -> None:
        self.graph = graph_of(path)
        options = [] if engine is None else [engine]
        self.net = cv2.dnn.readNetFromONNX(str(path), *options)

    def _run(self, crops: np.ndarray) -> np.ndarray:
        graph = self.graph
        height, width = graph.size
        blob: Any = cv2.dnn.blobFromImages(
            list(crops), 1.0, (width, height), swapRB=graph.channel_order == 'RGB'
        )
        if any(graph.mean) or graph.std != (1.0, 1.0, 1.0):
            mean, std = (
                np.array(values, np.float32).reshape(3, 1, 1)
                for values in (graph.mean, graph.std)
            )
            blob = (blob - mean) / std
        self.net.setInput(blob)
        # The next run may write to the same memory.
        return self.net.forward().copy()


class OpencvSfaceClient(Client):
    """``cv2.FaceRecognizerSF``, one crop at a time."""

    def __init__(self, path: str | Path) -> None:
        self.graph = graph_of(path)
        with opencv_errors_only():
            self.recognizer = cv2.FaceRecognizerSF.create(str(path), '')

    def embed(self, crops: np.ndarray) -> np.ndarray:
        return np.concatenate([self.recognizer.feature(x).copy() for x in crops])

    def cosine(self, a: np.ndarray, b: np.ndarray) -> float:
        way = cv2.FaceRecognizerSF_FR_COSINE
        return float(self.recognizer.match(a[None], b[None], way))


class InsightfaceClient(_Batched):
    """``insightface.model_zoo.arcface_onnx.ArcFaceONNX``."""

    def __init__(self, path: str | Path) -> None:
        self.graph = graph_of(path)
        # It brings a module of this name, and the file of that class in it.
        zoo = require('insightface.model_zoo.arcface_onnx', 'test')
        self.recognizer = zoo.ArcFaceONNX(str(path))
        self.recognizer.prepare(ctx_id=-1)

    def _run(self, crops: np.ndarray) -> np.ndarray:
        return self.recognizer.get_feat(list(crops))

    def cosine(self, a: np.ndarray, b: np.ndarray) -> float:
        return float(self.recognizer.compute_sim(a, b))


class TorchExportClient(_Batched):
    """``torch.export.load``."""

    def __init__(self, path: str | Path) -> None:
        network = ExportedNetwork(path, 'cpu')
        self.graph, self.program = network.graph, network.module

    @torch.inference_mode()
    def _run(self, crops: np.ndarray) -> np.ndarray:
        return self.program(torch.from_numpy(as_input(crops, self.graph))).numpy()


#: By target.
CLIENTS: dict[str, type[Any]] = {
    'onnxruntime': OnnxruntimeClient,
    'opencv-dnn': OpencvDnnClient,
    'opencv-sface': OpencvSfaceClient,
    'insightface': InsightfaceClient,
    'torch-export': TorchExportClient,
}


def open_client(target: str, path: str | Path) -> Client:
    """The client of a target with a file.

    Raises:
        UserError: If the client is not installed, or the file is none of ours.
    """
    try:
        return CLIENTS[target](path)
    except cv2.error as error:
        told = str(error).strip().splitlines()[0]
        raise UserError(f'OpenCV cannot read {path}: {told}') from None


def graph_of(path: str | Path) -> Graph:
    """What an ONNX file tells of itself.

    Raises:
        UserError: If it is none of ours.
    """
    return OnnxNetwork(path, 'cpu').graph
