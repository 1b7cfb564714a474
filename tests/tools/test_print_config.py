"""The tool, and what it prints of the recipes, against the published settings."""

import pytest
from mmengine.config import Config
from runs import ROOT, call
from yapf.yapflib.yapf_api import FormatCode

from mmhyperface.engine.launch import load_config
from mmhyperface.utils.errors import UserError

TOOL = str(ROOT / 'tools' / 'print_config.py')
# Typed from the papers and the official configs, not from ours.
OLD_OPENSPHERE = dict(
    wrapper='OptimWrapper',
    dtype=None,
    clip=None,
    clip_centres=True,
    rate=0.1,
    decay=5e-4,
    batch=(128, 4),
    centres='project',
    init_std=None,
    sample_rate=1.0,
    dataset='FaceList',
)
NEW_OPENSPHERE = dict(
    OLD_OPENSPHERE,
    wrapper='AmpOptimWrapper',
    dtype='float16',
    clip=100,
    batch=(64, 8),
    milestones=[80_000, 140_000, 200_000],
    iterations=240_000,
    network=dict(type='IResNet', depth=100, features_init=0.1, freeze_features=False),
    classes=85_742,
    dataset='FaceRecord',
)
SFACE = dict(
    OLD_OPENSPHERE,
    milestones=[100_000, 160_000, 220_000],
    centres='normalize',
    dataset='FaceRecord',
)
INSIGHTFACE = dict(
    wrapper='AmpOptimWrapper',
    dtype='float16',
    clip=5,
    clip_centres=False,
    rate=0.1,
    milestones=None,
    decay=5e-4,
    batch=(128, 8),
    centres='normalize',
    init_std=0.01,
    sample_rate=1.0,
    dataset='FaceRecord',
)
SFNET20 = dict(type='SFNet', depth=20, variant='paper', with_bn=False)
SFNET64 = dict(SFNET20, depth=64)
R50 = dict(type='IResNet', depth=50, dropout=0)
R100 = dict(type='IResNet', depth=100, dropout=0)
VGGFACE2 = dict(
    OLD_OPENSPHERE,
    milestones=[40_000, 60_000],
    iterations=70_000,
    network=SFNET20,
    classes=8631,
)
C = dict(
    type='SphereFace2Loss', margin_type='C', lam=0.7, r=40, m=0.4, t=3, loss_weight=10
)
R = dict(
    type='SphereFaceRLoss',
    version='v2',
    feature_norm='hard',
    s=60,
    m=1.4,
    loss_weight=50 / 60,
)
SPHERE = dict(type='SphereFaceLoss', s=30, m=1.5)
ARC = dict(type='ArcFaceLoss', s=30, m=0.5, beyond='clip')
COS = dict(type='CosFaceLoss', s=30, m=0.35)
ARC64, COS64 = dict(type='ArcFaceLoss', s=64, m=0.5), dict(COS, s=64, m=0.4)
MS1MV3 = dict(INSIGHTFACE, iterations=101_160, classes=93_431, loss=ARC64)
GLINT360K = dict(
    INSIGHTFACE, iterations=333_820, decay=1e-4, classes=360_232, loss=COS64
)
PUBLISHED = {
    'sphereface_sfnet20_vggface2': dict(VGGFACE2, loss=SPHERE),
    'sphereface_sfnet64_vggface2': dict(VGGFACE2, network=SFNET64, loss=SPHERE),
    'sphereface_plus_sfnet20_vggface2': dict(
        VGGFACE2, loss=dict(type='SphereFacePlusLoss', s=30, m=1.5, lam_mhe=0.1)
    ),
    'spherefacer_sfnet20_vggface2': dict(VGGFACE2, loss=R),
    'sphereface2_sfnet20_vggface2': dict(VGGFACE2, loss=C),
    'sphereface2_sfnet20_vggface2_100k': dict(
        VGGFACE2, loss=C, milestones=[50_000, 78_000, 94_000], iterations=100_000
    ),
    'sphereface2_sfnet64_vggface2': dict(VGGFACE2, network=SFNET64, loss=C),
    'sphereface2a_sfnet20_vggface2': dict(
        VGGFACE2, loss=dict(C, margin_type='A', m=0.5)
    ),
    'sphereface2m_sfnet20_vggface2': dict(
        VGGFACE2, loss=dict(C, margin_type='M', m=1.7)
    ),
    'sphereface2_sfnet20_vggface2_noise60': dict(
        VGGFACE2, loss=C, dataset='LabelNoise', noise=(0.6, 10086)
    ),
    'arcface_sfnet20_vggface2': dict(VGGFACE2, loss=ARC),
    'arcface_sfnet64_vggface2': dict(VGGFACE2, network=SFNET64, loss=ARC),
    'cosface_sfnet20_vggface2': dict(VGGFACE2, loss=COS),
    'cosface_sfnet64_vggface2': dict(VGGFACE2, network=SFNET64, loss=COS),
    'normface_sfnet20_vggface2': dict(VGGFACE2, loss=dict(type='NormFaceLoss', s=30)),
    'sphereface_r100_ms1m_360k': dict(
        OLD_OPENSPHERE,
        milestones=[150_000, 270_000, 320_000],
        iterations=360_000,
        network=R100,
        classes=85_742,
        dataset='FaceRecord',
        loss=dict(type='SphereFaceLoss', s=32, m=1.7),
    ),
    'sphereface_sfnet64_ms1m': dict(
        OLD_OPENSPHERE,
        milestones=[100_000, 180_000, 220_000],
        iterations=240_000,
        network=dict(type='SFNet', depth=64, variant='opensphere', with_bn=True),
        classes=85_742,
        dataset='FaceRecord',
        loss=dict(type='SphereFaceLoss', s=32, m=1.7),
    ),
    'sphereface_r100_ms1m': dict(
        NEW_OPENSPHERE, loss=dict(type='SphereFaceLoss', s=64, m=1.7)
    ),
    'arcface_r100_ms1m': dict(NEW_OPENSPHERE, loss=dict(ARC, s=64)),
    'cosface_r100_ms1m': dict(NEW_OPENSPHERE, loss=COS64),
    'sphereface2_r100_ms1m': dict(
        NEW_OPENSPHERE, loss=dict(C, lam=0.8, r=64, m=0.5, loss_weight=50)
    ),
    'spherefacer_r100_ms1m': dict(NEW_OPENSPHERE, loss=R),
    'sface_ir50_casia': dict(
        SFACE,
        milestones=[50 * 1916, 70 * 1916, 80 * 1916],
        iterations=125 * 1916,
        batch=(128, 2),
        network=dict(type='IR', depth=50, variant='evolve', dropout=0.5),
        classes=10_572,
        init_std=2 * (2 / 10_572) ** 0.5,
        loss=dict(type='SFaceLoss', s=64, k=80, a=0.87, b=1.2),
    ),
    'sface_r50_vggface2': dict(
        SFACE,
        iterations=184_080,
        network=dict(R50, dropout=0.4),
        classes=8631,
        init_std=(2 / 8631) ** 0.5,
        loss=dict(type='SFaceLoss', s=64, k=80, a=0.88, b=1.25),
    ),
    'sface_r100_ms1m': dict(
        SFACE,
        iterations=341_160,
        network=dict(R100, dropout=0.4),
        classes=85_742,
        init_std=(2 / 85_742) ** 0.5,
        loss=dict(type='SFaceLoss', s=64, k=80, a=0.9, b=1.2),
    ),
    'elasticface_r100_ms1m': dict(
        SFACE,
        clip=5,
        clip_centres=False,
        milestones=[11_372 * epoch for epoch in (7, 13, 19, 24)],
        iterations=11_372 * 26,
        network=R100,
        classes=85_742,
        init_std=0.01,
        loss=dict(type='ElasticFaceLoss', margin_type='arc', s=64, m=0.5, sigma=0.05),
    ),
    'uniface_r50_casia': dict(
        SFACE,
        wrapper='AmpOptimWrapper',
        dtype='float16',
        clip=10,
        milestones=[958 * 16, 958 * 24],
        iterations=958 * 28,
        network=dict(R50, dropout=0.4),
        classes=10_572,
        init_std=512**-0.5,
        loss=dict(type='UniFaceLoss', s=64, m=0.45, lam=0.6),
    ),
    'arcface_r50_ms1mv3': dict(MS1MV3, network=R50),
    'arcface_r100_ms1mv3': dict(MS1MV3, network=R100),
    'cosface_r50_glint360k': dict(GLINT360K, network=R50),
    'cosface_r100_glint360k': dict(GLINT360K, network=R100),
    'cosface_r50_webface42m': dict(
        INSIGHTFACE,
        iterations=207_380,
        rate=0.4,
        batch=(512, 8),
        sample_rate=0.2,
        network=R50,
        classes=2_059_906,
        loss=COS64,
    ),
}
PRINTED = ['sphereface2_sfnet20_vggface2_noise60', 'cosface_r50_webface42m']
DEFAULTS = dict(dropout=0, features_init=1, freeze_features=True)


def settings(cfg: Config) -> dict:
    """What a config sets, in the words of PUBLISHED."""
    head, wrapper, scheduler = cfg.model.head, cfg.optim_wrapper, cfg.param_scheduler
    optimizer, loader = dict(wrapper.optimizer), cfg.train_dataloader
    assert optimizer.pop('type') == 'SGD'
    assert optimizer.pop('momentum') == 0.9
    actual = dict(
        rate=optimizer.pop('lr'),
        decay=optimizer.pop('weight_decay'),
        wrapper=wrapper.type,
        dtype=wrapper.get('dtype'),
        clip=wrapper.get('clip_grad', {}).get('max_norm'),
        clip_centres=wrapper.get('clip_centres', True),
        milestones=None,
        iterations=cfg.train_cfg.max_iters,
        batch=(loader.batch_size, cfg.auto_scale_lr.base_batch_size),
        network=dict(cfg.model.backbone),
        classes=head.num_classes,
        centres=head.get('centres', 'normalize'),
        init_std=head.get('init_std'),
        sample_rate=head.get('sample_rate', 1),
        loss=dict(head.loss),
        dataset=loader.dataset.type,
    )
    assert not optimizer
    if isinstance(scheduler, dict):
        assert scheduler.type == 'MultiStepLR'
        assert scheduler.gamma == 0.1
        assert scheduler.end == actual['iterations']
        actual['milestones'] = scheduler.milestones
    if actual['dataset'] == 'LabelNoise':
        actual['noise'] = loader.dataset.share, loader.dataset.seed
    return actual


def check(name: str, cfg: Config) -> None:
    actual = settings(cfg)
    expected = dict(PUBLISHED[name])
    size, gpus = expected.pop('batch')
    assert actual.pop('batch') == (size, size * gpus)
    network = {**DEFAULTS, **actual.pop('network')}
    assert network.pop('embedding_size') == 512
    assert network == {**DEFAULTS, **expected.pop('network')}
    assert actual == expected


@pytest.mark.parametrize('name', sorted(PUBLISHED))
def test_recipes_are_the_published_ones(name):
    check(name, Config.fromfile(ROOT / 'configs' / f'{name}.py'))


@pytest.mark.parametrize('name', PRINTED)
def test_so_are_those_that_are_printed(call_main, name):
    text = call_main('print_config', ROOT / 'configs' / f'{name}.py')
    check(name, Config.fromstring(text, '.py'))


def test_a_printed_config_is_the_config(monkeypatch, call_main, tmp_path):
    # With the line breaks that users see.
    monkeypatch.setattr('mmengine.config.config.FormatCode', FormatCode)
    config = ROOT / 'configs' / 'cosface_r50_webface42m.py'
    saved = tmp_path / 'new' / 'mine.py'
    options = ['model.backbone.depth=18', 'data_root=elsewhere']
    arguments = (config, '--save', saved, '--cfg-options', *options)
    text = call_main('print_config', *arguments)
    assert saved.read_text() == text
    assert [path.name for path in saved.parent.iterdir()] == ['mine.py']
    expected = Config.fromfile(config)
    expected.model.backbone.depth = 18
    expected.data_root = 'elsewhere'
    for loader in (expected.train_dataloader, expected.val_dataloader):
        loader.dataset.data_root = 'elsewhere'
    expected.test_dataloader.dataset.data_root = 'elsewhere'
    assert Config.fromfile(saved).to_dict() == expected.to_dict()


def test_a_place_that_is_none_is_told_before(run_tool, tmp_path):
    command = ('print_config.py', ROOT / 'configs' / 'sface_quickstart.py', '--save')
    error = f'error: {tmp_path} is a folder; name a file\n'
    assert run_tool(*command, tmp_path) == (1, '', error)
    done = run_tool(*command, tmp_path / 'mine')
    assert done.status == 1
    assert done.err.endswith('name a config file, FILE.py\n')


def test_configs_of_the_installed_package_have_names(monkeypatch, call_main, tmp_path):
    monkeypatch.chdir(tmp_path)
    text = call_main('print_config', 'mmhyperface::sface_quickstart.py')
    expected = Config.fromfile(ROOT / 'configs' / 'sface_quickstart.py')
    assert Config.fromstring(text, '.py').to_dict() == expected.to_dict()
    for name in ('mmhyperface::none.py', 'no_such_package::none.py', '::none.py'):
        with pytest.raises(UserError, match=r'there is no .*none'):
            load_config(name)


def test_mistakes_are_one_message():
    done = call('python', TOOL, 'none.py', status=1)
    assert not done.stdout
    assert done.stderr.strip().splitlines()[-1] == 'error: there is no config none.py'
