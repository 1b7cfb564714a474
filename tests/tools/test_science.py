"""The comparison of losses, with runs of a few iterations."""

import json

import numpy as np
import pytest
import science
import science_results
import science_runs
import torch
from rich.console import Console
from science_runs import Run

from mmhyperface.registry import MODELS
from mmhyperface.utils.errors import UserError

TINY = {
    'image_size': 16,
    'widths': (4, 4, 4, 4),
    'embedding_size': 8,
    'people': 5,
    'images': 14,
    'test_people': 4,
    'iterations': 8,
}
SPHEREFACE_R = dict(type='SphereFaceRLoss', version='v1', feature_norm='none')


@pytest.fixture(autouse=True)
def _tiny(monkeypatch):
    monkeypatch.setitem(science_runs.SIZES, 'small', TINY)
    monkeypatch.setattr(science_runs, 'TEST_PAIRS', 40)
    science_runs.people.cache_clear()
    yield
    science_runs.people.cache_clear()


def test_a_run_is_repeated_to_the_last_digit():
    run = Run('noise', 'sface', 'small', dict(type='SFaceLoss'), noise=0.4, seed=3)
    first, again = science_runs.execute(run), science_runs.execute(run)
    assert json.dumps(first) == json.dumps(again)
    assert len(first['loss']) == len(first['grad_norm']) == TINY['iterations']
    assert first['diverged'] is None
    assert {'accuracy', 'eer', 'auc', 'tar@far=1e-02'} <= set(first['figures'])
    clean = science_runs.execute(Run('noise', 'sface', 'small', run.loss, seed=3))
    assert clean['loss'][0] != first['loss'][0]  # other labels


@pytest.mark.parametrize('size', science_runs.SIZES)
def test_networks_of_all_sizes_fit_their_images(size):
    cfg, side = science_runs._config(size), science_runs.SIZES[size]['image_size']
    model = MODELS.build(cfg.model)
    (embedding,) = model.extract_feat(torch.zeros(2, 3, side, side))
    assert embedding.shape == (2, model.head.in_channels)


def test_an_untrained_network_is_tested_on_people_not_trained_on():
    done = science_runs.execute(Run('noise', 'untrained', 'small', None))
    assert done['loss'] == []
    assert 0 <= done['figures']['accuracy'] <= 1
    train, test = science_runs.people('small', 7)
    assert train.first_identity + train.num_identities == test.first_identity
    assert train.seed == test.seed == 7


def test_an_annealed_margin_starts_at_none():
    def loss(m, **options):
        run = Run('stability', 'x', 'small', {**SPHEREFACE_R, 'm': m}, **options)
        return science_runs.execute(run)['loss']

    annealed, final, none = loss(3.0, annealed=True), loss(3.0), loss(1.0)
    assert annealed[0] == none[0] != final[0]


def test_a_run_that_diverges_says_when():
    # An infinite scale gives no number.
    run = Run('noise', 'x', 'small', dict(type='NormFaceLoss', s=1e39), clip=None)
    done = science_runs.execute(run)
    assert done['diverged'] == 1
    assert done['figures'] is None
    assert done['loss'] == []


def test_what_has_been_done_is_not_done_again(tmp_path, monkeypatch):
    run = Run('noise', 'cosface', 'small', dict(type='CosFaceLoss'))
    science._perform(run, tmp_path, stop=0.0)
    assert science.result(tmp_path, run) is None  # time was up
    science._perform(run, tmp_path, stop=None)
    assert len(science.result(tmp_path, run)['loss']) == TINY['iterations']
    monkeypatch.delattr(science, 'ProcessPoolExecutor')
    science.perform([run], tmp_path, 1, None, '')
    monkeypatch.setitem(science_runs.SIZES, 'small', {**TINY, 'iterations': 9})
    with pytest.raises(UserError, match='made with other settings'):
        science.result(tmp_path, run)


def write(folder, run, accuracy):
    path = folder / run.file
    path.parent.mkdir(parents=True, exist_ok=True)
    figures = {'accuracy': accuracy, 'tar@far=1e-02': (accuracy or 0) / 2}
    content = {
        'settings': run.settings(),
        'figures': None if accuracy is None else figures,
        'diverged': 9 if accuracy is None else None,
        'grad_norm': [1.0, 7.0],
    }
    path.write_text(json.dumps(content))


def test_the_best_setting_is_taken(tmp_path):
    settings = science_runs.choices('small', ['CosFace', 'SFace'])
    for loss, accuracies in (
        ('CosFace', (None, 0.7, 0.7, 0.6)),
        ('SFace', (0.9, 0.1, 0.2, 0.3)),
    ):
        for run, accuracy in zip(settings[loss], accuracies, strict=True):
            write(tmp_path, run, accuracy)
    chosen = science.best_settings(tmp_path, settings)
    assert chosen['CosFace'] == dict(type='CosFaceLoss', s=16.0, m=0.35)
    assert chosen['SFace'] == dict(type='SFaceLoss', s=64.0, k=80.0, a=0.87, b=1.2)
    low = science_runs.low_scale(chosen)
    assert low == {
        'CosFace, scale 8': dict(type='CosFaceLoss', s=8.0, m=0.175),
        'SFace, scale 8': dict(type='SFaceLoss', s=8.0, k=20.0, a=0.87, b=1.2),
    }
    assert science_runs.low_scale({'SFace': low['SFace, scale 8']}) == {}
    (tmp_path / settings['SFace'][1].file).unlink()
    with pytest.raises(UserError, match='time was up'):
        science.best_settings(tmp_path, settings)


def test_cells(tmp_path):
    runs = science_runs.stability_runs('small', [0, 1, 2, 3])['v1 hard', 2.5]

    def cell():
        done = science.results(tmp_path, {'a': runs})['a']
        return science_results.cell(done, 'accuracy')

    assert cell() == '(0 of 4 seeds)'
    write(tmp_path, runs[1], None)
    assert cell() == '(1 of 1 diverged) (1 of 4 seeds)'
    write(tmp_path, runs[0], 0.5)
    write(tmp_path, runs[2], 0.6)
    assert np.std([50, 60], ddof=1) == pytest.approx(7.07, abs=0.01)
    assert cell() == '55.0 ± 7.1 (1 of 3 diverged) (3 of 4 seeds)'
    write(tmp_path, runs[3], 0.55)
    assert cell() == '55.0 ± 5.0 (1 of 4 diverged)'


def test_every_planned_run_has_a_file_and_a_loss_of_its_own():
    settings = science_runs.choices('small', list(science_runs.LOSSES))
    chosen = {loss: runs[0].loss for loss, runs in settings.items()}
    runs = science._flat(
        {
            **settings,
            **science_runs.noise_runs('small', chosen, [0, 1]),
            **science_runs.stability_runs('small', [0, 1]),
        }
    )
    assert len({run.file for run in runs}) == len(runs)
    assert len(runs) == (13 * 4 + 3) + 14 * 4 * 2 + 2 + 8 * 3 * 2
    for run in runs:
        assert run.loss is None or MODELS.build(dict(run.loss))


def test_tables_and_pictures(tmp_path):
    noise = science_runs.noise_runs('small', {'SFace': dict(type='SFaceLoss')}, [0, 1])
    stability = science_runs.stability_runs('small', [0, 1])
    for i, run in enumerate(science._flat({**noise, **stability})):
        write(tmp_path, run, 0.5 + i / 1000)
    console = Console(width=300, record=True)
    done = science.results(tmp_path, noise), science.results(tmp_path, stability)
    console.print(science_results.noise_table(done[0]))
    console.print(science_results.stability_table(done[1]))
    text = console.export_text()
    assert '| SFace ' in text
    assert '| v2 soft ' in text
    assert 'seeds)' not in text
    saved = science_results.save_pictures(*done, tmp_path)
    assert [path.name for path in saved] == ['noise.png', 'stability.png']
    assert science_results.save_pictures({}, {}, tmp_path) == []
