import copy

import numpy as np
import pytest
import torch
from mmengine.config import Config

from mmhyperface.apis import get_model
from mmhyperface.inference.loading import fingerprint
from mmhyperface.registry import MODELS
from mmhyperface.utils.errors import UserError
from mmhyperface.weights.convention import convention_of

BACKBONE = dict(
    type='SFNet', depth=4, widths=(4, 4, 8, 8), input_size=32, embedding_size=8
)


def config(**model):
    return Config({'model': dict(type='FaceRecognizer', backbone=BACKBONE) | model})


@pytest.fixture
def saved(tmp_path):
    """A checkpoint and its weights."""
    torch.manual_seed(0)
    cfg = config()
    state = MODELS.build(cfg.model).state_dict()
    state['head.weight'] = torch.zeros(3, 8)
    path = tmp_path / 'x.pth'
    meta = {'convention': convention_of(cfg).to_dict()}
    torch.save({'meta': meta, 'state_dict': state}, path)
    return path, state


def rewrite(path, **entries):
    content = torch.load(path, weights_only=True)
    torch.save(content | entries, path)


def test_from_the_checkpoint_alone(saved):
    path, state = saved
    model = get_model(None, path, 'cpu')
    assert not model.training
    assert model.head is None
    for key, value in model.state_dict().items():
        assert torch.equal(value, state[key])
    assert model.convention.embedding_size == 8
    assert len(model.convention.fingerprint) == 32
    again = get_model(config(), str(path))
    assert again.convention.fingerprint == model.convention.fingerprint


def test_weights_of_chance_without_a_checkpoint():
    assert get_model(config(), None).convention.embedding_size == 8


def test_the_fingerprint_tells_all_that_changes_embeddings(saved):
    path, state = saved
    prints = {get_model(None, path).convention.fingerprint}
    fused = get_model(None, path, flip_fusion='concat')
    assert fused.convention.embedding_size == 16
    assert fused.flip_fusion == 'concat'
    prints.add(fused.convention.fingerprint)
    other = copy.deepcopy(state)
    other['backbone.fc.weight'][0, 0] += 1e-6
    rewrite(path, state_dict=other)
    model = get_model(None, path)
    prints.add(model.convention.fingerprint)
    assert len(prints) == 3
    model.backbone.to(memory_format=torch.channels_last)
    assert fingerprint(model, model.convention) == model.convention.fingerprint


def test_thresholds_go_with_the_fusion_they_were_found_for(saved):
    path, _ = saved
    convention = convention_of(config()).to_dict()
    point = dict(test_set='a', far=0.1, threshold=0.2, tar=0.3, impostors=4)
    rewrite(path, meta={'convention': convention | {'operating_points': [point]}})
    assert len(get_model(None, path).convention.operating_points) == 1
    same = get_model(None, path, flip_fusion='sum')
    assert len(same.convention.operating_points) == 1
    for changed in (
        get_model(None, path, flip_fusion='none'),
        get_model(config(flip_fusion='none'), path),
    ):
        assert changed.convention.operating_points == ()
        assert changed.flip_fusion == 'none'


def test_without_a_convention(saved):
    path, _ = saved
    rewrite(path, meta={})
    with pytest.raises(UserError, match='tells no convention'):
        get_model(None, path)
    assert get_model(config(), path).convention.versions == {}


def test_a_bare_state_dict(saved):
    path, state = saved
    torch.save(state, path)
    assert get_model(config(), path).convention.input_size == (32, 32)


@pytest.mark.parametrize(
    ('preprocessor', 'fault'),
    [(dict(to_rgb=False), 'channel_order'), (dict(mean=0), 'mean'), (dict(std=1), 's')],
)
def test_a_config_that_contradicts(saved, preprocessor, fault):
    with pytest.raises(UserError, match=f'x.pth was trained with {fault}'):
        get_model(config(data_preprocessor=preprocessor), saved[0])


def test_a_file_makes_us_run_nothing(saved, tmp_path):
    path, _ = saved
    convention = convention_of(config()).to_dict()
    for kind in ('os.system', 'builtins.exec', 'os.SFNet'):
        convention['network']['backbone'] = {'type': kind, 'command': 'false'}
        rewrite(path, meta={'convention': convention})
        with pytest.raises(UserError, match=f'{kind}, which nobody has registered'):
            get_model(None, path)


def test_a_convention_that_contradicts_its_network(saved):
    path, _ = saved
    for name, value in (
        ('channel_order', 'BGR'),
        ('mean', [0, 0, 0]),
        ('std', [127.5, 127.5, 128]),
        ('flip_fusion', 'none'),
    ):
        convention = convention_of(config()).to_dict() | {name: value}
        rewrite(path, meta={'convention': convention})
        with pytest.raises(UserError, match=f'its {name} contradicts its network'):
            get_model(None, path)


def test_a_network_that_this_version_cannot_build(saved):
    path, _ = saved
    convention = convention_of(config()).to_dict()
    network = convention['network']
    for wrong, told in (
        (network | dict(backbone=BACKBONE | dict(invented=1)), 'invented'),
        (network | dict(type='ImageClassifier'), 'no FaceRecognizer'),
        (network | dict(data_preprocessor=dict(type='ImgDataPreprocessor')), 'no Face'),
        (None, 'cannot be built'),
    ):
        rewrite(path, meta={'convention': convention | {'network': wrong}})
        with pytest.raises(UserError, match=told):
            get_model(None, path)


def test_mistakes(saved, tmp_path):
    path, _ = saved
    with pytest.raises(UserError, match='there is no checkpoint'):
        get_model(None, tmp_path / 'none.pth')
    with pytest.raises(UserError, match='give a config, a checkpoint'):
        get_model(None, None)
    with pytest.raises(UserError, match='download it first'):
        get_model(None, 'https://example.org/x.pth')
    with pytest.raises(UserError, match='cannot be used'):
        get_model(None, path, 'nonsense')
    (tmp_path / 'text.pth').write_text('no checkpoint')
    with pytest.raises(UserError, match=r'text\.pth'):
        get_model(None, tmp_path / 'text.pth')
    torch.save([1], tmp_path / 'list.pth')
    with pytest.raises(UserError, match='holds no weights'):
        get_model(None, tmp_path / 'list.pth')
    wide = config(backbone=BACKBONE | dict(widths=(4, 4, 8, 16)))
    with pytest.raises(UserError, match='of another network'):
        get_model(wide, path)
    wrong = config(backbone=BACKBONE | dict(input_size=64))
    rewrite(path, meta={})
    with pytest.raises(UserError, match='of another network'):
        get_model(wrong, path)


def test_an_input_size_that_the_network_refuses(saved):
    path, _ = saved
    convention = convention_of(config()).to_dict() | {'input_size': [16, 16]}
    rewrite(path, meta={'convention': convention})
    with pytest.raises(UserError, match='does not take images of 16 x 16'):
        get_model(None, path)


def test_embed_is_what_predict_gives(saved):
    model = get_model(None, saved[0])
    images = torch.from_numpy(np.random.default_rng(0).random((2, 3, 32, 32), 'f4'))
    with torch.no_grad():
        plain = model(images)
        mirrored = model(images.flip(3))
        fused = model.embed(images)
        samples = model(images, mode='predict')
    torch.testing.assert_close(fused, plain + mirrored)
    for row, sample in zip(fused, samples, strict=True):
        assert torch.equal(row, sample.embedding)
