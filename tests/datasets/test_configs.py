"""Each data set of configs/_base_ on a small one in its layout."""

import pickle
from pathlib import Path

import pytest
from mmengine.registry import init_default_scope
from record_files import insightface_records, picture, write

from mmhyperface.apis import dataset_config, load_config
from mmhyperface.registry import DATASETS

BASES = Path(__file__).parents[2] / 'configs' / '_base_' / 'datasets'
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
    """A data set of a base whose folder is elsewhere, and its first item."""
    cfg = load_config(str(BASES / f'{name}.py'), {'data_root': str(root)})
    options = dataset_config(cfg, phase)
    for part in options.get('datasets', []):
        part.folds = None
    if options.type == 'FacePacks':
        options.folds = None
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


def test_every_base_is_told_of():
    found = {path.stem for path in BASES.glob('*.py')}
    general = {'face_record', 'face_list', 'verification_packs', 'verification_lists'}
    others = {'facefolder', 'synthetic_faces'}
    assert found == {*RECORDS, *LISTS, *general, *others}
