"""The evaluator that keeps embeddings once: alone, among others, on many processes."""

import json
import logging
import pickle

import numpy as np
import pytest
import torch
from mixed_sets import METRICS, SIZE, embeddings, feed, mixed_meta, template_set
from mmengine.dist import get_rank, get_world_size
from mmengine.evaluator import BaseMetric, Evaluator
from mmengine.structures import BaseDataElement
from runs import spawn

from mmhyperface.evaluation import FaceEvaluator, TemplateVerification
from mmhyperface.evaluation.metrics import embedding_store
from mmhyperface.evaluation.metrics import embeddings as embeddings_module
from mmhyperface.registry import EVALUATORS
from mmhyperface.utils.errors import UserError


class Samples(BaseMetric):
    """Not a metric of embeddings; counts what it is given."""

    default_prefix = 'samples'

    def process(self, data_batch, data_samples):
        self.results += [sample['sample_idx'] for sample in data_samples]

    def compute_metrics(self, results):
        return {'sum': sum(results)}


def ready(evaluator, meta=None):
    evaluator.dataset_meta = mixed_meta() if meta is None else meta
    return evaluator


def evaluated(evaluator, **options):
    feed(ready(evaluator), **options)
    return evaluator.evaluate(SIZE)


def evidence(evaluator):
    return {
        (name, metric.RESULT.protocol, key): (
            value.tobytes() if isinstance(value, np.ndarray) else repr(value)
        )
        for metric in evaluator.embedding_metrics
        for name, result in metric.results_by_set.items()
        for key, value in vars(result).items()
    }


def test_the_same_as_by_the_evaluator_of_mmengine():
    plain = evaluated(Evaluator(METRICS))
    evaluator = EVALUATORS.build(dict(type='FaceEvaluator', metrics=METRICS))
    figures = evaluated(evaluator)
    assert repr(figures) == repr(plain)
    sets = {name.split('/')[0] for name in figures}
    assert sets == {'lfw', 'ijb', 'mega'}
    # Figures that tell nothing would be the same whatever happens.
    varied = [x for x in figures.values() if 0 < x < 1]
    assert len(varied) > len(figures) / 2
    # Another one begins anew.
    with pytest.raises(UserError, match='no samples'):
        evaluator.evaluate(SIZE)
    feed(evaluator)
    assert repr(evaluator.evaluate(SIZE)) == repr(figures)


def test_embeddings_are_kept_once():
    evaluator = ready(FaceEvaluator(METRICS))
    feed(evaluator)
    assert len(evaluator.store.gather().rows) == SIZE
    assert all(metric.store.gather() is None for metric in evaluator.metrics)


def test_data_elements_are_taken_as_from_a_model():
    evaluator = ready(FaceEvaluator(METRICS))
    rows = embeddings()
    for i in range(SIZE):
        sample = BaseDataElement(metainfo={'sample_idx': i})
        sample.set_field(rows[i], 'embedding')
        evaluator.process([sample])
    assert repr(evaluator.evaluate(SIZE)) == repr(evaluated(FaceEvaluator(METRICS)))


def test_templates_are_pooled_once_for_each_way(monkeypatch):
    calls = []
    pool = embeddings_module.pool_templates

    def count(*args, **kwargs):
        calls.append(kwargs['norm'])
        return pool(*args, **kwargs)

    monkeypatch.setattr(embeddings_module, 'pool_templates', count)
    unit = {**METRICS[1], 'norm': 'unit', 'prefix': 'unit'}
    evaluator = FaceEvaluator([*METRICS, unit])
    evaluated(evaluator)
    assert calls == ['keep', 'unit']
    keep, unit = (evaluator.metrics[i].results_by_set['ijb'].scores for i in (1, 4))
    assert (keep != unit).all()


def test_only_images_of_sets_that_are_examined_are_kept():
    evaluator = ready(FaceEvaluator([METRICS[0], METRICS[3]]))
    feed(evaluator)
    kept = evaluator.store.gather().numbers
    assert not set(range(61, 144)) & set(kept.tolist())
    assert len(kept) == SIZE - 83


def test_other_metrics_work_as_ever():
    evaluator = FaceEvaluator([METRICS[0], Samples()])
    figures = evaluated(evaluator)
    assert figures['samples/sum'] == sum(range(SIZE))
    assert 'lfw/eer' in figures
    alone = FaceEvaluator(Samples())
    assert evaluated(alone) == {'samples/sum': sum(range(SIZE))}
    with pytest.raises(UserError, match=r"called 'samples/sum'; give one .* a prefix"):
        evaluated(FaceEvaluator([Samples(), METRICS[0], Samples()]))


def test_figures_of_one_name_are_refused_early():
    with pytest.raises(UserError, match=r"'ijb' by the protocol 1:1: TemplateVerif.*"):
        ready(FaceEvaluator([*METRICS, {**METRICS[1], 'norm': 'unit'}]))


def test_saved_features(tmp_path):
    path = tmp_path / 'new' / 'features.npy'
    evaluator = FaceEvaluator(
        METRICS[1:2], save_features=str(path), about_features={'flip_fusion': 'sum'}
    )
    figures = evaluated(evaluator, numbers=[*reversed(range(SIZE)), 5])
    assert repr(figures) == repr(evaluated(FaceEvaluator(METRICS[1:2])))
    saved = np.load(path)
    assert saved.dtype == np.float32
    np.testing.assert_array_equal(saved, embeddings().numpy())
    about = json.loads(path.with_suffix('.json').read_text())
    assert about['flip_fusion'] == 'sum'
    assert about['shape'] == [SIZE, 24]
    assert about['test_sets']['ijb'] == {
        'kind': 'templates',
        'offset': 61,
        'num_images': 83,
    }
    assert sorted(file.name for file in path.parent.iterdir()) == [
        'features.json',
        'features.npy',
    ]


def test_features_are_saved_whatever_is_wrong_with_the_test(tmp_path):
    path = tmp_path / 'features.npy'
    rows = embeddings()
    rows[70] = 0
    with pytest.raises(UserError, match='of sample 70'):
        evaluated(FaceEvaluator(METRICS, str(path)), rows=rows)
    np.testing.assert_array_equal(np.load(path), rows.numpy())


def test_features_that_are_not_all_there_are_not_saved(tmp_path, monkeypatch):
    path = tmp_path / 'features.npy'
    numbers = [i for i in range(SIZE) if i != 100]
    evaluator = FaceEvaluator(METRICS[:1], str(path))
    logged = []
    monkeypatch.setattr(
        'mmhyperface.evaluation.evaluator.print_log', lambda *what: logged.append(what)
    )
    # The figures of sets that are all there stay.
    assert 'lfw/auc' in evaluated(evaluator, numbers=numbers)
    assert 'embeddings of 198 of 199 samples' in logged[0][0]
    assert logged[0][2] == logging.ERROR
    assert not list(tmp_path.iterdir())


def test_a_place_for_features_is_checked_early(tmp_path):
    with pytest.raises(UserError, match=r'\.npy file, not to .*features\.npz'):
        FaceEvaluator(METRICS, str(tmp_path / 'features.npz'))
    (tmp_path / 'file').touch()
    with pytest.raises(UserError, match='cannot be written'):
        FaceEvaluator(METRICS, str(tmp_path / 'file' / 'features.npy'))
    (tmp_path / 'folder.npy').mkdir()
    with pytest.raises(UserError, match=r'not to .*folder\.npy'):
        FaceEvaluator(METRICS, str(tmp_path / 'folder.npy'))


def test_the_runner_takes_it_by_default():
    # Imported here, since each of the processes above imports this module.
    from mmhyperface.engine.runner import FaceRunner

    runner = object.__new__(FaceRunner)
    for config in (METRICS[0], METRICS, {'metrics': METRICS}):
        assert type(runner.build_evaluator(config)) is FaceEvaluator
    plain = runner.build_evaluator({'type': 'mmengine.Evaluator', 'metrics': METRICS})
    assert type(plain) is Evaluator
    assert runner.build_evaluator(plain) is plain
    with pytest.raises(TypeError):
        runner.build_evaluator(3)


def test_pieces_do_not_change_what_is_gathered(monkeypatch):
    rows = embeddings()
    for size in (1, 3 * 4 * 24, 10**4):
        monkeypatch.setattr(embedding_store, 'PIECE_BYTES', size)
        evaluator = ready(FaceEvaluator(METRICS))
        feed(evaluator, [*reversed(range(SIZE)), 9])
        np.testing.assert_array_equal(evaluator.store.gather().rows, rows.numpy())


def _examine_together(folder):
    """What each process finds out, and how it fails, in one go: starts are dear."""
    torch.distributed.init_process_group('gloo')
    world, rank = get_world_size(), get_rank()
    # Several rounds, and not as many pieces on each process.
    embedding_store.PIECE_BYTES = 11 * 4 * 24 * world
    # As mmengine's DefaultSampler: padded from the front to equal shares.
    padded = [i % SIZE for i in range(-(-SIZE // world) * world)][rank::world]
    path = folder / f'{world}.npy'
    evaluator = ready(FaceEvaluator([*METRICS, Samples()], str(path)))
    feed(evaluator, padded)
    figures = evaluator.evaluate(SIZE)

    def failure(numbers, rows):
        broken = ready(FaceEvaluator(METRICS))
        feed(broken, numbers, rows)
        with pytest.raises(UserError) as error:
            broken.evaluate(SIZE)
        return str(error.value)

    of_embeddings = {n: x for n, x in figures.items() if n != 'samples/sum'}
    # Each metric with its own store; one process that has it all.
    everything = range(SIZE) if rank == world - 1 else []
    for other, numbers in ((Evaluator, padded), (FaceEvaluator, everything)):
        alone = ready(other(METRICS))
        feed(alone, numbers)
        assert repr(alone.evaluate(SIZE)) == repr(of_embeddings)

    nothing = torch.zeros(SIZE, 24)
    failures = [
        failure(padded, nothing),
        failure([], nothing),
        failure(padded, embeddings()[:, rank:]),
    ]
    answer = figures, evidence(evaluator), failures
    (folder / f'{world}-{rank}.pkl').write_bytes(pickle.dumps(answer))


def test_any_number_of_processes_finds_the_same(tmp_path, monkeypatch):
    monkeypatch.setenv('OMP_NUM_THREADS', '1')
    single = FaceEvaluator([*METRICS, Samples()])
    expected = evaluated(single)
    for world in (2, 3):
        spawn(world, _examine_together, tmp_path)
        for rank in range(world):
            path = tmp_path / f'{world}-{rank}.pkl'
            figures, actual, failures = pickle.loads(path.read_bytes())
            # mmengine's own collection counts what a sampler repeats.
            assert figures['samples/sum'] == sum(range(SIZE))
            assert repr(figures) == repr(expected)
            assert actual == (evidence(single) if rank == 0 else {})
            assert "'lfw': the embedding is zero" in failures[0]
            assert 'no samples' in failures[1]
            assert 'differ in their dimensions' in failures[2]
        np.testing.assert_array_equal(
            np.load(tmp_path / f'{world}.npy'), embeddings().numpy()
        )


def test_a_metric_of_its_own_says_who_it_is():
    with pytest.raises(UserError, match=r'TemplateVerification needs .* has none'):
        TemplateVerification().evaluate(SIZE)
    assert template_set()['kind'] == TemplateVerification.KIND
