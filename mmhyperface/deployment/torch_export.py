"""Networks as programs of torch.export, which torch runs without our code."""

import inspect
import warnings
from pathlib import Path
from typing import Any

import torch

from mmhyperface.inference.exported_metadata import PT2_FILE, Graph, to_json
from mmhyperface.models.recognizers import FaceRecognizer
from mmhyperface.utils.atomic_files import new_files
from mmhyperface.utils.errors import UserError, first_line

from .module import Deployable
from .targets import plan


def export_torch(
    model: FaceRecognizer,
    path: str | Path,
    batch: int | None = None,
    precision: str = 'fp32',
    preprocessing: str | None = None,
    overwrite: bool = False,
) -> Graph:
    """Write a network with its convention to a file for ``torch.export.load``.

    Args:
        model: Of :func:`mmhyperface.apis.get_model`; it stays as it is.
        path: Of the ``.pt2`` file.
        batch, precision, preprocessing: See :func:`.plan`.
        overwrite: Replace a file.

    Returns:
        How the program is to be fed.

    Raises:
        UserError: If torch is too old or cannot export the network, or the file cannot
            be written.
    """
    if Path(path).suffix != '.pt2':
        # torch would only warn.
        raise UserError(f'{path}: a program of torch.export is a .pt2 file')
    graph = plan(model.convention, 'torch-export', batch, precision, preprocessing)
    _require_torch()
    half = precision == 'fp16'
    deployable = Deployable(model, graph, preprocessing != 'outside', half)
    # A batch of one would be taken for a constant.
    images = torch.zeros(graph.batch or 2, 3, *graph.size)
    shapes: Any = None
    if graph.batch is None:
        shapes = {'images': {0: torch.export.Dim('batch')}}
    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter('ignore')
            program = torch.export.export(deployable, (images,), dynamic_shapes=shapes)
    except (RuntimeError, ValueError, TypeError) as error:
        raise UserError(
            f'torch {torch.__version__} cannot export this network: {first_line(error)}'
        ) from None
    _drop_device_checks(program)
    files = {PT2_FILE: to_json(model.convention, graph)}
    with new_files([str(path)], overwrite) as (file,), warnings.catch_warnings():
        warnings.simplefilter('ignore')
        torch.export.save(program, file, extra_files=files)
    return graph


def _drop_device_checks(program: Any) -> None:
    """Without checks that everything is on the CPU, which hold on no GPU."""
    check = torch.ops.aten._assert_tensor_metadata.default
    for node in list(program.graph.nodes):
        if node.target is check:
            program.graph.erase_node(node)
    program.graph_module.recompile()


def _require_torch() -> None:
    export = getattr(torch.export, 'export', None)
    if export and 'dynamic_shapes' in inspect.signature(export).parameters:
        return
    raise UserError(
        f'torch {torch.__version__} is too old to export a program for any batch: '
        'install a newer one, or take --target onnxruntime'
    )
