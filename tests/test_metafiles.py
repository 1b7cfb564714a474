"""What model-index.yml tells of the configs is what they are."""

from collections import Counter
from pathlib import Path

import pytest
import yaml
from mmengine.config import Config
from runs import CONFIGS, ROOT

INDEX = yaml.safe_load((ROOT / 'model-index.yml').read_text())
METAFILES = [yaml.safe_load((ROOT / path).read_text()) for path in INDEX['Import']]
COLLECTIONS = [entry for file in METAFILES for entry in file['Collections']]
MODELS = [entry for file in METAFILES for entry in file['Models']]
FACTS = ('Training Data', 'Architecture', 'Batch Size')


def test_each_config_is_told_of_once():
    assert sorted(ROOT / path for path in INDEX['Import']) == sorted(
        (CONFIGS / 'metafiles').iterdir()
    )
    leaves = sorted(path.stem for path in CONFIGS.glob('*.py'))
    assert sorted(model['Name'] for model in MODELS) == leaves


def test_mim_finds_each_config_by_its_name():
    """It looks for a file of this name in all folders, and refuses two of them."""
    count = Counter(path.name for path in CONFIGS.rglob('*.py'))
    for model in MODELS:
        assert model['Config'] == f'configs/{model["Name"]}.py'
        assert count[Path(model['Config']).name] == 1


def test_each_collection_has_a_paper_and_its_code():
    names = [collection['Name'] for collection in COLLECTIONS]
    assert len(set(names)) == len(names)
    assert {model['In Collection'] for model in MODELS} == set(names)
    for collection in COLLECTIONS:
        assert set(collection['Paper']) == {'Title', 'URL'}
        assert (ROOT / collection['Code']).is_file()


@pytest.mark.parametrize('model', MODELS, ids=lambda model: model['Name'])
def test_facts_are_those_of_the_config(model):
    cfg, facts = Config.fromfile(ROOT / model['Config']), model['Metadata']
    unit, length = 'Iterations', cfg.train_cfg.get('max_iters')
    if cfg.train_cfg.by_epoch:
        unit, length = 'Epochs', cfg.train_cfg.max_epochs
    assert set(facts) == {*FACTS, unit, 'Training Resources', 'Status'}
    assert facts[unit] == length
    processes = int(facts['Training Resources'].split()[0])
    assert facts['Batch Size'] == processes * cfg.train_dataloader.batch_size
    if 'GPU' in facts['Training Resources']:
        assert facts['Batch Size'] == cfg.auto_scale_lr.base_batch_size
    network = cfg.model.backbone
    assert facts['Architecture'].startswith(f'{network.type}-{network.depth}')
    # No results without a run, and no weights, for none are published.
    assert ('Results' in model) == (facts['Status'] == 'run')
    assert 'Weights' not in model
    code = {entry['Name']: entry['Code'] for entry in COLLECTIONS}
    source = (ROOT / code[model['In Collection']]).read_text()
    assert f'class {cfg.model.head.loss.type}' in source


def test_results_are_those_of_the_readme():
    readme = (ROOT / 'README.md').read_text()
    for model in MODELS:
        for result in model.get('Results', []):
            figures = [
                f'{value:.2f}' if model['Name'].endswith('quickstart') else f'{value}'
                for value in result['Metrics'].values()
            ]
            assert any(
                all(f'| {figure} ' in line for figure in figures)
                for line in readme.splitlines()
            ), model['Name']
