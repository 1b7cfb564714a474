"""Logs written line by line."""

import json
import math

import numpy as np
import pytest

from mmhyperface.utils.errors import UserError
from mmhyperface.visualization import draw_logs, keys_of, read_log
from mmhyperface.visualization.logs import smoothed


def training(step, **values):
    return {'lr': 0.1, 'loss': float(step), **values, 'iter': step, 'step': step}


def write(folder, name, lines, ending='\n'):
    """The scalars of a run."""
    path = folder / name / 'vis_data' / 'scalars.json'
    path.parent.mkdir(parents=True)
    path.write_text('\n'.join(map(json.dumps, lines)) + ending)
    return path


def steps(log, key='loss'):
    return log.curve(key)[0].tolist()


def test_a_work_dir_a_run_and_a_file(tmp_path):
    path = write(tmp_path, '20260101_000000', [training(5), training(10)])
    for place in (tmp_path, path.parent.parent, path.parent, path, str(path)):
        log = read_log(place)
        assert steps(log) == [5, 10]
        assert log.curve('loss')[1].tolist() == [5, 10]
        assert log.keys == ['loss', 'lr']


def test_the_latest_run_counts(tmp_path):
    """Which began anew: as early as the one before, or within its first interval."""
    write(tmp_path, '20260101_000000', [training(50), training(100)])
    write(tmp_path, '20260102_000000', [training(50, a=1), training(100)])
    assert read_log(tmp_path).curve('a')[0].tolist() == [50]
    later = [training(100, a=2), training(200), training(250)]  # an epoch ends at 250
    write(tmp_path, '20260103_000000', later)
    assert read_log(tmp_path).curve('a')[1].tolist() == [2]


def test_resumed_runs_are_joined(tmp_path):
    accuracy = {'set/accuracy': 0.5, 'step': 0}
    write(tmp_path, '20260101_000000', [training(1, a=0), training(2)])
    first = [training(50, a=1), training(100), training(150), accuracy, training(200)]
    write(tmp_path, '20260102_000000', first)
    write(tmp_path, '20260103_000000', [training(150, a=2), training(200)])
    write(tmp_path, '20260104_000000', [training(250, a=3)])
    write(tmp_path, '20260105_000000', [], ending='')
    log = read_log(tmp_path)
    assert steps(log) == [50, 100, 150, 200, 250]
    assert log.curve('a')[1].tolist() == [1, 2, 3]
    # Of what was trained once more, the first time is forgotten.
    assert 'set/accuracy' not in log.keys


@pytest.mark.parametrize('step', [0, 2, 200])
def test_where_validations_belong(tmp_path, step):
    """mmengine counts them by epochs, or 0, or by iterations."""
    lines = [training(100), training(180), {'auc': 1.0, 'step': step}, training(250)]
    log = read_log(write(tmp_path, 'a', lines))
    assert steps(log, 'auc') == [max(step, 180)]
    assert steps(log) == [100, 180, 250]


def test_the_last_line_may_be_cut_off(tmp_path):
    path = write(tmp_path, 'a', [training(1), training(2)], ending='\n{"lr": 0.1, "lo')
    assert steps(read_log(path)) == [1, 2]
    path.write_text(path.read_text() + '\n' + json.dumps(training(3)))
    with pytest.raises(UserError, match=r'scalars\.json, line 3 is damaged'):
        read_log(path)


def test_what_is_no_number(tmp_path):
    lines = [training(1, ok=True, name='x', loss=math.nan), training(2, loss=None)]
    log = read_log(write(tmp_path, 'a', lines))
    assert log.keys == ['loss', 'lr']
    assert math.isnan(log.curve('loss')[1].item())


@pytest.mark.parametrize(
    ('content', 'message'),
    [
        (None, 'there is no log'),
        ('', 'is empty'),
        ('{"lo', 'is empty'),
        ('GIF89a\n', 'line 1 is damaged'),
        (b'\xff\xfe\x00', 'cannot be read'),
    ],
)
def test_no_log(tmp_path, content, message):
    path = tmp_path / 'scalars.json'
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content is not None:
        path.write_text(content)
    with pytest.raises(UserError, match=message):
        read_log(path)
    (tmp_path / 'folder').mkdir()
    with pytest.raises(UserError, match='no work dir'):
        read_log(tmp_path / 'folder')


def test_keys(tmp_path):
    validation = {
        'a/accuracy': 0.5,
        'b/accuracy': 0.6,
        'a/accuracy_std': 0.1,
        'step': 0,
    }
    one = read_log(write(tmp_path, 'one', [training(1), validation]))
    two = read_log(write(tmp_path, 'two', [training(1, bias=3.0)]))
    logs = {'one': one, 'two': two}
    assert keys_of(logs, ['accuracy', 'loss', 'b/accuracy']) == [
        'a/accuracy',
        'b/accuracy',
        'loss',
    ]
    assert keys_of(logs, ['bias']) == ['bias']
    with pytest.raises(UserError, match=r"'los'; they have a/acc.*, bias, loss, lr"):
        keys_of(logs, ['loss', 'los'])


@pytest.mark.parametrize('weight', [0.0, 0.6, 0.99])
def test_smoothing(weight):
    """Each value is the mean of all before it, weighted by powers of the factor."""
    values = np.array([math.nan, 3.0, -1.0, math.inf, 7.0, 2.0])
    result = smoothed(values, weight)
    finite = [1, 2, 4, 5]
    assert np.isnan(result[[0, 3]]).all()
    for count, i in enumerate(finite, 1):
        weights = [weight**age for age in reversed(range(count))]
        terms = [w * values[j] for w, j in zip(weights, finite, strict=False)]
        assert result[i] == pytest.approx(sum(terms) / sum(weights), rel=1e-9)


def test_panels(tmp_path):
    lines = [training(step) for step in (10, 20, 30)]
    logs = {'one': read_log(write(tmp_path, 'one', [*lines, {'auc': 0.5, 'step': 30}]))}
    logs['two'] = read_log(write(tmp_path, 'two', lines[:1]))
    figure = draw_logs(logs, ['loss', 'lr', 'auc', 'loss', 'lr'], 0.5)
    loss, lr, auc, *_, unused = figure.axes
    raw, smooth, *_ = loss.lines
    assert raw.get_ydata().tolist() == [10, 20, 30]
    assert smooth.get_ydata().tolist() == smoothed(raw.get_ydata(), 0.5).tolist()
    assert [line.get_ydata().tolist() for line in lr.lines] == [[0.1] * 3, [0.1]]
    assert auc.lines[0].get_xdata().tolist() == [30]
    assert not unused.axison
