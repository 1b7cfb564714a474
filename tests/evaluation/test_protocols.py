"""Figures of a protocol: their names, units, and how a new one reaches all outputs."""

import json
import statistics

import numpy as np
import pytest
from small_results import identification, megaface, verification

from mmhyperface.evaluation import functional as F
from mmhyperface.evaluation.protocols import (
    NUMBER,
    FigureOfMerit,
    Unit,
    VerificationResult,
    figure_of,
)
from mmhyperface.evaluation.report import (
    compare,
    comparison_json,
    comparison_text,
    read_report,
    verification_table,
    write_report,
    write_verification_json,
)


@pytest.mark.parametrize(
    ('protocol', 'name', 'label'),
    [
        ('1:1', 'eer', 'EER'),
        ('1:1', 'accuracy_std', 'accuracy, std over folds'),
        ('1:1', 'd_prime', "d' (plain number)"),
        ('1:1', 'tar@far=1e-03', 'TAR at FAR 1e-03'),
        ('1:N', 'rank-10', 'rank-10'),
        ('1:N', 'tpir@fpir=1e-02', 'TPIR at FPIR 1e-02'),
        ('MegaFace', 'rank-1@1000000', 'rank-1, 1,000,000 distractors'),
        ('MegaFace', 'a newer (and odd figure', 'a newer (and odd figure'),
        ('a newer protocol', 'eer', 'eer'),
    ],
)
def test_labels(protocol, name, label):
    assert figure_of(protocol, name).label_of(name) == label


@pytest.mark.parametrize('make', [verification, identification, megaface])
def test_every_figure_of_a_result_is_one_of_its_protocol(make):
    result = make()
    for name in result.figures():
        fitting = [figure for figure in result.FIGURES if figure.fits(name)]
        assert fitting == [figure_of(result.protocol, name)]


def test_d_prime():
    rng = np.random.default_rng(0)
    same = rng.random(50) < 0.4
    scores = rng.normal(size=50) + 2 * same
    of_same, of_different = scores[same].tolist(), scores[~same].tolist()
    spread = (
        (statistics.pvariance(of_same) + statistics.pvariance(of_different)) / 2
    ) ** 0.5
    apart = statistics.fmean(of_same) - statistics.fmean(of_different)
    assert F.d_prime(scores, same) == pytest.approx(apart / spread, rel=1e-12)
    assert F.d_prime(-scores, same) == pytest.approx(-apart / spread, rel=1e-12)
    assert np.isnan(F.d_prime([0.1, 0.1, 0.7], [False, False, True]))


def test_a_plain_number_in_all_outputs(tmp_path):
    """d' is no percentage, here and in differences."""
    results = {name: verification(x) for name, x in (('weak', 0.6), ('strong', 1.5))}
    reports = {
        name: write_report({'lfw': {'1:1': {'net': result}}}, tmp_path / name, draws=20)
        for name, result in results.items()
    }
    weak, strong = (x.d_prime for x in results.values())
    for name, report in reports.items():
        row = report.content['sets']['lfw']['1:1']['rows']['net']
        assert row['figures']['d_prime'] == results[name].d_prime
        low, high = row['intervals']['d_prime']
        assert low < results[name].d_prime < high
        line = f'{results[name].d_prime:.2f} | {low:.2f} to {high:.2f}'
        for text in (report.text(), (report.folder / 'report.md').read_text()):
            assert line in ' '.join(text.replace('\\', '').split())
        page = (report.folder / 'report.html').read_text()
        assert f'>{results[name].d_prime:.2f}</data>' in ''.join(page.split('\n'))

    compared = compare(reports, draws=50)
    text = ' '.join(comparison_text(compared, 0.95).split())
    assert (
        f"| d' (plain number) | {weak:.2f} | {strong:.2f} | +{strong - weak:.2f}"
        in text
    )
    assert "Differences in percentage points, d' (plain number) as it is, with" in text
    parsed = comparison_json(compared, list(reports), 50, 0.95, 0)['sets']['lfw']['1:1']
    assert parsed['figures']['d_prime'] == {'weak': weak, 'strong': strong}
    assert parsed['lower_is_better'] == ['accuracy_std', 'eer']

    table = verification_table(results)
    assert 'plain number' in table
    assert f' {strong:.2f} |' in table
    write_verification_json({'lfw': results}, tmp_path / 'verification.json')
    rows = json.loads((tmp_path / 'verification.json').read_text())['lfw']
    assert rows['strong']['d_prime'] == strong


def test_a_report_that_does_not_know_a_newer_figure(tmp_path):
    """One of an older version: the figure is left out, also of comparisons."""
    for name in ('older', 'newer'):
        sets = {'lfw': {'1:1': {'net': verification(0.6 if name == 'older' else 1.2)}}}
        write_report(sets, tmp_path / name, draws=0)
    (evidence,) = (tmp_path / 'older').glob('evidence/*')
    with np.load(evidence) as archive:
        arrays = dict(archive)
    rest = json.loads(str(arrays['rest']))
    del rest['values']['d_prime']
    np.savez(evidence, **{**arrays, 'rest': np.array(json.dumps(rest))})
    path = tmp_path / 'older/report.json'
    content = json.loads(path.read_text())
    del content['sets']['lfw']['1:1']['rows']['net']['figures']['d_prime']
    path.write_text(json.dumps(content))

    reports = {name: read_report(tmp_path / name) for name in ('older', 'newer')}
    assert 'd_prime' not in reports['older'].result('lfw', '1:1', 'net').figures()
    (compared,) = compare(reports, draws=5)
    assert set(compared.differences['auc']) == {'newer'}
    assert 'd_prime' not in compared.figures
    assert 'd_prime' not in compared.differences
    assert "d'" not in comparison_text([compared], 0.95)


@pytest.mark.filterwarnings('error')
def test_a_figure_is_added_in_one_place(tmp_path, monkeypatch):
    """FNMR at FMR, as vendor tests have it: percent with three digits, low is good."""
    fnmr = FigureOfMerit(
        *('fnmr@fmr={fars}', 'FNMR at FMR {fars}', 'tars', ('fars',)),
        unit=Unit(scale=100, digits=3),
        lower_is_better=True,
        value=lambda tars: 1 - tars,
    )
    error = FigureOfMerit('error', '1 - AUC', 'auc', value=lambda auc: 1 - auc)
    figures = (*VerificationResult.FIGURES, fnmr, error)
    monkeypatch.setattr(VerificationResult, 'FIGURES', figures)
    result = verification(0.8)
    tar = result.figures()['tar@far=1e-02']
    assert result.figures()['fnmr@fmr=1e-02'] == 1 - tar
    sets = {'lfw': {'1:1': {'net': result}}}
    report = write_report(sets, tmp_path, draws=20)
    row = report.content['sets']['lfw']['1:1']['rows']['net']
    low, high = row['intervals']['tar@far=1e-02']
    assert row['intervals']['fnmr@fmr=1e-02'] == pytest.approx([1 - high, 1 - low])
    assert f'FNMR at FMR 1e-02 | {100 * (1 - tar):.3f} |' in ' '.join(
        report.text().split()
    )
    (compared,) = compare({'a': report, 'b': report}, draws=5)
    assert compared.differences['fnmr@fmr=1e-02']['b']['value'] == 0
    assert 'FNMR % at' in verification_table({'net': result})
    write_verification_json({'lfw': {'net': result}}, tmp_path / 'x.json')
    row = json.loads((tmp_path / 'x.json').read_text())['lfw']['net']
    assert row['fnmr@fmr=1e-02'] == 1 - tar
    assert row['error'] == 1 - result.auc
    assert 'tar@far=1e-02' not in row  # which stands in a list of its own


def test_a_figure_of_an_unknown_attribute_is_noticed(monkeypatch):
    figures = (FigureOfMerit('eer', 'EER', 'equal_error_rate'),)
    monkeypatch.setattr(VerificationResult, 'FIGURES', figures)
    with pytest.raises(AttributeError, match='equal_error_rate'):
        verification().figures()


def test_units():
    assert Unit('seconds', digits=3).text(1.25) == '1.250'
    assert NUMBER.text(2.9956) == '3.00'
    assert NUMBER.text(0.5, '+') == '+0.50'
