"""The runner from end to end: processes, resuming, seeds, precision, messages."""

import copy
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.hooks import EMAHook
from mmpretrain.structures import DataSample
from runs import log_of, scalars, small_config, spawn, train

from mmhyperface.apis import build_runner
from mmhyperface.datasets import collate_faces
from mmhyperface.utils.errors import UserError

LOSSES = {
    'sphereface2': dict(type='SphereFace2Loss', r=30.0, m=0.3),
    'spherefacer': dict(type='SphereFaceRLoss', s=30.0, feature_norm='soft'),
    'sface': dict(type='SFaceLoss', s=16.0),
    'adaface': dict(type='AdaFaceLoss', s=16.0),
    'sphereface+': dict(type='SphereFacePlusLoss', s=16.0),
    'magface': dict(type='MagFaceLoss', s=16.0, l_a=1.0, u_a=10.0),
    'curricularface': dict(type='CurricularFaceLoss', s=16.0),
    'elasticface': dict(type='ElasticFaceLoss', s=16.0, plus=True),
}


def head_options(loss: str, centres: str = 'normalize') -> dict:
    return {
        'model.head.loss': dict(_delete_=True, **LOSSES[loss]),
        'model.head.centres': centres,
    }


def centres_of(loss: str) -> str:
    return 'project' if loss.startswith('sphereface') else 'normalize'


def train_all(root: str, world: int) -> None:
    """A run for each loss in one set of processes."""
    for loss in LOSSES:
        cfg = small_config(
            Path(root) / loss,
            **head_options(loss, centres_of(loss)),
            **{'train_dataloader.batch_size': 8 // world},
        )
        cfg.launcher = 'pytorch' if world > 1 else 'none'
        train(cfg)


def weights(path: Path) -> dict:
    return torch.load(path, map_location='cpu')


def equal(a: object, b: object) -> bool:
    """Equality to the last bit of nested checkpoints."""
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(equal(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(equal, a, b))
    return a == b


def test_two_processes_train_as_one(tmp_path):
    one, two = tmp_path / 'one', tmp_path / 'two'
    train_all(str(one), 1)
    spawn(2, train_all, str(two), 2)
    for loss in LOSSES:
        curve = scalars(one / loss)
        assert len(curve) == len(set(curve)) == 6
        np.testing.assert_allclose(scalars(two / loss), curve, rtol=2e-5)
        states = [weights(root / loss / 'iter_6.pth') for root in (two, one)]
        torch.testing.assert_close(
            *(state['state_dict'] for state in states), rtol=1e-4, atol=1e-6
        )


STATEFUL = {
    'custom_hooks': [
        dict(type='EMAHook', momentum=0.1),
        dict(type='MarginSchedulerHook', policy='linear', start=1.0, begin=1, end=6),
    ],
    # With flips and dropout: random numbers must be resumed too.
    'train_dataloader.dataset.pipeline': [
        dict(type='RandomFlip', prob=0.5),
        dict(type='PackInputs'),
    ],
    'model.backbone.dropout': 0.3,
    'default_hooks.checkpoint.interval': 1,
}


# A margin that moves, running statistics, random margins.
RESUMED = ('spherefacer', 'adaface', 'elasticface')


def train_and_resume(root: str, world: int, stop: int) -> None:
    for loss, hooks in zip(RESUMED, (2, 1, 1), strict=True):
        options = {**STATEFUL, 'custom_hooks': STATEFUL['custom_hooks'][:hooks]}
        for name, extra in (
            ('whole', {}),
            ('again', {}),
            (
                'resumed',
                {'resume': True, 'load_from': f'{root}/whole/{loss}/iter_{stop}.pth'},
            ),
        ):
            cfg = small_config(
                Path(root) / name / loss, **head_options(loss), **options, **extra
            )
            cfg.launcher = 'pytorch' if world > 1 else 'none'
            train(cfg)


@pytest.mark.parametrize('world', [1, 2])
def test_a_resumed_run_ends_in_the_same_bits(tmp_path, world):
    stop = int(np.random.default_rng(world).integers(1, 6))
    if world == 1:
        train_and_resume(str(tmp_path), 1, stop)
    else:
        spawn(world, train_and_resume, str(tmp_path), world, stop)
    for loss in RESUMED:
        whole, again, resumed = (
            weights(tmp_path / name / loss / 'iter_6.pth')
            for name in ('whole', 'again', 'resumed')
        )
        for key in ('state_dict', 'ema_state_dict', 'optimizer', 'param_schedulers'):
            assert equal(whole[key], again[key]), f'two seeded runs differ in {key}'
            assert equal(whole[key], resumed[key]), f'the resumed run differs in {key}'
        if loss == 'spherefacer':
            # The last iteration, number 5 from 0, of a line from 1 to 1.4.
            margin = pytest.approx(1.0 + 0.4 * 4 / 5)
            assert whole['margin_scheduler'] == {'iter': 5, 'margin': margin}
            assert whole['margin_scheduler'] == resumed['margin_scheduler']
        for name in ('loss', 'lr') + (('margin',) if loss == 'spherefacer' else ()):
            curve = scalars(tmp_path / 'whole' / loss, name)
            rest = scalars(tmp_path / 'resumed' / loss, name)
            assert curve[stop:] == rest


@pytest.mark.parametrize('loss', LOSSES)
def test_bfloat16_autocast_on_the_cpu(tmp_path, monkeypatch, loss):
    cfg = small_config(
        tmp_path,
        **head_options(loss, centres_of(loss)),
        **{
            'optim_wrapper.type': 'AmpOptimWrapper',
            'optim_wrapper.dtype': 'bfloat16',
            'train_cfg.max_iters': 4,
        },
    )
    runner = train(cfg)
    assert np.isfinite(scalars(tmp_path)).all()

    seen = []
    loss_module = runner.model.head.loss_module
    original = loss_module.others

    def others(cos, context):
        terms = original(cos, context)
        seen.extend([cos.dtype, terms.dtype])
        return terms

    monkeypatch.setattr(loss_module, 'others', others)
    with torch.autocast('cpu', dtype=torch.bfloat16):
        feats = runner.model.backbone(torch.rand(2, 3, 32, 32))
        out = runner.model.head.loss(
            feats, [DataSample().set_gt_label(label) for label in (0, 1)]
        )
    assert feats[-1].dtype == torch.bfloat16
    assert {*seen, out['loss'].dtype} == {torch.float32}


@pytest.mark.skipif(not torch.cuda.is_available(), reason='needs a GPU')
@pytest.mark.parametrize('loss', LOSSES)
@pytest.mark.parametrize('dtype', ['float16', 'bfloat16'])
def test_mixed_precision_on_cuda(tmp_path, loss, dtype):
    cfg = small_config(
        tmp_path,
        **head_options(loss),
        **{'optim_wrapper.type': 'AmpOptimWrapper', 'optim_wrapper.dtype': dtype},
    )
    train(cfg)
    assert np.isfinite(scalars(tmp_path)).all()


def test_projected_centres_lie_on_the_sphere_when_used(tmp_path):
    cfg = small_config(tmp_path, **head_options('sphereface2', 'project'))
    cfg.optim_wrapper.optimizer.lr = 1.0
    runner = train(cfg)
    before = runner.model.head.weight.detach().clone()
    norms = before.norm(dim=1)
    assert (norms - 1).abs().max() > 1e-3  # the last step has moved them off
    feats = torch.randn(3, 16)
    head = runner.model.head.train()
    head.loss(feats, torch.tensor([0, 1, 2]))
    unit = torch.nn.functional.normalize(before)
    torch.testing.assert_close(head.weight.detach(), unit)


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        (
            {'model.head.num_classes': 12},
            'SyntheticFaces.* has 11 identities, but model.head.num_classes is 12',
        ),
        (
            {
                'model.head.num_classes': 7,
                'default_hooks.class_count': None,
            },
            r'label \d+ is outside \[0, 7\)',
        ),
        (
            {'model.head.in_channels': 32},
            r'expected embeddings \[B, 32\], got \[8, 16\]',
        ),
        ({'model.head.num_classes': 'auto'}, 'num_classes'),
        (
            {
                'optim_wrapper.optimizer.lr': 1e30,
                'optim_wrapper.clip_grad': None,
                'param_scheduler': [],
            },
            r'loss is not finite at iteration \d+ .*lr=1e\+30.* earlier checkpoint',
        ),
        (
            {
                'train_dataloader.dataset': dict(
                    _delete_=True, type='FaceFolder', data_root='no/such/folder'
                )
            },
            'no/such/folder',
        ),
    ],
)
def test_mistakes_are_told_clearly(tmp_path, options, message):
    with pytest.raises(UserError, match=message):
        train(small_config(tmp_path, **options))


def test_margin_schedule_that_differs_from_the_checkpoint_is_told(tmp_path):
    def run(name, dm, **extra):
        hook = dict(type='MarginSchedulerHook', milestones=[1, 2], dm=dm)
        cfg = small_config(
            tmp_path / name,
            **head_options('spherefacer'),
            **{'custom_hooks': [hook], **extra},
        )
        train(cfg)
        return scalars(tmp_path / name, 'margin')

    assert run('a', 0.25) == [1.0, 1.25, 1.5, 1.5, 1.5, 1.5]
    checkpoint = tmp_path / 'a' / 'iter_3.pth'
    margins = run('b', 0.5, resume=True, load_from=str(checkpoint))
    assert margins == [2.0, 2.0, 2.0]
    log = log_of(tmp_path / 'b')
    assert 'made with margin 1.5 at iteration 2, this config has 2.0 there' in log
    assert run('c', 0.5, load_from=str(checkpoint))[0] == 1.0


def train_with_batch_norm(root: str) -> None:
    """Saves what each rank would validate with, and a checkpoint."""
    cfg = small_config(
        Path(root),
        **{
            'model.backbone.with_bn': True,
            'custom_hooks': [dict(type='EMAHook', momentum=0.1)],
            'train_dataloader.batch_size': 4,
        },
    )
    cfg.launcher = 'pytorch'
    runner = train(cfg)
    (ema,) = (hook for hook in runner.hooks if isinstance(hook, EMAHook))
    for name, model in (('plain', runner.model), ('ema', ema.ema_model)):
        torch.save(model.module.state_dict(), f'{root}/{name}_{runner.rank}.pth')


def test_ranks_agree_on_batch_norm_statistics_when_saving(tmp_path):
    spawn(2, train_with_batch_norm, str(tmp_path))
    saved = weights(tmp_path / 'iter_6.pth')
    # EMAHook saves the averaged network as the network, and the other way round.
    for name, key in (('plain', 'ema_state_dict'), ('ema', 'state_dict')):
        ranks = [weights(tmp_path / f'{name}_{rank}.pth') for rank in (0, 1)]
        means = [key for key in ranks[0] if 'running_mean' in key]
        assert means
        for mean in means:
            assert ranks[0][mean].abs().max() > 0
            assert torch.equal(ranks[0][mean], ranks[1][mean])
            stored = [v for k, v in saved[key].items() if k.endswith(mean)]
            assert len(stored) == 1
            assert torch.equal(stored[0], ranks[0][mean])


def network_after(work_dir: Path, **options: object) -> tuple[dict, dict, str]:
    """State of the network before and after three iterations, and the log."""
    cfg = small_config(
        work_dir,
        **{'model.backbone.with_bn': True, 'train_cfg.max_iters': 3, **options},
    )
    runner = build_runner(cfg)
    before = copy.deepcopy(runner.model.backbone.state_dict())
    runner.train()
    log = log_of(work_dir)
    return before, runner.model.backbone.state_dict(), log


def test_statistics_of_a_network_that_does_not_learn(tmp_path):
    """A learning rate of 0 stops weights, not statistics, and that is told."""
    still = {
        'optim_wrapper.paramwise_cfg': dict(custom_keys=dict(backbone=dict(lr_mult=0)))
    }
    before, after, log = network_after(tmp_path / 'moving', **still)
    changed = {name for name, value in before.items() if not equal(value, after[name])}
    assert 'features.running_mean' in changed
    assert all('running' in name or 'num_batches' in name for name in changed)
    assert 'batch norms have a learning rate of 0' in log
    assert 'model.backbone.norm_eval=True' in log
    for name, options in {
        'norm_eval': {**still, 'model.backbone.norm_eval': True},
        'frozen': {'model.backbone.frozen_stages': 5},
    }.items():
        before, after, log = network_after(tmp_path / name, **options)
        assert equal(dict(before), dict(after))
        assert 'learning rate of 0' not in log


CLOSED_SET = dict(
    dataset=dict(
        type='SyntheticFaces',
        num_identities=11,
        images_per_identity=2,
        image_size=32,
        pipeline=[dict(type='PackFace')],
    ),
    batch_size=8,
    num_workers=0,
    sampler=dict(type='DefaultSampler', shuffle=False),
    collate_fn=dict(type='collate_faces'),
)


def test_closed_set_accuracy(tmp_path):
    """mmpretrain's metrics of a classifier, of people who are in the training set."""
    cfg = small_config(tmp_path, **{'train_cfg.max_iters': 3})
    cfg.train_cfg.val_interval = 3
    cfg.val_dataloader, cfg.val_cfg = CLOSED_SET, {}
    cfg.val_evaluator = [
        dict(type='mmpretrain.Accuracy', topk=(1, 11)),
        dict(type='mmpretrain.ConfusionMatrix', num_classes=11),
    ]
    runner = train(cfg)
    model, dataset = runner.model.eval(), runner.val_dataloader.dataset
    items = [dataset[i] for i in range(len(dataset))]
    batches = model.data_preprocessor(collate_faces(items))
    actual = model.head(model.embed(batches['inputs'])).argmax(1)
    labels = batches['data_samples'].gt_label
    figures = runner.message_hub.log_scalars
    top1 = figures['val/accuracy/top1'].current()
    assert top1 == pytest.approx(100 * (actual == labels).double().mean().item())
    assert figures['val/accuracy/top11'].current() == 100


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        ({'val_dataloader.dataset.num_identities': 7}, 'of which model.head has 11'),
        ({'model.head': None}, r'set model\.head\.sharded=False'),
    ],
)
def test_no_accuracy_of_other_people(tmp_path, options, message):
    cfg = small_config(tmp_path)
    cfg.train_dataloader = cfg.train_cfg = cfg.optim_wrapper = None
    cfg.param_scheduler = None
    cfg.val_dataloader, cfg.val_cfg = copy.deepcopy(CLOSED_SET), {}
    cfg.val_evaluator = dict(type='mmpretrain.Accuracy')
    cfg.merge_from_dict(options)
    with pytest.raises(UserError, match=message):
        build_runner(cfg).val()


def test_accuracy_of_other_people_is_refused_before_the_training(tmp_path):
    cfg = small_config(tmp_path)
    cfg.val_dataloader, cfg.val_cfg = copy.deepcopy(CLOSED_SET), {}
    cfg.val_dataloader.dataset.first_identity = 100  # as many, but others
    cfg.val_evaluator = dict(type='mmpretrain.Accuracy')
    with pytest.raises(UserError, match=r'of which model\.head has 11'):
        train(cfg)
    log = log_of(tmp_path)
    assert 'Iter(train)' not in log
