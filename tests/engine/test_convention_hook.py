"""Checkpoints carry the convention and the thresholds of just their weights."""

import copy
import re

import numpy as np
import pytest
import torch
from mmengine.dataset import ConcatDataset
from PIL import Image
from runs import log_of, small_config, train, with_validation

from mmhyperface.apis import build_runner, get_model
from mmhyperface.centres import storage
from mmhyperface.datasets import FaceFolder, FaceSets, SyntheticFacePairs
from mmhyperface.engine.hooks.convention_hook import image_sizes
from mmhyperface.engine.testing import is_recogniser, save_features
from mmhyperface.evaluation.functional import tar_at_far
from mmhyperface.inference.backends import TorchNetwork
from mmhyperface.inference.loading import (
    examined_convention,
    read_convention,
    save_operating_points,
)
from mmhyperface.models import FaceDataPreprocessor, FaceRecognizer
from mmhyperface.registry import MODELS
from mmhyperface.utils.errors import UserError
from mmhyperface.weights.convention import convention_of

FARS = (0.1, 0.3)
PAIRS = dict(name='pairs', num_identities=6, images_per_identity=4, num_pairs=60)


def config(work_dir, **options):
    evaluator = dict(type='FaceVerification', fars=(1e-9, *FARS), folds=2)
    cfg = with_validation(small_config(work_dir), evaluator, **PAIRS)
    cfg.test_dataloader, cfg.test_evaluator = cfg.val_dataloader, evaluator
    cfg.test_cfg = {}
    cfg.train_cfg.val_interval = 3
    cfg.default_hooks.checkpoint.interval = 2
    cfg.merge_from_dict(options)
    return cfg


def thresholds(checkpoint):
    """Of the weights as they lie there, computed anew."""
    network = TorchNetwork(get_model(None, checkpoint))
    pairs = SyntheticFacePairs(
        **PAIRS, first_identity=11, image_size=32, test_mode=True
    )
    images = np.stack([pairs.get_data_info(i)['img'] for i in range(len(pairs))])
    rows = network.embed(images).astype(float)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    (sets,) = pairs.metainfo['test_sets'].values()
    scores = (rows[sets['index_a']] * rows[sets['index_b']]).sum(1)
    return tar_at_far(scores, sets['same'], FARS)


def check(checkpoint):
    points = read_convention(checkpoint).operating_points
    wanted = thresholds(checkpoint)
    assert [point.far for point in points] == list(FARS)
    assert {point.test_set for point in points} == {'pairs'}
    assert {point.impostors for point in points} == {30}
    np.testing.assert_allclose([x.threshold for x in points], wanted.thresholds, 1e-5)
    np.testing.assert_allclose([x.tar for x in points], wanted.tars)


@pytest.mark.parametrize('parts', [None, 0])
def test_thresholds_of_the_validated_weights_alone(tmp_path, parts):
    """Saved at 2, 4 and 6, validated at 3 and 6; in one file, and in parts."""
    train(config(tmp_path, centre_parts_above=parts))
    first = read_convention(tmp_path / 'iter_4.pth')
    assert first.operating_points == ()
    assert first.data['num_classes'] == 11
    last = tmp_path / 'iter_6.pth'
    assert last.is_dir() == (parts == 0)
    check(last)
    # It is still a checkpoint to go on from.
    cfg = config(tmp_path, centre_parts_above=parts, resume=True)
    cfg.load_from = str(last)
    cfg.train_cfg.max_iters = 7
    assert train(cfg).iter == 7


def test_the_best_checkpoint_of_grey_faces(tmp_path):
    train(
        config(
            tmp_path,
            **{'model.backbone.in_channels': 1},
            **{'default_hooks.checkpoint.save_best': 'pairs/auc'},
            **{'default_hooks.checkpoint.rule': 'greater'},
        )
    )
    (best,) = tmp_path.glob('best_*.pth')
    first = storage.read(str(best))['state_dict']['backbone.layer1.0.conv1.weight']
    assert first.shape[1] == 1
    check(best)


def test_thresholds_of_a_test(tmp_path):
    cfg = config(tmp_path)
    cfg.val_dataloader = cfg.val_evaluator = cfg.val_cfg = None
    train(cfg)
    path = str(tmp_path / 'iter_6.pth')
    assert read_convention(path).operating_points == ()
    before = storage.read(path)['state_dict']
    cfg = config(tmp_path, load_from=path)
    runner = build_runner(cfg)
    runner.test()
    convention = examined_convention(path, cfg)
    save_operating_points(path, convention, runner.test_loop.evaluator)
    check(path)
    after = storage.read(path)['state_dict']
    assert all(torch.equal(after[key], value) for key, value in before.items())
    for name, value, message in (
        ('flip_fusion', 'none', "examined with 'none'"),
        ('data_preprocessor', dict(to_rgb=False), "examined with 'BGR'"),
    ):
        other = copy.deepcopy(cfg)
        other.model[name] = value
        with pytest.raises(UserError, match=message):
            examined_convention(path, other)
    metric = runner.test_loop.evaluator.metrics[0]
    (result,) = metric.results_by_set.values()
    actual = result.thresholds.copy()
    # The advice, for pairs that resolve none of the FARs, is one that they resolve.
    result.thresholds[:] = np.nan
    with pytest.raises(UserError, match=r'set test_evaluator\.fars=\[') as refused:
        save_operating_points(path, convention, runner.test_loop.evaluator)
    (far,) = re.findall(r'fars=\[(.*)\]', str(refused.value))
    tar = tar_at_far(result.scores, result.same, float(far))
    assert np.isfinite(tar.thresholds).all()
    result.thresholds[:] = actual
    metric.results_by_set.clear()
    with pytest.raises(UserError, match=r'no thresholds to save: .*--test-sets lfw'):
        save_operating_points(path, convention, runner.test_loop.evaluator)
    torch.save(before, path)
    nothing_told = examined_convention(path, cfg)
    assert nothing_told.versions == {}
    assert nothing_told.loss is not None


def test_the_sizes_of_the_crops_that_training_resized(tmp_path):
    cfg = small_config(tmp_path)
    cfg.train_cfg.max_iters = cfg.default_hooks.checkpoint.interval = 1
    dataset = cfg.train_dataloader.dataset
    dataset.image_size = 40
    dataset.pipeline = [dict(type='LoadFace', size=32), dict(type='PackInputs')]
    train(cfg)
    assert read_convention(tmp_path / 'iter_1.pth').image_sizes == ((40, 40),)


def test_sizes_of_the_images_of_a_data_set(tmp_path):
    def folder(name, *sizes):
        for number, size in enumerate(sizes):
            path = tmp_path / name / 'a' / f'{number}.png'
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new('L', size).save(path)
        return FaceFolder(str(tmp_path / name))

    wide, two = folder('wide', (8, 6)), folder('two', (5, 7), (7, 5))
    (tmp_path / 'two' / 'a' / '0.png').write_bytes(b'damaged')
    assert image_sizes(wide) == ((6, 8),)
    assert image_sizes(two) == ((5, 7),)
    for both in (ConcatDataset([wide, two]), FaceSets([wide, two])):
        assert image_sizes(both) == ((5, 7), (6, 8))
    # Photographs have all kinds of sizes, and are no crops.
    assert image_sizes(folder('all', *((9, side) for side in range(1, 9)))) == ()


class Scaled(FaceDataPreprocessor):
    def forward(self, data, training=False):
        return super().forward(data, training)


class Named(FaceDataPreprocessor):
    """Does the same."""


class Distilled(FaceRecognizer):
    def __init__(self, *args, temperature=1.0, **kwargs):
        super().__init__(*args, **kwargs)
        self.temperature = temperature


@pytest.fixture
def registered():
    kinds = (Scaled, Named, Distilled)
    for kind in kinds:
        MODELS.register_module(module=kind, force=True)
    yield
    for kind in kinds:
        MODELS.module_dict.pop(kind.__name__)


def test_a_network_without_a_convention_trains_and_is_told(tmp_path, registered):
    train(config(tmp_path, **{'model.data_preprocessor.type': 'Scaled'}))
    assert read_convention(tmp_path / 'iter_6.pth') is None
    assert 'what a Scaled does with pixels is not known' in log_of(tmp_path)


def test_a_recogniser_of_ones_own_has_a_convention(tmp_path, registered):
    cfg = config(
        tmp_path,
        **{
            'model.type': 'Distilled',
            'model.temperature': 4.0,
            'model.data_preprocessor.type': 'Named',
        },
    )
    train(cfg)
    path = tmp_path / 'iter_6.pth'
    check(path)
    model = get_model(None, path)
    assert isinstance(model, Distilled)
    assert model.temperature == 4.0
    assert is_recogniser(cfg)
    save_features(cfg, str(tmp_path / 'rows.npy'), str(path))
    assert cfg.test_evaluator.about_features.flip_fusion == 'sum'
    # Nobody else's are taken for ours.
    cfg.model.type = 'mmpretrain.ImageClassifier'
    assert not is_recogniser(cfg)
    with pytest.raises(UserError, match='only a FaceRecognizer'):
        convention_of(cfg)
