"""The package as a plugin: lazy import, scopes, configs from elsewhere."""

import subprocess
import sys
import textwrap

import pytest
from mmengine import registry as mmengine_registry
from mmengine.registry import Registry
from mmpretrain import registry as mmpretrain_registry
from runs import run_script

from mmhyperface import registry


def python(code: str, *args: str, cwd: object = None) -> str:
    """Standard output of a fresh interpreter."""
    done = subprocess.run(
        [sys.executable, '-c', textwrap.dedent(code), *args],
        capture_output=True,
        text=True,
        cwd=cwd,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_import_is_silent_and_loads_no_torch():
    code = """
        import sys
        import mmhyperface
        heavy = {'torch', 'torchvision', 'mmpretrain', 'mmcv', 'cv2', 'matplotlib'}
        assert not heavy & set(sys.modules), heavy & set(sys.modules)
        print(mmhyperface.__version__)
    """
    assert python(code).count('\n') == 1


def registries(module) -> dict[str, Registry]:
    return {k: v for k, v in vars(module).items() if isinstance(v, Registry)}


def test_every_registry_of_mmpretrain_has_a_child():
    ours = registries(registry)
    theirs = {
        name: parent
        for name, parent in registries(mmpretrain_registry).items()
        if parent.scope == 'mmpretrain'
    }
    assert len(theirs) > 20
    for name, parent in theirs.items():
        assert ours[name].parent is parent
        assert ours[name].scope == 'mmhyperface'
        assert set(parent._locations) <= set(ours[name]._locations)
        assert ours[name].root.children['mmhyperface'] is ours[name]
    for name in {'STRATEGIES', 'INFERENCERS', 'FUNCTIONS'}:
        assert ours[name].parent is getattr(mmengine_registry, name)
    # That it is found before anybody has imported it.
    assert 'mmhyperface.inference.inferencer' in ours['INFERENCERS']._locations


CONFIG = """
custom_imports = dict(imports=['mmhyperface'])
{scope}
model = dict(
    type='{prefix}FaceRecognizer',
    data_preprocessor=dict(type='{prefix}FaceDataPreprocessor'),
    backbone=dict(type='{prefix}SFNet', depth=4, input_size=32),
    head=dict(
        type='{prefix}HypersphereHead',
        num_classes=5,
        in_channels=512,
        loss=dict(type='{prefix}SFaceLoss'),
    ),
)
hook = dict(type='{prefix}MarginSchedulerHook')
metric = dict(type='{prefix}FaceVerification')
transform = dict(type='{prefix}LoadFace')
"""

# Each config in a process that knows no more than mmpretrain's own modules.
BUILD = """
    import os
    import sys
    import mmpretrain.models
    from mmengine.config import Config
    from mmengine.registry import HOOKS, METRICS, MODELS, TRANSFORMS, init_default_scope
    assert 'mmhyperface' not in sys.modules
    for path in sys.argv[1:]:
        child = os.fork()
        if child:
            os.waitpid(child, 0)
            continue
        cfg = Config.fromfile(path)
        if 'default_scope' in cfg:
            init_default_scope(cfg.default_scope)
        for registry, key in (
            (MODELS, 'model'), (HOOKS, 'hook'),
            (METRICS, 'metric'), (TRANSFORMS, 'transform'),
        ):
            built = registry.build(cfg[key])
            print(type(built).__module__.split('.')[0], end=' ')
        print(cfg.get('default_scope'))
        sys.exit()
"""


def test_types_are_found_from_every_scope(tmp_path):
    scopes = ('mmhyperface', 'mmpretrain', 'mmengine', None)
    paths = []
    for scope in scopes:
        line = f'default_scope = {scope!r}' if scope else ''
        prefix = '' if scope == 'mmhyperface' else 'mmhyperface.'
        paths.append(tmp_path / f'{scope}.py')
        paths[-1].write_text(CONFIG.format(scope=line, prefix=prefix))
    message = python(BUILD, *map(str, paths)).splitlines()
    assert message == ['mmhyperface ' * 4 + str(scope) for scope in scopes]


def test_new_style_config(tmp_path):
    (tmp_path / 'base.py').write_text(
        textwrap.dedent("""
        from mmhyperface.models import (
            FaceRecognizer, HypersphereHead, SFaceLoss, SFNet)
        model = dict(
            type=FaceRecognizer,
            backbone=dict(type=SFNet, depth=4, input_size=32),
            head=dict(type=HypersphereHead, num_classes=5, in_channels=512,
                      loss=dict(type=SFaceLoss)))
        """)
    )
    (tmp_path / 'leaf.py').write_text(
        textwrap.dedent("""
        from mmengine.config import read_base
        with read_base():
            from .base import *
        from mmhyperface.models import SphereFace2Loss
        model.update(head=dict(loss=dict(type=SphereFace2Loss)))
        default_scope = 'mmhyperface'
        """)
    )
    code = """
        from mmengine.config import Config
        from mmengine.registry import MODELS, init_default_scope
        cfg = Config.fromfile('leaf.py')
        init_default_scope(cfg.default_scope)
        for config in (cfg, Config.fromstring(cfg.pretty_text, '.py')):
            model = MODELS.build(config.model)
            print(type(model.head.loss_module).__name__, model.head.num_classes)
    """
    assert python(code, cwd=tmp_path) == 'SphereFace2Loss 5\n' * 2


@pytest.mark.parametrize(
    ('base', 'expected'),
    [
        ('mmhyperface::sphereface2_r100_ms1m.py', 'FaceRecognizer'),
        ('mmhyperface::_base_/models/iresnet100.py', 'FaceRecognizer'),
        ('mmpretrain::resnet/resnet18_8xb32_in1k.py', 'ImageClassifier'),
    ],
)
def test_configs_of_installed_packages_are_found(tmp_path, base, expected):
    (tmp_path / 'mine.py').write_text(f"_base_ = '{base}'\n")
    code = """
        import warnings
        warnings.simplefilter('ignore')
        import mmhyperface
        from mmengine.config import Config
        print(Config.fromfile('mine.py').model.type)
    """
    assert python(code, cwd=tmp_path).strip() == expected


def test_losses_of_the_user_plug_in(tmp_path):
    (tmp_path / 'my_loss.py').write_text(
        textwrap.dedent("""
        from mmhyperface.models.losses import SoftmaxLoss
        from mmhyperface.registry import MODELS

        @MODELS.register_module()
        class MyLoss(SoftmaxLoss):
            def target(self, own, context):
                return 7 * own
            def others(self, cos, context):
                return 7 * cos
        """)
    )
    (tmp_path / 'mine.py').write_text(
        textwrap.dedent("""
        _base_ = 'mmhyperface::sface_quickstart.py'
        custom_imports = dict(imports=['my_loss'])
        model = dict(head=dict(loss=dict(_delete_=True, type='MyLoss')))
        train_cfg = dict(max_iters=2)
        val_cfg = val_dataloader = val_evaluator = None
        """)
    )
    (tmp_path / 'run.py').write_text(
        textwrap.dedent("""
        from mmhyperface.apis import build_runner
        from mmhyperface.engine.launch import load_config
        cfg = load_config('mine.py')
        cfg.work_dir = 'work'
        runner = build_runner(cfg)
        runner.train()
        print(type(runner.model.head.loss_module).__name__, runner.iter)
        """)
    )
    done = run_script('run.py', cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == 'MyLoss 2'
