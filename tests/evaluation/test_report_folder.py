"""The folder of a report: its JSON, Markdown, evidence, and how it is replaced."""

import json
import math
from dataclasses import fields
from functools import partial
from itertools import pairwise

import cv2
import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from small_results import identification, megaface, verification

from mmhyperface.evaluation.functional import identify
from mmhyperface.evaluation.intervals import confidence_intervals
from mmhyperface.evaluation.protocols import VerificationResult, base
from mmhyperface.evaluation.protocols import identification as searches
from mmhyperface.evaluation.protocols import megaface as distractors
from mmhyperface.evaluation.protocols import verification as pairs
from mmhyperface.evaluation.report import (
    pictures,
    read_report,
    report_text,
    write_report,
    writing,
)
from mmhyperface.evaluation.report.content import content_of
from mmhyperface.evaluation.report.figure_tables import as_markdown, sections_of
from mmhyperface.utils.errors import UserError

ODD = 'a/very|long *name* <b>&</b> $x$ ' + 'of a list ' * 8
DRAWS = 20


def example():
    return {
        'lfw': {
            '1:1': {
                'raw pixels': verification(0.3),
                'untrained': verification(0.6),
                'trained': verification(1.2),
            }
        },
        ODD: {'1:1': {'trained': verification(known=False)}},
        'IJB-C': {
            '1:1': {'trained': verification(accuracy=False)},
            '1:N': {'trained': identification()},
        },
        'merged/IJB-C': {'1:N': {'trained': identification(merged=True)}},
        'megaface': {'MegaFace': {'trained': megaface()}},
    }


@pytest.fixture(scope='module')
def written(tmp_path_factory):
    folder = tmp_path_factory.mktemp('work') / 'deeper' / 'report'
    sets = example()
    report = write_report(
        sets, folder, 'Test <of> a net', 'a.py', 'a.pth', draws=DRAWS, seed=3
    )
    return sets, report


def content(sets, draws=0):
    return content_of(sets, 'title', draws, 0.9, 0)


def text_of(sets, draws=0):
    return report_text(sets, draws, level=0.9)


def null(value):
    return value if math.isfinite(value) else None


def rows_of(parsed):
    for name, protocols in parsed['sets'].items():
        for protocol, section in protocols.items():
            for row, figures in section['rows'].items():
                yield name, protocol, row, figures


def test_files(written):
    _, report = written
    there = {path.name for path in report.folder.iterdir()}
    names = {'report.md', 'report.json', 'report.html', 'pictures', 'evidence'}
    assert there == names
    listed = [
        picture['file']
        for protocols in report.content['sets'].values()
        for section in protocols.values()
        for picture in section['pictures']
    ]
    actual = {f'pictures/{path.name}' for path in report.folder.glob('pictures/*')}
    assert set(listed) == actual
    assert len(listed) == len(actual) == 5 + 3 + 3 + 3 + 3 + 1
    for file in listed:
        picture = cv2.imread(str(report.folder / file))
        assert min(picture.shape[:2]) > 700
        assert picture.std() > 10


def test_json_has_all_there_is(written):
    sets, report = written
    text = (report.folder / 'report.json').read_text()
    assert 'NaN' not in text
    assert 'Infinity' not in text
    parsed = json.loads(text)
    assert parsed == report.content
    assert parsed['format'] == 1
    assert (parsed['title'], parsed['config'], parsed['checkpoint']) == (
        *('Test <of> a net', 'a.py', 'a.pth'),
    )
    assert set(parsed['versions']) == {'mmhyperface', 'torch', 'numpy'}
    assert parsed['intervals'] == {'draws': DRAWS, 'level': 0.95, 'seed': 3}
    for name, protocol, row, actual in rows_of(parsed):
        result = sets[name][protocol][row]
        figures = result.figures()
        assert actual['figures'] == {key: null(x) for key, x in figures.items()}
        assert actual['convention'] == result.convention
        assert result.counts.items() <= actual['counts'].items()
        intervals = confidence_intervals(result, DRAWS, seed=3)
        assert actual['intervals'] == {key: list(x) for key, x in intervals.items()}
        numbers = {key for key, x in figures.items() if math.isfinite(x)}
        without = numbers - set(intervals) - {'accuracy_std'}
        assert actual['no_intervals'] == {x: result.why_no_interval(x) for x in without}


def test_json_has_counts_and_thresholds(written):
    sets, report = written
    parsed = {(name, kind): x for name, kind, _, x in rows_of(report.content)}

    pairs = parsed['lfw', '1:1']
    result = sets['lfw']['1:1']['trained']
    assert pairs['counts'] == {
        'images': 120,
        'pairs': 7140,
        'same pairs': 300,
        'different pairs': 6840,
        'identities': 20,
    }
    assert pairs['accuracy_thresholds'] == result.accuracy_thresholds.tolist()
    assert pairs['thresholds'] == [
        {
            'figure': 'accuracy',
            'gallery': None,
            'value': result.accuracy,
            'threshold': float(np.median(result.accuracy_thresholds)),
        },
        *(
            {'figure': name, 'gallery': None, 'value': tar, 'threshold': threshold}
            for name, tar, threshold in [
                ('tar@far=1e-06', None, None),
                ('tar@far=1e-03', result.tars[1], result.thresholds[1]),
                ('tar@far=1e-02', result.tars[2], result.thresholds[2]),
            ]
        ),
    ]
    assert [x['figure'] for x in parsed['IJB-C', '1:1']['thresholds']] == [
        *('tar@far=1e-06', 'tar@far=1e-03', 'tar@far=1e-02'),
    ]

    searches = parsed['IJB-C', '1:N']
    result = sets['IJB-C']['1:N']['trained']
    entries = [tuple(entry.values()) for entry in searches['thresholds']]
    assert entries == [
        ('tpir@fpir=1e-03', 'G1', None, None),
        ('tpir@fpir=1e-03', 'G2', None, None),
        *(
            (
                'tpir@fpir=1e-01',
                gallery,
                float(result.gallery_tpirs[number, 1]),
                float(result.thresholds[number, 1]),
            )
            for number, gallery in enumerate(['G1', 'G2'])
        ),
    ]
    assert searches['cmc'] == result.cmc.tolist()
    assert parsed['merged/IJB-C', '1:N']['merged'] is True
    assert parsed['megaface', 'MegaFace']['distractors'] == [
        {'asked': 10, 'used': 9},
        {'asked': 100, 'used': 98},
        {'asked': 300, 'used': 297},
    ]


def test_evidence_rebuilds_the_results(written):
    sets, report = written
    assert sorted(path.name[:3] for path in report.folder.glob('evidence/*')) == [
        f'{number:02d}_' for number in range(1, 9)
    ]
    again = read_report(report.folder / 'report.json')
    assert again.content == report.content
    for name, protocol, row, actual in rows_of(report.content):
        result, loaded = sets[name][protocol][row], again.result(name, protocol, row)
        assert type(loaded) is type(result)
        for item in fields(result):
            ours, theirs = getattr(result, item.name), getattr(loaded, item.name)
            np.testing.assert_array_equal(ours, theirs, err_msg=item.name)
            if isinstance(ours, np.ndarray):
                assert theirs.dtype == (
                    np.int64 if ours.dtype.kind == 'i' else ours.dtype
                )
        # Without pickles, so that any reader of npz files will do.
        with np.load(report.folder / actual['evidence'], allow_pickle=False) as arrays:
            assert all(arrays[key].dtype != object for key in arrays.files)


def cells(markdown):
    """Cells of the tables of a Markdown text, without escapes."""
    lines = [line for line in markdown.splitlines() if line.startswith('|')]
    table = [
        [cell.strip().replace('\\', '') for cell in line.strip('|').split(' | ')]
        for line in lines
    ]
    return [line for line in table if not set(line[0]) <= set('-: |')]


def test_markdown_has_the_numbers_of_the_json(written):
    _, report = written
    table = cells((report.folder / 'report.md').read_text())
    actual = report.content['sets']['lfw']['1:1']['rows']['trained']
    figures, (low, high) = actual['figures'], actual['intervals']['accuracy']
    assert table[0] == ['figure', 'model', '%', '95 % interval', 'threshold']
    assert table[3] == [
        'accuracy',
        'trained',
        f'{100 * figures["accuracy"]:.2f} ± {100 * figures["accuracy_std"]:.2f}',
        f'{100 * low:.2f} to {100 * high:.2f}',
        f'{actual["thresholds"][0]["threshold"]:.4f}',
    ]
    assert table[15] == ['TAR at FAR 1e-06', 'trained', 'not resolvable', '', '']


def test_markdown_takes_any_name(written):
    _, report = written
    text = (report.folder / 'report.md').read_text()
    assert '## a/very\\|long \\*name\\* \\<b\\>\\&\\</b\\> $x$ of a list' in text
    assert '# Test \\<of\\> a net' in text
    for line in text.splitlines():
        if line.startswith('!['):
            file = line.rpartition('](')[2].removesuffix(')')
            assert (report.folder / file).is_file()


def test_lines_of_the_protocols():
    lines = text_of({'a': {'1:N': {'x': identification()}}}, draws=5).splitlines()
    first = [line.strip('|').split('|')[0].strip() for line in lines if '|' in line]
    assert first == [
        *('figure', 'rank-1', 'rank-5', 'rank-10', 'TPIR at FPIR 1e-03'),
        *('TPIR at FPIR 1e-03, G1', 'TPIR at FPIR 1e-03, G2', 'TPIR at FPIR 1e-01'),
        *('TPIR at FPIR 1e-01, G1', 'TPIR at FPIR 1e-01, G2'),
    ]
    assert '90 % interval' in lines[4]

    merged = identification(merged=True)
    lines = text_of({'a': {'1:N': {'x': merged}}}, draws=5).splitlines()
    (line,) = [line for line in lines if 'FPIR 1e-01' in line]
    assert f'{100 * merged.tpirs[1]:.2f}' in line
    assert f'{merged.thresholds[0, 1]:.4f}' in line

    text = text_of({'a': {'MegaFace': {'x': megaface()}}}, draws=5)
    assert '| rank-10, 100 distractors |' in text
    assert 'Distractors without the noisy ones: 9 of 10, 98 of 100, 297 of 300' in text


def test_no_intervals_and_why():
    result = verification(known=False)
    unknown = text_of({'a': {'1:1': {'x': result}}}, draws=5)
    assert 'No intervals: the list does not tell who is on the images' in unknown
    assert '% interval' not in unknown
    result.counts = {'templates': 7}
    templates = text_of({'a': {'1:1': {'x': result}}}, draws=5)
    assert 'No intervals: it is not known who is in the templates, which' in templates

    none = text_of({'a': {'1:1': {'x': verification()}}})
    assert 'No intervals: none were asked for' in none
    assert '% interval' not in none
    assert 'bootstrap' not in none


def line_of(text, figure):
    (line,) = [line for line in text.splitlines() if line.startswith(f'| {figure} ')]
    return [cell.strip() for cell in line.strip('|').split('|')]


def test_figures_without_an_interval(monkeypatch):
    result = verification()
    result.folds = None
    result.interpolation = 'linear'
    text = text_of({'a': {'1:1': {'x': result}}}, draws=5)
    assert line_of(text, 'AUC')[2]
    for figure in ('accuracy', 'TAR at FAR 1e-03'):
        assert line_of(text, figure)[2] == ''
    assert (
        'No interval: accuracy (only an exact accuracy over folds is drawn again); '
        'TAR at FAR 1e-03, TAR at FAR 1e-02 (only exact TARs are drawn again, not '
        'interpolated ones)'
    ) in text.replace('\n', ' ')

    monkeypatch.setattr(pairs, 'MANY_PAIRS', 100)
    parsed = content({'a': {'1:1': {'x': verification()}}}, draws=5)
    (row,) = parsed['sets']['a']['1:1']['rows'].values()
    assert list(row['intervals']) == ['tar@far=1e-03', 'tar@far=1e-02']
    assert row['no_intervals'] == dict.fromkeys(
        ('accuracy', 'eer', 'auc', 'd_prime'), pairs.MANY
    )


def test_figures_that_draws_do_not_resolve():
    kept = megaface()
    kept.impostors = kept.impostors[:3]
    kept.impostor_subjects = kept.impostor_subjects[:3]
    parsed = content({'a': {'MegaFace': {'x': kept}}}, draws=20)
    (row,) = parsed['sets']['a']['MegaFace']['rows'].values()
    assert row['figures']['tar@far=1e-03'] is not None
    assert row['no_intervals'] == {'tar@far=1e-03': base.FEW_SCORES}

    alone = verification()
    alone.identity_a = alone.identity_b = np.zeros(len(alone.same), np.int64)
    alone.identity_b = 1 - alone.same.astype(np.int64)
    assert alone.why_no_interval('auc') == pairs.ONE_KIND


def test_single_galleries_have_no_interval():
    text = text_of({'a': {'1:N': {'x': identification()}}}, draws=5)
    assert 'No interval: single galleries (only the mean' in text
    assert 'No interval' not in text_of(
        {'a': {'1:N': {'x': identification(merged=True)}}}, draws=5
    )


def test_text_explains_itself_once(written):
    _, report = written
    lines = report.text().splitlines()
    assert lines[0] == 'Test <of> a net'
    assert 'fewer comparisons of different' in lines[-4]
    assert lines[-3].startswith('Threshold: what a score has to exceed')
    assert (
        lines[-1] == f'Intervals: bootstrap over identities, {DRAWS} draws from seed 3.'
    )
    assert report.text().count('fewer comparisons of different') == 1


def test_text_is_that_of_a_written_report(written):
    sets, report = written
    assert report_text(sets, DRAWS, seed=3, title='Test <of> a net') == report.text()


def test_notes_of_unlike_rows():
    one, two = verification(), verification(people=10)
    two.convention = 'another way'
    text = text_of({'a': {'1:1': {'one': one, 'two': two}}})
    assert 'one: 120 images, 7,140 pairs' in text
    assert 'two: 60 images, 1,770 pairs' in text
    assert 'two: Convention: another way' in text
    two.fars, two.tars = np.array([1e-1]), np.array([0.5])
    two.thresholds = np.array([math.inf])
    lines = text_of({'a': {'1:1': {'one': one, 'two': two}}}).splitlines()
    assert len([line for line in lines if 'FAR 1e-03' in line]) == 1
    (line,) = [line for line in lines if 'FAR 1e-01' in line]
    assert [cell.strip() for cell in line.strip('|').split('|')] == [
        *('TAR at FAR 1e-01', 'two', '50.00', 'none'),
    ]


def test_markdown_of_no_sets():
    parsed = content({})
    assert as_markdown(parsed, sections_of(parsed)).startswith('# title\n\ndate: ')


@pytest.mark.filterwarnings('error')
@pytest.mark.parametrize(
    ('scores', 'same'),
    [
        ([0.1, 0.9], [False, True]),
        ([0.5, 0.5, 0.6], [False, True, True]),
        ([0.1] * 50 + [0.9] * 50, [False] * 50 + [True] * 50),
        ([0.9] * 50 + [0.1] * 50, [False] * 50 + [True] * 50),
    ],
)
def test_pictures_of_few_and_of_separable_pairs(tmp_path, scores, same):
    unresolved = np.array([math.nan])
    result = VerificationResult(
        scores=np.array(scores),
        same=np.array(same),
        eer=0.0,
        auc=1.0,
        fars=np.array([1e-6]),
        tars=unresolved,
        thresholds=unresolved,
        convention='in words',
    )
    write_report({'x': {'1:1': {'a': result}}}, tmp_path, draws=0)
    assert len(list(tmp_path.glob('pictures/*'))) == 3


@pytest.mark.filterwarnings('error')
def test_pictures_of_unresolvable_searches(tmp_path):
    searches = identify(
        np.eye(3), [0, 1, 2], [(np.eye(3), [0, 1, 2])], ranks=(1,), fpirs=(1e-3,)
    )
    write_report({'x': {'1:N': {'a': searches}}}, tmp_path, draws=0)
    assert len(list(tmp_path.glob('pictures/*'))) == 3


@pytest.mark.parametrize(
    'counts',
    [
        [300],
        [200, 300, 400, 500, 700, 900, 1000],
        [10, 100, 1000, 10_000, 20_000],
        [10**power for power in range(1, 7)],
        [*range(10_000, 1_000_000, 90_000), 1_000_000],
    ],
)
@pytest.mark.filterwarnings('error')
def test_names_of_distractor_counts_stand_apart(counts):
    result = megaface()
    result.distractors = np.array(counts)
    result.rates = np.linspace(1, 0.5, 2 * len(counts)).reshape(-1, 2)
    ax = drawn(partial(distractors.draw_distractors, results={'a': result}))
    np.testing.assert_array_equal(ax.get_xticks(), counts)
    assert not len(ax.get_xticks(minor=True))
    names = apart(ax)
    assert names[-1] == f'{counts[-1]:,}'
    assert set(names) <= {f'{count:,}' for count in counts}
    assert len(names) > 1 or len(counts) == 1


@pytest.mark.parametrize('ranks', [1, 3, 10, 100])
def test_names_of_ranks_stand_apart(ranks):
    result = identification()
    result.cmc = np.linspace(0.5, 1, ranks)
    names = apart(drawn(partial(searches.draw_cmc, results={'a': result})))
    every = ['1', '2', '5', '10', '20', '50', '100']
    assert names == [name for name in every if int(name) <= ranks]


def drawn(draw):
    """The axes of a picture as large as a report's."""
    figure = Figure(figsize=(pictures.WIDTH, pictures.HEIGHT), dpi=pictures.DPI)
    FigureCanvasAgg(figure)
    ax = figure.subplots()
    draw(ax)
    figure.tight_layout()
    figure.canvas.draw()
    return ax


def apart(ax):
    """The names that stand below the axes, none upon another."""
    low, high = ax.get_xlim()
    labels = [
        label
        for label in ax.get_xticklabels()
        if label.get_text() and low <= label.get_position()[0] <= high
    ]
    boxes = [label.get_window_extent() for label in labels]
    assert all(a.x1 < b.x0 for a, b in pairwise(boxes))
    return [label.get_text() for label in labels]


def test_lowest_resolvable_rate_has_a_line():
    """The lowest FPIR has no threshold here."""
    result = identification()
    assert np.isnan(result.thresholds[:, 0]).all()
    ax = drawn(partial(searches.draw_searches, result=result))
    lines = [line.get_xdata()[0] for line in ax.lines]
    assert lines == result.thresholds[:, 1].tolist()
    names = [text.get_text() for text in ax.get_legend().get_texts()]
    assert f'threshold, FPIR 1e-01, G1: {lines[0]:.4f}' in names


def test_titles_of_pictures(tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(Axes, 'set_title', lambda ax, text, **_: seen.append(text))
    sets = {
        'a$': {'MegaFace': {'x': megaface()}},
        'word ' * 80: {'1:1': {'x': verification()}},
    }
    write_report(sets, tmp_path, draws=0)
    short, *long = seen
    assert short == 'a\\$, MegaFace: identification among distractors'
    assert len(long) == 3
    for text, what in zip(long, ('ROC', 'DET', 'scores, x'), strict=True):
        assert text.startswith('word word')
        assert text.endswith(f'word , 1:1: {what}')
        assert max(map(len, text.splitlines())) <= pictures.TITLE_WIDTH
        assert text.count('\n') == 2


def contents(folder):
    files = [path for path in folder.rglob('*') if path.is_file()]
    return {path.relative_to(folder): path.read_bytes() for path in files}


def test_new_report_replaces_the_old_one(tmp_path):
    (tmp_path / 'notes.txt').write_text('mine')
    one = write_report({'x': {'1:1': {'a': verification()}}}, tmp_path, draws=0)
    old = contents(tmp_path)
    two = write_report({'y': {'MegaFace': {'a': megaface()}}}, tmp_path, draws=0)
    new = contents(tmp_path)
    assert (tmp_path / 'notes.txt').read_text() == 'mine'
    assert len(old) == 1 + 3 + 3 + 1
    assert len(new) == 1 + 3 + 1 + 1
    assert read_report(tmp_path).content == two.content != one.content


@pytest.mark.parametrize('failing', ['draw_pictures', 'save_evidence', 'as_page'])
def test_failed_report_leaves_the_old_one(tmp_path, monkeypatch, failing):
    sets = {'x': {'MegaFace': {'a': megaface()}}}
    write_report(sets, tmp_path, draws=0)
    before = contents(tmp_path)

    def fail(*args):
        raise OSError('no space left')

    monkeypatch.setattr(writing, failing, fail)
    with pytest.raises(OSError, match='no space left'):
        write_report(sets, tmp_path, title='another', draws=0)
    assert contents(tmp_path) == before
    assert not list(tmp_path.glob('.*'))


def test_report_without_evidence(tmp_path):
    sets = {'x': {'MegaFace': {'a': megaface()}}}
    write_report(sets, tmp_path, draws=0)
    report = write_report(sets, tmp_path, draws=0, evidence=False)
    assert not list(tmp_path.glob('evidence/*'))
    with pytest.raises(UserError, match='without evidence'):
        report.result('x', 'MegaFace', 'a')


def test_what_is_no_report(tmp_path):
    with pytest.raises(UserError, match='there is no report in'):
        read_report(tmp_path)
    with pytest.raises(UserError, match='there is no report in'):
        read_report(tmp_path / 'nothing')
    for text in ('<html>', '{}'):
        (tmp_path / 'report.html').write_text(text)
        with pytest.raises(UserError, match=r'give the folder, or the report\.json'):
            read_report(tmp_path / 'report.html')
    file = tmp_path / 'report.json'
    damaged = ['{', '[]', '{}', '{"format": 1, "sets": []}']
    for text in damaged:
        file.write_text(text)
        with pytest.raises(UserError, match=r'report\.json is damaged, or no report'):
            read_report(tmp_path)
    for version in (0, 2):
        file.write_text(json.dumps({'format': version}))
        with pytest.raises(UserError, match=f'format {version}, this version reads'):
            read_report(tmp_path)


def test_damaged_evidence(tmp_path):
    sets = {'x': {'MegaFace': {'a': megaface()}}}
    report = write_report(sets, tmp_path, draws=0)
    (file,) = tmp_path.glob('evidence/*')
    good = file.read_bytes()
    np.savez(file, rest=np.array('{}'))
    partial = file.read_bytes()
    for damage in (b'', b'none', good[:-100], good[: len(good) // 2], partial):
        file.write_bytes(damage)
        with pytest.raises(UserError, match='is damaged, or no evidence'):
            report.result('x', 'MegaFace', 'a')
    file.unlink()
    with pytest.raises(UserError, match='is missing'):
        report.result('x', 'MegaFace', 'a')


def test_evidence_of_another_test(tmp_path):
    one = write_report({'x': {'MegaFace': {'a': megaface()}}}, tmp_path / '1', draws=0)
    write_report({'x': {'MegaFace': {'a': megaface(seed=4)}}}, tmp_path / '2', draws=0)
    (file,) = (tmp_path / '1').glob('evidence/*')
    (other,) = (tmp_path / '2').glob('evidence/*')
    file.write_bytes(other.read_bytes())
    with pytest.raises(UserError, match='their figures differ'):
        one.result('x', 'MegaFace', 'a')
