"""What a test may change in a config: its test sets, and what is kept of it."""

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mmengine.config import Config, ConfigDict

import mmhyperface
from mmhyperface.utils.configs import metrics_of, type_name
from mmhyperface.utils.errors import UserError
from mmhyperface.utils.paths import require_file

# In a repository a link to its configs.
TEST_SETS = Path(mmhyperface.__file__).parent / '.mim' / 'configs' / 'test_sets'

EVALUATOR = 'FaceEvaluator'


def take_test_sets(cfg: Config, names: Sequence[str]) -> set[str]:
    """Let a config test on these test sets, by the metrics that belong to them.

    The batch size and whatever else its ``test_dataloader`` says of loading stay.

    Args:
        cfg: is changed.
        names: of ``configs/test_sets/NAME.py``, or paths of such files, which have
            ``test_dataloader`` and ``test_evaluator``.

    Returns:
        The folders that these files take for their ``data_root``.

    Raises:
        UserError: If there is no such file, it has no test set, or two of them want a
            metric in two ways.
    """
    parts = [Config.fromfile(_file_of(name)) for name in names]
    datasets: list[dict] = []
    combined: dict[str, list[str]] = {}
    for part in parts:
        for entry in ('test_dataloader', 'test_evaluator'):
            if not part.get(entry):
                raise UserError(
                    f'{part.filename} has no {entry}, which --test-sets needs'
                )
        inner, more = _flat(part.test_dataloader.dataset)
        known = [_bare(dataset) for dataset in datasets]
        datasets += [dataset for dataset in inner if _bare(dataset) not in known]
        combined |= more
    loader = copy.deepcopy(cfg.get('test_dataloader') or parts[0].test_dataloader)
    loader.dataset = ConfigDict(
        type='FaceTestSets', datasets=datasets, combined=combined or None
    )
    cfg.test_dataloader = loader
    cfg.test_evaluator = _union(parts)
    cfg.test_cfg = cfg.get('test_cfg') or {}
    return {part.data_root for part in parts if 'data_root' in part}


def save_features(cfg: Config, path: str, checkpoint: str) -> None:
    """Let the test of a config write all embeddings to a ``.npy`` file.

    Raises:
        UserError: If that file cannot be, or the config has an evaluator of its own.
    """
    from mmhyperface.evaluation.evaluator import FaceEvaluator, require_place
    from mmhyperface.registry import EVALUATORS, is_a

    require_place(Path(path))
    require_file(Path(path).with_suffix('.json'))
    evaluator = cfg.test_evaluator
    options = {}
    if isinstance(evaluator, dict) and 'metrics' in evaluator:
        options = dict(evaluator)
    options.setdefault('type', f'mmhyperface.{EVALUATOR}')
    if not is_a(options, EVALUATORS, FaceEvaluator):
        raise UserError(
            f'{cfg.filename}: {type_name(options)} saves no features; set '
            f'test_evaluator.type=mmhyperface.{EVALUATOR}'
        )
    about = {'config': cfg.filename, 'checkpoint': checkpoint}
    if is_recogniser(cfg):
        about['flip_fusion'] = cfg.model.get('flip_fusion', 'sum')
    cfg.test_evaluator = {
        **options,
        'metrics': metrics_of(evaluator),
        'save_features': path,
        'about_features': about,
    }


def is_recogniser(cfg: Config) -> bool:
    """Whether a config's model is a :class:`FaceRecognizer`, or derived from it."""
    from mmhyperface.models import FaceRecognizer
    from mmhyperface.registry import MODELS, is_a

    return is_a(cfg.model, MODELS, FaceRecognizer)


def _file_of(name: str) -> Path:
    for path in (Path(name), TEST_SETS / f'{name}.py'):
        if path.suffix == '.py' and path.is_file():
            return path
    known = ', '.join(sorted(path.stem for path in TEST_SETS.glob('*.py')))
    raise UserError(
        f'there is no test set {name!r}: expected the path of a config, or one of '
        f'{known or "none"}'
    )


def _flat(dataset: ConfigDict) -> tuple[list[dict], dict[str, list[str]]]:
    """The data sets of a data set, and which test sets are put together."""
    from mmhyperface.datasets import FaceTestSets
    from mmhyperface.registry import DATASETS, is_a

    if not is_a(dataset, DATASETS, FaceTestSets):
        return [dataset], {}
    combined = dataset.get('combined') or {}
    if isinstance(combined, str):
        combined = {combined: [inner.name for inner in dataset.datasets]}
    return list(dataset.datasets), combined


def _bare(node: Any) -> Any:
    """A config without the scopes with which mmengine marks what is inherited."""
    if isinstance(node, dict):
        return {key: _bare(x) for key, x in node.items() if key != '_scope_'}
    if isinstance(node, list | tuple):
        return [_bare(child) for child in node]
    return node


def _union(parts: Sequence[Config]) -> list[dict]:
    metrics: dict[str, tuple[dict, str]] = {}
    for part in parts:
        for metric in metrics_of(part.test_evaluator):
            name = type_name(metric)
            known, source = metrics.setdefault(name, (metric, part.filename))
            if _bare(known) != _bare(metric):
                raise UserError(
                    f'{source} and {part.filename} want {name} with different options; '
                    'test on one after the other'
                )
    return [metric for metric, _ in metrics.values()]
