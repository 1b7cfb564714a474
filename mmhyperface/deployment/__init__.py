"""Trained networks in the clients that people run: export, and the proof of parity.

The clients are in :mod:`.clients`, the proof in :mod:`.parity`; neither is needed to
read an exported model.
"""

from typing import TYPE_CHECKING

from mmhyperface.utils.optional_imports import importing

if TYPE_CHECKING:
    from .onnx_export import export_onnx as export_onnx
    from .targets import TARGETS as TARGETS
    from .targets import Target as Target
    from .targets import plan as plan
    from .torch_export import export_torch as export_torch

_PLACES = {
    'TARGETS': '.targets',
    'Target': '.targets',
    'export_onnx': '.onnx_export',
    'export_torch': '.torch_export',
    'plan': '.targets',
}

__all__ = list(_PLACES)

if not TYPE_CHECKING:
    __getattr__, __dir__ = importing(__name__, _PLACES)
