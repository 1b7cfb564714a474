"""Networks are loaded as their convention says, and those of another kind refused."""

import copy

import numpy as np
import pytest
import torch
from mmengine.config import Config
from runs import small_config
from tiny_network import BACKBONE, config

from mmhyperface.apis import build_runner, get_model
from mmhyperface.inference.dataset_embeddings import build_dataset, people_of
from mmhyperface.inference.loading import (
    fingerprint,
    load_runner,
    refuse_other_networks,
)
from mmhyperface.registry import MODELS
from mmhyperface.utils.errors import UserError
from mmhyperface.weights.convention import convention_of

EMA = dict(type='EMAHook', momentum=0.1)
PAIRS = dict(
    type='SyntheticFacePairs',
    name='synthetic',
    num_identities=10,
    images_per_identity=2,
    num_pairs=20,
    image_size=32,
    pipeline=[dict(type='PackInputs')],
)


@pytest.fixture
def saved(tmp_path):
    """A checkpoint and its weights."""
    torch.manual_seed(0)
    state = MODELS.build(config().model).state_dict()
    state['head.weight'] = torch.zeros(3, 8)
    path = tmp_path / 'x.pth'
    torch.save({'state_dict': state}, path)
    tell(path)
    return path, state


def rewrite(path, **entries):
    content = torch.load(path, weights_only=True)
    torch.save(content | entries, path)


def tell(path, **changes):
    """Let a checkpoint carry this convention."""
    convention = convention_of(config()).to_dict() | changes
    rewrite(path, meta={'convention': convention})


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
    point = dict(test_set='a', far=0.1, threshold=0.2, tar=0.3, impostors=4)
    tell(path, operating_points=[point])
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
    path, state = saved
    rewrite(path, meta={})
    with pytest.raises(UserError, match='tells no convention'):
        get_model(None, path)
    assert get_model(config(), path).convention.versions == {}
    torch.save(state, path)  # nothing but the weights
    assert get_model(config(), path).convention.input_size == (32, 32)


@pytest.mark.parametrize(
    ('preprocessor', 'fault'),
    [(dict(to_rgb=False), 'channel_order'), (dict(mean=0), 'mean'), (dict(std=1), 's')],
)
def test_a_config_that_contradicts(saved, preprocessor, fault):
    with pytest.raises(UserError, match=f'x.pth was trained with {fault}'):
        get_model(config(data_preprocessor=preprocessor), saved[0])


def test_a_file_makes_us_run_nothing(saved):
    path, _ = saved
    network = convention_of(config()).network
    for kind in ('os.system', 'builtins.exec', 'os.SFNet'):
        tell(path, network=network | dict(backbone=dict(type=kind, command='false')))
        with pytest.raises(UserError, match=f'{kind}, which nobody has registered'):
            get_model(None, path)


def test_conventions_that_no_network_fulfils(saved):
    path, _ = saved
    network = convention_of(config()).network
    contradicts = 'its {} contradicts its network'
    for name, value, message in (
        ('channel_order', 'BGR', contradicts),
        ('mean', [0, 0, 0], contradicts),
        ('std', [127.5, 127.5, 128], contradicts),
        ('flip_fusion', 'none', contradicts),
        ('input_size', [16, 16], 'does not take images of 16 x 16'),
        ('network', None, 'cannot be built'),
        ('network', network | dict(backbone=BACKBONE | dict(new=1)), 'new'),
        ('network', network | dict(type='ImageClassifier'), 'no FaceRecognizer'),
        (
            'network',
            network | dict(data_preprocessor=dict(type='ImgDataPreprocessor')),
            'no FaceRecognizer',
        ),
    ):
        tell(path, **{name: value})
        with pytest.raises(UserError, match=message.format(name)):
            get_model(None, path)


def test_mistakes(saved, tmp_path):
    path, _ = saved
    text, listed = tmp_path / 'text.pth', tmp_path / 'list.pth'
    text.write_text('no checkpoint')
    torch.save([1], listed)
    wide = config(backbone=BACKBONE | dict(widths=(4, 4, 8, 16)))
    for arguments, message in (
        ((None, tmp_path / 'none.pth'), 'there is no checkpoint'),
        ((None, None), 'give a config, a checkpoint'),
        ((None, 'https://example.org/x.pth'), 'download it first'),
        ((None, path, 'nonsense'), 'cannot be used'),
        ((None, text), r'text\.pth'),
        ((None, listed), 'holds no weights'),
        ((wide, path), 'of another network'),
    ):
        with pytest.raises(UserError, match=message):
            get_model(*arguments)
    rewrite(path, meta={})
    with pytest.raises(UserError, match='of another network'):
        get_model(config(backbone=BACKBONE | dict(input_size=64)), path)


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


# ---- a runner


@pytest.fixture
def tested(tmp_path):
    """Of a test without training; batch norms, and no class centres."""
    cfg = small_config(tmp_path / 'work')
    cfg.model.backbone.with_bn = True
    cfg.model.head = None
    cfg.test_dataloader = dict(
        batch_size=16,
        num_workers=0,
        sampler=dict(type='DefaultSampler', shuffle=False),
        dataset=PAIRS,
    )
    cfg.test_cfg, cfg.test_evaluator = {}, dict(type='FaceVerification')
    cfg.train_dataloader = cfg.train_cfg = None
    cfg.optim_wrapper = cfg.param_scheduler = None
    return cfg


def state_of(cfg, **options) -> dict:
    model = copy.deepcopy(cfg.model)
    model.backbone.update(options)
    return MODELS.build(model).state_dict()


def run_test(cfg, state, tmp_path, hooks):
    """As tools/test.py does it."""
    path = tmp_path / 'a.pth'
    torch.save(state, path)
    cfg = copy.deepcopy(cfg)
    cfg.load_from, cfg.custom_hooks = str(path), list(hooks)
    runner = build_runner(cfg)
    refuse_other_networks(runner, cfg, str(path))
    runner.test()
    return runner.model.state_dict()


def test_what_fits_is_tested_with_any_head_or_none(tested, tmp_path):
    state = state_of(tested)
    for value in state.values():
        if value.is_floating_point():
            value += 0.5
    old = {k: v for k, v in state.items() if not k.endswith('num_batches_tracked')}
    average = {**state, 'head.weight': torch.ones(7, 3)}
    trained = {f'module.{key}': value + 1 for key, value in state.items()}
    for content, hooks in (
        ({'state_dict': old}, []),
        (state, []),
        ({f'module.{key}': value for key, value in state.items()}, []),
        ({'state_dict': average, 'ema_state_dict': trained}, []),
        ({'state_dict': average}, [EMA]),
    ):
        actual = run_test(tested, content, tmp_path, hooks)
        assert all(torch.equal(actual[key], value) for key, value in old.items())


@pytest.mark.parametrize('hooks', [[], [EMA]])
def test_another_network_is_refused(tested, tmp_path, hooks):
    whole = state_of(tested)
    key = 'backbone.layer1.0.bn1.running_mean'
    for state, message in (
        ({}, r'it has no backbone\..*tools/model_converters'),
        ({k.removeprefix('backbone.'): v for k, v in whole.items()}, 'converters'),
        ({k: v for k, v in whole.items() if k != key}, rf'has no {key} \[8\]$'),
        (state_of(tested, embedding_size=8), r'no backbone\.fc\.weight \[16, 32\]'),
        # All that is needed, and further blocks.
        (state_of(tested, depth=10), r'has backbone\.layer2\.1\..* beside the rest'),
        ({**whole, 'neck.0.weight': torch.ones(2)}, r'has neck\.0\.weight beside'),
    ):
        with pytest.raises(UserError, match=message) as caught:
            run_test(tested, {'state_dict': state}, tmp_path, hooks)
        assert 'a.pth is of another network than' in str(caught.value)


def test_pictures_of_centres_need_them(tested, tmp_path):
    path = tmp_path / 'a.pth'
    tested.model.head = dict(
        type='HypersphereHead',
        num_classes=5,
        in_channels=16,
        loss=dict(type='NormFaceLoss'),
    )
    state = state_of(tested)
    torch.save({'state_dict': state}, path)
    model = load_runner(tested, str(path)).model
    assert torch.equal(model.head.weight, state['head.weight'])
    for rows in (torch.ones(4, 16), None):
        torch.save({'state_dict': {**state, 'head.weight': rows}}, path)
        with pytest.raises(UserError, match=r'it has no head\.weight \[5, 16\]'):
            load_runner(tested, str(path))


# ---- data sets


def test_a_training_set_that_is_repeated():
    drawn = dict(type='SyntheticFaces', num_identities=2, images_per_identity=2)
    dataset = dict(type='RepeatDataset', times=2, dataset=drawn)
    actual = build_dataset(
        Config(dict(train_dataloader=dict(dataset=dataset))), 'train'
    )
    assert people_of(actual).tolist() == [0, 0, 1, 1] * 2
    assert [actual.get_cat_ids(number) for number in (3, 4)] == [[1], [0]]
