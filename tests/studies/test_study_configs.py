"""Every study of the repository: its runs have configs that runners are built of."""

import itertools
import json

import pytest
from mmengine.config import Config
from mmengine.registry import init_default_scope
from runs import CONFIGS

from mmhyperface.registry import DATASETS, HOOKS, MODELS
from mmhyperface.studies import read_study
from mmhyperface.studies.grid import Run
from mmhyperface.studies.runs import logged

STUDIES = sorted((CONFIGS / 'studies').glob('*.py'))
FILES = {path.stem: Config.fromfile(path).to_dict() for path in STUDIES}
ALL = [(name, base) for name, file in FILES.items() for base in file['bases']]


def sets_of(cfg: Config) -> set[str]:
    """Names of the sets that a config verifies on."""
    dataset = cfg.val_dataloader.dataset
    names = dataset.get('names') or [one.name for one in dataset.get('datasets', [])]
    names = list(names) or [dataset.get('name', 'synthetic')]
    return {*names, *(['combined'] if dataset.get('combined') else [])}


@pytest.mark.parametrize(('name', 'base'), ALL)
def test_every_run_has_a_config(name, base, tmp_path):
    study = read_study(str(CONFIGS / 'studies' / f'{name}.py'), tmp_path, base, [0])
    number = len(list(itertools.product(*FILES[name]['axes'].values())))
    assert len({run.folder for run in study.runs}) == len(study.runs) == number
    configs = set()
    for run in study.runs:
        cfg = run.config
        init_default_scope(cfg.default_scope)
        configs.add((cfg.dump(), run.processes))
        loss = MODELS.build(cfg.model.head.loss)
        assert type(loss).__name__ == cfg.model.head.loss.type
        for hook in cfg.get('custom_hooks', []):
            HOOKS.build(hook)
            assert 'm' in loss.margins
        for part in (cfg.train_dataloader.dataset, cfg.val_dataloader.dataset):
            assert DATASETS.get(part.type)
        noise = cfg.train_dataloader.dataset
        if noise.type == 'LabelNoise':
            assert DATASETS.get(noise.dataset.type)
        # It validates at the end, where its figures come from.
        length = cfg.train_cfg.get('max_iters') or cfg.train_cfg.max_epochs
        assert cfg.train_cfg.val_interval <= length
        assert cfg.param_scheduler
        tested = sets_of(cfg) | set(run.test_sets)
        for figure in study.figures:
            first = figure.partition('.')[0]
            assert first in tested | {'last', 'median', 'max'}, figure
    # No two runs of a study are the same.
    assert len(configs) == number


@pytest.mark.parametrize('name', [name for name in FILES if 'published' in FILES[name]])
def test_each_published_figure_has_a_place(name, tmp_path):
    """Its row and column exist, and a base measures that figure."""
    file = FILES[name]
    rows, columns = file['table']['rows'], file['table'].get('columns')
    figures = file['table']['figures']
    measured = figures
    if isinstance(figures, dict):
        measured = [figure for some in figures.values() for figure in some]
    for row, cells in file['published'].items():
        assert row in file['axes'][rows]
        for column, values in cells.items() if columns else [('', cells)]:
            assert column in file['axes'].get(columns, [''])
            for figure, value in values.items():
                assert figure in measured
                assert 0 < value < 100


def test_angles_are_of_the_log(tmp_path):
    """They have lines of their own; validations, which count epochs, are left out."""
    folder = tmp_path / 'once' / 'vis_data'
    folder.mkdir(parents=True)
    lines = (
        dict(loss=2.0, time=0.1, iter=5, step=5),
        {'angles/own_clean_mean': 60.0, 'step': 5},
        {'lfw/accuracy': 0.5, 'data_time': 0.1, 'time': 0.1, 'step': 1},
    )
    text = '\n'.join(map(json.dumps, lines))
    (folder / 'scalars.json').write_text(text)
    run = Run({}, 0, tmp_path, Config(), None, ())
    (step, line), *others = logged(run).items()
    assert not others
    assert step == 5
    assert (line['loss'], line['angles/own_clean_mean']) == (2.0, 60.0)
