"""FaceRecognizer, its preprocessor, and the head inside mmpretrain's classifier."""

import cv2
import numpy as np
import pytest
import torch
from mmengine.registry import init_default_scope
from mmpretrain.structures import DataSample
from torch import nn

from mmhyperface.models import (
    CosFaceLoss,
    FaceDataPreprocessor,
    FaceRecognizer,
    HypersphereHead,
    NormFaceLoss,
)
from mmhyperface.ops import dense
from mmhyperface.registry import MODELS
from mmhyperface.utils.errors import UserError

SFNET = dict(type='SFNet', depth=4, input_size=32, embedding_size=6)


@pytest.fixture(autouse=True)
def _scope():
    init_default_scope('mmhyperface')


def recognizer(**options) -> FaceRecognizer:
    torch.manual_seed(0)
    cfg = dict(
        type='FaceRecognizer',
        backbone=SFNET,
        head=dict(
            type='HypersphereHead',
            num_classes=5,
            in_channels=6,
            loss=dict(type='CosFaceLoss'),
        ),
    )
    return MODELS.build({**cfg, **options}).eval()


def samples(*labels: int) -> list[DataSample]:
    return [DataSample().set_gt_label(label) for label in labels]


def test_preprocessing_of_every_value():
    values = torch.arange(256, dtype=torch.uint8)
    images = torch.stack([values, values.flip(0), values // 2]).view(1, 3, 16, 16)
    out = FaceDataPreprocessor()(dict(inputs=images, data_samples=['kept']))
    expected = (images.numpy()[:, ::-1].astype(np.float64) - 127.5) / 127.5
    np.testing.assert_allclose(out['inputs'], expected, atol=1e-7)
    assert out['inputs'].dtype == torch.float32
    assert out['data_samples'] == ['kept']
    as_rgb = FaceDataPreprocessor(to_rgb=False, mean=[0, 1, 2], std=2.0)
    out = as_rgb(dict(inputs=[images[0]]))['inputs']
    expected = (images.numpy() - np.array([0, 1, 2]).reshape(3, 1, 1)) / 2
    np.testing.assert_allclose(out, expected, atol=1e-6)


def test_channels_last_is_a_layout_only():
    images = torch.randint(256, (2, 3, 8, 6), dtype=torch.uint8)
    plain = FaceDataPreprocessor()(dict(inputs=images))['inputs']
    last = FaceDataPreprocessor(channels_last=True)(dict(inputs=images))['inputs']
    assert torch.equal(plain, last)
    assert last.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize(
    ('inputs', 'message'),
    [
        (torch.zeros(2, 1, 8, 8, dtype=torch.uint8), r'got \[2, 1, 8, 8\]'),
        (torch.zeros(3, 8, 8, dtype=torch.uint8), r'got \[3, 8, 8\]'),
        ([torch.zeros(3, 8, 8), torch.zeros(3, 8, 9)], 'differ in size.*8, 9'),
    ],
)
def test_preprocessor_refuses(inputs, message):
    with pytest.raises(UserError, match=message):
        FaceDataPreprocessor()(dict(inputs=inputs))


def test_batch_augmentations_are_refused():
    FaceDataPreprocessor(batch_augments=None)
    with pytest.raises(UserError, match='without Mixup'):
        FaceDataPreprocessor(batch_augments=dict(augments='mixup'))


@pytest.mark.parametrize('to_rgb', [True, False])
def test_grey_faces(to_rgb):
    model = recognizer(
        backbone=dict(SFNET, in_channels=1),
        data_preprocessor=dict(to_rgb=to_rgb, mean=100.0, std=50.0),
    )
    colours = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3), np.uint8)
    images = torch.from_numpy(colours).permute(0, 3, 1, 2)  # BGR
    inputs = model.data_preprocessor(dict(inputs=images))['inputs']
    grey = np.stack(
        [cv2.cvtColor(x / np.float32(1), cv2.COLOR_BGR2GRAY) for x in colours]
    )
    expected = model.backbone(torch.from_numpy((grey[:, None] - 100) / 50))[-1]
    torch.testing.assert_close(model(inputs), expected)
    assert 'luma' not in model.state_dict()
    # A grey image is as it was.
    inputs = images[:, :1].expand(-1, 3, -1, -1)
    inputs = model.data_preprocessor(dict(inputs=inputs))['inputs']
    torch.testing.assert_close(model(inputs), model.backbone(inputs[:, :1])[-1])
    losses = model(inputs, samples(0, 4), mode='loss')
    losses['loss'].backward()
    assert model.backbone.layer1[0].conv1.weight.grad.any()


def test_flip_fusion():
    images = torch.randn(3, 3, 32, 32)
    model = recognizer()
    plain = model(images)
    mirrored = model(torch.from_numpy(images.numpy()[..., ::-1].copy()))
    assert not torch.allclose(plain, mirrored)
    expected = {
        'none': plain,
        'sum': plain + mirrored,
        'concat': torch.cat([plain, mirrored], 1),
    }
    for fusion, embeddings in expected.items():
        out = recognizer(flip_fusion=fusion)(images, samples(0, 1, 2), mode='predict')
        got = torch.stack([sample.embedding for sample in out])
        torch.testing.assert_close(got, embeddings)
        assert [int(sample.gt_label) for sample in out] == [0, 1, 2]
    assert len(recognizer()(images[:1], mode='predict')) == 1


def test_loss_mode_is_the_head_on_the_embedding():
    images, labels = torch.randn(3, 3, 32, 32), samples(0, 4, 2)
    model = recognizer()
    losses = model(images, labels, mode='loss')
    cos = model.head(model(images))
    expected = CosFaceLoss()(cos, torch.tensor([0, 4, 2]))
    torch.testing.assert_close(losses['loss'], expected)
    with pytest.raises(UserError, match='mode must be'):
        model(images, mode='train')


def test_without_a_head_it_embeds_and_takes_checkpoints_with_one(caplog):
    whole = recognizer()
    bare = recognizer(head=None)
    bare.load_state_dict(whole.state_dict(), strict=True)
    images = torch.randn(1, 3, 32, 32)
    assert torch.equal(bare(images), whole(images))
    with pytest.raises(UserError, match='needs a head'):
        bare(images, samples(0), mode='loss')


def test_flip_fusion_must_be_known():
    with pytest.raises(UserError, match='flip_fusion must be one of'):
        recognizer(flip_fusion='mean')


def test_in_mmpretrains_classifier():
    model = MODELS.build(
        dict(
            type='ImageClassifier',
            backbone=dict(type='SFNet', depth=4, input_size=32, embedding_size=6),
            head=dict(
                type='HypersphereHead',
                num_classes=5,
                in_channels=6,
                loss=dict(type='SphereFace2Loss'),
            ),
            data_preprocessor=dict(mean=[127.5] * 3, std=[127.5] * 3),
        )
    )
    images = torch.randint(256, (4, 3, 32, 32), dtype=torch.uint8)
    data = dict(inputs=images, data_samples=samples(0, 1, 4, 2))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    from mmengine.optim import OptimWrapper

    logs = model.train_step(data, OptimWrapper(optimizer))
    assert torch.isfinite(logs['loss'])
    for sample in model.test_step(data):
        assert sample.pred_score.shape == (5,)
        assert int(sample.pred_label) == int(sample.pred_score.argmax())
        assert sample.embedding.shape == (6,)


def test_head_gives_clamped_cosines():
    head = HypersphereHead(300, 8, NormFaceLoss())
    feats = head.weight.detach() * torch.rand(300, 1) * 9
    cos = head((feats,))
    assert cos.dtype == torch.float32
    assert cos.abs().max() <= 1
    torch.testing.assert_close(cos.diagonal(), torch.ones(300))
    assert head(feats.double()).dtype == torch.float64


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        (dict(num_classes=1), 'at least 2, got 1'),
        (dict(num_classes='auto'), "got 'auto'"),
        (dict(centres='graph'), r'model\.head\.centres must be one of'),
        (dict(engine=dense, fused_update=True), 'dense.* has neither fused_update'),
        (dict(engine=dense, matmul_dtype='bfloat16'), 'engine of your own'),
        (dict(loss=nn.CrossEntropyLoss()), 'CrossEntropyLoss is no loss of the cosine'),
    ],
)
def test_head_refuses(options, message):
    with pytest.raises(UserError, match=message):
        HypersphereHead(
            **{**dict(num_classes=5, in_channels=4, loss=NormFaceLoss()), **options}
        )


def test_initial_centres():
    torch.manual_seed(0)
    xavier = HypersphereHead(2000, 50, NormFaceLoss()).weight
    assert xavier.std().item() == pytest.approx((2 / 2050) ** 0.5, rel=0.02)
    given = HypersphereHead(2000, 50, NormFaceLoss(), init_std=0.01).weight
    assert given.std().item() == pytest.approx(0.01, rel=0.02)


@pytest.mark.parametrize(
    ('data', 'message'),
    [
        ([], '2 embeddings need as many data samples.*got 0'),
        (None, '2 embeddings need as many data samples.*got 0'),
        (samples(1), 'got 1 data samples'),
        ([DataSample(), DataSample()], 'one gt_label each'),
        ([DataSample().set_gt_label([0, 1])] * 2, 'one gt_label each'),
        ([DataSample().set_gt_score(torch.ones(5))] * 2, 'without Mixup'),
        (samples(0, 5), r'label 5 is outside \[0, 5\)'),
        (torch.tensor([-1, 2]), r'label -1 is outside \[0, 5\)'),
        (torch.tensor([0]), '2 embeddings need as many'),
        (torch.zeros(2, 1, dtype=torch.int64), 'int64'),
        (torch.tensor([0.0, 1.0]), 'int64'),
    ],
)
def test_head_wants_one_label_per_embedding(data, message):
    head = HypersphereHead(5, 4, NormFaceLoss())
    with pytest.raises(UserError, match=message):
        head.loss((torch.randn(2, 4),), data)
    with pytest.raises(UserError, match=r'0 embeddings.*got 1'):
        head.loss((torch.randn(0, 4),), samples(1))


@pytest.mark.parametrize('neck', [False, True])
def test_batch_norm_of_a_single_image(neck):
    """At the end of an epoch, most often."""
    backbone = dict(type='SFNet', depth=4, input_size=32, embedding_size=6)
    if neck:
        options = dict(backbone=backbone, neck=dict(type='EmbeddingNeck'))
        options['neck'].update(in_channels=6, embedding_size=6)
    else:
        options = dict(backbone=dict(backbone, with_bn=True))
    model = recognizer(**options)
    images = torch.rand(1, 3, 32, 32)
    assert model(images).shape == (1, 6)
    model.train()
    with pytest.raises(UserError, match=r'train_dataloader\.drop_last=True'):
        model.loss(images, samples(0))
    model.loss(images.expand(2, 3, 32, 32), samples(0, 1))
    (model.neck if neck else model.backbone).norm_eval = True
    assert model.train().loss(images, samples(0))['loss'].isfinite()


@pytest.mark.parametrize('flip_fusion', ['sum', 'none', 'concat'])
def test_closed_set_scores(flip_fusion):
    model = recognizer(flip_fusion=flip_fusion)
    images = torch.rand(3, 3, 32, 32)
    assert 'pred_score' not in model.predict(images)[0]
    model.classifies = True
    predicted = model.predict(images, samples(0, 1, 2))
    feats = model(images)
    if flip_fusion != 'none':
        feats = feats + model(images.flip(-1))
    centres = nn.functional.normalize(model.head.weight)
    cos = nn.functional.normalize(feats) @ centres.T
    for sample, scores, embedding in zip(
        predicted, cos, model.embed(images), strict=True
    ):
        torch.testing.assert_close(sample.pred_score, (1 + scores) / 2)
        assert sample.pred_label.item() == scores.argmax()
        assert torch.equal(sample.embedding, embedding)
        assert sample.flip_fusion == flip_fusion


def test_backbone_must_give_a_tuple():
    class Plain(nn.Module):
        def forward(self, x):
            return x.flatten(1)

    with pytest.raises(UserError, match='tuple of features'):
        FaceRecognizer(Plain(), head=None)(torch.zeros(3, 3, 2, 2))
