import dataclasses
import json

import pytest
from mmengine.config import Config
from runs import CONFIGS

from mmhyperface.models import FaceRecognizer
from mmhyperface.utils.errors import UserError
from mmhyperface.weights.convention import Convention, OperatingPoint, convention_of

POINTS = (
    OperatingPoint('lfw', 1e-2, 0.2, 0.99, 3000),
    OperatingPoint('lfw', 5e-3, 0.25, 0.99, 3000),
    OperatingPoint('lfw', 1e-3, 0.3, 0.98, 3000),
    OperatingPoint('agedb', 1e-3, 0.4, 0.9, 3000),
    OperatingPoint('agedb', 2e-3, 0.3, 0.9, 3000),
)


def minimal(**model):
    backbone = dict(type='SFNet', depth=4, input_size=(112, 96), embedding_size=8)
    return Config({'model': dict(type='FaceRecognizer', backbone=backbone) | model})


def test_the_quickstart():
    actual = convention_of(Config.fromfile(CONFIGS / 'sphereface2_quickstart.py'))
    assert actual.input_size == (64, 64)
    assert actual.mean == actual.std == (127.5, 127.5, 127.5)
    assert actual.channel_order == 'RGB'
    assert actual.flip_fusion == 'sum'
    assert actual.embedding_size == 128
    assert not actual.resize
    assert actual.loss['type'] == 'SphereFace2Loss'
    assert actual.data == {
        'type': 'SyntheticFaces',
        'num_classes': 500,
        'config': 'sphereface2_quickstart.py',
    }
    assert 'head' not in actual.network
    assert set(actual.versions) == {'mmhyperface', 'torch', 'mmengine'}


@pytest.mark.parametrize(
    ('name', 'size', 'resize'),
    [('sphereface2_facefolder', 64, True), ('sphereface2_r100_ms1m', 112, False)],
)
def test_crops_are_resized_where_training_did(name, size, resize):
    actual = convention_of(Config.fromfile(CONFIGS / f'{name}.py'))
    assert actual.input_size == (size, size)
    assert actual.resize == resize


def test_crops_are_not_resized_where_landmarks_aligned_them():
    cfg = Config.fromfile(CONFIGS / 'sphereface2_facefolder.py')
    steps = cfg.train_dataloader.dataset.pipeline
    (load,) = (step for step in steps if step['type'] == 'LoadFace')
    load['size'] = None
    assert not convention_of(cfg).resize


def test_a_config_without_data():
    preprocessor = dict(to_rgb=False, mean=[1, 2, 3], std=4)
    cfg = minimal(flip_fusion='concat', data_preprocessor=preprocessor)
    actual = convention_of(cfg)
    assert actual.input_size == (112, 96)
    assert actual.channel_order == 'BGR'
    assert actual.mean == (1, 2, 3)
    assert actual.std == (4, 4, 4)
    assert actual.embedding_size == 16
    assert actual.data is None
    assert actual.loss is None


def test_types_may_be_classes_and_data_sets_nested():
    cfg = minimal(type=FaceRecognizer)
    cfg.model.backbone = dict(type='mmpretrain.ResNet', depth=18)
    inner = dict(type='X', pipeline=[dict(type='mmhyperface.LoadFace', size=(48, 40))])
    cfg.test_dataloader = dict(dataset=dict(type='Sets', datasets=[inner]))
    actual = convention_of(cfg)
    assert actual.input_size == (48, 40)
    assert actual.network['type'] == 'FaceRecognizer'


def test_no_convention():
    cfg = minimal()
    cfg.model.backbone.pop('input_size')
    with pytest.raises(UserError, match='does not tell the size'):
        convention_of(cfg)
    with pytest.raises(UserError, match='ImageClassifier'):
        convention_of(minimal(type='ImageClassifier'))
    with pytest.raises(UserError, match='SelfSupDataPreprocessor'):
        convention_of(minimal(data_preprocessor=dict(type='SelfSupDataPreprocessor')))
    with pytest.raises(UserError, match='missing'):
        convention_of(Config())


def test_it_survives_json():
    actual = convention_of(Config.fromfile(CONFIGS / 'sface_r100_ms1m.py'))
    actual = dataclasses.replace(
        actual, operating_points=POINTS, fingerprint='ab', image_sizes=((112, 92),)
    )
    text = json.dumps(actual.to_dict())
    assert Convention.from_dict(json.loads(text), 'here') == actual
    later = json.loads(text) | {'of_a_later_version': 1}
    assert Convention.from_dict(later, 'here') == actual


@pytest.mark.parametrize('fault', [None, [], {}, {'input_size': 3}, {'image_sizes': 3}])
def test_damage_is_told(fault):
    with pytest.raises(UserError, match=r'x\.pth: its convention is damaged'):
        Convention.from_dict(fault, 'x.pth')


def test_operating_points():
    empty = convention_of(minimal())
    assert empty.operating_point() is None
    assert empty.operating_point(1e-3) is None
    actual = dataclasses.replace(empty, operating_points=POINTS)
    assert actual.operating_point() == POINTS[1]
    assert actual.operating_point(0.01) == POINTS[0]
    assert actual.operating_point(0.001) == POINTS[2]
    # Fewer than ten pairs stand on either.
    assert actual.operating_point(test_set='agedb') == POINTS[4]
    with pytest.raises(UserError, match=r'only for 0\.01, 0\.005, 0\.001'):
        actual.operating_point(1e-6)
    with pytest.raises(UserError, match='only of lfw, agedb'):
        actual.operating_point(test_set='cfp')
