"""What users of the package call: a trained model, its inference, a training."""

from typing import TYPE_CHECKING

from mmhyperface.utils.optional_imports import importing

if TYPE_CHECKING:
    from mmhyperface.engine.launch import build_runner as build_runner
    from mmhyperface.engine.launch import count_classes as count_classes
    from mmhyperface.engine.launch import load_config as load_config
    from mmhyperface.gallery import FaceGallery as FaceGallery
    from mmhyperface.inference import FaceInferencer as FaceInferencer
    from mmhyperface.inference.loading import get_model as get_model

_PLACES = {
    'FaceGallery': 'mmhyperface.gallery',
    'FaceInferencer': 'mmhyperface.inference',
    'build_runner': 'mmhyperface.engine.launch',
    'count_classes': 'mmhyperface.engine.launch',
    'get_model': 'mmhyperface.inference.loading',
    'load_config': 'mmhyperface.engine.launch',
}
# What programs may still import from here; ours take it from where it is.
_MOVED = {
    'mmhyperface.engine.launch': 'config_from require_checkpoint require_entries',
    'mmhyperface.engine.testing': 'is_recogniser save_features take_test_sets',
    'mmhyperface.inference.loading': 'read_convention',
    'mmhyperface.utils.command_line': 'Overrides argument_parser report_errors',
    'mmhyperface.utils.configs': 'dataset_config type_name',
    'mmhyperface.utils.paths': 'require_file require_folder',
}

__all__ = list(_PLACES)

if not TYPE_CHECKING:
    _moved = {name: place for place, names in _MOVED.items() for name in names.split()}
    __getattr__, __dir__ = importing(__name__, {**_PLACES, **_moved})
