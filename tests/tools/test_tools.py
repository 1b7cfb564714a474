"""The command line, as a user calls it."""

import argparse
import json
import os
import pickle
import re
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import cv2
import numpy as np
import pytest
import record_files
from runs import PYTHON_FIRST, ROOT, as_main, call, call_tool, small_config, spawn

from mmhyperface.apis import build_runner
from mmhyperface.engine.launch import config_from, load_config
from mmhyperface.utils.command_line import argument_parser
from mmhyperface.utils.errors import UserError

# Seconds after which a process hangs, however busy the machine.
PATIENCE = 300
SMALL = [
    'model.backbone.depth=4',
    'model.backbone.widths=[8,8,8,8]',
    'model.backbone.input_size=32',
    'model.backbone.embedding_size=16',
    'model.head.in_channels=16',
]
SYNTHETIC = [
    *SMALL,
    'model.head.num_classes=11',
    'train_dataloader.batch_size=8',
    'train_dataloader.dataset.num_identities=11',
    'train_dataloader.dataset.images_per_identity=4',
    'train_dataloader.dataset.image_size=32',
    'train_dataloader.num_workers=0',
    'val_dataloader.num_workers=0',
    'val_dataloader.dataset.num_identities=9',
    'val_dataloader.dataset.images_per_identity=3',
    'val_dataloader.dataset.image_size=32',
    'val_dataloader.dataset.num_pairs=40',
    'test_dataloader.num_workers=0',
    'test_dataloader.dataset.num_identities=9',
    'test_dataloader.dataset.images_per_identity=3',
    'test_dataloader.dataset.image_size=32',
    'test_dataloader.dataset.num_pairs=40',
    'train_cfg.max_iters=4',
    'train_cfg.val_interval=4',
    'default_hooks.checkpoint.interval=2',
    'default_hooks.logger.interval=1',
]


@pytest.fixture(scope='module')
def trained(tmp_path_factory):
    """A run of two processes by the README's command, at a size of seconds."""
    work = tmp_path_factory.mktemp('work')
    config = 'configs/sphereface2_quickstart.py'
    done = call(
        'tools/dist_train.sh',
        config,
        2,
        '--work-dir',
        work,
        '--cfg-options',
        *SYNTHETIC,
    )
    return work, config, done.stdout + done.stderr


def test_training_leaves_what_the_readme_promises(trained):
    work, _, output = trained
    for word in ('eta:', 'raw pixels', 'untrained', 'trained', 'accuracy'):
        assert word in output
    assert (work / 'iter_4.pth').is_file()
    picture = cv2.imread(str(work / 'verification.png'))
    assert picture is not None
    assert min(picture.shape[:2]) > 300
    logged = [
        json.loads(line)
        for line in next(work.glob('*/vis_data/scalars.json')).read_text().splitlines()
    ]
    assert [row['step'] for row in logged if 'loss' in row] == [1, 2, 3, 4]
    figures = json.loads((work / 'verification.json').read_text())
    assert set(figures['synthetic']) == {'raw pixels', 'untrained', 'trained'}


@pytest.mark.parametrize(
    ('processes', 'script'),
    [
        (1, 'test.py'),
        (3, 'test.py'),
        # As above, but for the launcher that all scripts share.
        pytest.param(3, 'dist_test.sh', marks=pytest.mark.slow),
    ],
)
def test_testing_repeats_the_figures_of_training(trained, tmp_path, processes, script):
    work, config, _ = trained
    options = ('--work-dir', tmp_path, '--out', tmp_path / 'out.json')
    arguments = (config, work / 'iter_4.pth')
    overrides = ('--cfg-options', *SYNTHETIC)
    if script == 'dist_test.sh':
        call('tools/dist_test.sh', *arguments, processes, *options, *overrides)
    elif processes == 1:
        call(sys.executable, 'tools/test.py', *arguments, *options, *overrides)
    else:
        command = ('tools/test.py', *arguments, *options, '--launcher', 'pytorch')
        spawn(processes, as_main, [*map(str, command), *overrides])
    figures = json.loads((tmp_path / 'out.json').read_text())
    training = json.loads((work / 'verification.json').read_text())
    trained_row = training['synthetic']['trained']
    assert figures['synthetic/accuracy'] == trained_row['accuracy']
    assert figures['synthetic/auc'] == trained_row['auc']
    # Of 20 different pairs; a NaN would be no JSON.
    assert figures['synthetic/tar@far=1e-04'] is None
    assert (tmp_path / 'report' / 'report.html').is_file()


def test_resume_auto_and_amp(trained, tmp_path):
    work, config, _ = trained
    for path in ('iter_2.pth', 'last_checkpoint'):
        (tmp_path / path).write_bytes((work / path).read_bytes())
    (tmp_path / 'last_checkpoint').write_text(str(tmp_path / 'iter_2.pth'))
    done = call(
        *(sys.executable, 'tools/train.py', config, '--work-dir', tmp_path),
        *('--resume', '--amp', '--auto-scale-lr', '--no-validate'),
        *('--cfg-options', *SYNTHETIC),
    )
    output = done.stdout + done.stderr
    assert 'resumed epoch: 0, iter: 2' in output
    assert 'Iter(train) [4/4]' in output
    assert 'Scaling the original LR by' in output
    assert 'Iter(val)' not in output


def write_faces(root: Path, people: int = 7, images: int = 4) -> None:
    rng = np.random.default_rng(0)
    for person in range(people):
        (root / f'p{person}').mkdir(parents=True)
        for index in range(images):
            face = rng.integers(0, 256, (40, 30), dtype=np.uint8)
            cv2.imwrite(str(root / f'p{person}' / f'{index}.png'), face)


FOLDER = [*SMALL, 'train_cfg.max_iters=2', 'train_cfg.val_interval=2']
FOLDER += ['train_dataloader.dataset.pipeline.1.scale=32']
FOLDER += [
    f'{loader}_dataloader.{option}'
    for loader in ('train', 'val', 'test')
    for option in ('num_workers=0', 'batch_size=4', 'dataset.pipeline.0.size=32')
]
FOLDER += [
    f'{loader}_dataloader.dataset.holdout=3' for loader in ('train', 'val', 'test')
]


def test_a_folder_of_faces_trains(tmp_path):
    write_faces(tmp_path / 'faces')
    done = call(
        *(sys.executable, 'tools/train.py', 'configs/sphereface2_facefolder.py'),
        *('--work-dir', tmp_path / 'work', '--cfg-options'),
        *(f'data_root={tmp_path / "faces"}', *FOLDER),
    )
    assert 'heldout' in done.stdout + done.stderr
    assert (tmp_path / 'work' / 'iter_2.pth').is_file()


def test_flagship_inherited_from_another_folder(tmp_path):
    config = tmp_path / 'mine.py'
    config.write_text(
        textwrap.dedent("""
        _base_ = 'mmhyperface::sphereface2_r100_ms1m.py'
        model = dict(backbone=dict(depth=18), head=dict(num_classes=5))
        train_dataloader = dict(batch_size=2, dataset=dict(
            _delete_=True, type='SyntheticFaces', num_identities=5,
            images_per_identity=2, pipeline=[dict(type='PackInputs')]))
        """)
    )
    done = call(
        *(sys.executable, 'tools/train.py', config, '--work-dir', tmp_path),
        *('--no-validate', '--cfg-options', 'train_cfg.max_iters=2'),
        *('train_dataloader.num_workers=0', 'default_hooks.logger.interval=1'),
        # Not the gigabyte of the checkpoint.
        'default_hooks.checkpoint=None',
    )
    assert 'Iter(train) [2/2]' in done.stdout + done.stderr


@pytest.mark.slow  # on one process it has a test in test_recipes.py
def test_flagship_on_the_files_as_they_lie(tmp_path):
    """A RecordIO set and verification packs: trained, verified, resumed."""
    records = record_files.insightface_records(
        [[record_files.picture(4 * i + k, 112) for k in range(4)] for i in range(5)]
    )
    record_files.write(tmp_path / 'set', records, 5)
    pack = [record_files.picture(i, 112) for i in range(8)], [True, False, False, True]
    for name in ('lfw', 'cfp_fp', 'agedb_30'):
        (tmp_path / 'set' / f'{name}.bin').write_bytes(pickle.dumps(pack, 2))
    options = [
        f'data_root={tmp_path / "set"}',
        *('model.head.num_classes=5', 'val_dataloader.dataset.folds=2'),
        *('train_dataloader.batch_size=2', 'train_dataloader.num_workers=1'),
        *('val_dataloader.num_workers=1', 'default_hooks.logger.interval=1'),
        *('default_hooks.checkpoint.interval=2', 'train_cfg.val_interval=2'),
    ]
    command = ['tools/dist_train.sh', 'configs/sphereface2_r100_ms1m.py', 2]
    for more, iterations in (([], 2), (['--resume'], 4)):
        done = call(
            *(*command, '--work-dir', tmp_path / 'work', *more, '--cfg-options'),
            *(*options, f'train_cfg.max_iters={iterations}'),
        )
        output = done.stdout + done.stderr
        assert f'Iter(train) [{iterations}/{iterations}]' in output
        figures = json.loads((tmp_path / 'work' / 'verification.json').read_text())
        for name in ('lfw', 'cfp_fp', 'agedb_30'):
            assert f'{name}/accuracy' in output
            assert figures[name]['untrained']['finite']
    assert 'Iter(train) [3/4]' in output
    assert 'Iter(train) [2/4]' not in output


def broken_image(root: Path) -> str:
    write_faces(root)
    for image in root.glob('*/*.png'):
        image.write_bytes(image.read_bytes()[:60])
    return '.png'


def no_folder(root: Path) -> str:
    return str(root)


def empty_folder(root: Path) -> str:
    root.mkdir()
    return str(root)


@pytest.mark.parametrize(
    ('make', 'workers'),
    [(broken_image, 0), (broken_image, 1), (no_folder, 1), (empty_folder, 1)],
)
def test_bad_data_is_one_clear_message(tmp_path, make, workers):
    named = make(tmp_path / 'faces')
    done = call(
        *(sys.executable, 'tools/train.py', 'configs/sface_facefolder.py'),
        *('--work-dir', tmp_path / 'work', '--no-validate', '--cfg-options'),
        *(f'data_root={tmp_path / "faces"}', *FOLDER),
        f'train_dataloader.num_workers={workers}',
        status=1,
    )
    assert 'Traceback' not in done.stderr
    (error,) = (line for line in done.stderr.splitlines() if line.startswith('error: '))
    assert named in error


def test_what_is_no_option_is_told_with_the_usage(capsys):
    for given, message in (
        (['a.py', '--cfg-options', 'x'], '--cfg-options takes KEY=VALUE, got x'),
        (['a.py', '--cfg-options', 'x=[1,(2]'], r'x=[1,(2]: Imbalanced brackets'),
        (['a.py', '--cfg-options', 'x=dict(a'], 'x=dict(a: dict(a is no value'),
        (['a.py', '--cfg-options', 'x=dict(**a)'], 'dict(**a) is no value'),
        (['a.py', '--cfg-options', 'x=f(a,b)'], 'f(a,b) is no value; it takes numb'),
    ):
        with pytest.raises(SystemExit):
            argument_parser('').parse_args(given)
        assert message in capsys.readouterr().err


def test_an_option_may_be_a_dict_as_a_config_has_it():
    given = [
        "a.b=dict(type='X', n=[1, (2, 3)], m=dict(c=None))",
        'd=[dict(type=x.Y,e=true),1e-3]',  # without the quotes that a shell takes
        'f=1,g',
    ]
    args = argument_parser('').parse_args(['a.py', '--cfg-options', *given])
    assert args.cfg_options == {
        'a.b': {'type': 'X', 'n': [1, (2, 3)], 'm': {'c': None}},
        'd': [{'type': 'x.Y', 'e': True}, 1e-3],
        'f': [1, 'g'],
    }


# What is refused, and the last line that is said of it.
REFUSED = {
    'train.py configs/none.py': 'there is no config configs/none.py',
    'test.py configs/sface_quickstart.py none.pth': 'there is no checkpoint none.pth',
    'test.py configs/sface_quickstart.py README.md': (
        'README.md is no file of torch.save'
    ),
    'train.py configs/sface_quickstart.py --resume none.pth': (
        'there is no checkpoint none.pth'
    ),
    'train.py configs/sphereface2_r100_ms1m.py --no-validate': (
        'data/ms1m/train.rec: cannot be read: No such file or directory. Set'
    ),
    'train.py configs/test_sets/lfw.py': 'lfw.py has no model; inherit',
    'train.py configs/sface_quickstart.py --launcher slurm': (
        'SLURM_PROCID is not set, so no launcher has started this process: start '
        'it with tools/slurm_train.sh'
    ),
}
# Options of configs/sface_quickstart.py with which it cannot train.
BAD_OPTIONS = {
    'model.head.channels=3': (
        'has no option channels: is in_channels meant? (in model.head)'
    ),
    'model.backbone.norm_evals=1': (
        'SFNet has no option norm_evals: is norm_eval meant? (in model.backbone)'
    ),
    'model.type=FaceRecogniser': (
        'FaceRecogniser is not in the mmhyperface::model registry: is the type'
    ),
    'model.head.loss._delete_=True': 'an entry of the config has no type: {}',
    'val_evaluator.folds=1': 'val_dataloader=None val_evaluator=None (in val_evaluator',
    'optim_wrapper.optimizer.a=1': 'SGD has no option a (in optim_wrapper.optimizer)',
    'model.head.num_classes=auto train_dataloader.dataset.num_identities=1': (
        'training needs two people or more, and train_dataloader.dataset has 1'
    ),
    'train_cfg.foo=1': 'IterBasedTrainLoop has no option foo',
}


REFUSED |= {
    f'train.py configs/sface_quickstart.py --cfg-options {options}': message
    for options, message in BAD_OPTIONS.items()
}


@pytest.mark.parametrize('command', REFUSED)
def test_a_mistake_is_one_line(tmp_path, monkeypatch, capsys, command):
    monkeypatch.setenv('LOCAL_RANK', '0')
    monkeypatch.chdir(ROOT)
    script, *words = command.split()
    if '--cfg-options' in words:
        words.append(f'experiment_name={tmp_path.name}')
    with pytest.raises(SystemExit) as ended:
        call_tool(monkeypatch, script, f'--work-dir={tmp_path}', *words)
    assert ended.value.code == 1
    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert last.startswith('error: ')
    assert REFUSED[command] in last


def test_a_folder_that_is_none_is_told_before_the_data_is_read(tmp_path):
    """/proc is where root may not write either."""
    given = dict(config=str(ROOT / 'configs/sface_quickstart.py'), cfg_options=None)
    given |= dict(local_rank=0, launcher='none')
    (tmp_path / 'file').touch()
    for work_dir in ('/proc/work', str(tmp_path / 'file' / 'work')):
        with pytest.raises(UserError, match=f'nothing can be written to {work_dir}'):
            config_from(argparse.Namespace(work_dir=work_dir, **given))


def test_validation_data_that_is_missing_can_be_done_without(tmp_path):
    """Named by the recipe, but not beside the training data of one's own."""
    cfg = small_config(tmp_path)
    base = load_config(str(ROOT / 'configs/sphereface2_r100_ms1m.py'))
    cfg.val_dataloader, cfg.val_cfg = base.val_dataloader, {}
    cfg.val_evaluator = base.val_evaluator
    with pytest.raises(UserError, match=r'lfw\.bin.*train without .*: --no-validate'):
        build_runner(cfg).train()


def test_ctrl_c_is_one_line_that_says_how_to_go_on(tmp_path):
    process = subprocess.Popen(
        [
            *('tools/dist_train.sh', 'configs/sphereface2_quickstart.py', '2'),
            *('--work-dir', str(tmp_path), '--no-validate', '--cfg-options'),
            *SYNTHETIC,
            *('train_cfg.max_iters=100000', 'train_dataloader.num_workers=1'),
            # The interrupt comes soon after a checkpoint, and long before the next.
            'default_hooks.checkpoint.interval=50',
            'default_hooks.logger.interval=1000',
        ],
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env=os.environ | PYTHON_FIRST,
    )
    try:
        until = time.monotonic() + PATIENCE
        while not (tmp_path / 'last_checkpoint').exists() and process.poll() is None:
            assert time.monotonic() < until
            time.sleep(0.1)
        # As a terminal does, to all that it has started.
        os.killpg(process.pid, signal.SIGINT)
        said = process.communicate(timeout=PATIENCE)[1]
    finally:
        process.kill()
    assert process.returncode == 130, said
    assert 'Traceback' not in said
    (line,) = (line for line in said.splitlines() if 'interrupted' in line)
    match = re.fullmatch(
        r'interrupted at iteration (\d+); the last checkpoint is (\S+): go on with '
        r'--resume \2',
        line,
    )
    assert (
        int(match[1]) - 50
        <= int(re.search(r'iter_(\d+)', match[2])[1])
        # An iteration counts once its hooks are done, saving among them.
        <= int(match[1]) + 1
    )
    assert Path(match[2]).is_file()
    assert (tmp_path / 'last_checkpoint').read_text() == match[2]


def test_several_processes_end_in_one_message_too(tmp_path):
    done = call(
        *('tools/dist_train.sh', 'configs/sface_facefolder.py', 2, '--no-validate'),
        *('--work-dir', tmp_path, '--cfg-options', 'data_root=no/such/folder'),
        status=1,
    )
    assert 'Traceback' not in done.stderr
    assert sum(line.startswith('error') for line in done.stderr.splitlines()) == 1


def test_new_style_config_from_training_to_testing(tmp_path):
    config = tmp_path / 'new_style.py'
    config.write_text(
        textwrap.dedent("""
        from mmengine.dataset import DefaultSampler, InfiniteSampler, default_collate
        from mmengine.hooks import CheckpointHook
        from mmpretrain.datasets import PackInputs
        from torch.optim import SGD
        from mmhyperface.datasets import SyntheticFacePairs, SyntheticFaces
        from mmhyperface.evaluation import FaceVerification
        from mmhyperface.models import (
            FaceRecognizer, HypersphereHead, SFaceLoss, SFNet)

        default_scope = 'mmhyperface'
        model = dict(
            type=FaceRecognizer,
            backbone=dict(type=SFNet, depth=4, widths=(8, 8, 8, 8), input_size=32),
            head=dict(
                type=HypersphereHead, num_classes=3, in_channels=512,
                loss=dict(type=SFaceLoss)))
        faces = dict(
            images_per_identity=4, image_size=32, pipeline=[dict(type=PackInputs)])
        loader = dict(batch_size=4, collate_fn=dict(type=default_collate))
        train_dataloader = dict(
            sampler=dict(type=InfiniteSampler), **loader,
            dataset=dict(type=SyntheticFaces, num_identities=3, **faces))
        test_dataloader = dict(
            sampler=dict(type=DefaultSampler, shuffle=False), **loader,
            dataset=dict(
                type=SyntheticFacePairs, num_identities=9, num_pairs=40, **faces))
        test_evaluator = dict(type=FaceVerification)
        test_cfg = dict()
        optim_wrapper = dict(optimizer=dict(type=SGD, lr=0.01))
        train_cfg = dict(by_epoch=False, max_iters=2)
        default_hooks = dict(
            checkpoint=dict(type=CheckpointHook, by_epoch=False, interval=2))
        """)
    )
    call(sys.executable, 'tools/train.py', config, '--work-dir', tmp_path)
    done = call(
        *(sys.executable, 'tools/test.py', config, tmp_path / 'iter_2.pth'),
        *('--work-dir', tmp_path, '--flip-fusion', 'none'),
    )
    assert 'synthetic/accuracy' in done.stdout + done.stderr


@pytest.fixture
def said(tmp_path):
    """Calls a script whose launcher is replaced by one that prints its arguments."""

    def call_script(launcher: str, *command: object, **env: str) -> list[str]:
        fake = tmp_path / launcher
        fake.write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
        fake.chmod(0o755)
        path = f'{tmp_path}:{os.environ["PATH"]}'
        return call(*command, PATH=path, **env).stdout.splitlines()

    return call_script


@pytest.mark.parametrize(
    ('script', 'arguments'),
    [('train', ['config.py', '--amp']), ('test', ['config.py', 'a.pth', '--amp'])],
)
def test_scripts_start_the_processes(said, script, arguments):
    *first, last = arguments
    tail = [*arguments, '--launcher']
    words = said(
        *('srun', f'tools/slurm_{script}.sh', 'part', 'job', *arguments),
        GPUS='12',
        SRUN_ARGS='--qos high',
    )
    for word in ('--ntasks=12', '--ntasks-per-node=8', '--partition=part', '--qos'):
        assert word in words
    assert words[-len(tail) - 1 :] == [*tail, 'slurm']
    words = said(
        *('python', f'tools/dist_{script}.sh', *first, 3, last),
        NNODES='2',
        NODE_RANK='1',
        MASTER_ADDR='10.0.0.1',
        PORT='29517',
        OMP_NUM_THREADS='1',
    )
    assert words == [
        str(ROOT / 'tools' / 'dist_run.py'),
        *('--nnodes=2', '--node_rank=1', '--master_addr=10.0.0.1'),
        *('--master_port=29517', '--nproc_per_node=3'),
        str(ROOT / 'tools' / f'{script}.py'),
        *(*tail, 'pytorch'),
    ]


@pytest.mark.parametrize('script', ['dist_train', 'dist_test', 'slurm_train'])
def test_scripts_tell_their_usage(script):
    assert 'usage' in call(f'tools/{script}.sh', status=2).stderr
