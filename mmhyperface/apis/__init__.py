"""What the command line tools are made of, and what users of the package call."""

from typing import TYPE_CHECKING

from mmhyperface.utils.optional_imports import importing

if TYPE_CHECKING:
    from mmhyperface.engine.launch import Overrides as Overrides
    from mmhyperface.engine.launch import argument_parser as argument_parser
    from mmhyperface.engine.launch import build_runner as build_runner
    from mmhyperface.engine.launch import config_from as config_from
    from mmhyperface.engine.launch import count_classes as count_classes
    from mmhyperface.engine.launch import dataset_config as dataset_config
    from mmhyperface.engine.launch import load_config as load_config
    from mmhyperface.engine.launch import report_errors as report_errors
    from mmhyperface.engine.launch import require_checkpoint as require_checkpoint
    from mmhyperface.engine.launch import require_entries as require_entries
    from mmhyperface.engine.testing import is_recogniser as is_recogniser
    from mmhyperface.engine.testing import save_features as save_features
    from mmhyperface.engine.testing import take_test_sets as take_test_sets
    from mmhyperface.engine.testing import type_name as type_name
    from mmhyperface.inference import FaceInferencer as FaceInferencer
    from mmhyperface.inference.model import get_model as get_model
    from mmhyperface.inference.model import read_convention as read_convention
    from mmhyperface.utils.paths import require_file as require_file
    from mmhyperface.utils.paths import require_folder as require_folder

_PLACES = {
    'FaceInferencer': 'mmhyperface.inference',
    'Overrides': 'mmhyperface.engine.launch',
    'argument_parser': 'mmhyperface.engine.launch',
    'build_runner': 'mmhyperface.engine.launch',
    'config_from': 'mmhyperface.engine.launch',
    'count_classes': 'mmhyperface.engine.launch',
    'dataset_config': 'mmhyperface.engine.launch',
    'get_model': 'mmhyperface.inference.model',
    'is_recogniser': 'mmhyperface.engine.testing',
    'load_config': 'mmhyperface.engine.launch',
    'read_convention': 'mmhyperface.inference.model',
    'report_errors': 'mmhyperface.engine.launch',
    'require_checkpoint': 'mmhyperface.engine.launch',
    'require_entries': 'mmhyperface.engine.launch',
    'require_file': 'mmhyperface.utils.paths',
    'require_folder': 'mmhyperface.utils.paths',
    'save_features': 'mmhyperface.engine.testing',
    'take_test_sets': 'mmhyperface.engine.testing',
    'type_name': 'mmhyperface.engine.testing',
}

__all__ = list(_PLACES)

if not TYPE_CHECKING:
    __getattr__, __dir__ = importing(__name__, _PLACES)
