"""Trained networks in the clients that people run: export, and the proof of parity.

The clients are in :mod:`.clients`, the proof in :mod:`.parity`; neither is needed to
read an exported model.
"""

from .onnx_export import export_onnx
from .targets import TARGETS, Target, plan
from .torch_export import export_torch

__all__ = ['TARGETS', 'Target', 'export_onnx', 'export_torch', 'plan']
