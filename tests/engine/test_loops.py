"""Loop, loader, sampler, schedules and checkpoints that fit one another, or are told.

The data set of the small run has 77 images, in batches of 8.
"""

import multiprocessing
from typing import ClassVar
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from mmengine.hooks import Hook
from mmengine.registry import DATA_SAMPLERS, HOOKS, LOOPS, PARAM_SCHEDULERS
from mmengine.runner import BaseLoop, IterBasedTrainLoop
from runs import CONFIGS, log_of, scalars, small_config, train, with_validation
from test_training import equal, weights
from torch.utils.data import BatchSampler, DataLoader, Sampler

from mmhyperface.apis import build_runner
from mmhyperface.engine import loops
from mmhyperface.engine.launch import load_config
from mmhyperface.registry import TRANSFORMS
from mmhyperface.utils.command_line import argument_parser
from mmhyperface.utils.errors import UserError

# That of epochs follows any number of them.
SCHEDULES = sorted(CONFIGS.glob('_base_/schedules/*.py'))
SCHEDULES.remove(CONFIGS / '_base_/schedules/faces.py')
EPOCHS = {'train_cfg.by_epoch': True, 'train_cfg.max_epochs': 2}


def sampler(kind: str, **options) -> dict:
    return {'train_dataloader.sampler': dict(_delete_=True, type=kind, **options)}


@HOOKS.register_module()
class NotedImagesHook(Hook):
    """Which images came, by epoch."""

    seen: ClassVar[dict[int, list[int]]] = {}

    def before_train(self, runner):
        self.seen.clear()

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        come = self.seen.setdefault(runner.epoch, [])
        come += data_batch['sample_idx'].tolist()


def test_epochs_on_a_base_that_counts_iterations(tmp_path):
    """An epoch sees each image once at most; training resumes at its end exactly."""
    options = {
        **EPOCHS,
        'custom_hooks': [dict(type='NotedImagesHook')],
        'train_dataloader.dataset.pipeline': [
            dict(type='PackFace'),
        ],
    }
    train(small_config(tmp_path / 'whole', **options))
    for images in NotedImagesHook.seen.values():
        assert len(images) == len(set(images)) == 72
    assert NotedImagesHook.seen[0] != NotedImagesHook.seen[1]
    assert len(scalars(tmp_path / 'whole')) == 18
    saved = {path.name for path in (tmp_path / 'whole').glob('*.pth')}
    assert saved == {'epoch_1.pth', 'epoch_2.pth'}
    text = log_of(tmp_path / 'whole')
    assert 'the sampler is DefaultSampler' in text
    assert 'set param_scheduler.0.end=3 param_scheduler.1.begin=3 param_sche' in text
    resumed = {'resume': True, 'load_from': str(tmp_path / 'whole' / 'epoch_1.pth')}
    train(small_config(tmp_path / 'resumed', **options, **resumed))
    assert scalars(tmp_path / 'resumed') == scalars(tmp_path / 'whole')[9:]
    whole, again = (
        weights(tmp_path / name / 'epoch_2.pth') for name in ('whole', 'resumed')
    )
    for key in ('state_dict', 'optimizer', 'param_schedulers'):
        assert equal(whole[key], again[key])
    # Once more there is nothing to do, and it is said.
    resumed['load_from'] = str(tmp_path / 'whole' / 'epoch_2.pth')
    train(small_config(tmp_path / 'over', **options, **resumed))
    assert 'nothing is left to train' in log_of(tmp_path / 'over')


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        (
            {**EPOCHS, **sampler('DefaultSampler'), 'train_dataloader.batch_size': 512},
            r'77 images make no batch of train_dataloader\.batch_size=512.* set '
            r'train_dataloader\.batch_size=77 or less, or train_dataloader\.drop_last=',
        ),
        (
            {**sampler('DefaultSampler'), 'train_dataloader.batch_size': 512},
            r'set train_dataloader\.batch_size=77 or less',
        ),
        (
            {**EPOCHS, **sampler('IdentityBalancedSampler')},
            r'set train_dataloader\.sampler\.type=DefaultSampler, or train by itera',
        ),
        ({'train_cfg.by_epoch': True}, r'needs train_cfg\.max_epochs: set train_cfg'),
        ({'train_cfg.max_epochs': 2}, r'set train_cfg\.by_epoch=True train_cfg\.max_'),
        ({'train_cfg.max_iters': 0}, r'train_cfg\.max_iters=0 trains nothing'),
        (
            {'train_cfg': dict(_delete_=True, max_iters=6)},
            r'set train_cfg\.by_epoch=False',
        ),
        (
            {'param_scheduler': [dict(type='MultiStepLR', milestones=[3])]},
            r'param_scheduler\.0 \(MultiStepLR\) .*set param_scheduler\.0\.by_epoch=F',
        ),
        (
            {'param_scheduler.1.end': 4},
            r'begins at 100 and ends at 4: set param_scheduler\.1\.begin to less',
        ),
    ],
)
def test_what_would_train_nothing_or_for_ever_is_refused(tmp_path, options, message):
    with pytest.raises(UserError, match=message):
        train(small_config(tmp_path, **options))
    assert not list(tmp_path.glob('*.pth'))


@pytest.mark.parametrize('option', ['sampler.type=InfiniteSampler', 'drop_last=True'])
def test_a_validation_sees_each_image_once(tmp_path, option):
    name, value = option.split('=')
    cfg = small_config(tmp_path)
    with_validation(cfg, dict(type='FaceVerification'), num_identities=9, num_pairs=40)
    cfg.merge_from_dict({f'val_dataloader.{name}': value == 'True' or value})
    with pytest.raises(UserError, match=rf'val_dataloader\.{name}.*--no-validate'):
        train(cfg)


class OwnLoop(BaseLoop):
    def run(self):
        """Nothing."""


def test_what_is_not_known_is_left_alone():
    """A loop of one's own, over two loaders, and what drops no image."""
    own = OwnLoop(None, [range(3), range(4)])
    schedules = [dict(type='MultiStepLR', milestones=[1], convert_to_iter_based=True)]
    assert loops.converted(schedules, own) == schedules
    loops.check_train_loop(None, own)
    loops.check_schedules(schedules, schedules, own)
    loops.check_evaluation_loop('val', own)
    whole = DataLoader(range(27), batch_size=9, drop_last=True)
    loops.check_evaluation_loop('val', OwnLoop(None, whole))


@pytest.mark.parametrize('iterations', [4, 20, 150, 1_000_000])
@pytest.mark.parametrize('config', SCHEDULES, ids=lambda path: path.stem)
def test_advice_on_a_schedule_can_be_followed(config, iterations, monkeypatch):
    """The options that a shorter or longer training is told silence it."""
    messages: list[str] = []
    monkeypatch.setattr(loops, '_say', lambda message, *_: messages.append(message))
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=0.1)
    loop = IterBasedTrainLoop.__new__(IterBasedTrainLoop)
    loop._max_epochs, loop._max_iters = 1, iterations

    def check(options: dict | None = None) -> list[str]:
        messages.clear()
        configs = load_config(str(config), options).param_scheduler
        several = configs if isinstance(configs, list) else [configs]
        built = [PARAM_SCHEDULERS.build({**x, 'optimizer': optimizer}) for x in several]
        loops.check_order(configs)
        loops.check_schedules(built, configs, loop)
        return [word for word in ' '.join(messages).split() if '=' in word]

    advice = check()
    if iterations < 1_000_000:
        assert messages
    if advice:
        parser = argument_parser(None)
        args = parser.parse_args([str(config), '--cfg-options', *advice])
        check(args.cfg_options)
        assert not messages
    else:
        assert iterations in (4, 1_000_000)


def test_epochs_are_converted_to_those_of_all_processes(tmp_path):
    """Nine iterations an epoch, of one process and an endless sampler."""
    schedule = dict(type='MultiStepLR', milestones=[1, 2], convert_to_iter_based=True)
    options = {'param_scheduler': [schedule], 'train_cfg.max_iters': 20}
    train(small_config(tmp_path, **options))
    rates = scalars(tmp_path, 'lr')
    changes = [i for i in range(1, 20) if rates[i] != rates[i - 1]]
    assert changes == [9, 18]
    assert 'param_scheduler' not in log_of(tmp_path).rpartition('Hooks will be')[2]


def test_processes_have_epochs_of_one_length(tmp_path, monkeypatch):
    monkeypatch.setattr(loops, 'get_world_size', lambda: 2)
    schedule = dict(type='MultiStepLR', milestones=[1], convert_to_iter_based=True)
    train(small_config(tmp_path / 'even', param_scheduler=[{**schedule, 'end': 9}]))
    assert 'set param_scheduler.0.end, which counts epochs' in log_of(tmp_path / 'even')
    rates = scalars(tmp_path / 'even', 'lr')
    assert [i for i in range(1, 6) if rates[i] != rates[i - 1]] == [4]
    # What two processes have of 77 images in batches of 13 that nothing rounds up.
    monkeypatch.setattr(loops, 'all_gather_object', lambda own: [3, 2])
    with pytest.raises(UserError, match=r'\[3, 2\] batches .*sampler\.round_up=True'):
        train(small_config(tmp_path / 'uneven', **EPOCHS))


@LOOPS.register_module()
class TwoLoaders(OwnLoop):
    def __init__(self, runner, dataloader):
        configs = dataloader.values()
        super().__init__(runner, [runner.build_dataloader(each) for each in configs])


LOOPS.register_module(module=OwnLoop)


def test_loops_of_ones_own_build_loaders_as_in_mmengine(tmp_path):
    cfg = small_config(tmp_path)
    one = cfg.train_dataloader.to_dict() | dict(num_workers=0)
    for name in ('persistent_workers', 'prefetch_factor'):
        one.pop(name, None)
    for loop, config in (('OwnLoop', one), ('TwoLoaders', dict(a=one, b=one))):
        cfg.train_cfg, cfg.train_dataloader = dict(type=loop), config
        cfg.experiment_name = loop
        loader = build_runner(cfg).train_loop.dataloader
        assert all(type(x) is DataLoader for x in np.atleast_1d(loader))


DECODED = multiprocessing.Value('l', 0)


@TRANSFORMS.register_module()
class CountDecoded:
    def __call__(self, item: dict) -> dict:
        with DECODED.get_lock():
            DECODED.value += 1
        return item


@HOOKS.register_module()
class DecodedBeforeHook(Hook):
    """What was decoded before the first step, and the pixels of each batch."""

    before = None
    pixels: ClassVar[list[torch.Tensor]] = []

    def before_train(self, runner):
        DecodedBeforeHook.before = None
        self.pixels.clear()

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        if DecodedBeforeHook.before is None:
            DecodedBeforeHook.before = DECODED.value
        self.pixels.append(data_batch['inputs'].clone())


@DATA_SAMPLERS.register_module()
class ThreeBatchesSampler(Sampler):
    """Of one's own, and not endless."""

    epoch = 0

    def __init__(self, dataset, seed):
        self.seed = seed

    def set_epoch(self, epoch):
        self.epoch = epoch

    def __len__(self):
        return 24

    def __iter__(self):
        generator = torch.Generator().manual_seed(self.seed + self.epoch)
        return iter(torch.randperm(77, generator=generator)[:24].tolist())


@DATA_SAMPLERS.register_module()
class OwnBatches(BatchSampler):
    """With a batch size that the loader does not know."""


BY_EPOCHS = {**EPOCHS, **sampler('DefaultSampler', shuffle=True)}
WORKERS = {
    'train_dataloader.num_workers': 2,
    'train_dataloader.prefetch_factor': 3,
    'train_dataloader.persistent_workers': True,
}


@pytest.mark.parametrize(
    'options',
    [
        {},
        WORKERS,
        {**WORKERS, **sampler('InfiniteFaceSampler')},
        # After nine batches it begins anew.
        {**WORKERS, **sampler('DefaultSampler', shuffle=True)},
        {**BY_EPOCHS, **WORKERS},
        sampler('IdentityBalancedSampler', images=2),
        sampler('ThreeBatchesSampler'),
        {
            'train_dataloader.batch_sampler': dict(type='OwnBatches', drop_last=True),
            'train_dataloader.drop_last': False,
            'auto_scale_lr.enable': True,
        },
    ],
)
def test_a_resumed_run_decodes_nothing_twice(tmp_path, monkeypatch, options):
    # mmengine waits two seconds at the end of an epoch.
    monkeypatch.setattr('mmengine.runner.loops.time', Mock())
    options = {
        'custom_hooks': [dict(type='DecodedBeforeHook')],
        'train_dataloader.dataset.pipeline': [
            dict(type='CountDecoded'),
            dict(type='RandomFaceFlip', prob=0.5),
            dict(type='RandomFaceCrop', prob=0.5),
            dict(type='PackFace'),
        ],
        'train_cfg.max_iters': 12,
        'default_hooks.checkpoint.interval': 10,
        **options,
    }
    train(small_config(tmp_path / 'whole', **options))
    whole = list(DecodedBeforeHook.pixels)
    name, stop = 'iter_10.pth', 10
    if 'train_cfg.max_epochs' in options:
        name, stop = 'epoch_1.pth', 9
    DECODED.value = 0
    load = {'resume': True, 'load_from': str(tmp_path / 'whole' / name)}
    # The seed is the checkpoint's.
    load['randomness.seed'] = 5
    train(small_config(tmp_path / 'resumed', **options, **load))
    # The batch of the step, and what is loaded ahead of it.
    ahead = 2 * 3 if 'train_dataloader.num_workers' in options else 0
    assert 8 <= DecodedBeforeHook.before <= 8 * (1 + ahead)
    assert len(DecodedBeforeHook.pixels) == len(whole) - stop
    for a, b in zip(DecodedBeforeHook.pixels, whole[stop:], strict=True):
        assert torch.equal(a, b)
    last = 'epoch_2.pth' if stop == 9 else 'iter_12.pth'
    expected, actual = (weights(tmp_path / run / last) for run in ('whole', 'resumed'))
    assert equal(expected['state_dict'], actual['state_dict'])
    assert equal(expected['optimizer'], actual['optimizer'])


def test_iteration_200000_is_resumed_at_once(tmp_path):
    options = {
        'custom_hooks': [dict(type='DecodedBeforeHook')],
        'train_dataloader.dataset.pipeline': [
            dict(type='CountDecoded'),
            dict(type='PackFace'),
        ],
        **WORKERS,
        **sampler('InfiniteFaceSampler'),
        'param_scheduler': None,
    }
    train(small_config(tmp_path, **options, **{'train_cfg.max_iters': 3}))
    checkpoint = torch.load(tmp_path / 'iter_3.pth', weights_only=False)
    checkpoint['meta']['iter'] = 200_000
    torch.save(checkpoint, tmp_path / 'late.pth')
    DECODED.value = 0
    options['train_cfg.max_iters'] = 200_001
    load = {'resume': True, 'load_from': str(tmp_path / 'late.pth')}
    train(small_config(tmp_path, **options, **load))
    assert DecodedBeforeHook.before <= 8 * (1 + 2 * 3)
