"""From crops to embeddings, whatever runs the network.

One interface to torch, onnxruntime and torch.export; the clients in
:mod:`mmhyperface.deployment.clients` have it, too.
"""

import warnings
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.config import Config
from torch import Tensor

from mmhyperface.models.recognizers import FaceRecognizer
from mmhyperface.utils.errors import UserError, first_line
from mmhyperface.utils.optional_imports import require
from mmhyperface.weights.convention import Convention

from .exported_metadata import KEY, PT2_FILE, Graph, from_json
from .loading import get_model, require_device


class EmbeddingNetwork(ABC):
    """Takes crops and gives embeddings.

    Attributes:
        source: Where it comes from, for messages.
        convention: What it carries.
        crop_size: (height, width) of the crops it takes. Some exports take larger ones
            than ``convention.input_size`` and reduce them.
    """

    source: str
    convention: Convention
    crop_size: tuple[int, int]

    def embed(self, crops: np.ndarray) -> np.ndarray:
        """Fused embeddings, not normalised, float32 [B, D].

        Args:
            crops: uint8 [B, H, W, 3], BGR, of `crop_size`.

        Raises:
            UserError: For crops of another kind or size.
        """
        crops = np.asarray(crops)
        wanted = (*self.crop_size, 3)
        if crops.dtype != np.uint8 or crops.ndim != 4 or crops.shape[1:] != wanted:
            raise UserError(
                f'{self.source} takes crops uint8 [B, {wanted[0]}, {wanted[1]}, 3], '
                f'got {crops.dtype} {list(crops.shape)}'
            )
        if not len(crops):
            return np.empty((0, self.convention.embedding_size), np.float32)
        return self._embed(crops)

    def cosine(self, a: np.ndarray, b: np.ndarray) -> float:
        """The score of two embeddings [D]; clients may have a function of their own."""
        a, b = a.astype(np.float64), b.astype(np.float64)
        return float(a @ b / (np.linalg.norm(a) * np.linalg.norm(b)))

    @abstractmethod
    def _embed(self, crops: np.ndarray) -> np.ndarray:
        """Embeddings of B > 0 crops of the right size."""


class TorchNetwork(EmbeddingNetwork):
    """A model of :func:`get_model`.

    Args:
        model: In evaluation mode, with its ``convention``.
        source: For messages.

    Raises:
        UserError: If it has none.
    """

    def __init__(self, model: FaceRecognizer, source: str = 'the model') -> None:
        if getattr(model, 'convention', None) is None:
            raise UserError(f'{source} tells no convention; take get_model')
        self.model = model
        self.source = source
        self.convention = model.convention
        self.crop_size = self.convention.input_size

    @torch.inference_mode()
    def _embed(self, crops: np.ndarray) -> np.ndarray:
        images = torch.from_numpy(np.ascontiguousarray(crops)).permute(0, 3, 1, 2)
        inputs = self.model.data_preprocessor({'inputs': images})['inputs']
        return self.model.embed(inputs).cpu().numpy()


class GraphNetwork(EmbeddingNetwork):
    """What runs an exported graph, which may take a fixed number of crops alone.

    Attributes:
        graph: How it is to be fed.
    """

    graph: Graph

    def _embed(self, crops: np.ndarray) -> np.ndarray:
        size = self.graph.batch or len(crops)
        # A fixed batch is filled up with black, whose embeddings are dropped.
        rest = np.zeros((-len(crops) % size, *crops.shape[1:]), np.uint8)
        filled = np.concatenate([crops, rest])
        parts = [
            self._run(filled[start : start + size])
            for start in range(0, len(filled), size)
        ]
        return np.concatenate(parts)[: len(crops)]

    @abstractmethod
    def _run(self, crops: np.ndarray) -> np.ndarray:
        """Embeddings of a whole batch of crops, float32 [B, D]."""


class OnnxNetwork(GraphNetwork):
    """An ONNX model of ``tools/deployment/export.py``, on onnxruntime.

    Args:
        path: Of the file.
        device: ``cpu`` or ``cuda``.
        threads: Of onnxruntime; by default as many as it takes.

    Raises:
        UserError: If it is no ONNX model, or does not tell its convention.
    """

    def __init__(
        self,
        path: str | Path,
        device: str | torch.device | None = None,
        threads: int | None = None,
    ) -> None:
        onnxruntime = require('onnxruntime', 'export')
        _require_file(path)
        options = onnxruntime.SessionOptions()
        if threads is not None:
            options.intra_op_num_threads = threads
        try:
            self.session: Any = onnxruntime.InferenceSession(
                str(path), options, providers=_providers(onnxruntime, device)
            )
        except UserError:
            raise
        except Exception as error:  # onnxruntime has a class for each fault
            raise UserError(
                f'{path} is no ONNX model that onnxruntime can run: {first_line(error)}'
            ) from None
        metadata = self.session.get_modelmeta().custom_metadata_map.get(KEY)
        if metadata is None:
            raise UserError(
                f'{path} is not one of our exported models: it does not tell the size, '
                'order and scale of its pixels. tools/deployment/export.py makes those '
                'that do'
            )
        self.source = str(path)
        self.convention, self.graph = from_json(metadata, self.source)
        self.crop_size = self.graph.size
        self.input_name = self.session.get_inputs()[0].name

    def _run(self, crops: np.ndarray) -> np.ndarray:
        return self.session.run(None, {self.input_name: as_input(crops, self.graph)})[0]


class ExportedNetwork(GraphNetwork):
    """A program of ``torch.export``, made by ``tools/deployment/export.py``.

    Args:
        path: Of the ``.pt2`` file.
        device: By default a GPU if there is one.

    Raises:
        UserError: If it is none of ours.
    """

    def __init__(
        self, path: str | Path, device: str | torch.device | None = None
    ) -> None:
        _require_file(path)
        extra = {PT2_FILE: ''}
        try:
            with warnings.catch_warnings():
                warnings.simplefilter('ignore')
                program = torch.export.load(str(path), extra_files=extra)
        except Exception as error:  # it is a zip file of many parts
            raise UserError(
                f'{path} is no program of torch.export that torch {torch.__version__} '
                f'can load: {first_line(error)}'
            ) from None
        if not extra[PT2_FILE]:
            raise UserError(
                f'{path} is not one of our exported models: it does not tell the size, '
                'order and scale of its pixels'
            )
        self.source = str(path)
        self.convention, self.graph = from_json(extra[PT2_FILE], self.source)
        self.crop_size = self.graph.size
        self.device = require_device(device)
        self.module: Any = program.module().to(self.device)

    @torch.inference_mode()
    def _run(self, crops: np.ndarray) -> np.ndarray:
        inputs = torch.from_numpy(as_input(crops, self.graph))
        outputs: Tensor = self.module(inputs.to(self.device))
        return outputs.float().cpu().numpy()


def as_input(crops: np.ndarray, graph: Graph) -> np.ndarray:
    """What a client feeds to a graph: float32 [B, 3, H, W], of BGR crops."""
    images = crops[..., ::-1] if graph.channel_order == 'RGB' else crops
    inputs = np.ascontiguousarray(images.transpose(0, 3, 1, 2), np.float32)
    if any(graph.mean) or graph.std != (1.0, 1.0, 1.0):
        inputs -= np.array(graph.mean, np.float32).reshape(3, 1, 1)
        inputs /= np.array(graph.std, np.float32).reshape(3, 1, 1)
    return inputs


def open_network(
    model: str | Path | FaceRecognizer | EmbeddingNetwork | Config,
    weights: str | Path | None = None,
    device: str | torch.device | None = None,
    config: str | Path | Config | None = None,
) -> EmbeddingNetwork:
    """A network of any kind that we can run.

    Args:
        model: A checkpoint, an exported ``.onnx`` or ``.pt2`` file, a model of
            :func:`get_model`, or a config, with `weights`.
        weights: The checkpoint of a config.
        device: By default a GPU if there is one.
        config: Of a checkpoint that tells no convention.

    Raises:
        UserError: If it is none of these.
    """
    is_config = isinstance(model, Config)
    if isinstance(model, str | Path):
        endings = ('.py', '.json', '.yaml', '.yml')
        is_config = '::' in str(model) or Path(model).suffix in endings
    if is_config:
        name = getattr(model, 'filename', model)
        if weights is None:
            raise UserError(
                f'{name} is a config: give the weights, a checkpoint (weights=...); on '
                'the command line MODEL is the checkpoint, and this --config'
            )
        if config is not None:
            raise UserError(f'{name} is a config: {config} is one too many')
        return TorchNetwork(get_model(model, weights, device), str(weights))
    if weights is not None:
        raise UserError(f'the model has weights of its own: {weights} is too much')
    if not isinstance(model, str | Path):
        return model if isinstance(model, EmbeddingNetwork) else TorchNetwork(model)
    kind = {'.onnx': OnnxNetwork, '.pt2': ExportedNetwork}.get(
        Path(model).suffix.lower()
    )
    if kind is None:
        return TorchNetwork(get_model(config, model, device), str(model))
    if config is not None:
        raise UserError(
            f'{model} tells its convention: leave the config out (--config)'
        )
    return kind(model, device)


def _require_file(path: str | Path) -> None:
    if not Path(path).is_file():
        raise UserError(f'there is no model {path}')


def _providers(onnxruntime: Any, device: str | torch.device | None) -> list[Any]:
    there = onnxruntime.get_available_providers()
    cuda = 'CUDAExecutionProvider'
    wanted, _, number = str(device or '').partition(':')
    if wanted not in ('', 'cpu', 'cuda') or not (number or '0').isdecimal():
        raise UserError(
            f'onnxruntime runs on cpu or cuda here, not on {device} (--device)'
        )
    if wanted == 'cuda' and cuda not in there:
        raise UserError(
            'this onnxruntime has no CUDA: pip install onnxruntime-gpu, or take '
            "device='cpu' (--device cpu)"
        )
    use_cuda = cuda in there and wanted != 'cpu'
    gpu = [(cuda, {'device_id': number or '0'})] if use_cuda else []
    return [*gpu, 'CPUExecutionProvider']
