"""Angles while training, against loops over what the head was given."""

import copy
import json
import math
import os
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.hooks import Hook
from runs import log_of, small_config

from mmhyperface.apis import build_runner
from mmhyperface.engine.hooks import AngleStatisticsHook
from mmhyperface.engine.hooks.angle_statistics import (
    Samples,
    _vanished,
    _wrong,
    statistics,
)
from mmhyperface.models import HypersphereHead
from mmhyperface.utils.errors import UserError

BATCH = 12


class Recorder(Hook):
    """Keeps what the head is given: features, weights and labels of each step."""

    def __init__(self) -> None:
        self.seen = []

    def before_train(self, runner):
        head = runner.model.head
        inner = head._loss

        def recorded(feats, target):
            weight = head.weight.detach().double().numpy().copy()
            self.seen.append((feats.detach().double().numpy(), weight, target.tolist()))
            return inner(feats, target)

        head._loss = recorded


def config(work_dir: Path, **options):
    return small_config(
        work_dir,
        **{
            'train_dataloader.batch_size': BATCH,
            'default_hooks.angles': dict(
                type='AngleStatisticsHook', interval=3, picture_interval=6
            ),
            'default_hooks.checkpoint.interval': 100,
            'model.head.loss': dict(
                _delete_=True, type='SphereFace2Loss', r=8.0, m=0.1
            ),
            **options,
        },
    )


def with_noise(cfg: Config) -> Config:
    dataset = cfg.train_dataloader.dataset
    cfg.train_dataloader.dataset = dict(type='LabelNoise', share=0.4, dataset=dataset)
    return cfg


def reported(work_dir: Path) -> list[dict]:
    log = max(work_dir.glob('*/vis_data/scalars.json'), key=os.path.getmtime)
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    return [line for line in lines if 'angles/own_mean' in line]


@pytest.fixture(scope='module')
def alone(tmp_path_factory):
    work_dir = tmp_path_factory.mktemp('alone')
    runner = build_runner(config(work_dir))
    recorder = Recorder()
    runner.register_hook(recorder, 'VERY_LOW')
    runner.train()
    return work_dir, recorder.seen


def degrees(x: np.ndarray, y: np.ndarray) -> float:
    return math.degrees(math.acos(x @ y / math.sqrt((x @ x) * (y @ y))))


def test_figures_are_those_of_a_loop(alone):
    work_dir, seen = alone
    lines = reported(work_dir)
    assert [line['step'] for line in lines] == [3, 6]
    for line, steps in zip(lines, (seen[:3], seen[3:]), strict=True):
        own, nearest, norms, alive = [], [], [], {}
        for feats, weight, target in steps:
            for x, y in zip(feats, target, strict=True):
                angles = [degrees(x, centre) for centre in weight]
                own.append(angles.pop(y))
                nearest.append(min(angles))
                norms.append(math.sqrt(x @ x))
                alive[y] = alive.get(y, False) or own[-1] < nearest[-1]
        assert len(own) == 3 * BATCH
        for name, values in (('own', own), ('nearest', nearest), ('norm', norms)):
            expected = {
                'mean': np.mean(values),
                'median': np.median(values),
                'q05': np.quantile(values, 0.05),
                'q95': np.quantile(values, 0.95),
            }
            for suffix, value in expected.items():
                actual = line[f'angles/{name}_{suffix}']
                assert actual == pytest.approx(value, rel=1e-4), (name, suffix)
        assert line['angles/classes_seen'] == len(alive)
        assert line['angles/dead_centres'] == len(alive) - sum(alive.values())
        closer = np.mean(np.array(own) >= np.array(nearest))
        assert line['angles/nearer_to_another'] == pytest.approx(closer)
        assert line['angles/vanished_centres'] == 0
        assert 0 < line['angles/violating'] <= 1
        assert math.isfinite(line['angles/bias'])


def test_pictures_are_written_and_show_something(alone):
    work_dir, _ = alone
    pictures = sorted(path.name for path in work_dir.glob('*/vis_data/vis_image/*'))
    assert pictures == ['angles_6.png', 'norms_6.png']
    for path in work_dir.glob('*/vis_data/vis_image/*'):
        picture = cv2.imread(str(path))
        assert picture.shape[0] > 300
        assert picture.shape[1] > 500
        assert len(np.unique(picture @ [1, 256, 65536])) > 10  # colours


def test_angles_of_clean_and_of_wrong_labels(tmp_path):
    numbers = []

    class Numbers(Hook):
        def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
            samples = data_batch['data_samples']
            numbers.append([sample.sample_idx for sample in samples])

    cfg = with_noise(config(tmp_path))
    runner = build_runner(cfg)
    recorder = Recorder()
    runner.register_hook(recorder, 'VERY_LOW')
    runner.register_hook(Numbers(), 'VERY_LOW')
    runner.train()
    each = cfg.train_dataloader.dataset.dataset.images_per_identity
    lines = reported(tmp_path)
    assert [line['step'] for line in lines] == [3, 6]
    for line, first in zip(lines, (0, 3), strict=True):
        angles = {'clean': [], 'wrong': []}
        for step in range(first, first + 3):
            feats, weight, target = recorder.seen[step]
            for x, y, number in zip(feats, target, numbers[step], strict=True):
                kind = 'clean' if y == number // each else 'wrong'
                angles[kind].append(degrees(x, weight[y]))
        assert len(angles['clean']) + len(angles['wrong']) == 3 * BATCH
        for kind, values in angles.items():
            for suffix, value in {
                'mean': np.mean(values),
                'median': np.median(values),
                'q05': np.quantile(values, 0.05),
                'q95': np.quantile(values, 0.95),
            }.items():
                actual = line[f'angles/own_{kind}_{suffix}']
                assert actual == pytest.approx(value, rel=1e-4), (kind, suffix)
    log = log_of(tmp_path)
    assert 'own of clean labels {angles/own_clean_mean:.1f}°'.format(**lines[0]) in log
    assert 'own of wrong labels {angles/own_wrong_mean:.1f}°'.format(**lines[0]) in log


def test_without_noise_nothing_is_told_of_it(alone):
    work_dir, _ = alone
    assert not any('clean' in key or 'wrong' in key for key in reported(work_dir)[0])
    assert 'wrong labels' not in log_of(work_dir)


def test_a_window_of_one_kind_of_label_and_of_unknown_ones():
    three = samples([50, 60, 70], [80, 80, 80], [0, 1, 2])
    for wrong, expected in (
        ([1.0, 1.0, np.nan], {'wrong': [50, 60]}),
        ([0.0, 1.0, 0.0], {'clean': [50, 70], 'wrong': [60]}),
        ([np.nan] * 3, {}),
    ):
        known = three._replace(wrong=np.array(wrong)).finite()
        actual = known.own_by_label()
        assert {name: x.tolist() for name, x in actual.items()} == expected
        figures = statistics(known)
        names = [name for name in ('clean', 'wrong') if f'own_{name}_mean' in figures]
        assert names == list(expected)


def test_images_without_a_number_kept_their_labels():
    noise = np.array([False, True, True])
    assert _wrong(noise, [1, -1, 0, 2], 4).tolist() == [1, 0, 0, 1]
    assert _wrong(noise, [], 0).shape == (0,)
    # Of one of several heads, which has a part of the batch, nobody knows.
    assert _wrong(noise, [0, 1, 2], 2).isnan().all()


def samples(own, nearest, target):
    count = len(own)
    return Samples(
        np.array(own, float),
        np.array(nearest, float),
        np.ones(count),
        np.ones(count, bool),
        np.array(target),
    )


def test_a_centre_is_dead_if_no_sample_is_nearest_to_it():
    actual = samples(
        own=[50, 80, 80, 70, 90, 60],
        nearest=[60, 70, 70, 70, 80, 70],
        target=[3, 3, 5, 7, 9, 9],
    )
    # 3 and 9 have a sample; 5 none; a tie, as of 7, is no life.
    assert actual.dead_centres() == (2, 4)


def test_samples_that_are_not_finite_are_left_out():
    actual = samples([50, np.nan, 40], [60, 60, np.inf], [0, 1, 2]).finite()
    assert actual.own.tolist() == [50]
    assert actual.target.tolist() == [0]


def test_vanished_centres_are_counted():
    head = HypersphereHead(5, 4, dict(type='NormFaceLoss'))
    assert int(_vanished(head)) == 0
    with torch.no_grad():
        head.weight[1] = 0
        head.weight[3] *= 1e-5
    assert int(_vanished(head)) == 2


def test_a_copy_of_the_head_has_no_batch():
    head = HypersphereHead(5, 4, dict(type='ArcFaceLoss'))
    head.loss(torch.randn(3, 4), torch.tensor([0, 1, 4]))
    last = head.last
    assert last.own.shape == last.violating.shape == last.loss.shape == (3,)
    assert not last.of_all_ranks
    assert not last.own.requires_grad
    assert copy.deepcopy(head).last is None
    assert 'last' not in head.state_dict()
    head.eval().loss(torch.randn(2, 4), torch.tensor([0, 1]))
    assert head.last is last


@pytest.mark.parametrize(
    'options', [dict(interval=0), dict(window=0), dict(picture_interval=150)]
)
def test_options_out_of_range_are_refused(options):
    with pytest.raises(UserError, match=r'default_hooks\.angles'):
        AngleStatisticsHook(**options)


@pytest.mark.slow
def test_tensorboard_has_scalars_and_pictures(tmp_path):
    pytest.importorskip('tensorboard')
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    backends = [dict(type='TensorboardVisBackend')]
    cfg = config(tmp_path, **{'visualizer.vis_backends': backends})
    build_runner(cfg).train()
    (events,) = tmp_path.glob('**/events*')
    actual = EventAccumulator(str(events))
    actual.Reload()
    tags = actual.Tags()
    assert 'angles/own_median' in tags['scalars']
    assert {'angles', 'norms'} <= set(tags['images'])
