"""Networks as ONNX files that clients run as they are."""

import inspect
import io
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mmhyperface.inference.exported_metadata import KEY, Graph, to_json
from mmhyperface.models.recognizers import FaceRecognizer
from mmhyperface.utils.atomic_files import new_files
from mmhyperface.utils.choices import OPSET
from mmhyperface.utils.errors import UserError, first_line
from mmhyperface.utils.optional_imports import require
from mmhyperface.version import __version__

from .module import Deployable
from .targets import plan

# What an ONNX file can hold.
MOST_BYTES = 2**31
# insightface's ArcFaceONNX looks for these at the start of the names of nodes.
PREPROCESSING_NAMES = ('Sub', '_minus', 'Mul', '_mul')
_LOOKED_AT = 8
STD_NODE = 'Mul_std'
_NAMES = {
    '/prepare/Sub': 'Sub_mean',
    '/prepare/Mul': STD_NODE,
    # Where crops are enlarged first, the one above comes too late.
    '/prepare/resize/MatMul': 'Mul_columns',
}
# Its second and further inputs are sizes, which stay in single precision.
_SIZED = ('Resize', 'Upsample')


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
    remove_identities(onnx_model)
    name_preprocessing(onnx_model)
    if simplify:
        onnx_model = simplified(onnx_model)
    if precision == 'fp16':
        to_half_precision(onnx_model)
    if target == 'insightface' and has_preprocessing(onnx_model) != inside:
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
        raise UserError(
            f'torch {torch.__version__} cannot export this network in opset {opset}: '
            f'{first_line(error)}. Perhaps another opset does (--opset 17), or '
            'torch-export'
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


# ---- what is done to a graph after torch has written it


def remove_identities(model: Any) -> None:
    """Let weights be used by their own names.

    torch names weights that are there twice, which OpenCV's new engine does not take
    for constants; and onnxslim would make them two.
    """
    graph = model.graph
    outputs = {output.name for output in graph.output}
    known: dict[str, str] = {}
    kept = []
    for node in graph.node:
        for place, name in enumerate(node.input):
            node.input[place] = known.get(name, name)
        if node.op_type == 'Identity' and node.output[0] not in outputs:
            known[node.output[0]] = node.input[0]
        else:
            kept.append(node)
    del graph.node[:]
    graph.node.extend(kept)


def name_preprocessing(model: Any) -> None:
    """Name the nodes of the preprocessing as insightface knows them, and no others."""
    for number, node in enumerate(model.graph.node):
        if node.name in _NAMES:
            node.name = _NAMES[node.name]
        elif not node.name or node.name.startswith(PREPROCESSING_NAMES):
            node.name = f'node_{number}_{node.op_type}'


def has_preprocessing(model: Any) -> bool:
    """Whether insightface takes the preprocessing for part of the graph."""
    names = [node.name for node in model.graph.node[:_LOOKED_AT]]
    return any(name.startswith(PREPROCESSING_NAMES[:2]) for name in names) and any(
        name.startswith(PREPROCESSING_NAMES[2:]) for name in names
    )


def simplified(model: Any) -> Any:
    """The model as onnxslim makes it; the same if that lost the preprocessing's names.

    Raises:
        UserError: If there is no onnxslim.
    """
    slim = require('onnxslim', 'export').slim(model)
    before, after = ({node.name for node in m.graph.node} for m in (model, slim))
    lost = STD_NODE in before and STD_NODE not in after
    return (
        model if lost or has_preprocessing(model) != has_preprocessing(slim) else slim
    )


def to_half_precision(model: Any) -> None:
    """Bring weights to half precision; input, preprocessing and output stay.

    Raises:
        UserError: If a weight is too large for it.
    """
    onnx = require('onnx', 'export')
    graph = model.graph
    entry = next(
        (node.output[0] for node in graph.node if node.name == STD_NODE),
        graph.input[0].name,
    )
    before, after = _split(graph, entry)
    kept = {name for node in before for name in node.input}
    kept |= {x for n in after if n.op_type in _SIZED for x in n.input[1:]}
    halved = {
        weight.name
        for weight in graph.initializer
        if weight.data_type == onnx.TensorProto.FLOAT and weight.name not in kept
    }
    for weight in graph.initializer:
        if weight.name in halved:
            weight.CopyFrom(_to_half(weight))
        elif weight.data_type == onnx.TensorProto.FLOAT and _used(after, weight.name):
            raise UserError(
                f'the weight {weight.name} is used by the preprocessing as well; '
                "export with precision='fp32', --precision fp32"
            )
    for node in after:
        _attributes_to_half(node)
        for place, name in enumerate(node.input):
            if name == entry:
                node.input[place] = f'{entry}_fp16'
    output = graph.output[0].name
    for node in after:
        for names in (node.input, node.output):
            for place, name in enumerate(names):
                if name == output:
                    names[place] = f'{output}_fp16'
    cast, kinds = onnx.helper.make_node, onnx.TensorProto
    down = cast('Cast', [entry], [f'{entry}_fp16'], 'Cast_fp16', to=kinds.FLOAT16)
    up = cast('Cast', [f'{output}_fp16'], [output], 'Cast_fp32', to=kinds.FLOAT)
    del graph.node[:]
    graph.node.extend([*before, down, *after, up])
    # Types of what is in between are others now.
    del graph.value_info[:]


def _split(graph: Any, entry: str) -> tuple[list, list]:
    """The nodes that a tensor needs, and the others."""
    makers = {name: node for node in graph.node for name in node.output}
    needed: set[str] = set()
    waiting = [entry]
    while waiting:
        node = makers.get(waiting.pop())
        if node is not None and node.name not in needed:
            needed.add(node.name)
            waiting.extend(node.input)
    before = [node for node in graph.node if node.name in needed]
    return before, [node for node in graph.node if node.name not in needed]


def _used(nodes: list, name: str) -> bool:
    return any(name in node.input for node in nodes if node.op_type not in _SIZED)


def _to_half(tensor: Any) -> Any:
    numpy_helper = require('onnx.numpy_helper', 'export')
    values = numpy_helper.to_array(tensor)
    if np.abs(values).max(initial=0) > np.finfo(np.float16).max:
        raise UserError(
            f'the weight {tensor.name} has values up to {np.abs(values).max():.3g}, '
            "too large for half precision; export with precision='fp32', --precision "
            'fp32'
        )
    return numpy_helper.from_array(values.astype(np.float16), tensor.name)


def _attributes_to_half(node: Any) -> None:
    onnx = require('onnx', 'export')
    for attribute in node.attribute:
        if node.op_type == 'Cast' and attribute.name == 'to':
            if attribute.i == onnx.TensorProto.FLOAT:
                attribute.i = onnx.TensorProto.FLOAT16
        elif attribute.t.data_type == onnx.TensorProto.FLOAT:
            attribute.t.CopyFrom(_to_half(attribute.t))
