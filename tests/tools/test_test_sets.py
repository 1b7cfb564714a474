"""Test sets of configs/test_sets in the place of a config's own, and saved features."""

import json
import pickle
import re
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch
from ijb_files import drawn_faces, write_ijb
from megaface_files import write_megaface
from mixed_sets import pool_by_loop
from mmpretrain.structures import DataSample
from runs import CONFIGS, call, call_tool, small_config

from mmhyperface.engine.launch import load_config
from mmhyperface.engine.testing import save_features, take_test_sets
from mmhyperface.evaluation import functional as F
from mmhyperface.inference.feature_evaluation import examine_config
from mmhyperface.registry import DATASETS, MODELS
from mmhyperface.utils.configs import dataset_config
from mmhyperface.utils.errors import UserError

CONFIG = CONFIGS / 'sphereface2_quickstart.py'
SETS = ['ijbc', 'megaface', 'lfw']


def types(configs):
    return [config['type'] for config in configs]


def test_sets_and_metrics_of_several_files():
    cfg = load_config(str(CONFIG), test_sets=['ijbc', 'lfw', 'ijbb', 'megaface'])
    own = load_config(str(CONFIG))
    loader = cfg.test_dataloader
    for name in ('batch_size', 'num_workers'):
        assert loader[name] == own.test_dataloader[name]
    assert loader.dataset.type == 'FaceTestSets'
    assert types(loader.dataset.datasets) == [
        *('IJBTemplates', 'FacePack', 'IJBTemplates', 'MegaFaceImages')
    ]
    assert types(cfg.test_evaluator) == [
        *('TemplateVerification', 'TemplateIdentification'),
        *('FaceVerification', 'MegaFaceIdentification'),
    ]
    assert cfg.val_dataloader.dataset == own.val_dataloader.dataset


def test_sets_that_are_put_together_are_not_listed_twice(tmp_path):
    mine = tmp_path / 'mine.py'
    mine.write_text("_base_ = 'mmhyperface::test_sets/cfp_fp.py'")
    cfg = load_config(str(CONFIG), test_sets=['lfw', 'combined', str(mine), 'cfp_fp'])
    dataset = cfg.test_dataloader.dataset
    assert [inner.ann_file for inner in dataset.datasets] == [
        *('lfw.bin', 'agedb_30.bin', 'calfw.bin', 'cplfw.bin', 'cfp_fp.bin')
    ]
    assert dataset.combined == {'combined': ['lfw', 'agedb_30', 'calfw', 'cplfw']}
    assert types(cfg.test_evaluator) == ['FaceVerification']


def test_options_come_after_the_test_sets(tmp_path):
    options = {
        'data_root': str(tmp_path),
        'test_dataloader.dataset.datasets.1.folds': 5,
        'test_dataloader.batch_size': 3,
    }
    loader = load_config(str(CONFIG), options, ['lfw', 'cfp_fp']).test_dataloader
    roots = {inner.data_root for inner in loader.dataset.datasets}
    assert roots == {str(tmp_path)}
    assert loader.dataset.datasets[1].folds == 5
    assert loader.batch_size == 3
    with pytest.raises(UserError, match=r'data/ijb/IJBC, data/val; set test_datal'):
        load_config(str(CONFIG), options, ['lfw', 'ijbc'])


@pytest.mark.parametrize(
    ('names', 'number'), [(['ijbc'], 0), (['lfw'], 0), (['ijbc', 'megaface', 'lfw'], 1)]
)
def test_advice_for_a_folder_that_is_missing(tmp_path, names, number):
    """What the error advises is an option that the config takes."""
    options = {}
    if number:
        write_ijb(tmp_path, subjects=2)
        options = {'test_dataloader.dataset.datasets.0.data_root': str(tmp_path)}
    cfg = load_config(str(CONFIG), options, names)
    with pytest.raises(UserError, match='data_root') as refused:
        DATASETS.build(dataset_config(cfg, 'test'))
    (option,) = re.findall(r'--cfg-options (\S*data_root)=', str(refused.value))
    cfg = load_config(str(CONFIG), {**options, option: 'elsewhere'}, names)
    assert cfg.test_dataloader.dataset.datasets[number].data_root == 'elsewhere'
    with pytest.raises(UserError, match='elsewhere'):
        DATASETS.build(dataset_config(cfg, 'test'))


@pytest.mark.parametrize(
    'option',
    ['test_evaluator.folds', 'test_evaluator.0.folds', 'test_dataloader.dataset.folds'],
)
def test_an_option_of_the_only_set_needs_no_number(option):
    cfg = load_config(str(CONFIG), {option: 2}, ['lfw'])
    (dataset,) = cfg.test_dataloader.dataset.datasets
    node = dataset if 'dataloader' in option else cfg.test_evaluator[0]
    assert node.folds == 2


@pytest.mark.parametrize(
    ('names', 'option', 'message'),
    [
        (
            ['lfw', 'cfp_fp'],
            'test_dataloader.dataset.folds',
            r'set test_dataloader\.dataset\.datasets\.0\.folds=2 \(FacePack\) or ',
        ),
        (
            ['ijbc', 'lfw'],
            'test_evaluator.folds',
            r'or test_evaluator\.2\.folds=2 \(FaceVerification\)',
        ),
        (['lfw'], 'test_evaluator.1.folds', 'is a list of 1'),
        ([], 'train_cfg.max_iter', r'is train_cfg\.max_iters meant'),
        ([], 'load_form', 'is load_from meant'),
        ([], 'train_cfg.max_iters.x', r'train_cfg\.max_iters is 800, which has no x'),
        ([], 'param_scheduler.end', r'set param_scheduler\.0\.end=2 \(LinearLR\) or'),
    ],
)
def test_an_option_that_is_none_or_several_is_refused(names, option, message):
    with pytest.raises(UserError, match=message) as refused:
        load_config(str(CONFIG), {option: 2}, names)
    # What it advises is taken.
    for each in re.findall(r'([\w.]+)=2 \(', str(refused.value)):
        load_config(str(CONFIG), {each: 2}, names)


def test_what_is_no_test_set(tmp_path):
    cfg = load_config(str(CONFIG))
    with pytest.raises(UserError, match=r"no test set 'lwf': .*one of .*ijbc, lfw"):
        take_test_sets(cfg, ['lwf'])
    plain = tmp_path / 'plain.py'
    plain.write_text('model = dict()')
    with pytest.raises(UserError, match=r'plain\.py has no test_dataloader'):
        take_test_sets(cfg, [str(plain)])
    other = tmp_path / 'other.py'
    other.write_text(
        "_base_ = 'mmhyperface::test_sets/lfw.py'\n"
        "test_evaluator = [dict(type='FaceVerification', accuracy='grid')]"
    )
    with pytest.raises(UserError, match='FaceVerification with different options'):
        take_test_sets(cfg, ['cfp_fp', str(other)])
    # Nor need the config have a test of its own.
    cfg.test_dataloader = cfg.test_evaluator = cfg.test_cfg = None
    take_test_sets(cfg, [str(other)])
    assert cfg.test_evaluator[0].accuracy == 'grid'
    assert cfg.test_dataloader.batch_size == 64
    assert cfg.test_cfg == {}


def test_where_features_are_saved(tmp_path):
    path = str(tmp_path / 'features.npy')
    cfg = load_config(str(CONFIG))
    metrics = cfg.test_evaluator
    for evaluator in (metrics, [metrics], {'metrics': [metrics]}):
        cfg.test_evaluator = evaluator
        cfg.model.flip_fusion = 'concat'
        save_features(cfg, path, 'some.pth')
        assert cfg.test_evaluator.type == 'mmhyperface.FaceEvaluator'
        assert cfg.test_evaluator.save_features == path
        assert types(cfg.test_evaluator.metrics) == ['FaceVerification']
        assert cfg.test_evaluator.about_features.flip_fusion == 'concat'
    cfg.test_evaluator = dict(type='Evaluator', metrics=[])
    with pytest.raises(UserError, match=r'no features; set test_evaluator\.type='):
        save_features(cfg, path, 'some.pth')
    with pytest.raises(UserError, match=r'to a \.npy file'):
        save_features(cfg, path + '.txt', 'some.pth')


def test_places_that_cannot_be(tmp_path, monkeypatch, capsys):
    """They are refused before the config is read, which is not there."""
    (tmp_path / 'some.pth').touch()
    (tmp_path / 'x.json').mkdir()
    out = tmp_path / 'y.json'
    for arguments, message in (
        (['--out', tmp_path / 'x.json'], r'x\.json is a folder; name a file'),
        (
            ['--out', tmp_path / 'some.pth' / 'y.json'],
            r'some\.pth.y\.json cannot be written',
        ),
        (
            ['--out', out, '--save-features', tmp_path / 'x.json' / '..' / 'y.npy'],
            r'y\.json would replace what --save-features writes beside',
        ),
    ):
        with pytest.raises(SystemExit):
            call_tool(
                monkeypatch, 'test.py', 'gone.py', tmp_path / 'some.pth', *arguments
            )
        assert re.search(message, capsys.readouterr().err)
    cfg = load_config(str(CONFIG))
    with pytest.raises(UserError, match=r'x\.json is a folder'):
        save_features(cfg, str(tmp_path / 'x.npy'), 'some.pth')
    (tmp_path / 'x.npy').mkdir()
    with pytest.raises(UserError, match=r'not to .*x\.npy'):
        save_features(cfg, str(tmp_path / 'x.npy'), 'some.pth')


@pytest.fixture(scope='module')
def tested(tmp_path_factory):
    """IJB-C, MegaFace and LFW in miniature, tested by an untrained network."""
    root = tmp_path_factory.mktemp('tested')
    ijb = write_ijb(root / 'ijb', subjects=14, probes=3)
    megaface = write_megaface(root / 'megaface')
    (root / 'val').mkdir()
    face = drawn_faces(6, 2)
    people = []  # in each fold as many pairs of one person as of two
    for i in range(6):
        people += [(i, 0), (i, 1), (i, 0), ((i + 1) % 6, 1)]
    images = [cv2.imencode('.png', face(*who))[1].tobytes() for who in people]
    (root / 'val' / 'lfw.bin').write_bytes(pickle.dumps((images, [True, False] * 6)))
    cfg = small_config(
        root,
        **{
            'model.backbone.input_size': 112,
            'model.head.num_classes': 7,
            'train_dataloader.dataset.num_identities': 7,
        },
    )
    cfg.default_hooks.report = dict(
        type='VerificationReportHook', baselines=[], draws=20
    )
    torch.manual_seed(0)
    network = MODELS.build(cfg.model)
    torch.save({'state_dict': network.state_dict()}, root / 'untrained.pth')
    config = root / 'small.py'
    cfg.dump(config)
    options = [
        f'test_dataloader.dataset.datasets.0.data_root={root / "ijb"}',
        f'test_dataloader.dataset.datasets.1.data_root={root / "megaface"}',
        f'test_dataloader.dataset.datasets.2.data_root={root / "val"}',
        'test_dataloader.dataset.datasets.2.folds=2',
    ]
    call(
        *('python', 'tools/test.py', config, root / 'untrained.pth'),
        *('--work-dir', root / 'work', '--out', root / 'figures.json'),
        *('--test-sets', *SETS, '--save-features', root / 'features.npy'),
        *('--cfg-options', *options),
        *('test_dataloader.num_workers=0', 'test_dataloader.batch_size=5'),
    )
    figures = json.loads((root / 'figures.json').read_text())
    features = np.load(root / 'features.npy').astype(np.float64)
    return SimpleNamespace(**locals())


def unit(rows):
    return rows / np.linalg.norm(rows, axis=-1, keepdims=True)


def test_features_are_those_of_aligned_images(tested):
    """Whole crops, as they were drawn, give nearly the same as the loose ones."""
    tested.network.eval()
    tested.network.flip_fusion = 'sum'
    drawn = [
        tested.ijb.image(*who)
        for who in zip(tested.ijb.image_subjects, tested.ijb.numbers, strict=True)
    ]
    batch = {'inputs': [torch.from_numpy(x.transpose(2, 0, 1).copy()) for x in drawn]}
    batch['data_samples'] = [DataSample() for _ in drawn]
    with torch.no_grad():
        samples = tested.network.val_step(batch)
    rows = unit(torch.stack([sample.embedding for sample in samples]).double().numpy())
    saved = unit(tested.features[: len(rows)])
    centre = saved.mean(0)
    alike = unit(rows - centre) @ unit(saved - centre).T
    assert alike.argmax(1).tolist() == list(range(len(rows)))
    assert np.diag(alike).min() > 0.85


def ijb_templates(tested):
    """Templates by id, from what was written to the meta files."""
    truth = tested.ijb
    lists = truth.template_ids, truth.media_ids, truth.scores
    ids, templates = pool_by_loop(tested.features, *lists)
    return dict(zip(ids.tolist(), templates, strict=True))


def test_ijb_from_end_to_end(tested):
    templates = ijb_templates(tested)
    scores = [templates[a] @ templates[b] for a, b, _ in tested.ijb.pairs]
    same = tested.ijb.pairs[:, 2]
    figures = {
        name.removeprefix('ijbc/'): value
        for name, value in tested.figures.items()
        if name.startswith('ijbc/')
    }
    assert figures['eer'] == pytest.approx(F.equal_error_rate(scores, same))
    assert figures['auc'] == pytest.approx(F.auc(scores, same))
    tar = F.tar_at_far(scores, same, 0.1).tars[0]
    assert figures['tar@far=1e-01'] == pytest.approx(tar)
    ranks, tpirs = [], []
    for ids, subjects in tested.ijb.galleries.values():
        gallery = np.array([templates[i] for i in ids])
        mated, strangers = [], []
        for probe, subject in zip(*tested.ijb.probes, strict=True):
            similarity = gallery @ templates[probe]
            if subject in subjects:
                score = similarity[subjects.tolist().index(subject)]
                mated.append((score, (similarity >= score).sum()))
            else:
                strangers.append(similarity.max())
        assert len(mated) == len(strangers) == 21
        threshold = sorted(strangers)[-3]  # FPIR 0.1: two of them may lie above
        tpirs.append(np.mean([r == 1 and score > threshold for score, r in mated]))
        ranks += [rank for _, rank in mated]
    assert figures['tpir@fpir=1e-01'] == pytest.approx(np.mean(tpirs))
    for k in (1, 5):
        assert figures[f'rank-{k}'] == pytest.approx(np.mean(np.array(ranks) <= k))
        assert 0 < figures[f'rank-{k}'] < 1


def test_megaface_from_end_to_end(tested):
    truth, start = tested.megaface, len(tested.ijb.names)
    count = len(truth.probes)
    probes = unit(tested.features[start : start + count])
    others = unit(tested.features[start + count : start + count + 12])
    others = others[~np.array(truth.noisy_distractors)]
    clean = np.flatnonzero(~np.array(truth.noisy_probes))
    ranks = [
        1 + (others @ probes[a] >= probes[a] @ probes[b]).sum()
        for a in clean
        for b in clean
        if a != b and truth.probe_subjects[a] == truth.probe_subjects[b]
    ]
    expected = np.mean([rank == 1 for rank in ranks])
    assert tested.figures['megaface/rank-1@12'] == pytest.approx(expected)


def test_a_report_of_all_protocols(tested):
    content = json.loads((tested.root / 'work/report/report.json').read_text())
    assert {name: list(parts) for name, parts in content['sets'].items()} == {
        'ijbc': ['1:1', '1:N'],
        'megaface': ['MegaFace'],
        'lfw': ['1:1'],
    }
    for name, value in tested.figures.items():
        set_name, _, figure = name.partition('/')
        reported = [
            row['figures'][figure]
            for part in content['sets'].get(set_name, {}).values()
            for row in part['rows'].values()
            if figure in row['figures']
        ]
        assert reported in ([value], [])


def test_saved_features_give_the_same_figures(tested):
    options = dict(option.split('=') for option in tested.options)
    cfg = load_config(str(tested.config), options, SETS)
    cfg.test_dataloader.dataset.datasets[2].folds = 2
    for image in tested.root.glob('*/*/*.jpg'):
        image.unlink()  # no image is needed
    results_by_set = examine_config(cfg, str(tested.root / 'features.npy'))
    again = {
        f'{name}/{figure}': None if np.isnan(value) else value
        for name, results in results_by_set.items()
        for result in results.values()
        for figure, value in result.figures().items()
    }
    expected = {name: tested.figures[name] for name in again}
    assert len(again) > 20
    for results in results_by_set.values():
        for result in results.values():
            assert 'image + mirror image' in result.convention
    assert repr(again) == repr(expected)
    # What is wrong is told with the file; noise of MegaFace is let through.
    noisy = len(tested.ijb.names) + tested.megaface.noisy_probes.index(True)
    spoiled = np.load(tested.root / 'features.npy')
    spoiled[[7, noisy]] = np.nan
    np.save(tested.root / 'nan.npy', spoiled)
    with pytest.raises(UserError, match=r'nan\.npy: .*counted from 0, is row 7$'):
        examine_config(cfg, str(tested.root / 'nan.npy'))
    cfg.test_dataloader.dataset.datasets[0].name = 'other'
    with pytest.raises(UserError, match=r'other test sets: .*features\.json'):
        examine_config(cfg, str(tested.root / 'features.npy'))


def test_a_dict_of_another_type_takes_the_place_of_what_there_is():
    options = {
        'train_dataloader.sampler': dict(type='IdentityBalancedSampler'),
        'param_scheduler.1': dict(type='CosineAnnealingLR', end=9),
        'param_scheduler.0': dict(type='PolyLR', end=9),
    }
    cfg = load_config(str(CONFIG), options)
    assert cfg.train_dataloader.sampler == dict(type='IdentityBalancedSampler')
    assert cfg.param_scheduler[1].begin == 100
    assert cfg.param_scheduler[0] == dict(type='PolyLR', end=9)
