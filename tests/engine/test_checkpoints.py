"""Checkpoints that know no world size, and survive being interrupted."""

import json
import os
import re
import shutil
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.fileio import LocalBackend
from mmengine.hooks import EMAHook
from runs import log_of, small_config, spawn, train
from torch.utils._python_dispatch import TorchDispatchMode

from mmhyperface.apis import build_runner
from mmhyperface.centres import state as centre_state
from mmhyperface.centres import storage
from mmhyperface.centres.state import MappedRows, StoredRows
from mmhyperface.engine import runner as runner_module
from mmhyperface.engine.hooks import CheckpointHook
from mmhyperface.engine.launch import require_checkpoint
from mmhyperface.utils.errors import UserError

FORMATS = {'file': '1GB', 'parts': 0}
C = 11
NAMES = tuple(f'identity {i}' for i in range(C))
AVERAGES = {
    'file': dict(type='EMAHook', momentum=0.1, begin_iter=2),
    'parts': dict(type='EMAHook', momentum=0.1, update_buffers=True),
}
OPTIMIZERS = {
    'file': dict(type='SGD', lr=0.01, momentum=0.9, weight_decay=5e-4),
    'parts': dict(type='AdamW', lr=0.01),
}


def config(root: Path, form: str, world: int = 1, **options: object):
    """Average, momentum, and as many rows per rank as leave some over."""
    cfg = small_config(
        root / form,
        **{
            'model.head.sharded': True,
            'train_dataloader.batch_size': 12 // world,
            'train_dataloader.dataset.metainfo': dict(classes=NAMES),
            'custom_hooks': [AVERAGES[form]],
            'optim_wrapper.optimizer': dict(_delete_=True, **OPTIMIZERS[form]),
            'centre_parts_above': FORMATS[form],
            'train_cfg.max_iters': 3,
            **options,
        },
    )
    cfg.launcher = 'pytorch' if world > 1 else 'none'
    return cfg


def resumed(root: Path, saved: Path, form: str, world: int = 1, **options: object):
    """Ready to go on from a checkpoint after three iterations, when it is over."""
    path = str(saved / form / 'iter_3.pth')
    return train(config(root, form, world, resume=True, load_from=path, **options))


def own_rows(runner) -> dict:
    """This rank's rows of everything there is per class, and the steps of Adam."""
    head = bare(runner.model).head
    (ema,) = (hook for hook in runner.hooks if isinstance(hook, EMAHook))
    averaged = ema.ema_model.module.head.weight
    assert len(head.weight) == len(averaged) == len(head.shard)
    state = runner.optim_wrapper.optimizer.state[head.weight]
    rows = {'raw': head.weight, 'averaged': averaged, **state}
    return {
        'range': (head.shard.start, head.shard.stop),
        **{name: value.detach().clone() for name, value in rows.items()},
    }


def bare(model):
    return getattr(model, 'module', model)


def dump(runner, root: Path, form: str) -> None:
    torch.save(own_rows(runner), root / f'{form}_rows_{runner.rank}.pth')


def all_rows(root: Path, form: str, world: int) -> dict:
    """What the ranks have dumped, put together."""
    ranks = [torch.load(root / f'{form}_rows_{rank}.pth') for rank in range(world)]
    ends = [rank.pop('range') for rank in ranks]
    assert [end[0] for end in ends] == [0, *(end[1] for end in ends[:-1])]
    assert ends[-1][1] == C
    return {
        name: torch.cat([rank[name] for rank in ranks]) if value.ndim else value
        for name, value in ranks[0].items()
    }


def save_on_two(root: str) -> None:
    for form in FORMATS:
        runner = train(config(Path(root), form, 2))
        dump(runner, Path(root), form)
    # What goes wrong on one rank goes wrong on all, and leaves what there is.
    messages = {}
    for wrong, expected in (
        (('write_rows', _disk_is_full), 'process 1 could not save .*disk is full'),
        (('temporary', _elsewhere), 'process 1 does not see the folder'),
    ):
        with pytest.MonkeyPatch.context() as patch:
            if runner.rank == 1:
                patch.setattr(storage, *wrong)
            with pytest.raises((UserError, OSError), match=r'disk|process 1') as caught:
                runner.save_checkpoint(runner.work_dir, 'iter_3.pth', by_epoch=False)
        messages[expected] = str(caught.value)
    if runner.rank == 0:
        Path(root, 'messages.json').write_text(json.dumps(messages))


def _disk_is_full(*args: object) -> None:
    raise OSError('the disk is full')


def _elsewhere(path: Path) -> Path:
    return path.with_name('on another machine')


def resume_on_three(root: str, saved: str) -> None:
    root, saved = Path(root), Path(saved)
    for form in FORMATS:
        dump(resumed(root, saved, form, 3), root, form)
        options = {'train_dataloader.dataset.metainfo': dict(classes=REORDERED)}
        folder = root / 'reordered'
        dump(resumed(folder, saved, form, 3, **options), folder, form)
        # Other identities in other order.
        cfg = config(
            root / 'mapped',
            form,
            3,
            **{
                'load_from': str(saved / form / 'iter_3.pth'),
                'load_centres': 'map',
                'custom_hooks': [dict(type='EMAHook')],
                'train_dataloader.dataset.metainfo': dict(classes=NEW_NAMES),
                'optim_wrapper.optimizer.lr': 0.0,
                'optim_wrapper.optimizer.weight_decay': 0.0,
                'train_cfg.max_iters': 1,
            },
        )
        dump(train(cfg), root / 'mapped', form)


# The same people, whose labels are others.
ORDER = (4, 0, 10, 3, 2, 9, 1, 5, 8, 6, 7)
REORDERED = tuple(NAMES[i] for i in ORDER)
# Five of the old ones in another order, among new ones.
ORIGIN = (-1, 4, 3, -1, 10, -1, 0, -1, -1, 7, -1)
NEW_NAMES = tuple(NAMES[i] if i >= 0 else f'new {n}' for n, i in enumerate(ORIGIN))


@pytest.fixture(scope='module')
def two(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp('two')
    spawn(2, save_on_two, str(root))
    return root


@pytest.fixture(scope='module')
def three(tmp_path_factory, two) -> Path:
    root = tmp_path_factory.mktemp('three')
    for name in ('mapped', 'reordered'):
        (root / name).mkdir()
    spawn(3, resume_on_three, str(root), str(two))
    return root


@pytest.fixture(scope='module')
def one(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp('one')
    for form in FORMATS:
        runner = train(config(root, form))
        dump(runner, root, form)
    return root


def assert_equal(a: dict, b: dict) -> None:
    assert a.keys() == b.keys()
    for name in a:
        assert torch.equal(a[name], b[name]), name


def leaves(node: object) -> list:
    """What nested dicts, lists and tuples hold."""
    if isinstance(node, dict):
        node = list(node.values())
    if isinstance(node, list | tuple):
        return [leaf for child in node for leaf in leaves(child)]
    return [node]


def structure(node: object) -> object:
    """Keys in their order, types and shapes."""
    if isinstance(node, torch.Tensor):
        return (node.dtype, node.shape, node.stride())
    if isinstance(node, dict):
        return type(node), [(key, structure(value)) for key, value in node.items()]
    if isinstance(node, list | tuple):
        return type(node), [structure(value) for value in node]
    return type(node)


def test_a_single_file_is_that_of_one_process(one, two):
    first, second = (
        torch.load(root / 'file' / 'iter_3.pth', map_location='cpu')
        for root in (one, two)
    )
    first.pop('message_hub')
    second.pop('message_hub')
    assert structure(first) == structure(second)
    assert vars(first['state_dict']).keys() == vars(second['state_dict']).keys()
    for key in ('state_dict', 'ema_state_dict', 'optimizer'):
        pairs = zip(leaves(first[key]), leaves(second[key]), strict=True)
        for a, b in pairs:
            if isinstance(a, torch.Tensor):
                torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-5)
            else:
                assert a == b
    live = all_rows(two, 'file', 2)
    # As in mmengine, the averaged network is the network, and the other way round.
    assert torch.equal(second['state_dict']['head.weight'], live['averaged'])
    assert torch.equal(second['ema_state_dict']['module.head.weight'], live['raw'])
    buffers = [s['momentum_buffer'] for s in second['optimizer']['state'].values()]
    assert any(torch.equal(live['momentum_buffer'], buffer) for buffer in buffers)


def test_parts_are_arrays_that_the_index_explains(one, two):
    folder = two / 'parts' / 'iter_3.pth'
    index = json.loads((folder / storage.INDEX).read_text())
    live = all_rows(two, 'parts', 2)
    for name, rows in all_rows(one, 'parts', 1).items():
        torch.testing.assert_close(live[name], rows, rtol=1e-3, atol=1e-5)
    actual = {}
    for tensor in index['tensors']:
        assert tensor['shape'] == [C, 16]
        assert tensor['dtype'] == 'float32'
        assert [part['rows'] for part in tensor['parts']] == [[0, 6], [6, 11]]
        rows = [np.load(folder / part['file']) for part in tensor['parts']]
        actual[tensor['key'][-1], tensor['key'][0]] = np.concatenate(rows)
    expected = {
        ('head.weight', 'state_dict'): live['averaged'],
        ('module.head.weight', 'ema_state_dict'): live['raw'],
        ('exp_avg', 'optimizer'): live['exp_avg'],
        ('exp_avg_sq', 'optimizer'): live['exp_avg_sq'],
    }
    assert actual.keys() == expected.keys()
    for name, rows in expected.items():
        np.testing.assert_array_equal(actual[name], rows.numpy())
    # What is left is mmengine's own, and has none of the rows.
    model = torch.load(folder / storage.MODEL, map_location='cpu')
    assert 'head.weight' not in model['state_dict']
    assert any(name.startswith('backbone.') for name in model['state_dict'])
    shapes = [leaf.shape for leaf in leaves(model) if torch.is_tensor(leaf)]
    assert (C, 16) not in shapes
    assert {path.name for path in folder.iterdir()} == {
        storage.INDEX,
        storage.MODEL,
        *(part['file'] for tensor in index['tensors'] for part in tensor['parts']),
    }


def test_an_error_of_one_rank_is_told_by_all_and_does_no_harm(two):
    for expected, message in json.loads((two / 'messages.json').read_text()).items():
        assert re.search(expected, message)
    rows = storage.read(str(two / 'parts' / 'iter_3.pth'))['state_dict']['head.weight']
    live = all_rows(two, 'parts', 2)
    assert torch.equal(rows.take(torch.arange(C)), live['averaged'])


@pytest.mark.parametrize('form', FORMATS)
def test_two_save_and_three_or_one_resume_every_bit(two, three, form, tmp_path):
    saved = all_rows(two, form, 2)
    assert_equal(all_rows(three, form, 3), saved)
    rows = own_rows(resumed(tmp_path, two, form))
    assert rows.pop('range') == (0, C)
    assert_equal(rows, saved)


@pytest.mark.parametrize('form', FORMATS)
def test_three_map_the_rows_of_two_by_name(two, three, form):
    saved = all_rows(two, form, 2)['averaged']
    rows = all_rows(three / 'mapped', form, 3)
    check_mapped(rows['raw'], saved)
    check_mapped(rows['averaged'], saved)
    assert (
        'centres: kept 5 of 11 identities by name, 6 start anew; 6 of the checkpoint '
        'are not used' in log_of(three / 'mapped' / form)
    )


@pytest.mark.parametrize('form', FORMATS)
def test_three_resume_the_same_people_in_another_order(two, three, form):
    """Centres, their average, and all that the optimizer keeps of them."""
    order = torch.tensor(ORDER)
    saved = {
        name: value[order] if value.ndim else value
        for name, value in all_rows(two, form, 2).items()
    }
    assert len(saved) > 2
    assert_equal(all_rows(three / 'reordered', form, 3), saved)


def check_mapped(rows: torch.Tensor, saved: torch.Tensor) -> None:
    for row, origin in zip(rows, ORIGIN, strict=True):
        same = (saved == row).all(1)
        assert same.sum() == (origin >= 0)
        assert origin < 0 or same[origin]


def fine_tuned(
    tmp_path: Path, checkpoint: Path, classes: tuple, form: str = 'file', **options
):
    """A runner that has loaded a checkpoint to train on other identities."""
    cfg = config(
        tmp_path,
        form,
        **{
            'model.head.num_classes': len(classes),
            'train_dataloader.dataset.num_identities': len(classes),
            'train_dataloader.dataset.metainfo': dict(classes=classes),
            'custom_hooks': [],
            **options,
        },
    )
    runner = build_runner(cfg)
    assert runner.train_loop is not None
    runner.call_hook('before_run')
    runner._init_model_weights()
    initial = runner.model.head.weight.detach().clone()
    runner.load_checkpoint(str(checkpoint))
    return runner.model, initial, log_of(tmp_path / form)


@pytest.mark.parametrize('form', FORMATS)
def test_fine_tuning_keeps_what_it_is_told_to(two, form, tmp_path):
    checkpoint = two / form / 'iter_3.pth'
    saved = all_rows(two, form, 2)['averaged']
    model, _, log = fine_tuned(tmp_path / 'all', checkpoint, NAMES)
    assert torch.equal(model.head.weight, saved)
    assert 'centres: kept all 11 of the checkpoint' in log
    backbone = torch.load(two / 'file' / 'iter_3.pth', map_location='cpu')
    if form == 'file':
        for name, value in model.backbone.state_dict().items():
            assert torch.equal(value, backbone['state_dict'][f'backbone.{name}'])

    unnamed = {'train_dataloader.dataset.metainfo': dict(classes=None)}
    _, _, log = fine_tuned(tmp_path / 'unnamed', checkpoint, NAMES, **unnamed)
    assert re.search(r'WARNING - centres: the training set .* does not tell the', log)

    model, _, log = fine_tuned(tmp_path / 'order', checkpoint, REORDERED)
    assert torch.equal(model.head.weight, saved[list(ORDER)])
    assert 'in another order, and are mapped by name' in log
    fewer = (*NAMES[3:9:2], 'new')
    model, initial, log = fine_tuned(
        tmp_path / 'drop', checkpoint, fewer, load_centres='drop'
    )
    assert torch.equal(model.head.weight, initial)
    assert (
        'centres: kept 0 of 4 identities, 4 start anew; 11 of the checkpoint are not '
        'used' in log
    )
    model, initial, log = fine_tuned(
        tmp_path / 'map', checkpoint, fewer, load_centres='map'
    )
    assert torch.equal(model.head.weight[:3], saved[3:9:2])
    assert torch.equal(model.head.weight[3], initial[3])
    assert 'centres: kept 3 of 4 identities by name, 1 start anew; 8 of' in log


@pytest.mark.parametrize(
    ('classes', 'options', 'message'),
    [
        (
            NAMES[:4],
            {},
            'has centres of 11 identities in 16 dimensions, where head of this config '
            "has 4 in 16.*'map'.*'drop'",
        ),
        (
            (*NAMES[1:], 'b'),
            {},
            r'other people: 1 of 11 .* \(b\).*--cfg-options load_centres=map',
        ),
        (
            NAMES,
            {
                'train_dataloader.dataset.first_identity': 100,
                'train_dataloader.dataset.metainfo': dict(_delete_=True),
            },
            r'other people: 11 of 11 .* \(drawn 0-100, drawn 0-101, ',
        ),
        (
            NAMES[:4],
            {
                'load_centres': 'map',
                'load_partial': True,
                'model.head.in_channels': 8,
                'model.backbone.embedding_size': 8,
            },
            'centres of 16 dimensions, the head of 8',
        ),
        (
            NAMES,
            {'model.backbone.widths': (8, 8, 8, 16)},
            'another network .* no backbone.*--cfg-options load_partial=True',
        ),
        (NAMES, {'load_centres': 'some'}, 'load_centres must be one of'),
        (NAMES, {'centre_parts_above': 'much'}, "like '512MB', got 'much'"),
    ],
)
def test_what_cannot_be_fine_tuned_is_told(two, tmp_path, classes, options, message):
    with pytest.raises(UserError, match=message):
        fine_tuned(tmp_path, two / 'parts' / 'iter_3.pth', classes, **options)


def test_a_checkpoint_without_names_cannot_be_mapped(two, tmp_path):
    checkpoint = torch.load(two / 'file' / 'iter_3.pth', map_location='cpu')
    del checkpoint['meta']['dataset_meta']['classes']
    torch.save(checkpoint, tmp_path / 'nameless.pth')
    with pytest.raises(UserError, match=r'names of 11 identities of .*nameless.pth'):
        fine_tuned(tmp_path, tmp_path / 'nameless.pth', NAMES, load_centres='map')


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        (
            {
                'model.head.num_classes': 12,
                'train_dataloader.dataset.num_identities': 12,
            },
            'cannot resume .*centres of 11 identities .*12 in 16.*load_centres=map',
        ),
        (
            {'train_dataloader.dataset.metainfo': dict(classes=('a', 'b', *NAMES[2:]))},
            r'cannot resume .*other people: 2 of 11 .* \(a, b\).*leave --resume out '
            'and give --cfg-options load_from=.*iter_3.pth load_centres=map',
        ),
        (
            {'model.head.loss': dict(_delete_=True, type='SFaceLoss')},
            r'another loss, it has head.loss_module.* beside the rest \(model.*'
            r'type: SphereFace2Loss -> SFaceLoss.*load_from=',
        ),
        (
            {'model.backbone.widths': (8, 8, 8, 16)},
            'another network, it has no backbone',
        ),
        (
            {'optim_wrapper.optimizer': dict(_delete_=True, type='SGD', lr=0.1)},
            r'another optimizer than SGD, without .*type: AdamW -> SGD.*load_from=',
        ),
        (
            {
                'optim_wrapper.optimizer.weight_decay': 0.1,
                'optim_wrapper.paramwise_cfg': dict(norm_decay_mult=0.0),
            },
            r'parameters in 1 groups, where this config has \d+ in \d+ \(optim_wrapper',
        ),
    ],
)
def test_what_cannot_be_resumed_is_told(one, tmp_path, options, message):
    with pytest.raises(UserError, match=message):
        resumed(tmp_path, one, 'parts', **options)


def test_weights_alone_are_no_training_to_resume(one, tmp_path):
    state = torch.load(one / 'file' / 'iter_3.pth')['state_dict']
    torch.save(state, tmp_path / 'weights.pth')
    path = str(tmp_path / 'weights.pth')
    with pytest.raises(UserError, match='holds weights, but no state of a training'):
        train(config(tmp_path, 'file', resume=True, load_from=path))


def test_weights_that_fit_in_part(one, tmp_path):
    saved = torch.load(one / 'file' / 'iter_3.pth')['state_dict']
    backbone = {k: v for k, v in saved.items() if k.startswith('backbone.')}
    path = tmp_path / 'backbone.pth'
    torch.save({f'module.{key}': value for key, value in backbone.items()}, path)
    model, initial, log = fine_tuned(tmp_path / 'a', path, NAMES)
    assert equal(model.backbone.state_dict(), backbone, 'backbone.')
    assert torch.equal(model.head.weight, initial)
    count = len(backbone)
    assert f'backbone: {count} of {count}, head: 0 of ' in log
    assert 'centres: kept 0 of 11 identities, 11 start anew' in log

    # An average takes the same, even where it has to be complete.
    ema = dict(type='EMAHook', strict_load=True)
    options = {'load_centres': 'drop', 'custom_hooks': [ema]}
    model, initial, _ = fine_tuned(tmp_path / 'b', path, NAMES, **options)
    assert equal(model.backbone.state_dict(), backbone, 'backbone.')
    assert torch.equal(model.head.weight, initial)

    torch.save({'encoder.weight': torch.ones(3)}, path)
    with pytest.raises(
        UserError, match=r'nothing that fits backbone.*model_converters'
    ):
        fine_tuned(tmp_path / 'g', path, NAMES, load_partial=True)
    bare = {key.removeprefix('backbone.'): value for key, value in backbone.items()}
    torch.save(bare, path)
    with pytest.raises(UserError, match=r'init_cfg.type=Pretrained .*checkpoint=.*pth'):
        fine_tuned(tmp_path / 'c', path, NAMES)
    whole = one / 'parts' / 'iter_3.pth'
    parts = storage.read(str(whole))['state_dict']
    for number, (file, prefix, wanted) in enumerate(
        ((path, None, bare), (whole, 'backbone', parts), (path, 'encoder', None))
    ):
        init = dict(type='Pretrained', checkpoint=str(file), prefix=prefix)
        options = {'model.backbone.init_cfg': init}
        runner = build_runner(config(tmp_path / f'e{number}', 'file', **options))
        if wanted is None:
            with pytest.raises(
                UserError, match=r'nothing in .*pth fits.*with fc, layer1'
            ):
                runner._init_model_weights()
            continue
        runner._init_model_weights()
        beginning = 'backbone.' if prefix else ''
        assert equal(runner.model.backbone.state_dict(), wanted, beginning)

    options = {'model.backbone.widths': (8, 8, 8, 16), 'load_partial': True}
    model, _, log = fine_tuned(
        tmp_path / 'f', one / 'file' / 'iter_3.pth', NAMES, **options
    )
    actual = re.search(r'backbone: (\d+) of (\d+)', log)
    same = [
        name
        for name, value in model.backbone.state_dict().items()
        if value.shape == bare[name].shape and torch.equal(value, bare[name])
    ]
    assert 0 < len(same) == int(actual[1]) < int(actual[2])


def equal(state: dict, other: dict, prefix: str = '') -> bool:
    return all(torch.equal(value, other[prefix + key]) for key, value in state.items())


@pytest.mark.parametrize('hook', [None, 'mmengine.EMAHook', 'mmpretrain.EMAHook'])
@pytest.mark.parametrize('averaged', [True, False])
def test_averages_with_all_ways_to_load(one, tmp_path, hook, averaged):
    """Of a checkpoint with an average, and of one without, all that each must take."""
    checkpoint = torch.load(one / 'file' / 'iter_3.pth')
    state, raw = checkpoint['state_dict'], checkpoint['ema_state_dict']
    raw = {k.removeprefix('module.'): v for k, v in raw.items() if k in raw}
    raw = {key: raw[key] for key in state}
    if not averaged:
        del checkpoint['ema_state_dict']
        for key in state:
            state[key] = raw[key].clone()
    path = tmp_path / 'a.pth'
    torch.save(checkpoint, path)
    rows = state['head.weight']
    for way in ('all', 'drop', 'map', 'resume'):
        cfg = config(
            tmp_path / way,
            'file',
            custom_hooks=[dict(type=hook, momentum=0.1)] if hook else [],
            load_from=str(path),
            **{
                'optim_wrapper.optimizer.lr': 0.0,
                'optim_wrapper.optimizer.weight_decay': 0.0,
                'train_cfg.max_iters': 1,
            },
        )
        if way == 'resume':
            cfg.resume, cfg.train_cfg.max_iters = True, 3
        else:
            cfg.load_centres = way
        if way == 'map':
            cfg.train_dataloader.dataset.metainfo.classes = NEW_NAMES
        runner = train(cfg)
        models = [runner.model]
        models += [x.ema_model.module for x in runner.hooks if isinstance(x, EMAHook)]
        assert len(models) == (2 if hook else 1)
        wanted = [raw, state] if way == 'resume' else [state] * 2
        for model, expected in zip(models, wanted, strict=False):
            own = model.state_dict()
            for key, value in own.items():
                if not key.startswith('head.'):
                    assert torch.equal(value, expected[key]), (way, key)
            if way in ('all', 'resume'):
                assert torch.equal(own['head.weight'], expected['head.weight'])
            elif way == 'map':
                check_mapped(own['head.weight'], rows)
            else:
                assert not (own['head.weight'][:, None] == rows).all(2).any()
                loss = 'head.loss_module.bias'
                assert not torch.equal(own[loss], expected[loss])
            assert torch.equal(own['head.weight'], models[0].head.weight) or (
                way == 'resume'
            )


@pytest.mark.parametrize('form', FORMATS)
def test_a_test_reads_the_averaged_network_and_no_rows(
    two, form, tmp_path, monkeypatch
):
    checkpoint = two / form / 'iter_3.pth'
    require_checkpoint(str(checkpoint))
    for name in ('copy_to', 'take'):
        monkeypatch.delattr(StoredRows, name)
    cfg = config(tmp_path, form, **{'custom_hooks': []})
    cfg.model.head = None
    cfg.load_from = str(checkpoint)
    runner = build_runner(cfg)
    runner.load_or_resume()
    file = checkpoint / storage.MODEL if checkpoint.is_dir() else checkpoint
    saved = torch.load(file, map_location='cpu')
    for name, value in runner.model.state_dict().items():
        assert torch.equal(value, saved['state_dict'][name])
        assert saved['ema_state_dict'][f'module.{name}'].shape == value.shape


# ---- damage and interruption


def part_of(folder: Path) -> Path:
    return next(folder.glob('state_dict.head.weight.6-11.npy'))


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-10])


def forget_a_part(folder: Path) -> None:
    index = json.loads((folder / storage.INDEX).read_text())
    index['tensors'][0]['parts'].pop()
    (folder / storage.INDEX).write_text(json.dumps(index))


@pytest.mark.parametrize(
    ('damage', 'message'),
    [
        (lambda f: part_of(f).unlink(), 'state_dict.head.weight.6-11.npy is missing'),
        (lambda f: cut(part_of(f)), '6-11.npy is damaged, it has 438 bytes instead of'),
        (lambda f: (f / 'index.json').unlink(), 'no checkpoint .* no index.json'),
        (lambda f: cut(f / 'index.json'), 'index.json is damaged'),
        (lambda f: (f / 'model.pth').unlink(), 'model.pth is missing'),
        (lambda f: cut(f / 'model.pth'), 'model.pth is damaged'),
        (lambda f: (f / 'model.pth').write_bytes(b''), 'model.pth is damaged'),
        (
            lambda f: (f / 'model.pth').write_bytes(b'no weights at all'),
            'model.pth is no file of torch.save',
        ),
        (
            lambda f: (f / 'index.json').write_text('{"format": "9"}'),
            "format is '9', this version of mmhyperface reads",
        ),
        (lambda f: forget_a_part(f), r'rows from 6 on of .* are missing'),
        (shutil.rmtree, 'there is no checkpoint .*iter_3.pth'),
    ],
)
def test_damage_is_told(two, tmp_path, damage, message):
    folder = tmp_path / 'iter_3.pth'
    shutil.copytree(two / 'parts' / 'iter_3.pth', folder)
    damage(folder)
    with pytest.raises(UserError, match=message):
        storage.read(str(folder))


STEPS = [
    (os, 'fsync'),
    (os, 'replace'),
    (torch, 'save'),
    (shutil, 'rmtree'),
    (Path, 'mkdir'),
    (Path, 'rename'),
    (Path, 'replace'),
    (Path, 'unlink'),
    (Path, 'write_text'),
    (np.lib.format, 'write_array_header_1_0'),
    (LocalBackend, 'put'),
    (LocalBackend, 'remove'),
]


def killed_at(step: int, task) -> bool:
    """Whether a copy of this process is killed in the task before its n-th step."""
    child = os.fork()
    if not child:
        left = [step]

        def counted(function):
            def call(*args, **kwargs):
                left[0] -= 1
                if left[0] < 0:
                    os.kill(os.getpid(), signal.SIGKILL)
                return function(*args, **kwargs)

            return call

        for owner, name in STEPS:
            setattr(owner, name, counted(getattr(owner, name)))
        try:
            task()
            os._exit(0)
        finally:
            os._exit(1)
    status = os.waitpid(child, 0)[1]
    assert status in (0, signal.SIGKILL)
    return status == signal.SIGKILL


@pytest.mark.skipif(torch.cuda.is_available(), reason='CUDA does not survive a fork')
@pytest.mark.parametrize('form', FORMATS)
@pytest.mark.parametrize('name', ['new', 'same'])
def test_a_killed_save_leaves_the_previous_checkpoint(one, form, name, tmp_path):
    options = {'default_hooks.checkpoint.max_keep_ckpts': 1}
    runner = resumed(tmp_path, one, form, **options)
    (hook,) = (hook for hook in runner.hooks if isinstance(hook, CheckpointHook))
    work = Path(runner.work_dir)

    def save(step: int) -> None:
        hook._save_checkpoint_with_step(runner, step, dict(epoch=0, iter=step))

    def latest() -> torch.Tensor:
        path = (work / 'last_checkpoint').read_text()
        rows = storage.read(path)['state_dict']['head.weight']
        return rows if torch.is_tensor(rows) else rows.take(torch.arange(C))

    save(3)
    old = latest()
    averaged = next(h for h in runner.hooks if isinstance(h, EMAHook)).ema_model.module
    averaged.head.weight.data += 1
    new = averaged.head.weight.detach().clone()
    shutil.copytree(work, tmp_path / 'before')
    step = 6 if name == 'new' else 3
    results = []
    while killed_at(len(results), lambda: save(step)):
        actual = latest()
        results.append(torch.equal(actual, new))
        assert results[-1] or torch.equal(actual, old)
        # The next save removes what this one has left.
        storage.tidy(work)
        assert torch.equal(latest(), actual)
        assert not [p for p in work.iterdir() if p.name.startswith('.')]
        shutil.rmtree(work)
        shutil.copytree(tmp_path / 'before', work)
    assert torch.equal(latest(), new)
    assert [path.name for path in work.glob('*.pth')] == [f'iter_{step}.pth']
    assert len(results) > 5
    # Once the new one is there it stays.
    assert results == sorted(results)
    assert not results[0]


def test_formats_replace_each_other(one, tmp_path):
    runner = resumed(tmp_path, one, 'file')
    path = Path(runner.work_dir) / 'iter_9.pth'
    for limit in (0, 1e9, 1e9, 0, 0):
        runner.centre_parts_above = limit
        runner.save_checkpoint(runner.work_dir, path.name, by_epoch=False)
        assert path.is_dir() == (limit == 0)
        rows = storage.read(str(path))['state_dict']['head.weight']
        assert rows.shape == (C, 16)


def test_the_previous_best_goes_when_the_new_one_is_there(one, tmp_path, monkeypatch):
    options = {'default_hooks.checkpoint.save_best': 'acc'}
    runner = resumed(tmp_path, one, 'parts', **options)
    (hook,) = (hook for hook in runner.hooks if isinstance(hook, CheckpointHook))
    work = Path(runner.work_dir)
    seen = []
    save = runner.save_checkpoint

    def spied(out_dir, filename, *args, **kwargs):
        seen.append([path.name for path in work.glob('best*')])
        save(out_dir, filename, *args, **kwargs)

    monkeypatch.setattr(runner, 'save_checkpoint', spied)
    best = []
    for i, accuracy in enumerate((0.5, 0.4, 0.6)):
        runner.train_loop._iter = 10 + i
        hook.after_val_epoch(runner, {'acc': accuracy})
        best.append([path.name for path in work.glob('best*')])
    assert best == [['best_acc_iter_10.pth']] * 2 + [['best_acc_iter_12.pth']]
    # The one before was there while the new one was written.
    assert seen == [[], ['best_acc_iter_10.pth']]
    assert hook.best_ckpt_path == str(work / best[-1][0])


def test_parts_do_not_go_where_files_cannot_be_renamed(one, tmp_path, monkeypatch):
    runner = resumed(tmp_path, one, 'parts')
    monkeypatch.setattr(runner_module, 'get_file_backend', lambda *_, **__: object())
    with pytest.raises(UserError, match='cannot be saved in parts to s3://bucket'):
        runner.save_checkpoint('s3://bucket', 'iter_3.pth')


# ---- rows in bounded memory


class Largest(TorchDispatchMode):
    """The largest tensor that an operation allocates, in bytes."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        old = {t.untyped_storage().data_ptr() for t in leaves(args) if is_live(t)}
        for tensor in leaves(out):
            if is_live(tensor) and tensor.untyped_storage().data_ptr() not in old:
                self.bytes = max(self.bytes, tensor.numel() * tensor.element_size())
        return out


def is_live(value: object) -> bool:
    return isinstance(value, torch.Tensor) and value.numel() > 0


@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize('trailing', [(), (6,)])
def test_rows_are_streamed(tmp_path, monkeypatch, dtype, trailing):
    monkeypatch.setattr(centre_state, 'CHUNK_BYTES', 1000)
    monkeypatch.setattr(storage, 'PART_BYTES', 1500)
    rows = torch.randn(*trailing, 2000).movedim(-1, 0).to(dtype)  # strided
    key = ['state', 7, 'exp/avg']
    with Largest() as largest:
        parts = storage.write_rows(tmp_path, key, rows[:900], 0)
        parts += storage.write_rows(tmp_path, key, rows[900:], 900)
    assert largest.bytes <= 1000
    assert len(parts) > 2
    assert max(part['bytes'] for part in parts) <= 1500 + 128
    name = str(dtype).removeprefix('torch.')
    tensor = dict(key=key, dtype=name, shape=list(rows.shape), parts=parts)
    storage.write_index(tmp_path, [[tensor]])
    torch.save({'state': {7: {}}}, tmp_path / storage.MODEL)
    stored = storage.read(str(tmp_path))['state'][7]['exp/avg']
    assert (stored.shape, stored.dtype) == (rows.shape, dtype)
    for start, stop in ((0, 2000), (0, 1), (700, 1999), (1999, 2000), (5, 5)):
        out = torch.empty_like(rows[start:stop])
        with Largest() as largest:
            stored.copy_to(out, start)
        assert largest.bytes <= 1000
        assert torch.equal(out, rows[start:stop])
    wanted = torch.randint(2000, (50,))
    assert torch.equal(stored.take(wanted), rows[wanted])
    origin = torch.randint(-1, 2000, (700,))
    origin[::3] = -1
    out = torch.full((300, *trailing), 7.0, dtype=dtype)
    with Largest() as largest:
        MappedRows(stored, origin).copy_to(out, 250)
    assert largest.bytes <= 2 * 1000
    for row, source in zip(out, origin[250:550], strict=True):
        assert torch.equal(
            row, rows[source] if source >= 0 else torch.full_like(row, 7)
        )
