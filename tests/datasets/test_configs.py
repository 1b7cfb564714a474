"""The data sets of the configs on small ones in their layouts."""

import pickle
from pathlib import Path

import pytest
from ijb_files import write_ijb
from megaface_files import write_megaface
from mmengine.config import Config
from mmengine.registry import init_default_scope
from record_files import insightface_records, picture, write

from mmhyperface.apis import build_runner
from mmhyperface.datasets.face_dataset import loader
from mmhyperface.datasets.wrappers import numbered
from mmhyperface.engine.launch import count_classes, load_config
from mmhyperface.registry import DATASETS
from mmhyperface.utils.configs import dataset_config
from mmhyperface.utils.errors import UserError

CONFIGS = Path(__file__).parents[2] / 'configs'
BASES = CONFIGS / '_base_' / 'datasets'
TEST_SETS = CONFIGS / 'test_sets'
RECORDS = {
    'casia_webface': 10_572,
    'vggface2': 8631,
    'ms1m': 85_742,
    'ms1mv3': 93_431,
    'glint360k': 360_232,
    'webface4m': 205_990,
    'webface12m': 617_970,
    'webface42m': 2_059_906,
}
LISTS = {'vggface2_list': 8631, 'ms1m_list': 85_742}
PACKS = ['lfw', 'cfp_fp', 'agedb_30', 'calfw', 'cplfw']
LISTED = ['lfw', 'agedb_30', 'calfw', 'cplfw']


@pytest.fixture(autouse=True)
def _scope():
    init_default_scope('mmhyperface')


def write_packs(folder: Path, names: list[str]) -> None:
    for name in names:
        pack = [picture(i, 112) for i in range(4)], [True, False]
        (folder / f'{name}.bin').write_bytes(pickle.dumps(pack))


def built(name: str, phase: str, root: Path):
    """A data set of a config whose folder is elsewhere; its first item is checked."""
    path = name if name.endswith('.py') else BASES / f'{name}.py'
    cfg = load_config(str(path), {'data_root': str(root)})
    options = dataset_config(cfg, phase)
    for part in options.get('datasets', [options]):
        if part.type.startswith('FacePa'):  # they are too small for ten folds
            part.folds = None
    data = DATASETS.build(options)
    assert data[0]['inputs'].shape == (112, 112, 3)
    return data


@pytest.mark.parametrize('name', RECORDS)
def test_records(tmp_path, name):
    people = [[picture(i, 112)] * 2 for i in range(3)]
    write(tmp_path, insightface_records(people), 3)
    write_packs(tmp_path, ['lfw', 'cfp_fp', 'agedb_30'])
    cfg = load_config(str(BASES / f'{name}.py'))
    assert cfg.num_classes == RECORDS[name]
    assert cfg.data_root == f'data/{name}'
    train = built(name, 'train', tmp_path)
    assert (len(train), train.metainfo['num_classes']) == (6, 3)
    for phase in ('val', 'test'):
        sets = built(name, phase, tmp_path).metainfo['test_sets']
        assert list(sets) == ['lfw', 'cfp_fp', 'agedb_30']


@pytest.mark.parametrize('name', LISTS)
def test_lists(tmp_path, name):
    cfg = load_config(str(BASES / f'{name}.py'))
    assert cfg.num_classes == LISTS[name]
    for folder in ('train/set/ann', 'train/set/bob', 'val/a'):
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / '1.jpg').write_bytes(picture(3, 112))
        (tmp_path / folder / '2.jpg').write_bytes(picture(4, 112))
    lines = [f'set/{who}/{n}.jpg {who}\n' for who in ('ann', 'bob') for n in (1, 2)]
    (tmp_path / cfg.train_dataloader.dataset.ann_file).write_text(''.join(lines))
    for pairs in LISTED:
        text = '1 a/1.jpg a/2.jpg\n0 a/1.jpg a/2.jpg\n'
        (tmp_path / f'val/{pairs}_ann.txt').write_text(text)
    assert built(name, 'train', tmp_path).metainfo['classes'] == ('ann', 'bob')
    sets = built(name, 'val', tmp_path).metainfo['test_sets']
    assert list(sets) == [*LISTED, 'combined']
    assert len(sets['combined']['same']) == 8


def test_packs(tmp_path):
    write_packs(tmp_path, PACKS)
    sets = built('verification_packs', 'val', tmp_path).metainfo['test_sets']
    assert list(sets) == [*PACKS, 'combined']
    # All but CFP-FP, as SphereFace2 has it.
    combined = sets['combined']
    assert combined['index_a'].tolist() == [0, 2, 8, 10, 12, 14, 16, 18]
    assert combined['same'].tolist() == [True, False] * 4


@pytest.mark.parametrize('name', [*PACKS, 'combined'])
def test_one_pack_and_all(tmp_path, name):
    parts = LISTED if name == 'combined' else []
    write_packs(tmp_path, parts or [name])
    sets = built(str(TEST_SETS / f'{name}.py'), 'test', tmp_path).metainfo['test_sets']
    assert list(sets) == [*parts, name]
    assert len(sets[name]['same']) == 2 * (len(parts) or 1)


@pytest.mark.parametrize('name', ['ijbb', 'ijbc'])
def test_ijb(tmp_path, name):
    truth = write_ijb(tmp_path, name.upper())
    data = built(str(TEST_SETS / f'{name}.py'), 'test', tmp_path)
    assert len(data) == len(truth.names)
    (entry,) = data.metainfo['test_sets'].values()
    assert list(entry['protocol'].galleries) == list(truth.galleries)


def test_megaface(tmp_path):
    truth = write_megaface(tmp_path)
    data = built(str(TEST_SETS / 'megaface.py'), 'test', tmp_path)
    assert len(data) == len(truth.probes) + len(truth.distractors)
    assert data.metainfo['test_sets']['megaface']['noisy'].sum() == 3


METRICS = {
    'ijbb': ['TemplateVerification', 'TemplateIdentification'],
    'ijbc': ['TemplateVerification', 'TemplateIdentification'],
    'megaface': ['MegaFaceIdentification'],
    **{name: ['FaceVerification'] for name in [*PACKS, 'combined']},
}


@pytest.mark.parametrize('name', METRICS)
def test_a_test_set_replaces_that_of_any_config(name):
    cfg = load_config(str(TEST_SETS / f'{name}.py'))
    assert {key for key in cfg if key.startswith(('train', 'val', 'test'))} == {
        'test_dataloader',
        'test_evaluator',
    }
    assert [metric.type for metric in cfg.test_evaluator] == METRICS[name]
    leaf = Config.fromfile(CONFIGS / 'sphereface2_r100_ms1m.py')
    # Images are loaded as there.
    for key in ('batch_size', 'num_workers', 'sampler', 'collate_fn', 'pin_memory'):
        assert cfg.test_dataloader[key] == leaf.test_dataloader[key]
    size = leaf.test_pipeline[0].size
    for part in cfg.test_dataloader.dataset.get(
        'datasets', [cfg.test_dataloader.dataset]
    ):
        sizes = [step.size for step in part.pipeline if step.get('size')]
        assert sizes == [size]
        assert part.data_root == cfg.data_root


def test_every_test_set_is_told_of():
    assert {path.stem for path in TEST_SETS.glob('*.py')} == set(METRICS)


def test_every_base_is_told_of():
    actual = {path.stem for path in BASES.glob('*.py')}
    general = {'face_record', 'face_list', 'verification_packs', 'verification_lists'}
    others = {'facefolder', 'faces', 'synthetic_faces'}
    tests = {'evaluation_images', 'verification_pack', 'ijbb', 'ijbc', 'megaface'}
    assert actual == {*RECORDS, *LISTS, *general, *others, *tests}


def test_a_folder_of_two_images_a_person(tmp_path):
    """Too few for the recipe's ten folds: what helps is told, and helps."""
    for number in range(24):
        path = tmp_path / 'faces' / f'p{number // 2:02}' / f'{number}.jpg'
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(picture(number, 64))
    cfg = load_config(
        str(CONFIGS / 'sphereface2_facefolder.py'),
        {'data_root': str(tmp_path / 'faces'), 'train_dataloader.num_workers': 0},
    )
    cfg.work_dir = str(tmp_path)
    cfg.experiment_name = tmp_path.name
    count_classes(cfg)
    with pytest.raises(UserError) as caught:
        build_runner(cfg).train()
    message = str(caught.value)
    assert 'folds=10: expected 2 or more' in message
    assert '--cfg-options val_dataloader.dataset.folds=5)' in message
    assert '--cfg-options val_dataloader.dataset.holdout=...)' in message
    cfg.merge_from_dict({'val_dataloader.dataset.folds': 5})
    assert len(DATASETS.build(dataset_config(cfg, 'val'))) == 10


FOLDER = dict(type='FaceFolder', data_root='nowhere')
DRAWN = dict(type='SyntheticFaces', num_identities=2, images_per_identity=1)


PACK = dict(type='FacePack', ann_file='x')
IJB = dict(type='IJBTemplates', subset='IJBD', check_files=False)


@pytest.mark.parametrize(
    ('dataset', 'message'),
    [
        (FOLDER, '--cfg-options val_dataloader.dataset.data_root='),
        (dict(type='LabelNoise', share=0.1, dataset=FOLDER), '.dataset.dataset.data_r'),
        (dict(type='RepeatDataset', times=2, dataset=FOLDER), 'dataset.dataset.data_r'),
        (dict(type='FaceSets', datasets=[DRAWN, FOLDER]), '.dataset.datasets.1.data_r'),
        (dict(type='FaceTestSets', datasets=[PACK]), 'dataset.datasets.0.data_root='),
        (dict(type='FacePairs', ann_file='nowhere.txt'), 'options val_dataloader.data'),
        (IJB, '(in val_dataloader.dataset)'),
    ],
)
def test_advice_names_the_path_of_an_option(dataset, message):
    with loader('val_dataloader'), pytest.raises(UserError) as caught:
        numbered(dataset)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ('shared', 'message'),
    [
        ('nowhere', 'data_root (--cfg-options data_root=...)'),
        ('other', '--cfg-options val_dataloader.dataset.data_root=...'),
        (None, '--cfg-options val_dataloader.dataset.data_root=...'),
    ],
)
def test_advice_names_the_data_root_of_the_whole_config(shared, message):
    with loader('val_dataloader', shared), pytest.raises(UserError) as caught:
        numbered(FOLDER)
    assert message in str(caught.value)


def test_one_option_sets_what_the_faces_recipe_says_in_several_places():
    path = str(CONFIGS / 'sface_faces.py')
    options = {
        'data_root': 'here',
        'lfw_root': 'there',
        'lfw_pairs': 'mine.txt',
        'image_size': 112,
        'epochs': 7,
    }
    cfg = load_config(path, options)
    assert cfg.model.backbone.input_size == 112
    train, test = cfg.train_dataloader.dataset, cfg.test_dataloader.dataset
    assert train.data_root == 'here'
    assert [step['size'] for step in (train.pipeline[0], test.pipeline[0])] == [112] * 2
    assert train.pipeline[1].scale == 112
    assert cfg.val_dataloader.dataset == test
    assert (test.data_root, test.ann_file) == ('there', 'mine.txt')
    assert cfg.train_cfg == dict(by_epoch=True, max_epochs=7, val_interval=7)
    assert cfg.param_scheduler[1].T_max == 7
    # Nothing else: with the values of the recipe it is the recipe.
    plain = Config.fromfile(path)
    same = load_config(path, {name: plain[name] for name in options})
    assert same.to_dict() == plain.to_dict()
