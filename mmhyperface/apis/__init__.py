from typing import TYPE_CHECKING, Any

from .launch import (
    argument_parser,
    build_runner,
    config_from,
    count_classes,
    dataset_config,
    load_config,
    report_errors,
    require_checkpoint,
)
from .model import get_model, read_convention
from .places import require_file, require_folder
from .testing import is_recogniser, save_features, take_test_sets, type_name

if TYPE_CHECKING:
    from mmhyperface.inference import FaceInferencer

__all__ = [
    'FaceInferencer',
    'argument_parser',
    'build_runner',
    'config_from',
    'count_classes',
    'dataset_config',
    'get_model',
    'is_recogniser',
    'load_config',
    'read_convention',
    'report_errors',
    'require_checkpoint',
    'require_file',
    'require_folder',
    'save_features',
    'take_test_sets',
    'type_name',
]


def __getattr__(name: str) -> Any:
    # Not imported before somebody asks: the inferencer is built on this package.
    if name == 'FaceInferencer':
        from mmhyperface.inference import FaceInferencer

        return FaceInferencer
    raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
