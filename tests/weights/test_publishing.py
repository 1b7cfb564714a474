"""Checkpoints for others hold the weights, and no more than one must know."""

import hashlib
from pathlib import Path

import pytest
import torch
from runs import small_config, train

from mmhyperface.apis import build_runner
from mmhyperface.utils.errors import UserError
from mmhyperface.weights import from_checkpoint, publish, published, read_checkpoint


@pytest.fixture(scope='module')
def run(tmp_path_factory) -> Path:
    """The folder of a short run with a moving average, in two formats."""
    folder = tmp_path_factory.mktemp('run')
    ema = [{'type': 'EMAHook', 'momentum': 0.1}]
    options = {'custom_hooks': ema, 'train_cfg.max_iters': 2}
    options['default_hooks.checkpoint.interval'] = 2
    train(small_config(folder / 'files', **options))
    runner = build_runner(
        small_config(
            folder / 'parts',
            resume=True,
            load_from=str(folder / 'files' / 'iter_2.pth'),
            centre_parts_above=0,
            **{**options, 'train_cfg.max_iters': 4},
        )
    )
    runner.train()
    return folder


def load(path) -> dict:
    return torch.load(path, weights_only=True)


def test_the_averaged_weights_are_published(run, tmp_path):
    source = run / 'files' / 'iter_2.pth'
    whole = torch.load(source)
    file = publish(str(source), str(tmp_path / 'sfnet4.pth'), False, '')
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    assert file.name == f'sfnet4-{digest[:8]}.pth'
    assert [path.name for path in tmp_path.iterdir()] == [file.name]
    actual = load(file)
    assert set(actual) == {'meta', 'state_dict'}
    assert set(actual['state_dict']) == set(whole['state_dict'])
    for key, value in whole['state_dict'].items():
        assert torch.equal(actual['state_dict'][key], value)
    # mmengine keeps the weights that are not averaged elsewhere.
    other = whole['ema_state_dict']['module.backbone.fc.weight']
    assert not torch.equal(actual['state_dict']['backbone.fc.weight'], other)
    assert actual['meta']['iter'] == 2


def test_the_same_weights_have_the_same_name(run, tmp_path):
    source = str(run / 'files' / 'iter_2.pth')
    one = publish(source, str(tmp_path / 'a.pth'), False, '')
    other = publish(source, str(tmp_path / 'b'), False, '')
    assert one.name[1:] == other.name[1:]
    assert one.read_bytes() == other.read_bytes()


def test_no_path_of_the_machine_is_told(run, tmp_path):
    source = str(run / 'files' / 'iter_2.pth')
    assert str(run) in str(torch.load(source)['meta'])
    meta = load(publish(source, str(tmp_path / 'a.pth'), False, ''))['meta']
    assert str(run) not in str(meta)
    assert "work_dir='files'" in meta['cfg'].replace(' ', '')
    assert "type='SFNet'" in meta['cfg']


def test_a_folder_becomes_one_file(run, tmp_path):
    source = run / 'parts' / 'iter_4.pth'
    assert source.is_dir()
    actual = load(publish(str(source), str(tmp_path / 'a.pth'), False, ''))
    assert actual['state_dict']['head.weight'].shape == (11, 16)
    cfg = small_config(tmp_path / 'again')
    runner = build_runner(cfg)
    (file,) = tmp_path.glob('a-*.pth')
    runner.load_checkpoint(str(file), strict=True)
    assert torch.equal(
        runner.model.state_dict()['head.weight'], actual['state_dict']['head.weight']
    )


def test_only_the_embedding_in_half_precision(run, tmp_path):
    source = str(run / 'files' / 'iter_2.pth')
    whole = publish(source, str(tmp_path / 'a.pth'), False, '')
    half = publish(source, str(tmp_path / 'b.pth'), True, 'float16')
    assert half.stat().st_size < 0.7 * whole.stat().st_size
    actual = load(half)
    assert not [key for key in actual['state_dict'] if key.startswith('head.')]
    assert 'dataset_meta' not in actual['meta']
    expected = load(whole)['state_dict']
    for key, value in actual['state_dict'].items():
        assert torch.equal(value, expected[key].half())


def test_ours_from_a_folder(run):
    network = from_checkpoint(read_checkpoint(str(run / 'parts' / 'iter_4.pth')))
    assert network.config['type'] == 'SFNet'
    assert network.centres.shape == (11, 16)
    assert list(network.loss) == ['bias']


def test_what_cannot_be_published(tmp_path):
    with pytest.raises(UserError, match='there is no checkpoint'):
        publish(str(tmp_path / 'a.pth'), str(tmp_path / 'b.pth'), False, '')
    (tmp_path / 'a.pth').write_bytes(b'version https://git-lfs.github.com/spec/v1\n')
    with pytest.raises(UserError, match='git lfs pull'):
        publish(str(tmp_path / 'a.pth'), str(tmp_path / 'b.pth'), False, '')
    torch.save({'optimizer': {}}, tmp_path / 'a.pth')
    with pytest.raises(UserError, match='it has no state_dict'):
        publish(str(tmp_path / 'a.pth'), str(tmp_path / 'b.pth'), False, '')
    torch.save({'state_dict': {'a': torch.zeros(1)}}, tmp_path / 'a.pth')
    with pytest.raises(UserError, match='cannot be written'):
        publish(str(tmp_path / 'a.pth'), str(tmp_path / 'no' / 'b.pth'), False, '')


def test_a_weight_that_half_precision_cannot_hold():
    checkpoint = {'state_dict': {'backbone.bn.running_var': torch.tensor([1.0, 7e4])}}
    with pytest.raises(UserError, match=r'running_var holds 7e\+04, too large'):
        published(checkpoint, dtype='float16')
    kept = published(checkpoint, dtype='bfloat16')['state_dict']
    assert kept['backbone.bn.running_var'].isfinite().all()
