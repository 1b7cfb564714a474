"""Networks as ONNX files that clients run as they are."""

import inspect
import io
import warnings
from pathlib import Path
from typing import Any

import torch

from mmhyperface.inference.exported_metadata import KEY, Graph, to_json
from mmhyperface.models.recognizers import FaceRecognizer
from mmhyperface.utils.atomic_files import new_files
from mmhyperface.utils.choices import OPSET
from mmhyperface.utils.errors import UserError
from mmhyperface.utils.optional_imports import require
from mmhyperface.version import __version__

from .graph import halve, scales, simplified, with_telling_names, without_identities
from .module import Deployable
from .targets import plan

# What an ONNX file can hold.
MOST_BYTES = 2**31


def export_onnx(
    model: FaceRecognizer,
    path: str | Path,
    target: str = 'onnxruntime',
    batch: int | None = None,
    precision: str = 'fp32',
    preprocessing: str | None = None,
    opset: int = OPSET,
    simplify: bool = True,
    overwrite: bool = False,
) -> Graph:
    """Write a network to an ONNX file with its convention.

    The graph takes ``input``, float32 [B, 3, H, W], and gives ``embedding``, float32
    [B, D], mirror images fused and not normalised.

    Args:
        model: Of :func:`mmhyperface.apis.get_model`; it stays as it is.
        path: Of the file.
        target, batch, precision, preprocessing: See :func:`.plan`.
        opset: Of ONNX, 13 or newer.
        simplify: Let onnxslim fold and remove what it can.
        overwrite: Replace a file.

    Returns:
        How the graph is to be fed.

    Raises:
        UserError: If the client does not allow it, a library is missing, torch cannot
            export the network, or the file cannot be written.
    """
    if target == 'torch-export':
        raise UserError(f'{path}: torch-export is no ONNX; take export_torch')
    if opset < OPSET:
        raise UserError(f'opset (--opset) is a number from {OPSET} on, got {opset}')
    graph = plan(model.convention, target, batch, precision, preprocessing)
    require('onnx', 'export')
    inside = preprocessing != 'outside'
    deployable = Deployable(model, graph, inside)
    _require_small(deployable, path)
    onnx_model = _traced(deployable, graph, opset)
    without_identities(onnx_model)
    with_telling_names(onnx_model)
    if simplify:
        onnx_model = simplified(onnx_model)
    if precision == 'fp16':
        halve(onnx_model)
    if target == 'insightface' and scales(onnx_model) != inside:
        raise UserError(
            f'{path}: insightface would scale pixels in another way than this graph; '
            "export with target='onnxruntime', --target onnxruntime"
        )
    _describe(onnx_model, model, graph)
    with new_files([str(path)], overwrite) as (file,):
        file.write(onnx_model.SerializeToString())
    return graph


def _require_small(deployable: Deployable, path: str | Path) -> None:
    size = sum(each.numel() * 4 for each in deployable.state_dict().values())
    if size >= MOST_BYTES:
        raise UserError(
            f'{path}: the weights are {size / 2**30:.1f} GiB, and an ONNX file holds '
            'less than 2; take export_torch, --target torch-export'
        )


def _traced(deployable: Deployable, graph: Graph, opset: int) -> Any:
    # The newer exporter takes far longer, and OpenCV cannot read its graphs.
    options: dict[str, Any] = {}
    if 'dynamo' in inspect.signature(torch.onnx.export).parameters:
        options['dynamo'] = False
    names = ['input'], ['embedding']
    if graph.batch is None:
        options['dynamic_axes'] = {x: {0: 'batch'} for (x,) in names}
    images = torch.zeros(graph.batch or 2, 3, *graph.size)
    file: Any = io.BytesIO()
    try:
        with warnings.catch_warnings(), torch.no_grad():
            # Of its successor, and of checks of shapes, which are constant.
            warnings.simplefilter('ignore')
            torch.onnx.export(
                deployable,
                (images,),
                file,
                opset_version=opset,
                input_names=names[0],
                output_names=names[1],
                **options,
            )
    except (RuntimeError, ValueError, TypeError) as error:
        told = str(error).strip().splitlines()[0]
        raise UserError(
            f'torch {torch.__version__} cannot export this network in opset {opset}: '
            f'{told}. Perhaps another opset does (--opset 17), or torch-export'
        ) from None
    return require('onnx', 'export').load_model_from_string(file.getvalue())


def _describe(onnx_model: Any, model: FaceRecognizer, graph: Graph) -> None:
    onnx = require('onnx', 'export')
    onnx_model.producer_name = 'mmhyperface'
    onnx_model.producer_version = __version__
    scale = 'RGB pixels from 0 to 255'
    if any(graph.mean) or graph.std != (1.0, 1.0, 1.0):
        scale = f'({graph.channel_order} - {graph.mean}) / {graph.std}'
    onnx_model.doc_string = (
        f'Face embeddings for {graph.target}: aligned crops, {graph.size[0]} x '
        f'{graph.size[1]} (height x width), {scale}; mirror images fused: '
        f'{model.convention.flip_fusion}.'
    )
    properties = {KEY: to_json(model.convention, graph)}
    onnx.helper.set_model_props(onnx_model, properties)
    onnx.checker.check_model(onnx_model)
