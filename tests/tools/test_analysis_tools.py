"""The tools that draw and count, as a user calls them, after a training of seconds."""

import json

import cv2
import numpy as np
import pytest
from mmengine.registry import init_default_scope
from runs import ROOT, call_tool, small_config, train

from mmhyperface import visualization
from mmhyperface.utils.errors import UserError

PAIRS = dict(
    type='SyntheticFacePairs',
    name='synthetic',
    num_identities=9,
    images_per_identity=3,
    num_pairs=40,
    image_size=32,
    pipeline=[dict(type='PackInputs')],
)
LOADER = dict(
    batch_size=16, num_workers=0, sampler=dict(type='DefaultSampler', shuffle=False)
)


@pytest.fixture
def tool(call_main):
    yield call_main
    init_default_scope('mmhyperface')


@pytest.fixture(scope='module')
def trained(tmp_path_factory):
    """Config, work dir and checkpoint of a network in two dimensions."""
    work = tmp_path_factory.mktemp('work')
    test = dict(LOADER, dataset=PAIRS)
    cfg = small_config(
        work / 'run',
        **{
            'model.backbone.embedding_size': 2,
            'model.head.in_channels': 2,
            'train_cfg.max_iters': 2,
            'default_hooks.checkpoint.interval': 2,
        },
    )
    train(cfg)
    cfg.test_dataloader, cfg.test_cfg = test, {}
    cfg.test_evaluator = dict(type='FaceVerification')
    path = work / 'config.py'
    cfg.dump(path)
    return path, work / 'run', work / 'run' / 'iter_2.pth'


def size(path):
    return cv2.imread(str(path)).shape[:2]


def test_characteristics(tool, tmp_path):
    out = tmp_path / 'new' / 'a.png'
    losses = ('SFace', 'SphereFaceR(version=v2, m=1.4)')
    config = ROOT / 'configs/sphereface2_quickstart.py'
    options = ('--cfg-options', 'model.head.loss.m=0.1')
    text = tool('plot_characteristics', config, *losses, '--out', out, *options)
    assert min(size(out)) > 600
    assert '3 losses' in text


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (['nowhere.py'], 'there is no config nowhere.py'),
        (['SFace', 'SFace'], '1 different names for 2 losses'),
        (['SFace', '--names', 'a', 'b'], '2 different names for 1 losses'),
        (['SFace', '--out', 'a.gif'], 'a picture is one of'),
        (['SFace', '--norm', '0'], 'norm must be positive'),
        (['Face'], 'there is no loss Face'),
    ],
)
def test_mistakes_with_losses(tool, arguments, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=message):
        tool('plot_characteristics', *arguments)
    assert not list(tmp_path.iterdir())


def test_logs(tool, trained, tmp_path):
    out = tmp_path / 'logs.svg'
    keys = ('--keys', 'loss', 'lr', 'bias', '--smooth', '0.5')
    logs = trained[1], next(trained[1].glob('2*'))
    text = tool('plot_logs', *logs, *keys, '--out', out)
    assert 'loss, lr, bias of 2 trainings' in text
    assert str(trained[1]) in out.read_text()


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        ([], "no log has 'nothing'; they have .*loss"),
        (['--smooth', '1'], r'factor in \[0, 1\)'),
        (['--names', 'a', 'b'], '2 different names for 1 logs'),
    ],
)
def test_mistakes_with_logs(tool, trained, tmp_path, arguments, message):
    out = tmp_path / 'a.png'
    keys = ('--keys', 'loss', 'nothing')
    with pytest.raises(UserError, match=message):
        tool('plot_logs', trained[1], *keys, '--out', out, *arguments)
    assert not out.exists()


def test_one_line_and_status_1(run_tool, tmp_path):
    options = (tmp_path / 'nowhere', '--out', tmp_path / 'a.png')
    done = run_tool('analysis_tools/plot_logs.py', *options)
    assert done.status == 1
    assert done.err.startswith('error: there is no log')
    assert done.err.count('\n') == 1


def test_similarities(tool, trained, tmp_path, monkeypatch):
    """Of a checkpoint and of what a test saved of it; and both are the same."""
    config, _, checkpoint = trained
    actual = {}

    def draw(pairs, angles):
        actual.update(pairs=pairs, angles=angles)
        return drawn(pairs, angles)

    drawn = visualization.draw_similarities
    monkeypatch.setattr(visualization, 'draw_similarities', draw)
    features, out = tmp_path / 'features.npy', tmp_path / 'a.png'
    save = ('--save-features', features, '--work-dir', tmp_path / 'test')
    call_tool(monkeypatch, 'test.py', config, checkpoint, *save)
    options = ('--train-images', 20, '--out', out)
    tool('plot_similarities', config, checkpoint, features, *options)
    of_network, of_file = actual['pairs'].values()
    np.testing.assert_allclose(
        of_network['synthetic'].scores, of_file['synthetic'].scores, atol=1e-6
    )
    (angles,) = actual['angles'].values()
    assert len(angles.own) == 20
    assert min(size(out)) > 600
    tool('plot_similarities', config, checkpoint, '--train-images', 0, '--out', out)
    assert actual['angles'] == {}


@pytest.mark.parametrize('phase', ['train', 'test'])
def test_hypersphere(tool, trained, tmp_path, phase):
    config, _, checkpoint = trained
    out = tmp_path / 'a.png'
    options = ('--phase', phase, '--identities', 3, '--images', 2, '--out', out)
    assert 'images' in tool('plot_hypersphere', config, checkpoint, *options)
    assert min(size(out)) > 400


@pytest.mark.parametrize(
    ('name', 'arguments', 'message'),
    [
        ('plot_hypersphere', ['nowhere.pth'], 'there is no checkpoint nowhere'),
        ('plot_hypersphere', ['{}', '{}'], 'two have the same name'),
        ('plot_hypersphere', ['{}', '--names', 'a', 'b'], '2 names for 1 checkpoints'),
        ('plot_hypersphere', ['{}', '--phase', 'val'], 'no val_dataloader'),
        ('plot_hypersphere', ['{}', '--identities', '0'], 'at least 1'),
        (
            'plot_hypersphere',
            ['{}', '--cfg-options', 'model.head.in_channels=16'],
            'only embeddings of 2 or 3 dimensions can be drawn',
        ),
        (
            'plot_hypersphere',
            ['{}', '--cfg-options', 'model.backbone.widths=[8,8,8,4]'],
            r'is of another network than .* it has no backbone\.layer4',
        ),
        (
            'plot_hypersphere',
            ['{}', '--cfg-options', 'model.head=None'],
            'no HypersphereHead',
        ),
        ('plot_similarities', ['nowhere.pth'], 'there is no checkpoint nowhere'),
        ('plot_similarities', ['nowhere.npy'], 'nowhere.npy cannot be read'),
        ('plot_similarities', ['nowhere.npz'], 'nowhere.npz tells which image'),
        (
            'plot_similarities',
            ['{}', '--cfg-options', 'test_dataloader=None'],
            'no test_dataloader',
        ),
    ],
)
def test_mistakes_with_checkpoints(tool, trained, tmp_path, name, arguments, message):
    config, _, checkpoint = trained
    filled = [argument.format(checkpoint) for argument in arguments]
    out = tmp_path / 'a.png'
    with pytest.raises(UserError, match=message):
        tool(name, config, *filled, '--out', out)
    assert not out.exists()


def test_complexity(tool, tmp_path):
    out = tmp_path / 'a.json'
    config = ROOT / 'configs/sphereface2_quickstart.py'
    options = ('--batch-sizes', 2, '--repeats', 2, '--device', 'cpu', '--json', out)
    text = tool('get_complexity', config, '--num-classes', 12_345, *options)
    parsed = json.loads(out.read_text())
    assert parsed['head'] == {'parameters': 12_345 * 128 + 1, 'macs': 12_345 * 128}
    assert parsed['neck'] is None
    assert parsed['speed'][0]['images_per_second'] > 0
    assert f'{parsed["backbone"]["parameters"]:,}' in text
    assert 'images / s' in text
    assert 'threads' in parsed['measured_on']


def test_complexity_without_people_and_speed(tool):
    config = ROOT / 'configs/sphereface2_facefolder.py'
    text = tool('get_complexity', config, '--batch-sizes')
    assert 'give --num-classes' in text
    assert 'images / s' not in text


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (['--batch-sizes', '0'], 'at least 1'),
        (['--input-size', '1', '2', '3'], 'one number, or height and width'),
        (['--input-size', '48'], 'built for'),
        (['--device', 'abacus'], r'abacus \(.*--device\) cannot be used'),
        (['--cfg-options', 'model=None'], r'no model\.backbone'),
    ],
)
def test_mistakes_with_complexity(tool, arguments, message):
    with pytest.raises(UserError, match=message):
        tool('get_complexity', ROOT / 'configs/sface_quickstart.py', *arguments)
