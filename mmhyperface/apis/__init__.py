from .launch import build_runner, count_classes, load_config, report_errors

__all__ = ['build_runner', 'count_classes', 'load_config', 'report_errors']
