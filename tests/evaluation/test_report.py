"""Table, picture, JSON, and the hook that makes them around a training."""

import json
import logging
import math
from dataclasses import replace
from types import SimpleNamespace

import matplotlib.image
import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.dataset import pseudo_collate
from mmengine.evaluator import BaseMetric, Evaluator
from mmengine.hooks import Hook
from mmengine.model import BaseDataPreprocessor, BaseModel
from mmengine.runner import Runner
from mmengine.structures import BaseDataElement
from small_results import identification, megaface, verification
from torch.utils.data import Dataset

from mmhyperface.engine.hooks import VerificationReportHook
from mmhyperface.evaluation.metrics import (
    FaceVerification,
    MegaFaceIdentification,
    TemplateIdentification,
    TemplateVerification,
)
from mmhyperface.evaluation.protocols import VerificationResult
from mmhyperface.evaluation.report import (
    compare,
    comparison_text,
    plot_verification,
    read_report,
    verification_table,
    write_report,
    write_verification_json,
)
from mmhyperface.utils.errors import UserError

IMAGES = 40


def _result(shift=1.0, accuracy_std=0.012, seed=0, pairs=400, convention='in words'):
    generator = np.random.default_rng(seed)
    same = np.arange(pairs) % 2 == 0
    return VerificationResult(
        scores=np.tanh(0.3 * generator.standard_normal(pairs) + 0.3 * shift * same),
        same=same,
        accuracy=0.87654,
        accuracy_std=accuracy_std,
        accuracy_thresholds=np.array([0.1, 0.2, math.inf]),
        eer=0.1234,
        auc=0.95,
        fars=np.array([1e-3, 1e-2]),
        tars=np.array([math.nan, 0.5]),
        thresholds=np.array([math.nan, 0.4]),
        convention=convention,
    )


def test_table():
    table = verification_table({'raw pixels': _result(), 'trained': _result()})
    lines = table.splitlines()
    rows = [line for line in lines if 'raw pixels' in line or 'trained' in line]
    assert len(rows) == 2
    for row in rows:
        cells = [cell.strip() for cell in row.strip('|').split('|')]
        assert cells[1:] == [
            '200 + 200',
            '87.65 ± 1.20',
            '12.34',
            '95.00',
            'not resolvable',
            '50.00',
        ]
    assert 'FAR 1e-03' in table
    assert lines[-1] == 'in words'
    assert '\x1b' not in table


def test_table_of_unlike_rows():
    other = _result(accuracy_std=math.nan, convention='another way')
    other.fars = np.array([1e-2, 1e-1])
    table = verification_table({'a': _result(), 'b': other})
    assert '87.65 ± 1.20' in table
    assert ' 87.65 |' in table
    assert 'FAR 1e-01' in table
    assert 'a: in words\nb: another way' in table


@pytest.mark.parametrize('names', [['trained'], ['raw pixels', 'untrained', 'trained']])
@pytest.mark.parametrize('suffix', ['png', 'svg'])
def test_picture(tmp_path, names, suffix):
    path = tmp_path / 'deeper' / f'picture.{suffix}'
    plot_verification({n: _result(i, seed=i) for i, n in enumerate(names)}, path)
    assert [file.name for file in path.parent.iterdir()] == [path.name]
    if suffix == 'png':
        picture = matplotlib.image.imread(path)
        assert picture.shape[1] > 1000
        assert picture.std() > 0.05


def test_json(tmp_path):
    path = tmp_path / 'verification.json'
    write_verification_json({'lfw': {'trained': _result()}}, path)
    text = path.read_text()
    assert 'NaN' not in text
    assert 'Infinity' not in text
    figures = json.loads(text)['lfw']['trained']
    assert figures['accuracy'] == 0.87654
    assert figures['accuracy_thresholds'] == [0.1, 0.2, None]
    assert figures['tar_at_far'][0] == {'far': 1e-3, 'tar': None, 'threshold': None}
    assert (figures['num_same'], figures['num_different']) == (200, 200)
    assert figures['convention'] == 'in words'


def test_results_that_are_not_finite(tmp_path):
    """Their rows say so, in the log, the picture, the JSON and the report."""
    bad = replace(verification(0.6), finite=False)
    rows = {'raw pixels': bad, 'untrained': bad, 'trained': verification()}
    for number, shown in enumerate([rows, {'untrained': bad}]):
        line = verification_table(shown).split('| untrained')[1].split('\n')[0]
        assert line.count('not finite') == 4 + len(bad.fars)
        plot_verification(shown, tmp_path / f'{number}.svg')
        assert 'untrained (not finite)' in (tmp_path / f'{number}.svg').read_text()
    write_verification_json({'lfw': rows}, tmp_path / 'verification.json')
    parsed = json.loads((tmp_path / 'verification.json').read_text())['lfw']
    assert (parsed['untrained']['finite'], parsed['trained']['finite']) == (False, True)
    assert parsed['untrained']['auc'] is None
    assert {x['threshold'] for x in parsed['untrained']['tar_at_far']} == {None}

    report = write_report({'lfw': {'1:1': rows}}, tmp_path / 'report', draws=3)
    lines = [x.split('|')[1:-1] for x in report.text().splitlines() if x[:1] == '|']
    cells = [[cell.strip() for cell in line] for line in lines]
    assert {c[2] for c in cells if c[1] == 'untrained'} == {'not finite'}
    assert {c[2] for c in cells if c[1] == 'trained'}.isdisjoint({'not finite'})
    assert 'not finite: embeddings are zero, NaN or' in report.text()
    assert 'untrained' in (report.folder / 'report.html').read_text()
    known = read_report(report.folder)
    assert known.content == report.content
    with pytest.raises(UserError, match=r"embeddings of 'untrained' are not finite"):
        known.result('lfw', '1:1', 'untrained')
    compared = compare({'a': known, 'b': known}, row='untrained')
    assert compared[0].not_comparable == {'b': 'a has embeddings that are not finite'}
    text = comparison_text(compared, 0.95)
    assert 'not finite' in text
    assert 'not resolvable' not in text


class _Faces(Dataset):
    """Eight noisy pictures of each of five people; three pairs of each image."""

    def __init__(self, seed=0):
        generator = torch.Generator().manual_seed(seed)
        people = torch.randn(5, 3, 4, 4, generator=generator)
        noise = torch.randn(IMAGES, 3, 4, 4, generator=generator)
        self.images = people[torch.arange(IMAGES) % 5] + 1.5 * noise
        a = np.repeat(np.arange(IMAGES), 3)
        b = (a + np.tile([5, 1, 10], IMAGES)) % IMAGES
        pairs = {
            'kind': 'pairs',
            'offset': 0,
            'num_images': IMAGES,
            'index_a': a,
            'index_b': b,
            'same': a % 5 == b % 5,
            'folds': None,
        }
        self.metainfo = {'test_sets': {'faces': pairs}}

    def __len__(self):
        return IMAGES

    def __getitem__(self, index):
        sample = BaseDataElement(metainfo={'sample_idx': index, 'label': index % 5})
        return {'inputs': self.images[index], 'data_samples': sample}


class _Preprocessor(BaseDataPreprocessor):
    def forward(self, data, training=False):
        data = self.cast_data(data)
        return {
            'inputs': torch.stack(data['inputs']) / 2,
            'data_samples': data['data_samples'],
        }


class _Network(BaseModel):
    def __init__(self):
        super().__init__(_Preprocessor())
        self.body = torch.nn.Sequential(
            torch.nn.Flatten(), torch.nn.Linear(48, 16), torch.nn.BatchNorm1d(16)
        )
        self.classes = torch.nn.Linear(16, 5)
        self.modes = []

    def forward(self, inputs, data_samples, mode='tensor'):
        self.modes.append((mode, self.training))
        embeddings = self.body(inputs)
        if mode == 'loss':
            labels = torch.tensor([sample.label for sample in data_samples])
            logits = self.classes(embeddings)
            return {'loss': torch.nn.functional.cross_entropy(logits, labels)}
        for sample, embedding in zip(data_samples, embeddings, strict=True):
            sample.set_field(embedding, 'embedding')
        return data_samples


class _Watch(Hook):
    """Keeps what the report hook found, and what it left behind."""

    priority = 'VERY_LOW'

    def before_train(self, runner):
        self.mode = runner.model.training
        self.batch_norm = runner.model.body[2].running_mean.clone()
        self.random = torch.get_rng_state()
        self.weights = runner.model.body[1].weight.detach().clone()


def _runner(folder, epochs=1, hooks=None, **kwargs):
    loader = {
        'dataset': _Faces(),
        'batch_size': 16,
        'collate_fn': {'type': 'pseudo_collate'},
        'sampler': {'type': 'DefaultSampler', 'shuffle': False},
    }
    evaluator = Evaluator(FaceVerification(fars=(0.1,), folds=3))
    torch.manual_seed(0)
    return Runner(
        _Network(),
        str(folder),
        train_dataloader=loader,
        val_dataloader=loader,
        test_dataloader=loader,
        train_cfg={'by_epoch': True, 'max_epochs': epochs},
        val_cfg={},
        test_cfg={},
        optim_wrapper={'optimizer': {'type': 'SGD', 'lr': 0.1}},
        val_evaluator=evaluator,
        test_evaluator=Evaluator(FaceVerification(fars=(0.1,), folds=3)),
        custom_hooks=[VerificationReportHook()] if hooks is None else hooks,
        default_scope='mmhyperface',
        experiment_name=f'report_{folder.name}_{epochs}_{len(kwargs)}_{id(kwargs)}',
        cfg=Config(),
        randomness={'seed': 0},
        **kwargs,
    )


def _rows(folder):
    return json.loads((folder / 'verification.json').read_text())['faces']


def test_report_of_a_training(tmp_path):
    hook, watch = VerificationReportHook(), _Watch()
    runner = _runner(tmp_path, hooks=[hook, watch])
    runner.train()

    rows = _rows(tmp_path)
    assert list(rows) == ['raw pixels', 'untrained', 'trained']
    assert (tmp_path / 'verification.png').stat().st_size > 10_000
    log = next(tmp_path.glob('*/*.log')).read_text()
    for row in rows:
        assert f'| {row} ' in log
    metric = runner.val_evaluator.metrics[0]
    assert rows['trained']['accuracy'] == metric.results_by_set['faces'].accuracy

    pixels = FaceVerification(fars=(0.1,), folds=3)
    pixels.dataset_meta = _Faces().metainfo
    images = _Faces().images.flatten(1)
    pixels.process(
        None, [{'sample_idx': i, 'embedding': images[i]} for i in range(IMAGES)]
    )
    assert rows['raw pixels']['auc'] == pixels.evaluate(IMAGES)['faces/auc']
    # Pixels are not fused with those of their mirror image.
    assert 'no mirror images' in rows['raw pixels']['convention']


def test_an_untrained_network_has_the_statistics_of_its_batches(tmp_path):
    """Batch norm that has seen nothing would leave all faces alike."""
    hook = VerificationReportHook(('untrained',))
    runner = _runner(tmp_path, hooks=[hook])
    norm = runner.model.body[2]
    runner.call_hook('before_train')
    assert (norm.training, norm.momentum, norm.num_batches_tracked) == (True, 0.1, 0)

    images = _Faces().images / 2
    with torch.no_grad():
        features = runner.model.body[:2](images)
    batches = features.split(16)
    mean = torch.stack([x.mean(0) for x in batches]).mean(0)
    variance = torch.stack([x.var(0) for x in batches]).mean(0)
    scaled = (features - mean) / (variance + norm.eps).sqrt()
    pairs = _Faces().metainfo['test_sets']['faces']
    cosines = torch.cosine_similarity(
        scaled[pairs['index_a']], scaled[pairs['index_b']]
    )
    actual = hook.baselines['untrained']['faces'].scores
    np.testing.assert_allclose(actual, cosines, atol=1e-6)

    # That of a network whose batch norm has seen something stays as it is.
    with torch.no_grad():
        norm.running_mean += 1
    runner.call_hook('before_train')
    assert (hook.baselines['untrained']['faces'].scores != actual).any()


def test_without_statistics_there_is_no_untrained_row(tmp_path):
    hook = VerificationReportHook()
    runner = _runner(tmp_path, hooks=[hook])
    options = {**runner._val_dataloader, 'batch_size': 1}
    runner.val_loop.dataloader = Runner.build_dataloader(options, seed=0)
    runner.call_hook('before_train')
    assert list(hook.baselines) == ['pixels']
    log = next(tmp_path.glob('*/*.log')).read_text()
    assert 'at least two images (val_dataloader.batch_size)' in log


@pytest.mark.parametrize('value', [0.0, math.nan, 1e30])
def test_a_baseline_that_cannot_be_computed_ends_no_training(tmp_path, value):
    """A black picture has no direction, and an untrained network may overflow."""
    hook = VerificationReportHook()
    runner = _runner(tmp_path, hooks=[hook])
    runner.val_dataloader.dataset.images[3] = value
    predict = runner.model.forward

    def overflowing(inputs, data_samples, mode='tensor'):
        samples = predict(inputs, data_samples, mode)
        if mode == 'predict' and runner.iter == 0:
            samples[0].embedding = samples[0].embedding * value * 1e30
        return samples

    runner.model.forward = overflowing
    runner.call_hook('before_train')
    assert not hook.baselines['untrained']['faces'].finite
    assert hook.baselines['pixels']['faces'].finite == (value == 1e30)
    hook.trained = {'faces': hook.baselines['untrained']['faces']}
    hook.after_train(runner)
    assert _rows(tmp_path)['untrained']['auc'] is None
    log = next(tmp_path.glob('*/*.log')).read_text()
    assert 'is zero, NaN or infinite of sample' in log
    # Where no training goes on, it is an error.
    with pytest.raises(UserError, match='is zero, NaN or infinite of sample'):
        runner.val()


def test_evaluation_before_training_changes_nothing(tmp_path):
    with_report, without = _Watch(), _Watch()
    one = _runner(tmp_path / 'a', hooks=[VerificationReportHook(), with_report])
    one.train()
    two = _runner(tmp_path / 'b', hooks=[without])
    two.train()
    assert with_report.mode
    assert with_report.mode == without.mode
    assert ('predict', False) in one.model.modes
    assert ('predict', True) not in one.model.modes
    torch.testing.assert_close(with_report.batch_norm, torch.zeros(16), rtol=0, atol=0)
    assert torch.equal(with_report.random, without.random)
    assert torch.equal(with_report.weights, without.weights)
    for name, value in one.model.state_dict().items():
        assert torch.equal(value, two.model.state_dict()[name]), name


def test_trained_row_is_the_averaged_network(tmp_path):
    """With EMA the last validation is that of the averages, and so is the row."""
    hook = VerificationReportHook()
    runner = _runner(tmp_path, 2, hooks=[{'type': 'EMAHook', 'momentum': 0.5}, hook])
    runner.train()
    trained = hook.trained['faces']
    runner.model.eval()
    metric = runner.val_evaluator.metrics[0].fresh()
    batch = pseudo_collate([_Faces()[i] for i in range(IMAGES)])
    with torch.no_grad():
        plain = [sample.to_dict() for sample in runner.model.val_step(batch)]
    metric.process(None, plain)
    metric.evaluate(IMAGES)
    assert (metric.results_by_set['faces'].scores != trained.scores).any()
    assert _rows(tmp_path)['trained']['auc'] == trained.auc


def test_a_run_killed_in_its_last_validation_is_validated_when_resumed(tmp_path):
    _runner(tmp_path).train()
    before = _rows(tmp_path)
    (tmp_path / 'verification.json').unlink()
    last = str(tmp_path / 'epoch_1.pth')
    _runner(tmp_path, resume=True, load_from=last).train()
    assert _rows(tmp_path) == before


def test_resumed_run_and_test_remember_the_baselines(tmp_path):
    first = tmp_path / 'first'
    _runner(first).train()
    before = _rows(first)
    checkpoint = first / 'epoch_1.pth'

    hook = VerificationReportHook()
    resumed = _runner(
        tmp_path / 'resumed', 2, [hook], resume=True, load_from=str(checkpoint)
    )
    resumed.train()
    assert resumed.model.modes[0][0] == 'loss'
    after = _rows(tmp_path / 'resumed')
    assert after['raw pixels'] == before['raw pixels']
    assert after['untrained'] == before['untrained']

    tested = _runner(tmp_path / 'test', load_from=str(checkpoint))
    tested.test()
    report = read_report(tmp_path / 'test' / 'report')
    parsed = report.content['sets']['faces']['1:1']['rows']
    assert list(parsed) == list(before)
    for name, row in parsed.items():
        assert row['figures']['auc'] == before[name]['auc']
    assert report.content['checkpoint'] == str(checkpoint)
    result = report.result('faces', '1:1', 'trained')
    metric = tested.test_evaluator.metrics[0]
    np.testing.assert_array_equal(result.scores, metric.results_by_set['faces'].scores)
    log = next((tmp_path / 'test').glob('*/*.log')).read_text()
    assert report.text() in log
    assert (tmp_path / 'test' / 'report' / 'report.html').is_file()


def _tested(metric, **results):
    metric.results_by_set = results
    return metric


def _test_of(folder, *metrics):
    return SimpleNamespace(
        work_dir=str(folder),
        cfg=SimpleNamespace(filename='configs/a_net.py'),
        logger=logging.getLogger('report'),
        test_loop=SimpleNamespace(evaluator=SimpleNamespace(metrics=list(metrics))),
        _load_from=None,
    )


def test_report_of_every_protocol(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    templates = verification(accuracy=False)
    runner = _test_of(
        tmp_path,
        _tested(FaceVerification(), lfw=verification()),
        _tested(FaceVerification(accuracy='grid', prefix='grid'), lfw=_result()),
        _tested(TemplateVerification(), ijbc=templates),
        _tested(TemplateIdentification(), ijbc=identification()),
        _tested(MegaFaceIdentification(), megaface=megaface()),
        ImagesPerSecond(),
    )
    VerificationReportHook(draws=3, report_dir='deep/report').after_test(runner)
    content = read_report(tmp_path / 'deep/report').content
    assert {name: list(section) for name, section in content['sets'].items()} == {
        'lfw': ['1:1'],
        'grid/lfw': ['1:1'],
        'ijbc': ['1:1', '1:N'],
        'megaface': ['MegaFace'],
    }
    assert content['title'] == 'Test of a_net'
    assert content['checkpoint'] is None
    assert content['intervals']['draws'] == 3
    assert 'megaface, MegaFace' in caplog.text
    # A test writes nothing else.
    assert [path.name for path in tmp_path.iterdir()] == ['deep']


def test_training_with_several_sets(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    hook = VerificationReportHook(out_file='pairs.png')
    hook.trained = {'lfw': verification(), 'grid/lfw': _result()}
    hook.after_train(_test_of(tmp_path))
    files = ['pairs.json', 'pairs_grid_lfw.png', 'pairs_lfw.png']
    assert sorted(path.name for path in tmp_path.iterdir()) == files
    parsed = json.loads((tmp_path / 'pairs.json').read_text())
    assert list(parsed) == ['lfw', 'grid/lfw']
    assert f'grid/lfw (picture: {tmp_path / "pairs_grid_lfw.png"})' in caplog.text


def test_no_report_without_results(tmp_path):
    # As on every process but the first.
    runner = _test_of(tmp_path, _tested(FaceVerification()), ImagesPerSecond())
    VerificationReportHook().after_test(runner)
    assert not list(tmp_path.iterdir())


class ImagesPerSecond(BaseMetric):
    """A metric of another kind."""

    def process(self, data_batch, data_samples):
        raise NotImplementedError

    compute_metrics = process


def test_baselines_of_other_pairs_are_not_shown(tmp_path):
    hook = VerificationReportHook()
    hook.baselines = {'pixels': {'faces': _result(), 'gone': _result()}}
    hook.trained = {'faces': _result(pairs=402)}
    assert list(hook._rows('faces', hook.trained['faces'])) == ['trained']
    hook.after_load_checkpoint(None, {})
    assert hook.baselines == {}


def test_unknown_baseline():
    with pytest.raises(UserError, match='eigenfaces'):
        VerificationReportHook(baselines=('eigenfaces',))
