"""Trained networks in the clients that people run: export, and the proof of parity.

The clients are in :mod:`.clients`, the proof in :mod:`.parity`; neither is needed to
read an exported model.
"""

from mmhyperface.extras import importing

_PLACES = {
    'TARGETS': '.targets',
    'Target': '.targets',
    'export_onnx': '.onnx_export',
    'export_torch': '.torch_export',
    'plan': '.targets',
}

__all__ = list(_PLACES)

__getattr__ = importing(__name__, _PLACES)
