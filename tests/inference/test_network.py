"""A checkpoint of another network is refused, not loaded in part."""

import copy

import pytest
import torch
from mmengine.config import Config
from runs import small_config

from mmhyperface.apis import build_runner
from mmhyperface.inference.dataset_embeddings import build_dataset, people_of
from mmhyperface.inference.loading import load_runner, refuse_other_networks
from mmhyperface.registry import MODELS
from mmhyperface.utils.errors import UserError

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
def config(tmp_path):
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


def test_what_fits_is_tested_with_any_head_or_none(config, tmp_path):
    state = state_of(config)
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
        found = run_test(config, content, tmp_path, hooks)
        assert all(torch.equal(found[key], value) for key, value in old.items())


@pytest.mark.parametrize('hooks', [[], [EMA]])
def test_another_network_is_refused(config, tmp_path, hooks):
    whole = state_of(config)
    key = 'backbone.layer1.0.bn1.running_mean'
    for state, told in (
        ({}, r'it has no backbone\..*tools/model_converters'),
        ({k.removeprefix('backbone.'): v for k, v in whole.items()}, 'converters'),
        ({k: v for k, v in whole.items() if k != key}, rf'has no {key} \[8\]$'),
        (state_of(config, embedding_size=8), r'no backbone\.fc\.weight \[16, 32\]'),
        # All that is needed, and further blocks.
        (state_of(config, depth=10), r'has backbone\.layer2\.1\..* beside the rest'),
        ({**whole, 'neck.0.weight': torch.ones(2)}, r'has neck\.0\.weight beside'),
    ):
        with pytest.raises(UserError, match=told) as caught:
            run_test(config, {'state_dict': state}, tmp_path, hooks)
        assert 'a.pth is of another network than' in str(caught.value)


def test_pictures_of_centres_need_them(config, tmp_path):
    path = tmp_path / 'a.pth'
    config.model.head = dict(
        type='HypersphereHead',
        num_classes=5,
        in_channels=16,
        loss=dict(type='NormFaceLoss'),
    )
    state = state_of(config)
    torch.save({'state_dict': state}, path)
    model = load_runner(config, str(path)).model
    assert torch.equal(model.head.weight, state['head.weight'])
    for rows in (torch.ones(4, 16), None):
        torch.save({'state_dict': {**state, 'head.weight': rows}}, path)
        with pytest.raises(UserError, match=r'it has no head\.weight \[5, 16\]'):
            load_runner(config, str(path))


def test_a_training_set_that_is_repeated():
    drawn = dict(type='SyntheticFaces', num_identities=2, images_per_identity=2)
    dataset = dict(type='RepeatDataset', times=2, dataset=drawn)
    found = build_dataset(Config(dict(train_dataloader=dict(dataset=dataset))), 'train')
    assert people_of(found).tolist() == [0, 0, 1, 1] * 2
    assert [found.get_cat_ids(number) for number in (3, 4)] == [[1], [0]]
