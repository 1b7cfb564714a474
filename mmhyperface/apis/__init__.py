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
from .places import require_file, require_folder
from .testing import save_features, take_test_sets, type_name

__all__ = [
    'argument_parser',
    'build_runner',
    'config_from',
    'count_classes',
    'dataset_config',
    'load_config',
    'report_errors',
    'require_checkpoint',
    'require_file',
    'require_folder',
    'save_features',
    'take_test_sets',
    'type_name',
]
