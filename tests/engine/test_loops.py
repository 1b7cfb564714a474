"""Loop, loader, sampler, schedules and checkpoints that fit one another, or are told.

The data set of the small run has 77 images, in batches of 8.
"""

from typing import ClassVar

import pytest
import torch
from mmengine.hooks import Hook
from mmengine.registry import HOOKS, PARAM_SCHEDULERS
from mmengine.runner import BaseLoop, IterBasedTrainLoop
from runs import log_of, scalars, small_config, train, with_validation
from test_training import equal, weights
from torch.utils.data import DataLoader

from mmhyperface.engine import loops
from mmhyperface.utils.errors import UserError

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
    assert 'step_size and T_max of param_scheduler.0, param_scheduler.1 by 0.' in text
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


def test_the_advice_on_a_schedule_ends_it_with_the_training(monkeypatch):
    text: list[str] = []
    monkeypatch.setattr(loops, '_say', lambda message, *_: text.append(message))
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=0.1)
    loop = IterBasedTrainLoop.__new__(IterBasedTrainLoop)
    loop._max_epochs, loop._max_iters = 1, 20

    def check(*schedules: dict) -> str:
        text.clear()
        built = [
            PARAM_SCHEDULERS.build({**x, 'optimizer': optimizer}) for x in schedules
        ]
        loops.check_schedules(built, list(schedules), loop)
        return ' '.join(text)

    warmup = dict(type='LinearLR', by_epoch=False, end=10)
    steps = dict(type='MultiStepLR', by_epoch=False, begin=10, milestones=[20], end=40)
    assert 'of param_scheduler.0, param_scheduler.1 by 0.5' in check(warmup, steps)
    assert not check({**warmup, 'end': 5}, {**steps, 'begin': 5, 'end': 20})
    cosine = dict(type='CosineAnnealingLR', by_epoch=False, T_max=10, end=10)
    assert 'set param_scheduler.0.end=20, and its T_max with' in check(cosine)
    assert not check({**cosine, 'T_max': 20, 'end': 20})
    poly = dict(type='PolyLR', by_epoch=False, end=10)
    assert check(poly).endswith('set param_scheduler.0.end=20')


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
