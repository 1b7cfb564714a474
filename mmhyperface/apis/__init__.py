"""What the command line tools are made of, and what users of the package call."""

from mmhyperface.extras import importing

_PLACES = {
    'FaceInferencer': 'mmhyperface.inference',
    'Overrides': '.launch',
    'argument_parser': '.launch',
    'build_runner': '.launch',
    'config_from': '.launch',
    'count_classes': '.launch',
    'dataset_config': '.launch',
    'get_model': '.model',
    'is_recogniser': '.testing',
    'load_config': '.launch',
    'read_convention': '.model',
    'report_errors': '.launch',
    'require_checkpoint': '.launch',
    'require_entries': '.launch',
    'require_file': '.places',
    'require_folder': '.places',
    'save_features': '.testing',
    'take_test_sets': '.testing',
    'type_name': '.testing',
}

__all__ = list(_PLACES)

__getattr__ = importing(__name__, _PLACES)
