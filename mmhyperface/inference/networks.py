"""One interface to a network, whatever runs it: torch, onnxruntime, torch.export."""

import warnings
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.config import Config
from torch import Tensor

from mmhyperface.inference.model import get_model, require_device
from mmhyperface.models.recognizers import FaceRecognizer
from mmhyperface.utils.errors import UserError
from mmhyperface.utils.optional_imports import require
from mmhyperface.weights.convention import Convention

from .exported_metadata import KEY, PT2_FILE, Graph, from_json


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

    @abstractmethod
    def _embed(self, crops: np.ndarray) -> np.ndarray:
        """Likewise, of B > 0 crops that fit."""


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


class _GraphNetwork(EmbeddingNetwork):
    """What exported graphs have in common."""

    graph: Graph

    def _embed(self, crops: np.ndarray) -> np.ndarray:
        size = self.graph.batch or len(crops)
        parts = [
            self._of_batch(crops[start : start + size], size)
            for start in range(0, len(crops), size)
        ]
        return np.concatenate(parts)

    def _of_batch(self, crops: np.ndarray, size: int) -> np.ndarray:
        """A fixed batch is filled up with black, whose embeddings are dropped."""
        inputs = as_input(crops, self.graph)
        if len(inputs) < size:
            shape = (size - len(inputs), *inputs.shape[1:])
            inputs = np.concatenate([inputs, np.zeros(shape, np.float32)])
        return self._run(inputs)[: len(crops)]

    @abstractmethod
    def _run(self, inputs: np.ndarray) -> np.ndarray: ...


class OnnxNetwork(_GraphNetwork):
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
        self.source = str(path)
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
            told = str(error).splitlines()[0]
            raise UserError(
                f'{path} is no ONNX model that onnxruntime can run: {told}'
            ) from None
        told = self.session.get_modelmeta().custom_metadata_map.get(KEY)
        if told is None:
            raise UserError(
                f'{path} is not one of our exported models: it does not tell the size, '
                'order and scale of its pixels. tools/deployment/export.py makes those '
                'that do'
            )
        self.convention, self.graph = from_json(told, str(path))
        self.crop_size = self.graph.size
        self.input_name = self.session.get_inputs()[0].name

    def _run(self, inputs: np.ndarray) -> np.ndarray:
        return self.session.run(None, {self.input_name: inputs})[0]


class ExportedNetwork(_GraphNetwork):
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
        self.source = str(path)
        _require_file(path)
        extra = {PT2_FILE: ''}
        try:
            with warnings.catch_warnings():
                warnings.simplefilter('ignore')
                program = torch.export.load(str(path), extra_files=extra)
        except Exception as error:  # it is a zip file of many parts
            told = str(error).splitlines()[0]
            raise UserError(
                f'{path} is no program of torch.export that torch {torch.__version__} '
                f'can load: {told}'
            ) from None
        if not extra[PT2_FILE]:
            raise UserError(
                f'{path} is not one of our exported models: it does not tell the size, '
                'order and scale of its pixels'
            )
        self.convention, self.graph = from_json(extra[PT2_FILE], str(path))
        self.crop_size = self.graph.size
        self.device = require_device(device)
        self.module: Any = program.module().to(self.device)

    @torch.inference_mode()
    def _run(self, inputs: np.ndarray) -> np.ndarray:
        outputs: Tensor = self.module(torch.from_numpy(inputs).to(self.device))
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
    if _is_config(model):
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


def _is_config(model: Any) -> bool:
    if not isinstance(model, str | Path):
        return isinstance(model, Config)
    return '::' in str(model) or Path(model).suffix in ('.py', '.json', '.yaml', '.yml')


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
