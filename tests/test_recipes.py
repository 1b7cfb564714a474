"""Every config of the repository: built at full size, and trained, small and full."""

import copy
import json
import math
import pickle
import uuid
from pathlib import Path

import pytest
import record_files
import torch
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper
from mmengine.registry import MODELS, PARAM_SCHEDULERS, init_default_scope
from runs import CONFIGS, call_tool, scalars
from torch import nn

from mmhyperface.apis import build_runner
from mmhyperface.engine import optim_wrappers
from mmhyperface.engine.launch import count_classes
from mmhyperface.models.backbones import ir, iresnet

LEAVES = sorted(path.stem for path in CONFIGS.glob('*.py'))
# Identities of the data sets as they are distributed.
CLASSES = {
    'casia': 10_572,
    'facefolder': 'auto',
    'faces': 'auto',
    'glint360k': 360_232,
    'ms1m': 85_742,
    'ms1mv3': 93_431,
    'quickstart': 500,
    'vggface2': 8631,
    'webface42m': 2_059_906,
}
PEOPLE = 40
WIDTHS = (64, 128, 256, 512)
# From the last map of 7 x 7 pixels to the embedding.
LAST = (512 * 7 * 7 + 1) * 512


def leaf(name: str) -> Config:
    return Config.fromfile(CONFIGS / f'{name}.py')


def sfnet_parameters(depth: int, with_bn: bool) -> int:
    """Of SFNet for 112 x 112 faces."""
    blocks = {20: (1, 2, 4, 1), 64: (3, 8, 16, 3)}[depth]
    extra = 2 if with_bn else 1  # scale and shift, or bias
    total, before = 0, 3
    for number, width in zip(blocks, WIDTHS, strict=True):
        total += 9 * before * width + extra * width
        total += 2 * number * (9 * width + extra) * width
        before = width
    return total + LAST + (2 * 512 if with_bn else 0)


def residual_parameters(depth: int, is_ir: bool) -> int:
    """Of IResNet, or of face.evoLVe's IR, for 112 x 112 faces."""
    blocks = {50: (3, 4, 14, 3), 100: (3, 13, 30, 3)}[depth]
    total, before = 9 * 3 * 64 + 3 * 64, 64
    for number, width in zip(blocks, WIDTHS, strict=True):
        for first in (True, *[False] * (number - 1)):
            # Scale and shift, convolution, slopes, convolution, scale and shift.
            total += 2 * before + 9 * before * width + width
            total += 9 * width * width + 2 * width
            total += 0 if is_ir else 2 * width
            if before != width or (first and not is_ir):
                total += before * width + 2 * width
            before = width
    return total + 2 * 512 + LAST + 2 * 512


def test_parameters_are_counted_as_published():
    assert residual_parameters(50, is_ir=False) == 43_590_848
    assert residual_parameters(50, is_ir=True) == 43_574_976


@pytest.mark.parametrize('name', LEAVES)
def test_the_model_has_the_published_size(name):
    cfg = leaf(name)
    head, network = cfg.model.head, cfg.model.backbone
    for part in name.split('_'):
        assert head.num_classes == CLASSES.get(part, head.num_classes)
    if head.num_classes == 'auto':
        head.num_classes = 5
    init_default_scope(cfg.default_scope)
    with torch.device('meta'):
        model = MODELS.build(cfg.model)
    assert model.head.weight.shape == (head.num_classes, head.in_channels)
    assert all(value.is_meta for value in model.parameters())
    assert type(model.head.loss_module).__name__ == head.loss.type
    parameters = sum(value.numel() for value in model.backbone.parameters())
    if network.type != 'SFNet':
        assert parameters == residual_parameters(network.depth, network.type == 'IR')
    elif 'input_size' not in network:
        assert parameters == sfnet_parameters(network.depth, network.with_bn)


def make_small(cfg: Config, work_dir: Path) -> None:
    """Images of 16 x 16 pixels, few of them and of few people.

    The network keeps its depth, but not its widths. Optimizer, schedules, hooks and
    what the config does with its training set stay.
    """
    cfg.work_dir = str(work_dir)
    cfg.experiment_name = uuid.uuid4().hex
    cfg.val_cfg = cfg.val_dataloader = cfg.val_evaluator = None
    cfg.test_cfg = cfg.test_dataloader = cfg.test_evaluator = None
    cfg.merge_from_dict(
        {
            'model.backbone.input_size': 16,
            'train_dataloader.batch_size': 4,
            'train_dataloader.num_workers': 0,
            'train_cfg': dict(_delete_=True, by_epoch=False, max_iters=2),
            'default_hooks.logger.interval': 1,
            'default_hooks.checkpoint': None,
            'log_processor.window_size': 1,
        }
    )
    if cfg.model.backbone.type == 'SFNet':
        cfg.model.backbone.widths = (4, 8, 16, 32)
    if cfg.model.head.num_classes != 'auto':
        cfg.model.head.num_classes = PEOPLE
    holder = cfg.train_dataloader
    while 'dataset' in holder.dataset:
        holder = holder.dataset
    steps = [step for step in holder.dataset.pipeline if step.type != 'LoadFace']
    for step in steps:
        if 'scale' in step:
            step.scale = 16
    holder.dataset = dict(
        type='SyntheticFaces',
        num_identities=PEOPLE,
        images_per_identity=2,
        image_size=16,
        pipeline=steps,
    )


@pytest.fixture
def _quick(monkeypatch):
    # Each run would format its config four times, and ask compilers for versions.
    monkeypatch.setattr(Config, 'pretty_text', '')
    monkeypatch.setattr('mmengine.runner.runner.collect_env', dict)
    for module in (ir, iresnet):
        monkeypatch.setattr(module, 'WIDTHS', (4, 8, 16, 32))


@pytest.mark.usefixtures('_quick')
@pytest.mark.parametrize('name', LEAVES)
def test_two_iterations(name, tmp_path):
    cfg = leaf(name)
    published = copy.deepcopy(cfg)
    make_small(cfg, tmp_path)
    count_classes(cfg)
    runner = build_runner(cfg)
    after = dict(runner.model.named_parameters())
    before = {key: value.detach().clone() for key, value in after.items()}
    runner.train()
    losses = scalars(tmp_path)
    assert len(losses) == 2
    assert all(map(math.isfinite, losses))
    moved = {key for key, old in before.items() if not torch.equal(old, after[key])}
    trained = {key for key, value in after.items() if value.requires_grad}
    assert moved <= trained
    assert 'head.weight' in moved
    # A single pixel at the end, or a first step of a warm-up, leaves some as they are.
    assert len(moved) > len(trained) / 2

    wrapper = runner.optim_wrapper
    assert type(wrapper).__name__ == published.optim_wrapper.type
    assert wrapper.clip_grad_kwargs == published.optim_wrapper.get('clip_grad')
    head = runner.model.head
    assert (head.rows is not None) == (head.sample_rate < 1)
    assert head.centres == published.model.head.get('centres', 'normalize')
    schedule = published.param_scheduler
    number = len(schedule) if isinstance(schedule, list) else 1
    assert len(runner.param_schedulers) == number
    dataset = runner.train_dataloader.dataset
    if name.endswith('noise60'):
        assert type(dataset).__name__ == 'LabelNoise'
        assert (dataset.noisy != dataset.clean).mean() == 0.6
    else:
        assert type(dataset).__name__ == 'SyntheticFaces'


FLAGSHIPS = ('sphereface2_r100_ms1m', 'spherefacer_r100_ms1m', 'sface_r100_ms1m')
FACES, EACH = 12, 2


@pytest.fixture(scope='module')
def small_files(tmp_path_factory):
    """A file of records with a pack, lists, and a folder: a few faces each."""
    root = tmp_path_factory.mktemp('files')
    pictures = [record_files.picture(seed, 112) for seed in range(FACES * EACH)]
    people = [pictures[EACH * i : EACH * (i + 1)] for i in range(FACES)]
    records = record_files.insightface_records(people)
    record_files.write(root / 'record', records, num_classes=FACES)
    # Pairs of one person and of two, in turn.
    pack = (pictures[:8], [True, False] * 2)
    (root / 'record' / 'lfw.bin').write_bytes(pickle.dumps(pack, 2))

    for part in ('train', 'val'):
        for number, picture in enumerate(pictures):
            path = root / 'list' / part / f'{number // EACH}' / f'{number % EACH}.jpg'
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(picture)
    lines = [f'{i // EACH}/{i % EACH}.jpg {i // EACH}' for i in range(len(pictures))]
    for name in ('vggface2_train', 'ms1m_refine_train'):
        text = '\n'.join(lines)
        (root / 'list' / 'train' / f'{name}_ann.txt').write_text(text)
    pairs = '1 0/0.jpg 0/1.jpg\n0 0/0.jpg 1/0.jpg\n' * 10
    for name in ('lfw', 'agedb_30', 'calfw', 'cplfw'):
        (root / 'list' / 'val' / f'{name}_ann.txt').write_text(pairs)

    for number in range(8 * 3):
        path = root / 'folder' / f'{number // 3}' / f'{number % 3}.jpg'
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(record_files.picture(number, 112))
    return root


def at_full_size(name: str, root: Path) -> list[str]:
    """Options that leave a recipe as it is, but for the numbers of its images."""
    cfg = leaf(name)
    options = [
        'train_dataloader.batch_size=2',
        'default_hooks.logger.interval=1',
        'default_hooks.checkpoint.interval=1',
        'default_hooks.checkpoint.max_keep_ckpts=1',
        'default_hooks.divergence_guard.interval=1',
        'default_hooks.angles.interval=1',
        'default_hooks.angles.picture_interval=2',
        'log_processor.window_size=1',
        'train_cfg.val_interval=1',
    ]
    for phase in ('train', 'val', 'test'):
        options += [
            f'{phase}_dataloader.num_workers=0',
            f'{phase}_dataloader.persistent_workers=False',
        ]
    kind = cfg.val_dataloader.dataset.type
    if cfg.model.head.num_classes != 'auto':
        options += ['model.head.num_classes=12']
    if kind == 'FacePacks':
        options += [f'data_root={root / "record"}']
        options += ['val_dataloader.dataset.names=[lfw]']
        options += ['val_dataloader.dataset.folds=2']
    elif kind == 'FaceTestSets':
        options += [f'data_root={root / "list"}']
    elif kind == 'FaceFolderPairs':
        options += [f'data_root={root / "folder"}']
    elif kind == 'FacePairs':
        # An epoch is an iteration.
        options.remove('train_dataloader.batch_size=2')
        options += ['train_dataloader.batch_size=24']
        options += [f'data_root={root / "folder"}']
        options += [f'lfw_root={root / "list" / "val"}', 'lfw_pairs=lfw_ann.txt']
        options += ['val_dataloader.dataset.data_prefix=']
    else:
        assert kind == 'SyntheticFacePairs'
        options += [
            'train_dataloader.dataset.num_identities=12',
            'train_dataloader.dataset.images_per_identity=2',
            'val_dataloader.dataset.num_identities=4',
            'val_dataloader.dataset.images_per_identity=3',
            'val_dataloader.dataset.num_pairs=24',
        ]
    return options


@pytest.mark.parametrize(
    'name',
    [
        pytest.param(name, marks=() if name in FLAGSHIPS else pytest.mark.slow)
        for name in LEAVES
    ],
)
def test_at_full_size(name, small_files, tmp_path, monkeypatch):
    """Depth, image size, hooks, validation and saving are the recipe's own."""
    if name in FLAGSHIPS:
        monkeypatch.setattr(optim_wrappers, 'has_bfloat16_instructions', lambda: False)
    options = at_full_size(name, small_files)
    by_epoch = leaf(name).train_cfg.by_epoch

    def train(iterations: int, *resume: str) -> None:
        call_tool(
            *(monkeypatch, 'train.py', CONFIGS / f'{name}.py', '--work-dir', tmp_path),
            *(*resume, '--cfg-options', *options),
            f'experiment_name={uuid.uuid4().hex}',
            f'{"epochs" if by_epoch else "train_cfg.max_iters"}={iterations}',
        )

    train(2)
    before = json.loads((tmp_path / 'verification.json').read_text())
    for rows in before.values():
        assert list(rows)[-2:] == ['untrained', 'trained']
        # Batch norm has statistics; after two iterations they may yet be too far off.
        assert rows['untrained']['auc'] is not None
    assert len(scalars(tmp_path)) == 2

    train(3, '--resume')
    # Two runs that begin in one second share a folder.
    logs = sorted(tmp_path.glob('*/vis_data/scalars.json'))
    lines = [json.loads(line) for log in logs for line in log.read_text().splitlines()]
    losses = [line['loss'] for line in lines if 'loss' in line]
    assert len(losses) == 3
    assert all(map(math.isfinite, losses))
    after = json.loads((tmp_path / 'verification.json').read_text())
    for set_name, rows in after.items():
        assert rows['untrained'] == before[set_name]['untrained']
    (checkpoint,) = tmp_path.glob('*.pth')
    assert checkpoint.name == ('epoch_3.pth' if by_epoch else 'iter_3.pth')
    checkpoint.unlink()  # half a gigabyte


def test_norms_do_not_decay_where_published_so():
    cfg = leaf('sface_ir50_casia')
    init_default_scope(cfg.default_scope)
    with torch.device('meta'):
        model = MODELS.build(cfg.model)
    wrapper = build_optim_wrapper(model, cfg.optim_wrapper)
    decays = {}
    for group in wrapper.optimizer.param_groups:
        (parameter,) = group['params']
        decays[id(parameter)] = group['weight_decay']
    for module in model.modules():
        is_norm = isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d)
        for parameter in module.parameters(recurse=False):
            assert decays.pop(id(parameter)) == (0 if is_norm else 5e-4)
    assert not decays


@pytest.mark.parametrize(
    ('name', 'base', 'warm_up', 'total'),
    [
        # Images over the size of a batch, in whole iterations.
        ('arcface_r50_ms1mv3', 0.1, 0, 20 * 5_058),
        ('cosface_r100_glint360k', 0.1, 0, 20 * 16_691),
        ('cosface_r50_webface42m', 0.4, 2 * 10_369, 20 * 10_369),
    ],
)
def test_the_rate_falls_as_insightface_has_it(name, base, warm_up, total):
    """Linearly, to 0 after the last iteration, after a linear warm-up from 0."""
    cfg = leaf(name)
    assert cfg.train_cfg.max_iters == total
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], base)
    schedulers = [
        PARAM_SCHEDULERS.build(dict(options, optimizer=optimizer))
        for options in cfg.param_scheduler
    ]
    optimizer.step()
    for iteration in range(warm_up + 1000):
        share = 1 - (iteration - warm_up) / (total - warm_up)
        if iteration < warm_up:
            share = iteration / warm_up
        rate = optimizer.param_groups[0]['lr']
        assert rate == pytest.approx(base * share, rel=1e-8, abs=1e-6 * base)
        for scheduler in schedulers:
            scheduler.step()
