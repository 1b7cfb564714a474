"""The registered metric: its pairs, its keys, its errors."""

import math

import numpy as np
import pytest
import torch
from mixed_sets import PAIRS, SIZE, embeddings, feed, pair_set, template_set

from mmhyperface.evaluation import functional as F
from mmhyperface.evaluation.metrics import FaceVerification, VerificationResult
from mmhyperface.registry import METRICS
from mmhyperface.utils.errors import UserError


def _meta():
    """Two lists of the same pairs, one with folds, and a set of another kind."""
    pairs = {**pair_set(), 'identities': None}
    folds = np.random.default_rng(0).permutation(np.arange(143) % 5)
    return {
        'test_sets': {
            'lfw': {**pairs, 'folds': folds},
            'other': template_set(),
            'free': pairs,
        }
    }


def _metric(meta=None, **kwargs):
    metric = FaceVerification(fars=(1e-3, 0.02, 0.1), folds=4, **kwargs)
    metric.dataset_meta = _meta() if meta is None else meta
    return metric


def _evaluate(rows=None, numbers=range(SIZE), **kwargs):
    metric = _metric(**kwargs)
    feed(metric, numbers, rows)
    return metric, metric.evaluate(SIZE)


def test_figures_are_those_of_the_functions():
    metric, figures = _evaluate()
    unit = torch.nn.functional.normalize(embeddings().double(), dim=1)
    for name, entry in _meta()['test_sets'].items():
        if entry['kind'] != 'pairs':
            continue
        first = unit[entry['offset'] + torch.from_numpy(entry['index_a'])]
        second = unit[entry['offset'] + torch.from_numpy(entry['index_b'])]
        scores, same, folds = (first * second).sum(1), entry['same'], entry['folds']
        result = metric.results_by_set[name]
        np.testing.assert_allclose(result.scores, scores.numpy(), atol=1e-14)
        if folds is None:
            folds = F.stratified_folds(same, 4, 0)
        mean, std, _, _ = F.kfold_accuracy(scores, same, folds)
        assert figures[f'{name}/accuracy'] == result.accuracy == mean
        assert figures[f'{name}/accuracy_std'] == std
        assert figures[f'{name}/eer'] == F.equal_error_rate(scores, same)
        assert figures[f'{name}/auc'] == F.auc(scores, same)
        tars = F.tar_at_far(scores, same, [0.02, 0.1]).tars
        assert figures[f'{name}/tar@far=2e-02'] == tars[0]
        assert figures[f'{name}/tar@far=1e-01'] == tars[1]
        assert math.isnan(figures[f'{name}/tar@far=1e-03'])
        assert result.num_same == same.sum()
        assert result.num_different == (~same).sum()
    assert not any('other' in key for key in figures)


def test_evidence_for_intervals():
    meta = _meta()
    people = np.arange(PAIRS) // 2
    meta['test_sets']['lfw']['identities'] = people
    metric, _ = _evaluate(meta=meta)
    pairs, result = meta['test_sets']['lfw'], metric.results_by_set['lfw']
    np.testing.assert_array_equal(result.identity_a, people[pairs['index_a']])
    np.testing.assert_array_equal(result.identity_b, people[pairs['index_b']])
    np.testing.assert_array_equal(result.folds, pairs['folds'])
    assert result.counts == {'images': len({*pairs['index_a'], *pairs['index_b']})}
    free = metric.results_by_set['free']
    assert free.identity_a is None
    np.testing.assert_array_equal(
        free.folds, F.stratified_folds(meta['test_sets']['free']['same'], 4, 0)
    )
    meta['test_sets']['lfw']['identities'] = people[1:]
    with pytest.raises(UserError, match="'lfw': lengths differ: num_images 61"):
        _metric(meta)


def test_conventions_in_words():
    metric, _ = _evaluate()
    words = {name: result.convention for name, result in metric.results_by_set.items()}
    assert '5 folds from the list' in words['lfw']
    assert '4 folds stratified from seed 0' in words['free']
    for word in ('cosine', 'flips fused by the model', 'exact', 'ties', 'rejected'):
        assert word in words['lfw']


@pytest.mark.parametrize('accuracy', ['grid', 'global'])
def test_other_accuracies(accuracy):
    metric, figures = _evaluate(accuracy=accuracy)
    result = metric.results_by_set['lfw']
    if accuracy == 'global':
        expected = F.global_accuracy(result.scores, result.same).accuracy
        assert 'lfw/accuracy_std' not in figures
        assert 'one threshold fitted on all pairs' in result.convention
    else:
        folds = _meta()['test_sets']['lfw']['folds']
        expected = F.kfold_accuracy(
            result.scores, result.same, folds, F.INSIGHTFACE_GRID
        ).mean
        assert 'insightface' in result.convention
    assert figures['lfw/accuracy'] == expected


def test_registered_with_prefix_and_interpolation():
    metric = METRICS.build(
        {'type': 'FaceVerification', 'prefix': 'val', 'interpolation': 'linear'}
    )
    metric.dataset_meta = _meta()
    feed(metric, range(SIZE), embeddings())
    figures = metric.evaluate(SIZE)
    assert 'val/lfw/accuracy' in figures
    assert 'linear' in metric.results_by_set['lfw'].convention


def test_fresh_shares_nothing_that_changes():
    metric, first = _evaluate()
    other = metric.fresh()
    assert not other.results_by_set
    feed(other, range(SIZE), -(embeddings() ** 3))
    assert metric.store.gather() is None
    other.evaluate(SIZE)
    assert metric.results_by_set['lfw'].accuracy == first['lfw/accuracy']


def test_missing_samples():
    with pytest.raises(UserError, match=r"'lfw': 2 of 61 .*: 4, 60$"):
        _evaluate(numbers=[i for i in range(SIZE) if i not in (4, 60)])
    with pytest.raises(UserError, match=r'1, 2, 3, .* \(60 in all\)'):
        _evaluate(numbers=[0])
    with pytest.raises(UserError, match='no samples'):
        _metric().evaluate(SIZE)


def test_constant_scores():
    with pytest.raises(UserError, match="'lfw': all 143 scores equal"):
        _evaluate(torch.ones(SIZE, 4))


def _spoil(**changes):
    meta = {'test_sets': {'lfw': _meta()['test_sets']['lfw']}}
    meta['test_sets']['lfw'].update(changes)
    return meta


@pytest.mark.parametrize(
    ('meta', 'message'),
    [
        ({}, "of kind 'pairs'; it has none"),
        ({'test_sets': {'x': {'kind': 'templates'}}}, r"it has \['x'\]"),
        (_spoil(index_a=np.zeros(3, int)), "'lfw': lengths differ"),
        (_spoil(folds=np.zeros(3, int)), "'lfw': lengths differ"),
        (_spoil(index_b=np.full(143, 61)), 'index_b goes from 61 to 61, .* 61 images'),
        (_spoil(same=np.ones(143, bool)), 'needs same and different pairs'),
    ],
)
def test_bad_lists_are_reported_before_training(meta, message):
    with pytest.raises(UserError, match=message):
        _metric(meta)


def test_result_survives_a_weights_only_checkpoint(tmp_path):
    result = _evaluate()[0].results_by_set['lfw']
    torch.save(result.state_dict(), tmp_path / 'result.pth')
    state = torch.load(tmp_path / 'result.pth', weights_only=True)
    again = VerificationResult.from_state_dict(state)
    np.testing.assert_array_equal(again.scores, result.scores)
    np.testing.assert_array_equal(again.same, result.same)
    assert again.same.dtype == bool
    np.testing.assert_array_equal(again.tars, result.tars)
    assert (again.accuracy, again.convention) == (result.accuracy, result.convention)
