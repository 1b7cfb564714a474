"""What the command line tools are made of, and what users of the package call."""

from typing import TYPE_CHECKING

from mmhyperface.extras import importing

if TYPE_CHECKING:
    from mmhyperface.inference import FaceInferencer as FaceInferencer

    from .launch import Overrides as Overrides
    from .launch import argument_parser as argument_parser
    from .launch import build_runner as build_runner
    from .launch import config_from as config_from
    from .launch import count_classes as count_classes
    from .launch import dataset_config as dataset_config
    from .launch import load_config as load_config
    from .launch import report_errors as report_errors
    from .launch import require_checkpoint as require_checkpoint
    from .launch import require_entries as require_entries
    from .model import get_model as get_model
    from .model import read_convention as read_convention
    from .places import require_file as require_file
    from .places import require_folder as require_folder
    from .testing import is_recogniser as is_recogniser
    from .testing import save_features as save_features
    from .testing import take_test_sets as take_test_sets
    from .testing import type_name as type_name

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

if not TYPE_CHECKING:
    __getattr__, __dir__ = importing(__name__, _PLACES)
