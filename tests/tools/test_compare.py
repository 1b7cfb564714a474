"""Reports side by side, by the tool and from Python."""

import json
import math
from importlib import import_module

import numpy as np
import pytest
from runs import ROOT, call
from small_results import identification, megaface, verification

from mmhyperface.evaluation.intervals import paired_differences
from mmhyperface.evaluation.protocols import PROTOCOLS
from mmhyperface.evaluation.protocols import verification as protocol_of_pairs
from mmhyperface.evaluation.report import (
    compare,
    comparison_json,
    comparison_markdown,
    comparison_text,
    write_report,
)
from mmhyperface.utils.errors import UserError

TOOL = ROOT / 'tools/analysis_tools/compare.py'
DRAWS = 50


@pytest.fixture(autouse=True)
def _no_pictures(monkeypatch):
    for protocol in PROTOCOLS.values():
        monkeypatch.setattr(protocol, 'pictures', staticmethod(lambda rows: iter(())))


def reports(folder, **sets):
    return {
        name: write_report(content, folder / name, name, draws=0)
        for name, content in sets.items()
    }


def pairs(*args, **kwargs):
    return {'lfw': {'1:1': {'trained': verification(*args, **kwargs)}}}


def entries(compared):
    return [
        entry
        for of_figure in compared.differences.values()
        for entry in of_figure.values()
    ]


@pytest.mark.parametrize(
    ('protocol', 'make'),
    [('1:1', verification), ('1:N', identification), ('MegaFace', megaface)],
)
def test_equal_models(tmp_path, protocol, make):
    sets = {'x': {protocol: {'trained': make()}}}
    (compared,) = compare(reports(tmp_path, a=sets, b=sets), DRAWS)
    assert not compared.not_comparable
    figures = {
        name
        for name, value in make().figures().items()
        if name != 'accuracy_std' and not math.isnan(value)
    }
    resolved = [
        name
        for name, of in compared.differences.items()
        if of['b']['value'] is not None
    ]
    assert set(resolved) == figures
    for name in resolved:
        expected = {'value': 0, 'low': 0, 'high': 0, 'p_value': 1}
        assert compared.differences[name]['b'] == expected


def test_better_model(tmp_path):
    actual = reports(tmp_path, a=pairs(0.6), b=pairs(1.5), c=pairs(0.6, seed=1))
    (compared,) = compare(actual, DRAWS, level=0.9, seed=2)
    expected = paired_differences(
        [verification(0.6), verification(1.5), verification(0.6, seed=1)],
        DRAWS,
        level=0.9,
        seed=2,
    )
    for name, (second, third) in expected.items():
        if not math.isnan(second.value):
            assert compared.differences[name]['b'] == second._asdict()
            assert compared.differences[name]['c'] == third._asdict()
    better = compared.differences['auc']['b']
    assert better['p_value'] < 0.05
    assert 0 < better['low'] <= better['value'] <= better['high']

    text = comparison_text([compared], 0.9)
    (line,) = [line for line in text.splitlines() if line.startswith('| AUC')]
    values = [100 * verification(0.6).auc, 100 * verification(1.5).auc]
    cell = (
        f'{100 * better["value"]:+.2f} ({100 * better["low"]:+.2f} to '
        f'{100 * better["high"]:+.2f}), p = {better["p_value"]:.2g}'
    )
    shown = [word.strip() for word in line.strip('|').split('|')]
    assert shown[1:3] == [f'{value:.2f}' for value in values]
    assert shown[4] == cell
    assert 'their 90 % interval' in text
    count = len([entry for entry in entries(compared) if entry['p_value'] is not None])
    assert f'{count} stand here' in text.replace('\n', ' ')
    assert f'p < {0.05 / count:.2g}' in text.replace('\n', ' ')
    assert 'not resolvable' in text


def test_other_pairs_and_identities(tmp_path):
    known, unknown = verification(), verification(known=False)
    relabelled = verification()
    relabelled.identity_a = relabelled.identity_a[::-1].copy()
    actual = reports(
        tmp_path,
        a=pairs(),
        fewer=pairs(people=10),
        unknown=pairs(known=False),
        others={'lfw': {'1:1': {'trained': relabelled}}},
        good=pairs(1.2),
    )
    (compared,) = compare(actual, DRAWS)
    assert compared.not_comparable == {
        'fewer': 'it was tested on other pairs',
        'unknown': 'it was tested on other identities',
        'others': 'it was tested on other identities',
    }
    assert set(compared.differences['auc']) == {'good'}
    assert compared.figures['auc']['unknown'] == unknown.auc == known.auc
    text = comparison_text([compared], 0.95)
    assert 'No significance of fewer: it was tested on other pairs.' in text
    assert 'fewer - a' not in text
    assert 'good - a' in text

    (compared,) = compare({name: actual['unknown'] for name in 'xy'}, DRAWS)
    assert compared.not_comparable == {
        'y': 'the list does not tell who is on the images'
    }
    assert 'p is of each' not in comparison_text([compared], 0.95)


def test_figures_that_are_not_drawn_again(tmp_path, monkeypatch):
    actual = reports(tmp_path, a=pairs(), b=pairs(1.2))
    monkeypatch.setattr(protocol_of_pairs, 'MANY_PAIRS', 100)
    (compared,) = compare(actual, DRAWS)
    assert set(compared.differences) >= {'tar@far=1e-03', 'tar@far=1e-02'}
    assert compared.no_intervals == dict.fromkeys(
        ('accuracy', 'eer', 'auc', 'd_prime'), protocol_of_pairs.MANY
    )
    text = comparison_text([compared], 0.95).replace('\n', ' ')
    many = protocol_of_pairs.MANY
    assert f"No significance of accuracy, EER, AUC, d' (plain number): {many}." in text


def test_other_searches_and_distractors(tmp_path):
    fewer = megaface()
    fewer.used = fewer.used - 1
    actual = reports(
        tmp_path,
        a={'x': {'1:N': {'t': identification()}, 'MegaFace': {'t': megaface()}}},
        b={'x': {'1:N': {'t': identification(merged=True)}, 'MegaFace': {'t': fewer}}},
        c={'x': {'1:N': {'t': identification(people=12)}}},
    )
    searches, distractors = compare(actual, DRAWS)
    assert searches.not_comparable == {
        'b': 'it was tested on other galleries',
        'c': 'it was tested on other probes',
    }
    assert distractors.names == ['a', 'b']
    assert distractors.not_comparable == {'b': 'it was tested on other distractors'}
    assert 'The conventions differ' in comparison_text([searches], 0.95)


def test_what_reports_share(tmp_path):
    fewer = verification(accuracy=False)
    fewer.fars, fewer.tars, fewer.thresholds = (
        x[1:] for x in (fewer.fars, fewer.tars, fewer.thresholds)
    )
    actual = reports(
        tmp_path,
        a={'alone': {'1:1': {'trained': verification()}}},
        b=pairs(),
        c={'lfw': {'1:1': {'untrained': verification(0.5), 'trained': fewer}}},
    )
    (compared,) = compare(actual, DRAWS)
    assert compared.names == ['b', 'c']
    assert list(compared.figures) == [
        'eer',
        'auc',
        'd_prime',
        'tar@far=1e-03',
        'tar@far=1e-02',
    ]
    assert compared.rows == {'b': 'trained', 'c': 'trained'}
    with pytest.raises(UserError, match="in common, with a row 'untrained'"):
        compare(actual, DRAWS, row='untrained')
    with pytest.raises(UserError, match=r'a: alone \(1:1\); b: lfw \(1:1\)'):
        compare({name: actual[name] for name in 'ab'}, DRAWS)


def test_reports_without_evidence(tmp_path):
    without = write_report(pairs(), tmp_path / 'w', draws=0, evidence=False)
    actual = reports(tmp_path, a=pairs())
    (compared,) = compare({'a': actual['a'], 'b': without}, DRAWS)
    assert compared.not_comparable == {'b': 'it was written without evidence'}
    (compared,) = compare({'b': without, 'a': actual['a']}, DRAWS)
    assert compared.not_comparable == {'a': 'b was written without evidence'}


def test_json_and_markdown(tmp_path):
    sets = {'a|b*': {'1:1': {'trained': verification()}}}
    actual = compare(reports(tmp_path, one=sets, two=sets), DRAWS)
    parsed = json.loads(
        json.dumps(comparison_json(actual, ['one', 'two'], DRAWS, 0.95, 0)),
        parse_constant=pytest.fail,
    )
    (section,) = parsed['sets']['a|b*'].values()
    assert section['first'] == 'one'
    auc = verification().auc
    assert section['figures']['auc'] == {'one': auc, 'two': auc}
    assert section['differences']['auc']['two']['p_value'] == 1
    assert section['figures']['tar@far=1e-06'] == {'one': None, 'two': None}
    text = comparison_markdown(actual, 0.95)
    assert '## a\\|b\\*, 1:1' in text
    assert f'{100 * auc:.2f} |' in text


def test_tool(tmp_path, call_main):
    reports(tmp_path / 'run_a', report=pairs(0.6))
    reports(tmp_path / 'run_b', report=pairs(1.5))
    folders = [tmp_path / 'run_a/report', tmp_path / 'run_b/report/report.json']
    command = (TOOL, *folders, '--draws', DRAWS)
    done = call('python', *command, '--out', tmp_path / 'out.json')
    assert '| figure ' in done.stdout
    assert 'run_b - run_a' in done.stdout
    parsed = json.loads((tmp_path / 'out.json').read_text())
    assert parsed['names'] == ['run_a', 'run_b']
    difference = parsed['sets']['lfw']['1:1']['differences']['auc']['run_b']
    expected = verification(1.5).auc - verification(0.6).auc
    np.testing.assert_allclose(difference['value'], expected)

    out = tmp_path / 'out.md'
    options = ('--draws', 2, '--names', 'x', 'y', '--out', out)
    assert 'y - x' in call_main('compare', *folders, *options)
    assert 'y - x' in out.read_text()


def test_out_in_a_new_folder(tmp_path, monkeypatch, call_main):
    reports(tmp_path, a=pairs(), b=pairs(1.2))
    monkeypatch.chdir(tmp_path)
    call_main('compare', 'a', 'b', '--draws', '2', '--out', 'new/folder/x.md')
    text = (tmp_path / 'new/folder/x.md').read_text()
    assert text.startswith('# Comparison')
    call_main('compare', 'a', 'b', '--draws', '3', '--out', 'new/folder/x.md')
    assert (tmp_path / 'new/folder/x.md').read_text() != text
    with pytest.raises(UserError, match='draws is 0'):
        call_main('compare', 'a', 'b', '--draws', '0', '--out', 'new/y.json')
    assert not (tmp_path / 'new/y.json').exists()


def test_names_of_columns():
    names = import_module('compare').column_names
    assert names(['/x/a/report', '/x/b/report/report.json']) == ['a', 'b']
    assert names(['/x/a/report', '/y/a']) == ['x/a', 'y/a']
    assert names(['/a', '/x/a']) == ['a', 'x/a']
    assert names(['/a', '/']) == ['a', '/']


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (['a'], 'at least two reports'),
        (['a', 'nothing'], 'there is no report in'),
        (['a', 'b', '--names', 'x'], '1 names for 2 reports'),
        (['a', 'b', '--names', 'x', 'x'], "two columns have the name 'x'"),
        (['a', 'a'], 'a report of .*/a is given twice: give --names'),
        (['a', 'b', '--out', 'a/report.html/x.md'], r'x.md cannot be written'),
        (['a', 'b', '--out', 'x.html'], r'--out takes a .md or .json file'),
        (['a', 'b', '--level', '2', '--draws', '2'], 'level is 2'),
    ],
)
def test_mistakes(tmp_path, monkeypatch, call_main, arguments, message):
    reports(tmp_path, a=pairs(), b=pairs())
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=message):
        call_main('compare', *arguments)
