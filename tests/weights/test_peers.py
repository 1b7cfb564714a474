"""Peers' networks as ours give the same embeddings, and come back as they were."""

from functools import partial

import numpy as np
import peer_networks as peers
import pytest
import torch

from mmhyperface.registry import MODELS
from mmhyperface.utils.errors import UserError
from mmhyperface.weights import (
    Network,
    adaface,
    cvlface,
    from_checkpoint,
    insightface,
    network_of,
    opensphere,
    sface,
    to_checkpoint,
)

SMALL = (2, 2, 2, 2)
CLASSES, DIM = 10, 16
SIDE, POSITIONS = 32, 4


@pytest.fixture(scope='module')
def images() -> torch.Tensor:
    """In RGB, 0 to 255."""
    pixels = np.random.default_rng(0).integers(0, 256, (2, 3, SIDE, SIDE))
    return torch.from_numpy(pixels).float()


def scaled(images):
    return (images - 127.5) / 127.5


def wrapped(state, prefix):
    return {f'{prefix}{key}': value for key, value in state.items()}


def centres(seed=1, classes=CLASSES, dim=DIM):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(classes, dim, generator=generator)


def raw(images):
    return (images - 127.5) * 0.078125


def build_cases():
    """By name: weights; the prefix of their names there; what the peer computes of RGB
    images; to ours; back to the peer's files, and where the backbone is in them.
    """
    ir, tface = (
        peers.ir_state(SMALL, POSITIONS, DIM, tface) for tface in (False, True)
    )
    iresnet = peers.iresnet_state(SMALL, POSITIONS, DIM)
    plain = peers.sfnet_state((0, 1, 2, 0), POSITIONS, DIM, with_bn=False)
    with_bn = peers.sfnet_state((0, 1, 2, 0), POSITIONS, DIM, with_bn=True)
    mobile = peers.mobilefacenet_state(SIDE // 16, DIM)
    of_2022 = partial(opensphere.from_ours, revision='2022'), 'backbone_0.pth'
    of_2023 = partial(opensphere.from_ours, revision='2023'), 'model_0.pth', 'backbone'
    to_evolve = partial(sface.from_ours, origin='evolve')

    def paper(s, x):
        return peers.sfnet(s, scaled(x), paper=True)

    def newer(s, x):
        return peers.sfnet(s, scaled(x), paper=False)

    return {
        'insightface': (
            *(iresnet, '', lambda s, x: peers.iresnet(s, scaled(x))),
            *(insightface.to_ours, insightface.from_ours, 'model.pt'),
        ),
        'opensphere 2022, paper': (
            *(plain, 'module.', paper),
            *(partial(opensphere.to_ours, variant='paper'), *of_2022),
        ),
        'opensphere 2022, newer': (
            *(plain, 'module.', newer),
            *(partial(opensphere.to_ours, variant='opensphere'), *of_2022),
        ),
        'opensphere 2022, batch norm': (
            *(with_bn, 'module.', newer),
            *(opensphere.to_ours, *of_2022),
        ),
        'opensphere 2023': (
            *(plain, '', newer),
            lambda s: opensphere.to_ours({'backbone': s, 'head': {'w': centres()}}),
            *of_2023,
        ),
        'SFace IR': (
            *(ir, '', lambda s, x: peers.ir(s, raw(x), SMALL, tface=False)),
            *(sface.to_ours, sface.from_ours, 'Backbone_IR_18_checkpoint.pth'),
        ),
        'SFace MobileFaceNet': (
            *(mobile, '', lambda s, x: peers.mobilefacenet(s, raw(x)), sface.to_ours),
            *(sface.from_ours, 'Backbone_MobileFaceNet_checkpoint.pth'),
        ),
        'face.evoLVe': (
            *(ir, '', lambda s, x: peers.ir(s, scaled(x), SMALL, tface=False)),
            *(partial(sface.to_ours, origin='evolve'), to_evolve),
            'Backbone_IR_18_checkpoint.pth',
        ),
        'AdaFace': (
            *(tface, 'model.'),
            lambda s, x: peers.ir(s, scaled(x.flip(1)), SMALL, tface=True),
            lambda s: adaface.to_ours({'state_dict': s}),
            *(adaface.from_ours, 'adaface_ir18.ckpt', 'state_dict'),
        ),
        'CVLface, RGB': (
            *(tface, 'net.', lambda s, x: peers.ir(s, scaled(x), SMALL, tface=True)),
            *(cvlface.to_ours, cvlface.from_ours, 'model.pt'),
        ),
        'CVLface, BGR': (
            *(iresnet, 'net.', lambda s, x: peers.iresnet(s, scaled(x.flip(1)))),
            lambda s: cvlface.to_ours(wrapped(s, 'model.'), channels='bgr'),
            *(partial(cvlface.from_ours, channels='bgr'), 'model.pt'),
        ),
    }


def theirs(name: str) -> dict:
    """The weights of a case as the peer saves them."""
    return wrapped(*CASES[name][:2])


def to_ours_of(name: str) -> Network:
    return CASES[name][3](theirs(name))


CASES = build_cases()
each_case = pytest.mark.parametrize('name', CASES)


def embeddings(network: Network, images: torch.Tensor) -> torch.Tensor:
    """By our recogniser, which gets BGR bytes; its checkpoint is loaded strictly."""
    model = MODELS.build({'type': 'FaceRecognizer', 'backbone': network.config}).eval()
    model.load_state_dict(to_checkpoint(network, '', [])['state_dict'], strict=True)
    batch = {'inputs': images.flip(1).to(torch.uint8)}
    with torch.no_grad():
        return model(model.data_preprocessor(batch)['inputs'])


@each_case
def test_a_converted_network_gives_the_same_embeddings(name, images):
    state, _, embed, *_ = CASES[name]
    expected = embed(state, images)
    actual = embeddings(to_ours_of(name), images)
    assert (actual - expected).abs().max() < 1e-5 * expected.norm(dim=1).min()
    # The oracle sees the images, and not only biases.
    assert (expected[0] - expected[1]).norm() > 0.1 * expected[0].norm()


@each_case
def test_a_network_comes_back_as_it_was(name):
    state, from_ours, places = theirs(name), CASES[name][4], CASES[name][5:]
    kept = {key: value.clone() for key, value in state.items()}
    network = CASES[name][3](state)
    # As a checkpoint, where the variant of an SFNet is not told.
    returned = from_ours(from_checkpoint(to_checkpoint(network, '', [])))
    for place in places:
        returned = returned[place]
    assert set(returned) == set(state)
    for key, value in returned.items():
        if name.startswith('SFace'):  # multiplied and divided, in fp32
            torch.testing.assert_close(value, state[key], rtol=2**-22, atol=0)
        else:
            assert torch.equal(value, state[key])
    assert all(torch.equal(kept[key], state[key]) for key in state)


def test_what_was_found_is_told():
    network = to_ours_of('opensphere 2022, batch norm')
    assert network.config == {
        'type': 'SFNet',
        'depth': 10,
        'variant': 'opensphere',
        'with_bn': True,
        'widths': [8, 12, 16, 20],
        'embedding_size': 16,
        'input_size': 32,
    }
    assert str(network) == (
        'SFNet-10 (opensphere) with batch norm, 32 x 32 pixels, embeddings of 16 '
        'dimensions, no class centres'
    )


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16, torch.float64])
def test_weights_of_other_types_become_fp32(dtype):
    state = {
        key: value.to(dtype) if value.is_floating_point() else value
        for key, value in CASES['face.evoLVe'][0].items()
    }
    network = sface.to_ours(state, {'weight': centres().to(dtype)}, origin='evolve')
    for key, value in network.backbone.items():
        if key.endswith('num_batches_tracked'):
            assert value.dtype == torch.int64
        else:
            assert torch.equal(value, state[key].float())
    assert torch.equal(network.centres, centres().to(dtype).float())


def test_a_factor_is_not_lost_in_half_precision(images):
    state = {k: v.half() for k, v in CASES['SFace IR'][0].items()}
    exact = {k: v.float() for k, v in state.items()}
    expected = peers.ir(exact, (images - 127.5) * 0.078125, SMALL, tface=False)
    actual = embeddings(sface.to_ours(state), images)
    assert (actual - expected).abs().max() < 1e-5 * expected.norm(dim=1).min()


def test_prefixes_and_missing_counters_do_no_harm():
    state = CASES['insightface'][0]
    older = {
        f'module.module.{key}': value
        for key, value in state.items()
        if not key.endswith('num_batches_tracked')
    }
    actual = insightface.to_ours(older).backbone
    for key, value in state.items():
        if key.endswith('num_batches_tracked'):
            assert actual[key] == 0
        else:
            assert torch.equal(actual[key], value)


# ---- class centres


def test_rows_of_ranks_are_merged():
    whole = centres()
    state = CASES['insightface'][0]
    for parts in (
        whole.split([4, 3, 3]),
        [{'weight': rows} for rows in whole.split(5)],
    ):
        assert torch.equal(insightface.to_ours(state, parts).centres, whole)
    resumed = [
        {'state_dict_backbone': state, 'state_dict_softmax_fc': {'weight': rows}}
        for rows in whole.split([3, 3, 2, 2])
    ]
    assert torch.equal(insightface.to_ours(resumed[0], resumed, 10).centres, whole)


@pytest.mark.parametrize('world_size', [1, 2, 3, 4, 10, 12])
def test_rows_of_ranks_come_back(world_size):
    network = insightface.to_ours(CASES['insightface'][0], [centres()])
    _, *files = insightface.from_ours(network, world_size).items()
    assert [name for name, _ in files] == [
        f'softmax_fc_gpu_{rank}.pt' for rank in range(world_size)
    ]
    # The rule in partial_fc.py.
    for rank, (_, content) in enumerate(files):
        start = CLASSES // world_size * rank + min(rank, CLASSES % world_size)
        count = CLASSES // world_size + int(rank < CLASSES % world_size)
        assert torch.equal(content['weight'], centres()[start : start + count])
    again = insightface.to_ours(
        CASES['insightface'][0], [content for _, content in files]
    )
    assert torch.equal(again.centres, centres())


def test_rows_that_cannot_be_are_noticed():
    state = CASES['insightface'][0]
    with pytest.raises(UserError, match=r'rank 0 has 3 .* 10 on 3 processes make 4'):
        insightface.to_ours(state, centres().split([3, 4, 3]))
    with pytest.raises(UserError, match='rank 1 have the shape'):
        insightface.to_ours(state, [centres(), centres(dim=8)])
    with pytest.raises(UserError, match=r"\[10, 8\] are not of the embedding's 16"):
        insightface.to_ours(state, [centres(dim=8)])
    # The last rank's file is missing, and the rest is as good as whole.
    with pytest.raises(UserError, match='10 class centres instead of 15'):
        insightface.to_ours(state, centres().split(5), num_classes=15)
    with pytest.raises(UserError, match='neither a tensor nor a state dict'):
        insightface.to_ours(state, [{'bias': centres()}])


@pytest.mark.parametrize('classes', [3, DIM])
def test_opensphere_has_columns_and_later_rows(classes):
    # With as many classes as dimensions the shape does not tell.
    backbone = CASES['opensphere 2023'][0]
    rows, bias = centres(classes=classes), torch.tensor([-3.5])
    newer = opensphere.to_ours({'backbone': backbone, 'head': {'w': rows, 'b': bias}})
    older = opensphere.to_ours(
        wrapped(backbone, 'module.'),
        wrapped({'w': rows.t(), 'b': bias}, 'module.'),
        'opensphere',
    )
    for network in (newer, older):
        assert torch.equal(network.centres, rows)
        assert torch.equal(network.loss['bias'], bias)
    head = opensphere.from_ours(older, '2022', 7)['head_7.pth']
    assert torch.equal(head['module.w'], rows.t())
    assert torch.equal(head['module.b'], bias)
    head = opensphere.from_ours(older, '2023', 7)['model_7.pth']['head']
    assert torch.equal(head['w'], rows)
    with pytest.raises(UserError, match='belong to another network'):
        opensphere.to_ours(backbone, {'w': rows.t()[:5]}, 'paper')


def test_the_newer_opensphere_has_no_sfnet_of_the_papers():
    state = CASES['opensphere 2023'][0]
    for variant, message in (('paper', '--revision 2022'), (None, 'give --variant')):
        network = opensphere.to_ours(state, variant='paper')
        checkpoint = to_checkpoint(network, '', [])
        if variant is None:  # as a training saves it
            del checkpoint['meta']['backbone']
        network = from_checkpoint(checkpoint)
        assert network.config.get('variant') == variant
        assert 'backbone_0.pth' in opensphere.from_ours(network, '2022')
        with pytest.raises(UserError, match=message):
            opensphere.from_ours(network, '2023')
    network = from_checkpoint(checkpoint, 'opensphere')
    assert 'model_0.pth' in opensphere.from_ours(network, '2023')


def test_opensphere_without_class_centres():
    backbone = CASES['opensphere 2023'][0]
    for head, message in (
        ({'bias': torch.zeros(1)}, 'class centres `w` belong'),
        ({'w': centres(), 'b': torch.zeros(1, CLASSES)}, 'a bias per class'),
    ):
        with pytest.raises(UserError, match=message):
            opensphere.to_ours({'backbone': backbone, 'head': head})
        both = {'model': {'backbone': backbone, 'head': head}}
        assert opensphere.to_ours(both, with_head=False).centres is None
    with pytest.raises(UserError, match='give no other'):
        opensphere.to_ours({'backbone': backbone, 'head': {}}, {'w': centres()})


def test_the_head_of_sface():
    state = CASES['SFace IR'][0]
    for head in ({'weight': centres()}, {'kernel': centres().t()}):
        network = sface.to_ours(state, wrapped(head, 'module.'))
        assert torch.equal(network.centres, centres())
        returned = sface.from_ours(network)['Head_SFaceLoss_checkpoint.pth']
        assert torch.equal(returned['weight'], centres())
    with pytest.raises(UserError, match=r'weight, bias, .* `kernel` alone belong'):
        sface.to_ours(state, {'weight': centres(), 'bias': torch.zeros(CLASSES)})


def test_the_head_of_adaface_and_its_statistics():
    state = {
        **theirs('AdaFace'),
        'head.kernel': centres().t(),
        'head.t': torch.zeros(1),
        'head.batch_mean': torch.tensor([17.0]),
        'head.batch_std': torch.tensor([3.0]),
    }
    network = adaface.to_ours({'state_dict': state})
    head = MODELS.build(
        {
            'type': 'HypersphereHead',
            'num_classes': CLASSES,
            'in_channels': DIM,
            'loss': {'type': 'AdaFaceLoss'},
        }
    )
    ours = to_checkpoint(network, '', [])['state_dict']
    head.load_state_dict(
        {k.removeprefix('head.'): v for k, v in ours.items() if k.startswith('head.')}
    )
    assert torch.equal(head.weight, centres())
    assert (head.loss_module.norm_mean, head.loss_module.norm_std) == (17, 3)
    returned = adaface.from_ours(network)['adaface_ir18.ckpt']['state_dict']
    assert set(returned) == set(state)
    assert all(torch.equal(returned[key], state[key]) for key in state)
    assert adaface.to_ours({'state_dict': state}, with_head=False).centres is None
    # The head of CosFace, whose output has no statistics.
    plain = {key: value for key, value in state.items() if 'batch' not in key}
    assert adaface.to_ours(plain).loss == {}
    with pytest.raises(UserError, match='`kernel` belong'):
        adaface.to_ours({**state, 'head.more': torch.zeros(1)})


def test_cvlface_adds_classes_until_the_processes_divide_them():
    model = theirs('CVLface, RGB')
    network = cvlface.to_ours(
        model,
        [
            {
                'classifier.weight': centres(),
                'classifier.batch_mean': torch.tensor([17.0]),
                'classifier.batch_std': torch.tensor([3.0]),
            }
        ],
    )
    assert network.loss == {'norm_mean': 17, 'norm_std': 3}
    _, *files = cvlface.from_ours(network, world_size=4).values()
    assert [len(file['partial_fc.weight']) for file in files] == [3, 3, 3, 3]
    assert all(file['partial_fc.batch_mean'].tolist() == [17] for file in files)
    assert len(cvlface.to_ours(model, files).centres) == 12
    again = cvlface.to_ours(model, files, num_classes=CLASSES)
    assert torch.equal(again.centres, centres())
    for wrong in (8, 13):
        with pytest.raises(UserError, match=f'not what {wrong} classes make'):
            cvlface.to_ours(model, files, num_classes=wrong)
    with pytest.raises(UserError, match=r'partial_fc\.weight'):
        cvlface.to_ours(model, [{'weight': centres()}])


# ---- what is refused


@pytest.mark.parametrize(
    ('state', 'message'),
    [
        ({'layers.0.layers.0.weight': torch.zeros(1)}, 'another, wider net'),
        ({'patch_embed.proj.weight': torch.zeros(1)}, 'vision transformer'),
        ({'net.vit.pos_embed': torch.zeros(1)}, 'vision transformer'),
        ({'conv.weight': torch.zeros(1)}, 'named conv.weight'),
        ({'layer1.0.prelu.weight': torch.zeros(1)}, '1, 0, 0, 0 blocks'),
    ],
)
def test_other_networks_are_named(state, message):
    with pytest.raises(UserError, match=message):
        network_of(state)


def test_networks_that_are_nearly_ours_are_named():
    state = dict(CASES['face.evoLVe'][0])
    state['body.0.res_layer.5.fc1.weight'] = torch.zeros(4, 64, 1, 1)
    with pytest.raises(UserError, match='squeeze and excitation'):
        sface.to_ours(state)
    state = CASES['insightface'][0]
    lower = {k: v for k, v in state.items() if not k.startswith('layer3.1.')}
    with pytest.raises(UserError, match=r'with 2, 2, 1, 2 blocks .* 18, 34, 50'):
        insightface.to_ours(lower)
    for positions in (0, 2, 6):
        wide = {**state, 'fc.weight': torch.zeros(DIM, 512 * positions)}
        with pytest.raises(UserError, match=f'a map of {positions} positions'):
            insightface.to_ours(wide)


def test_weights_that_do_not_fit_are_named():
    state = dict(CASES['insightface'][0])
    del state['bn2.weight'], state['bn2.running_mean']
    state['fc2.weight'] = torch.zeros(1)
    state['layer1.0.bn1.bias'] = torch.zeros(65)
    with pytest.raises(UserError) as caught:
        insightface.to_ours(state)
    assert str(caught.value) == (
        'these weights do not fit IResNet-18: missing: bn2.weight, bn2.running_mean; '
        'too much: fc2.weight; of another shape: layer1.0.bn1.bias [65] instead of [64]'
    )


def test_networks_of_other_peers_are_refused():
    ours = {name: to_ours_of(name) for name in CASES}
    for network, there in (
        ('SFace IR', insightface.from_ours),
        ('insightface', sface.from_ours),
        ('SFace IR', adaface.from_ours),
        ('SFace MobileFaceNet', cvlface.from_ours),
        ('AdaFace', lambda network: opensphere.from_ours(network, '2023')),
    ):
        with pytest.raises(UserError, match='take the converter of another peer'):
            there(ours[network])
    # Else an input's scale or order would be changed that is right.
    with pytest.raises(UserError, match=r'SFace has no IR-18 \(tface\)'):
        sface.to_ours(CASES['AdaFace'][0])
    with pytest.raises(UserError, match=r'AdaFace has no IR-18 \(evolve\)'):
        adaface.to_ours(CASES['SFace IR'][0])


def test_the_variant_of_a_plain_sfnet_must_be_told():
    with pytest.raises(UserError, match='--variant paper'):
        opensphere.to_ours(CASES['opensphere 2022, paper'][0])


@pytest.mark.parametrize(
    'content', [None, {}, [], torch.zeros(3), {'epoch': 3, 'w': torch.zeros(1)}]
)
def test_what_is_no_state_dict_is_refused(content):
    for peer in (insightface, opensphere, sface, adaface, cvlface):
        with pytest.raises(UserError, match='is no state dict'):
            peer.to_ours(content)


def test_a_checkpoint_with_a_neck_is_refused():
    checkpoint = {'state_dict': {'neck.fc.weight': torch.zeros(1)}}
    with pytest.raises(UserError, match=r'neck\.fc\.weight beside backbone and head'):
        from_checkpoint(checkpoint)
