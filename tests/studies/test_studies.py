"""Studies: which runs there are, how they are done, and what their tables say."""

import csv
import json
import math
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from runs import CONFIGS, FORKS, PYTHON_FIRST, ROOT, _script
from scipy import stats

from mmhyperface.registry import MODELS
from mmhyperface.studies import read_study, runs, write_tables
from mmhyperface.studies.tables import Cell, student
from mmhyperface.utils.errors import UserError

PATIENCE = 300
TINY = textwrap.dedent(f"""
    title = 'Two losses'
    bases = dict(
        drawn={str(CONFIGS / 'sphereface2_quickstart.py')!r},
        other={str(CONFIGS / 'sface_quickstart.py')!r},
    )
    overrides = {{
        'model.backbone': dict(
            depth=4, widths=[8, 8, 8, 8], input_size=32, embedding_size=16
        ),
        'model.head': dict(in_channels=16, num_classes=11),
        'train_dataloader': dict(batch_size=8, num_workers=0),
        'train_dataloader.dataset': dict(
            num_identities=11, images_per_identity=4, image_size=32, seed='_seed_'
        ),
        'val_dataloader.num_workers': 0,
        'val_dataloader.dataset': dict(
            num_identities=9, images_per_identity=3, image_size=32, num_pairs=40,
            first_identity=11, seed='_seed_',
        ),
        'train_cfg': dict(max_iters=4, val_interval=4),
        'default_hooks.checkpoint.interval': 1,
        'default_hooks.logger.interval': 1,
    }}
    axes = dict(
        loss={{
            'SphereFace2-C': {{}},
            'CosFace': {{'model.head.loss': dict(type='CosFaceLoss', s=8.0)}},
        }}
    )
    seeds = [3, 4]
    table = dict(rows='loss', figures=['synthetic.accuracy'])
""")
NOISE = textwrap.dedent("""
    axes['noise'] = {
        '0 %': {},
        '60 %': {
            'train_dataloader.dataset': dict(
                type='LabelNoise', share=0.6, seed='_seed_', dataset='_base_'
            )
        },
    }
    table = dict(
        rows='loss', columns='noise', figures=['synthetic.accuracy', 'last.loss']
    )
    plot = dict(x='noise', label='wrong labels')
""")


class Forked:
    """``subprocess.Popen`` of a tool, without the seconds of its imports."""

    def __init__(self, command, stdout, stderr, env, pass_fds):
        assert command[0] == sys.executable
        words = [str(word) for word in command[1:]]
        outputs = [os.devnull, stderr.name]
        arguments = (words, str(ROOT), env, outputs)
        self.process = FORKS.Process(target=_script, args=arguments)
        self.process.start()

    def poll(self):
        return None if self.process.is_alive() else self.process.exitcode


@pytest.fixture
def study(tmp_path, monkeypatch, call_main):
    """``study(text, *options)``: what the tool prints of a study with this text."""

    def call(text, *options):
        path = tmp_path / 'tiny.py'
        path.write_text(text)
        return call_main('study', path, '--work-dir', tmp_path / 'work', *options)

    processes = SimpleNamespace(Popen=Forked, DEVNULL=subprocess.DEVNULL)
    monkeypatch.setattr(runs, 'subprocess', processes)
    monkeypatch.setattr(signal, 'signal', lambda *_: None)
    return call


def read(tmp_path, text=TINY, **options):
    path = tmp_path / 'tiny.py'
    path.write_text(text)
    return read_study(str(path), tmp_path / 'work', **options)


def lines_of(folder: Path) -> list[dict[str, str]]:
    with open(folder / 'table.csv', newline='') as file:
        return list(csv.DictReader(file))


def end(run, accuracy=None, failure='', diverged=False, **rows):
    """Leave by hand what a run leaves."""
    runs._write(run.folder / runs.CONFIG, runs._text(run))
    if failure:
        outcome = dict(failure=failure, diverged=diverged)
        (run.folder / 'failed.json').write_text(json.dumps(outcome))
        return
    rows = {'trained': accuracy, **rows}
    rates = [{'far': 0.01, 'tar': 0.5, 'threshold': 0.1}]
    content = {
        row: {'finite': True, 'accuracy': x, 'tar_at_far': rates, 'convention': ''}
        for row, x in rows.items()
    }
    (run.folder / 'verification.json').write_text(json.dumps({'synthetic': content}))


# ---- which runs there are


def test_a_grid_is_the_product_of_its_axes_seed_by_seed(tmp_path):
    done = read(tmp_path, TINY + NOISE)
    assert [run.folder.name for run in done.runs] == [
        f'{loss}__{noise}__seed{seed}'
        for seed in (3, 4)
        for loss in ('SphereFace2-C', 'CosFace')
        for noise in (0, 60)
    ]
    assert done.folder == tmp_path / 'work' / 'tiny' / 'drawn'
    config = done.runs[-1].config
    assert config.randomness.seed == 4
    noisy = config.train_dataloader.dataset
    assert (noisy.type, noisy.seed, noisy.share) == ('LabelNoise', 4, 0.6)
    assert noisy.dataset.type == 'SyntheticFaces'
    assert (noisy.dataset.seed, noisy.dataset.num_identities) == (4, 11)
    assert config.model.head.loss == dict(type='CosFaceLoss', s=8.0)
    # Of the first run, not touched by those after it.
    assert done.runs[0].config.train_dataloader.dataset.type == 'SyntheticFaces'
    assert done.runs[0].config.model.head.loss.type == 'SphereFace2Loss'


def test_options_move_the_bases_and_axes_stand_over_them(tmp_path):
    options = {'train_cfg.max_iters': 9, 'model.head.loss.m': 0.1}
    first, second = read(tmp_path, seeds=[7], options=options).runs
    assert first.config.train_cfg.max_iters == 9
    assert first.config.model.head.loss.m == 0.1
    assert first.seed == first.config.randomness.seed == 7
    assert 'm' not in second.config.model.head.loss


def test_bases_recipes_processes_and_test_sets(tmp_path):
    text = TINY + textwrap.dedent(
        f"""
        recipe = {str(CONFIGS / 'spherefacer_quickstart.py')!r}
        axes = dict(
            loss={{
                'own': {{'drawn': {{'model.head.loss.m': 0.3}}, 'other': {{}}}},
                'R': dict(config=recipe, processes=2, train_cfg=dict(max_iters=5)),
            }}
        )
        test_sets = dict(drawn=['lfw'], other=[])
        """
    )
    own, recipe = read(tmp_path, text, seeds=[0]).runs
    assert own.config.model.head.loss.m == 0.3
    assert own.test_sets == ('lfw',)
    assert recipe.config.model.head.loss.type == 'SphereFaceRLoss'
    assert recipe.config.train_cfg.max_iters == 5
    assert (own.processes, recipe.processes) == (None, 2)
    other, _ = read(tmp_path, text, seeds=[0], base='other').runs
    assert other.config.model.head.loss.type == 'SFaceLoss'
    assert other.test_sets == ()
    assert other.folder.parent.name == 'other'


def test_only_some_runs_are_chosen(tmp_path):
    done = read(tmp_path, TINY + NOISE)
    chosen = done.chosen(['loss=CosFace', 'noise=60 %,0 %'])
    assert {run.values['loss'] for run in chosen} == {'CosFace'}
    assert len(chosen) == 4
    with pytest.raises(UserError, match='the axes are loss, noise'):
        done.chosen(['lose=CosFace'])
    with pytest.raises(UserError, match='loss has no SFace, but SphereFace2-C'):
        done.chosen(['loss=SFace'])


MISTAKES = {
    'axis = {}; del axes': "axis: is axes meant",
    'title = 3': 'title: expected one sentence',
    'bases = {}': 'bases: expected dict',
    "bases = dict(drawn='nowhere.py')": 'bases: there is no config',
    'axes = {}': 'axes: expected',
    'axes = dict(loss=[])': r'axes.loss: expected \{VALUE',
    "axes = dict(loss={'a b': {}, 'a_b': {}})": 'axes.loss: two values',
    "axes = dict(loss={'A': 3})": 'axes.loss.A: expected overrides',
    "axes = dict(loss={'A': {'model.head.los.m': 1}})": (
        'axes.loss.A: model.head.los.m=1: model.head has no los; is model.head.loss '
    ),
    "axes = dict(loss={'A': dict(model=dict(hed=dict(m=1)))})": 'model.head meant',
    "axes = dict(loss={'A': {'drawn': {}}, 'B': {'other': {}}})": (
        'axes.loss.B: has other, but nothing for drawn'
    ),
    "axes = dict(loss={'A': {'nothing.here': '_base_'}})": 'the base has no value',
    "axes = dict(loss={'A': dict(config='nowhere.py')})": (
        'axes.loss.A.config: there is no config'
    ),
    'seeds = [1, 1]': 'seeds: expected distinct numbers',
    'table = 3': 'table: expected dict',
    "table = dict(rows='lost', figures=['lfw.eer'])": 'table: rows and columns',
    "table = dict(rows='loss', figures=['accuracy'])": 'table.figures: expected names',
    "plot = dict(x='noise')": r'plot: expected dict\(x=AXIS\), one of loss',
    "published = {'SFace': {'lfw.eer': 1}}": 'published: SFace: expected SphereFace2-C',
    "published = {'CosFace': 3}": 'published: expected a mapping, got 3',
    "published = {'CosFace': {'lfw.eer': 'high'}}": 'lfw.eer: expected a number',
}  # fmt: skip


@pytest.mark.parametrize('mistake', MISTAKES)
def test_a_mistake_is_told_with_file_and_key(tmp_path, mistake):
    with pytest.raises(UserError, match=MISTAKES[mistake]) as error:
        read(tmp_path, f'{TINY}\n{mistake}\n')
    assert str(tmp_path / 'tiny.py') in str(error.value)


def test_a_base_or_a_study_that_is_not_there(tmp_path):
    with pytest.raises(UserError, match=r'there is no vggface2, but drawn, other'):
        read(tmp_path, base='vggface2')
    with pytest.raises(UserError, match='there is no study'):
        read_study(str(tmp_path / 'nothing.py'), tmp_path)


@pytest.mark.parametrize('path', sorted((CONFIGS / 'studies').glob('*_drawn.py')))
def test_studies_of_drawn_faces_are_ready(tmp_path, path):
    done = read_study(str(path), tmp_path, seeds=[0])
    assert len({run.folder for run in done.runs}) == len(done.runs)
    for run in done.runs:
        assert MODELS.build(dict(run.config.model.head.loss))
        assert run.config.train_dataloader.sampler.type == 'InfiniteSampler'


# ---- what tables say


@pytest.mark.parametrize('freedom', [1, 2, 3, 9, 10, 11, 15, 30, 100, 1000])
def test_quantiles_are_those_of_student(freedom):
    assert student(freedom) == pytest.approx(stats.t.ppf(0.975, freedom), rel=1e-9)


def test_an_interval_is_that_of_the_mean():
    values = [81.2, 83.9, 80.1, 84.0]
    cell = Cell(4, dict(enumerate(values)))
    expected = stats.t.interval(
        0.95, 3, loc=np.mean(values), scale=stats.sem(values, ddof=1)
    )
    assert cell.interval == pytest.approx(expected)
    assert all(map(math.isnan, Cell(4, {0: 81.2}).interval))


def test_rows_say_what_has_not_ended_well(tmp_path):
    done = read(tmp_path, seeds=[0, 1, 2, 3])
    losses = {'SphereFace2-C': [], 'CosFace': []}
    for run in done.runs:
        losses[run.values['loss']].append(run)
    for run, accuracy in zip(losses['SphereFace2-C'], (0.5, None, 0.6), strict=False):
        end(run, accuracy, untrained=0.25)
    end(losses['CosFace'][0], failure='the loss is NaN', diverged=True)
    end(losses['CosFace'][1], failure='status 1: no memory')
    text = write_tables(done)
    first, second = (row for row in lines_of(done.folder) if row['loss'] in losses)
    assert (first['runs'], first['ended'], first['planned']) == ('2', '3', '4')
    assert float(first['mean']) == pytest.approx(55)
    assert float(first['std']) == pytest.approx(np.std([50, 60], ddof=1))
    assert '55.00 ± 7.07 (1 of 3 without a value) (3 of 4 runs) |' in text
    assert '(1 of 2 diverged) (1 of 2 failed) (2 of 4 runs) |' in text
    assert second['mean'] == ''
    assert '- CosFace, seed 0: diverged: the loss is NaN\n' in text
    assert '- CosFace, seed 1: failed: status 1: no memory\n' in text
    assert '| untrained | synthetic.accuracy % |  | 25.00 ± 0.00 ' in text


def test_published_figures_stand_beside_ours(tmp_path):
    text = (
        TINY
        + NOISE
        + (
            "published = {'CosFace': {'60 %': {'lfw.accuracy': 94.28,\n"
            "        'synthetic.accuracy': 75.0}}}\n"
        )
    )
    done = read(tmp_path, text, seeds=[0])
    table = write_tables(done)
    assert '| CosFace | 60 % | lfw.accuracy % | 94.28 | not run |  | 0 |' in table
    assert '| CosFace | 60 % | synthetic.accuracy % | 75 | not run |' in table
    assert '| CosFace | not run | not run |' in table


def test_untrained_networks_that_differ_have_no_row(tmp_path):
    done = read(tmp_path, seeds=[0])
    for number, run in enumerate(done.runs):
        end(run, 0.5, **{'untrained': 0.2 + 0.1 * number, 'raw pixels': 0.3})
    rows = [row['loss'] for row in lines_of(done.folder)] if write_tables(done) else []
    assert rows == ['raw pixels', 'SphereFace2-C', 'CosFace']


def test_a_figure_that_a_run_has_not_is_an_error(tmp_path):
    text = TINY.replace("'synthetic.accuracy'", "'lfw.accuracy'")
    done = read(tmp_path, text, seeds=[0])
    end(done.runs[0], 0.5)
    with pytest.raises(UserError, match=r'has no lfw.accuracy, but synthetic.accuracy'):
        write_tables(done)
    text = TINY.replace("'synthetic.accuracy'", "'synthetic.tar@far=1e-02'")
    done = read(tmp_path, text, seeds=[0])
    assert '| SphereFace2-C | synthetic.tar@far=1e-02 % |  | 50.00 |' in write_tables(
        done
    )


def test_a_changed_config_is_an_error(tmp_path):
    done = read(tmp_path)
    end(done.runs[0], 0.5)
    changed = read(tmp_path, options={'train_cfg.max_iters': 5})
    message = r'train_cfg.max_iters: 4 -> 5\): set it back, remove that folder'
    with pytest.raises(UserError, match=message):
        write_tables(changed)
    with pytest.raises(UserError, match=message):
        runs.perform(changed.runs, console=None)


# ---- runs


def test_a_table_is_of_what_its_runs_have_left(tmp_path, study):
    printed = study(TINY + NOISE, '--workers', '2', '--only', 'noise=60 %')
    folder = tmp_path / 'work' / 'tiny' / 'drawn'
    for loss in ('SphereFace2-C', 'CosFace'):
        left = [folder / f'{loss}__60__seed{seed}' for seed in (3, 4)]
        values = [
            100
            * json.loads((x / 'verification.json').read_text())['synthetic']['trained'][
                'accuracy'
            ]
            for x in left
        ]
        row = next(
            row
            for row in lines_of(folder)
            if (row['loss'], row['noise']) == (loss, '60 %')
        )
        assert [float(row['seed 3']), float(row['seed 4'])] == values
        assert float(row['mean']) == pytest.approx(sum(values) / 2)
        assert f'{np.mean(values):.2f} ± {np.std(values, ddof=1):.2f} |' in printed
        assert {f'{loss}, 60 %, seed 3: done', f'{loss}, 60 %, seed 4: done'} <= set(
            printed.splitlines()
        )
        scalars = next(left[0].glob('*/vis_data/scalars.json')).read_text()
        losses = [json.loads(x)['loss'] for x in scalars.splitlines() if '"loss"' in x]
        (of_log,) = (
            row
            for row in lines_of(folder)
            if (row['loss'], row['noise'], row['figure']) == (loss, '60 %', 'last.loss')
        )
        assert float(of_log['seed 3']) == losses[-1]
    assert not (folder / 'CosFace__0__seed3').exists()
    assert (folder / 'picture.png').stat().st_size > 5000
    # Nothing is left to do.
    before = (folder / 'table.csv').read_bytes()
    printed = study(TINY + NOISE, '--only', 'noise=60 %', '--minutes', '0')
    assert 'done' not in printed
    study(TINY + NOISE, '--table')
    assert (folder / 'table.csv').read_bytes() == before


def test_diverged_and_failed_runs_are_rows(tmp_path, study):
    text = TINY + textwrap.dedent("""
        axes = dict(loss={
            'infinite': {'model.head.loss': dict(type='NormFaceLoss', s=1e39)},
            'missing': {'model.head.loss': dict(type='NoLoss')},
        })
        seeds = [0]
    """)
    printed = study(text, '--workers', '2')
    assert (
        'infinite, seed 0: diverged: the loss is not finite at iteration 1' in printed
    )
    assert '| infinite | synthetic.accuracy % |  | (1 of 1 diverged) |' in printed
    assert '| missing | synthetic.accuracy % |  | (1 of 1 failed) |' in printed
    assert '- missing, seed 0: failed: NoLoss is not in the mmhyperface' in printed
    assert 'seed 0: failed: NoLoss' not in study(text).split('# Two losses')[0]
    again = study(text, '--retry', '--only', 'loss=missing')
    assert 'missing, seed 0: failed: NoLoss' in again.split('# Two losses')[0]


def test_a_run_that_leaves_no_figures_has_failed(tmp_path, study):
    text = TINY + "axes['loss'] = {'blind': {'default_hooks.report': None}}\n"
    printed = study(text, '--seeds', '0')
    assert 'blind, seed 0: failed: it left no verification.json' in printed


def children(process: int) -> list[int]:
    path = Path(f'/proc/{process}/task/{process}/children')
    return [int(word) for word in path.read_text().split()]


def wait_for(what):
    ends = time.monotonic() + PATIENCE
    while not (result := what()):
        assert time.monotonic() < ends
        time.sleep(0.05)
    return result


@pytest.mark.skipif(not Path('/proc/self/task').exists(), reason='needs /proc')
def test_a_killed_study_goes_on_and_ends_with_the_same_table(tmp_path, study):
    text = TINY.replace('max_iters=4, val_interval=4', 'max_iters=12, val_interval=12')
    study(text, '--workers', '2')
    folder = tmp_path / 'work' / 'tiny' / 'drawn'
    tables = [(folder / f'table.{kind}').read_bytes() for kind in ('md', 'csv')]
    folder.parent.rename(tmp_path / 'whole')

    command = ['tools/study.py', tmp_path / 'tiny.py', '--work-dir', tmp_path / 'work']
    tool = subprocess.Popen(
        [sys.executable, *map(str, command)],
        cwd=ROOT,
        env=os.environ | PYTHON_FIRST,
        stdout=subprocess.PIPE,
        text=True,
    )
    first, second = (folder / f'{loss}__seed3' for loss in ('SphereFace2-C', 'CosFace'))
    wait_for((first / 'iter_2.pth').exists)
    os.kill(children(tool.pid)[0], signal.SIGKILL)
    wait_for((second / 'iter_2.pth').exists)
    tool.kill()
    output = tool.communicate()[0]
    assert 'SphereFace2-C, seed 3: was killed; give the command again' in output
    assert not (first / 'verification.json').exists()
    # The second run is an orphan, which is waited for if it is not at its end.
    printed = study(text, '--workers', '2')
    assert 'SphereFace2-C, seed 3: done' in printed
    assert len(list(first.glob('*/vis_data'))) == 2
    assert len(list(second.glob('*/vis_data'))) == 1
    assert tables == [(folder / f'table.{kind}').read_bytes() for kind in ('md', 'csv')]
