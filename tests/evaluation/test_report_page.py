"""The page of a report: its numbers, and what a browser makes of it."""

import html
import json
import re
import shutil
import subprocess
from html.parser import HTMLParser

import pytest
from test_report_folder import ODD, cells, example

from mmhyperface.evaluation.report import write_report

BROWSER = next(
    filter(None, map(shutil.which, ('chromium', 'chromium-browser', 'google-chrome'))),
    None,
)
# Runs in a page that frames ours, whose width a window cannot have.
MEASURE = """
const page = frame.contentDocument, root = page.documentElement;
const wide = element => element.getBoundingClientRect().right > root.clientWidth + 1;
const inside = [...page.querySelectorAll('.scroll, .scroll *')];
out.textContent = JSON.stringify({
  width: root.clientWidth,
  scrolled: root.scrollWidth,
  beyond: [...page.body.querySelectorAll('*')]
    .filter(element => wide(element) && !inside.includes(element))
    .map(element => element.outerHTML.slice(0, 200)),
  pictures: [...page.images].map(
    image => [image.naturalWidth, image.getBoundingClientRect().width]),
  sections: [...page.querySelectorAll('h2')].map(title => title.textContent),
  numbers: [...page.querySelectorAll('data')].map(
    data => [data.dataset.json, data.value, data.textContent]),
});
"""


class Page(HTMLParser):
    """Collects numbers with their pointers, cells of tables, and tags."""

    def __init__(self, text):
        super().__init__()
        self.numbers, self.lines, self.tags = [], [], []
        self.inside = {'data': False, 'cell': False}
        self.titles, self.title = [], False
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        self.tags.append((tag, attrs))
        self.title = tag == 'h2'
        if tag == 'data':
            self.numbers.append([attrs['data-json'], attrs['value'], ''])
            self.inside['data'] = True
        elif tag == 'tr':
            self.lines.append([])
        elif tag in ('td', 'th'):
            self.lines[-1].append('')
            self.inside['cell'] = True

    def handle_endtag(self, tag):
        if tag == 'data':
            self.inside['data'] = False
        elif tag in ('td', 'th'):
            self.inside['cell'] = False

    def handle_data(self, data):
        if self.inside['data']:
            self.numbers[-1][2] += data
        if self.inside['cell']:
            self.lines[-1][-1] += data
        if self.title:
            self.titles.append(data)
            self.title = False


@pytest.fixture(scope='module')
def page(tmp_path_factory):
    folder = tmp_path_factory.mktemp('report')
    return write_report(example(), folder, 'Test of a <net>', draws=20)


def parsed(content, pointer):
    """What a JSON pointer leads to."""
    for key in pointer.split('/')[1:]:
        key = key.replace('~1', '/').replace('~0', '~')
        content = content[int(key) if isinstance(content, list) else key]
    return content


def shown(pointer, value):
    """How a number is to be written."""
    if pointer.endswith('/threshold'):
        return 'none' if value is None else f'{value:.4f}'
    if '/counts/' in pointer or '/distractors/' in pointer:
        return f'{value:,}'
    if value is None:
        return 'not resolvable'
    return f'{value if "/d_prime" in pointer else 100 * value:.2f}'


def check_numbers(content, numbers):
    for pointer, value, text in numbers:
        expected = parsed(content, pointer)
        assert value == ('' if expected is None else json.dumps(expected)), pointer
        assert text == shown(pointer, expected), pointer
    return {pointer for pointer, _, _ in numbers}


def expected_pointers(content):
    """All figures, intervals, counts, and the thresholds of what is resolvable."""
    for name, protocols in content['sets'].items():
        for protocol, section in protocols.items():
            for row, actual in section['rows'].items():
                name = name.replace('/', '~1')
                root = f'/sets/{name}/{protocol}/rows/{row}'
                for figure, value in actual['figures'].items():
                    yield f'{root}/figures/{figure}'
                    if figure in actual['intervals'] and value is not None:
                        yield f'{root}/intervals/{figure}/0'
                        yield f'{root}/intervals/{figure}/1'
                for number, entry in enumerate(actual['thresholds']):
                    if entry['threshold'] is not None:
                        yield f'{root}/thresholds/{number}/threshold'


def test_numbers_are_those_of_the_json(page):
    text = (page.folder / 'report.html').read_text()
    pointers = check_numbers(page.content, Page(text).numbers)
    assert set(expected_pointers(page.content)) <= pointers
    assert any('/counts/same pairs' in pointer for pointer in pointers)
    assert any(pointer.endswith('/distractors/2/used') for pointer in pointers)


def test_page_and_markdown_have_the_same_tables(page):
    lines = [
        [' '.join(cell.split()) for cell in line]
        for line in Page((page.folder / 'report.html').read_text()).lines
    ]
    table = cells((page.folder / 'report.md').read_text())
    assert len(lines) == len(table)
    label = ''
    for ours, theirs in zip(lines, table, strict=True):
        # A label stands once for all its lines.
        label = ours[0] if len(ours) == len(theirs) else label
        assert [label, *ours[len(ours) - len(theirs) + 1 :]] == theirs


def test_names_are_escaped(page):
    text = (page.folder / 'report.html').read_text()
    actual = Page(text)
    assert 'b' not in {tag for tag, _ in actual.tags}
    assert f'{ODD}, 1:1' in actual.titles
    assert '<title>Test of a &lt;net&gt;</title>' in text


def test_page_needs_nothing_else(page):
    tags = Page((page.folder / 'report.html').read_text()).tags
    assert 'script' not in {tag for tag, _ in tags}
    links = [
        value
        for _, attrs in tags
        for name, value in attrs.items()
        if name in ('src', 'href', 'srcset', 'data')
    ]
    assert links
    assert all(link.startswith(('data:', '#')) for link in links)
    pictures = [attrs for tag, attrs in tags if tag == 'img']
    assert len(pictures) == len(list(page.folder.glob('pictures/*.png')))
    assert all(attrs['alt'] for attrs in pictures)
    targets = {attrs['id'] for _, attrs in tags if 'id' in attrs}
    assert {link[1:] for link in links if link.startswith('#')} <= targets


def measured(file, width, folder):
    """What a browser makes of a page of this width."""
    frame = html.escape(file.read_text())
    wrapper = folder / 'wrapper.html'
    wrapper.write_text(
        '<!DOCTYPE html><meta charset="utf-8"><pre id="out"></pre>'
        f'<iframe id="frame" style="width:{width}px;height:900px;border:0" '
        f'srcdoc="{frame}"></iframe>'
        f'<script>frame.onload = () => {{ {MEASURE} }};</script>'
    )
    done = subprocess.run(
        [
            *(BROWSER, '--headless', '--no-sandbox', '--disable-gpu', '--disable-quic'),
            *('--no-first-run', '--disable-background-networking', '--disable-sync'),
            *('--disable-component-update', f'--user-data-dir={folder / "profile"}'),
            *('--window-size=1500,1000', '--dump-dom', wrapper.as_uri()),
        ],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    out = re.search(r'<pre id="out">(.*?)</pre>', done.stdout, re.DOTALL)
    return json.loads(html.unescape(out[1]))


@pytest.mark.skipif(BROWSER is None, reason='no chromium is installed')
@pytest.mark.parametrize('width', [360, 1280])
def test_browser(page, tmp_path, width):
    actual = measured(page.folder / 'report.html', width, tmp_path)
    # A vertical scroll bar may take some of it.
    assert width - 20 <= actual['width'] <= width
    assert actual['scrolled'] <= actual['width']
    assert actual['beyond'] == []
    assert len(actual['pictures']) == 18
    for natural, drawn in actual['pictures']:
        assert natural > 1000
        assert 300 < drawn <= min(natural, actual['width'])
    assert actual['sections'][1] == f'{ODD}, 1:1'
    numbers = check_numbers(page.content, actual['numbers'])
    assert set(expected_pointers(page.content)) <= numbers
