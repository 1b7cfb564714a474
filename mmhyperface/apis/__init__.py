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

__all__ = [
    'argument_parser',
    'build_runner',
    'config_from',
    'count_classes',
    'dataset_config',
    'load_config',
    'report_errors',
    'require_checkpoint',
]
