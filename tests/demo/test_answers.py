"""What the page's buttons do, without a browser."""

import html
import re
import sys
from html.parser import HTMLParser
from itertools import chain, pairwise
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch
from demo_faces import THRESHOLD, checkpoint, picture
from PIL import Image

from mmhyperface.gallery import FaceGallery
from mmhyperface.inference import Face, FaceInferencer
from mmhyperface.utils.errors import UserError

ROOT = Path(__file__).parent.parent.parent
HOSTILE = '<img src=x onerror=alert(1)>'


@pytest.fixture(scope='module')
def modules():
    path = str(ROOT / 'tools' / 'demo')
    sys.path.insert(0, path)
    import answers
    import app
    import markup
    import page
    import samples

    yield SimpleNamespace(
        answers=answers, app=app, markup=markup, page=page, samples=samples
    )
    sys.path.remove(path)


@pytest.fixture(scope='module')
def inferencer(tmp_path_factory):
    torch.manual_seed(0)
    return FaceInferencer(checkpoint(tmp_path_factory.mktemp('model') / 'a.pth'))


@pytest.fixture
def page(modules, inferencer, tmp_path):
    gallery = FaceGallery.of(inferencer.convention)
    return modules.answers.Answers(inferencer, gallery, tmp_path / 'gallery.npz')


@pytest.fixture
def faces(tmp_path):
    """Pictures of two people, three of each."""
    return [
        [picture(tmp_path / f'{person} {k}.png', person, k) for k in range(3)]
        for person in range(2)
    ]


class Page(HTMLParser):
    """Text, numbers and classes of a fragment, all of whose tags are closed."""

    def __init__(self, text):
        super().__init__()
        self.open, self.classes, self.tags = [], [], []
        self.values, self.text = [], []
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        self.tags.append((tag, attrs))
        self.classes += (attrs.get('class') or '').split()
        if tag == 'data':
            self.values.append(float(attrs['value']))
        if tag != 'img':
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)

    @property
    def words(self):
        return ' '.join(' '.join(self.text).split())


def scores(inferencer, query, groups):
    """The best cosine of a picture with each group, in float64."""
    rows = inferencer.embed([query, *chain(*groups)]).embeddings.astype(np.float64)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    actual = rows[1:] @ rows[0]
    ends = np.cumsum([0, *map(len, groups)])
    return [actual[start:end].max() for start, end in pairwise(ends)]


def test_comparison(modules, page, inferencer, faces):
    a, b = faces[0][0], faces[1][0]
    expected = inferencer.verify(a, b)
    assert page.first_choice() == '0'
    shown = Page(page.compare(a, b, '0', 0.0))
    assert shown.values == [expected.score]
    assert expected.threshold == THRESHOLD
    assert ('same' in shown.classes) is expected.same
    assert 'on drawn, 1 in 100 of the pairs of different people' in shown.words
    # The crops are what the network was given: the files themselves.
    sources = [attrs['src'] for tag, attrs in shown.tags if tag == 'img']
    assert len(sources) == 2
    for source, path in zip(sources, (a, b), strict=True):
        assert source == modules.markup.data_url(cv2.imread(path))


def test_own_threshold(page, inferencer, faces):
    pair = faces[0][:2]
    score = inferencer.verify(*pair).score
    for threshold, kind, text in (
        (-1.0, 'same', 'Same person'),
        (score, 'same', 'Same person'),
        (np.nextafter(score, 2), 'different', 'Different people'),
        (1.0, 'different', 'Different people'),
    ):
        shown = Page(page.compare(*pair, 'own', threshold))
        assert kind in shown.classes
        assert text in shown.words
        assert f'Your threshold is {threshold:.3f}' in shown.words
    # It was cleared.
    page.enrol('Ada', faces[0][:1])
    for answer in (
        page.compare(*pair, 'own', None),
        page.identify(faces[0][1], 'own', None),
    ):
        assert 'Give a threshold' in Page(answer).words


def test_other_files_of_the_machine_are_not_shown(modules, page, faces):
    sent = Path(faces[0][0])
    folder = str(sent.parent / 'uploads')
    gradio = SimpleNamespace(utils=SimpleNamespace(get_upload_folder=lambda: folder))
    upload = sent.parent / 'uploads' / 'x' / sent.name
    upload.parent.mkdir(parents=True)
    upload.write_bytes(sent.read_bytes())
    compare = modules.page._of_sent(gradio, page.compare)
    assert Page(compare(*[{'path': str(upload)}] * 2, '0', 0.0)).values
    for other in (sent, f'{upload.parent}/../../{sent.name}', '/etc/passwd', ''):
        with pytest.raises(PermissionError):
            compare({'path': str(upload)}, {'path': str(other)}, '0', 0.0)


def test_nothing_is_chosen_or_known_yet(modules, page, tmp_path, faces):
    for pair in ((None, None), (faces[0][0], None), (None, faces[0][0])):
        assert 'hint' in Page(page.compare(*pair, '0', 0.0)).classes
    assert 'hint' in Page(page.identify(None, '0', 0.0)).classes
    assert 'Enrol somebody first' in page.identify(faces[0][0], '0', 0.0)
    assert 'Nobody is enrolled' in page.people()
    # A network without a threshold.
    plain = FaceInferencer(checkpoint(tmp_path / 'plain.pth', points=()))
    page = modules.answers.Answers(plain, FaceGallery.of(plain.convention))
    assert page.first_choice() == 'open'
    assert [value for _, value in page.choices()] == ['open', 'own']
    shown = Page(page.compare(*faces[0][:2], 'open', 0.0))
    assert 'open' in shown.classes
    assert 'No decision' in shown.words
    page.enrol('Ada', faces[0][:1])
    shown = Page(page.identify(faces[1][0], 'open', 0.0))
    assert 'nearest, not decided' in shown.words


def test_enrol_identify_remove(page, inferencer, faces, tmp_path):
    for person, paths in zip(('Ada', 'Émile'), faces, strict=True):
        text, is_done = page.enrol(f' {person} ', paths[:2])
        assert is_done
        assert f'{person} is enrolled with 2 pictures.' in text
    assert page.names() == ['Ada', 'Émile']
    assert Page(page.people()).words.count('2 pictures') == 2
    query = faces[1][2]
    expected = scores(inferencer, query, [paths[:2] for paths in faces])
    order = np.argsort(expected)[::-1]
    shown = Page(page.identify(query, 'own', -1.0))
    assert shown.values == pytest.approx([expected[i] for i in order], abs=1e-6)
    assert 'known' in shown.words
    assert ['Ada', 'Émile'][order[0]] in shown.words
    shown = Page(page.identify(query, 'own', 1.0))
    assert 'Unknown' in shown.words
    assert 'not enrolled' in shown.words
    # A rate of one comparison is no rate of a search.
    assert 'a stranger meets 4 enrolled pictures' in page.identify(query, '0', 0.0)
    # What is on disk is what is on the page.
    kept = FaceGallery.load(tmp_path / 'gallery.npz', inferencer.convention.fingerprint)
    assert kept.people == ['Ada', 'Émile']
    assert 'is removed' in page.remove('Ada')
    assert page.names() == ['Émile']
    assert FaceGallery.load(tmp_path / 'gallery.npz').people == ['Émile']


def test_what_another_enrols_meanwhile_is_not_lost(page, faces, tmp_path):
    page.enrol('Ada', faces[0][:1])
    other = FaceGallery.load(tmp_path / 'gallery.npz')
    assert other.alignments == {'crop'}
    other.remove('Ada')
    other.enrol('Émile', np.ones((1, 8)), ['e'])
    other.save(tmp_path / 'gallery.npz')
    text, is_done = page.enrol('Zoë', faces[1][:1])
    assert not is_done
    assert 'was changed by another process since it was read' in text
    assert FaceGallery.load(tmp_path / 'gallery.npz').people == ['Émile']


def test_the_same_picture_twice(page, faces, tmp_path):
    page.enrol('Ada', faces[0][:1])
    # One name for two pictures is no mistake, phones give all of them the same.
    other = tmp_path / 'phone' / Path(faces[0][0]).name
    other.parent.mkdir()
    other.write_bytes(Path(faces[0][1]).read_bytes())
    assert page.enrol('Ada', [str(other)])[1]
    text, is_done = page.enrol('Eve', faces[0][:1])
    assert not is_done
    assert 'already' in text
    assert page.names() == ['Ada']


@pytest.mark.parametrize(
    ('name', 'content', 'message'),
    [
        ('cut.png', 'cut', 'cut.png: '),
        ('text.jpg', b'no picture', 'text.jpg: is no picture of a known type'),
        # A list of files of this machine, were it taken as such.
        ('list.txt', b'/etc/passwd\n', 'list.txt: is no picture of a known type'),
        ('[a-z]*.png', b'', '[a-z]*.png: the file is empty'),
        ('small.png', 'small', 'small.png: '),
    ],
)
def test_bad_pictures(page, faces, tmp_path, name, content, message):
    good = faces[0][0]
    if content == 'cut':
        content = Path(good).read_bytes()[:300]
    if content == 'small':
        content = cv2.imencode('.png', np.zeros((1, 1, 3), np.uint8))[1].tobytes()
    bad = tmp_path / 'upload' / name
    bad.parent.mkdir()
    bad.write_bytes(content)
    page.enrol('Ada', [good])
    texts = [
        page.compare(good, str(bad), '0', 0.0),
        page.identify(str(bad), '0', 0.0),
        page.enrol('Eve', [faces[0][1], str(bad)])[0],
    ]
    for text in texts:
        shown = Page(text)
        assert 'wrong' in shown.classes
        assert message in shown.words
        assert str(tmp_path) not in shown.words
        assert not shown.values
    # All pictures or none.
    assert page.names() == ['Ada']


def test_mistakes_with_people(page, faces, tmp_path):
    assert 'Give the person a name' in page.enrol('  ', faces[0])[0]
    assert 'one or more pictures' in page.enrol('Ada', [])[0]
    assert 'one or more pictures' in page.enrol('Ada', None)[0]
    assert 'Choose whom' in page.remove(None)
    assert 'wrong' in Page(page.remove('Nobody')).classes
    page.gallery_file = tmp_path / 'folder.npz'
    page.gallery_file.mkdir()
    text, is_done = page.enrol('Ada', faces[0][:1])
    assert not is_done
    assert 'until the server ends' in text


def test_many_people_are_not_all_listed(modules, page, monkeypatch):
    names = [f'person {i}' for i in range(5)]
    page.gallery.enrol_many(names, np.eye(8)[:5], names)
    monkeypatch.setattr(modules.answers, 'LISTED', 3)
    assert page.names() == names[:3]
    words = Page(page.people()).words
    assert 'and 2 others' in words
    assert 'person 3' not in words


def test_names_are_escaped(page, faces, tmp_path):
    assert page.enrol(HOSTILE, faces[0][:1])[1]
    hostile = tmp_path / '<b>bold<b>.png'
    hostile.write_bytes(Path(faces[0][1]).read_bytes())
    for text in (
        page.people(),
        page.identify(str(hostile), 'own', -1.0),
        page.compare(str(hostile), faces[0][0], '0', 0.0),
        page.remove(HOSTILE),
    ):
        tags = Page(text).tags
        assert not any(tag == 'b' or 'onerror' in attrs for tag, attrs in tags)
    assert html.escape(HOSTILE) in page.remove(HOSTILE)


def test_faces_of_a_turned_photograph(modules, tmp_path):
    """A face lies in the stored picture; the page shows the picture upright."""
    stored = np.zeros((40, 60, 3), np.uint8)
    stored[5, 50] = 255
    # EXIF's 8: to be turned a quarter counterclockwise.
    path = tmp_path / 'turned.png'
    exif = Image.Exif()
    exif[0x112] = 8
    Image.fromarray(stored).save(path, exif=exif)
    face = Face(
        str(path),
        landmarks=np.array([[50.0, 5.0]] * 5),
        box=np.array([48.0, 2.0, 4.0, 6.0]),
    )
    shown = Page(modules.answers._photo(str(path), [face], ['Ada']))
    (svg,) = [attrs for tag, attrs in shown.tags if tag == 'svg']
    assert svg['viewbox'] == '0 0 40 60'
    places = [
        (attrs['cx'], attrs['cy'])
        for tag, attrs in shown.tags
        if attrs.get('class') == 'landmark'
    ]
    y, x = np.argwhere(np.rot90(stored)[..., 0])[0]
    assert {(float(a), float(b)) for a, b in places} == {(float(x), float(y))}
    boxes = [attrs for tag, attrs in shown.tags if tag == 'rect']
    assert {(b['width'], b['height']) for b in boxes} == {('6.0', '4.0')}
    assert 'Ada' in shown.words


def test_model(page):
    words = Page(page.model()).words
    convention = page.convention
    for text in (
        'a.pth',
        '32 x 32 pixels (height x width), R, G, B',
        'mean 127.5',
        'SphereFace2Loss',
        'SyntheticFaces',
        convention.fingerprint,
        f'{THRESHOLD:.4f}',
        'drawn',
    ):
        assert text in words


def test_marks_fit_their_face(modules):
    points = np.array([[2, 2], [8, 2], [5, 5], [3, 8], [7, 8.0]])
    names, boxes = ['1 Ada Lovelace', 'Ken'], [np.array([40, 30, 90, 60.0])] * 2
    shown = Page(
        modules.markup.photo(
            np.zeros((100, 1000, 3), np.uint8),
            '',
            [points, points + np.array([380.0, 0.0])],
            boxes,
            names,
        )
    )
    # Landmarks do not grow with the place, and names are cut to the box.
    assert len({a['r'] for _, a in shown.tags if a.get('class') == 'landmark'}) == 1
    assert 'Ken' in shown.words
    assert 'Lovelace' not in shown.words
    assert '1 A' in shown.words


def test_samples(modules, tmp_path):
    pairs = modules.samples.draw(tmp_path / 'samples', 32)
    assert len(pairs) == 3
    for path in chain(*pairs):
        assert cv2.imread(path).shape == (32, 32, 3)
    again = modules.samples.draw(tmp_path / 'again', 32)
    assert [Path(a).read_bytes() for a in pairs[0]] == [
        Path(a).read_bytes() for a in again[0]
    ]


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (['nowhere.pth'], 'nowhere.pth'),
        (['{model}', '--port', '0'], '--port lies in'),
        (['{model}', '--detector', 'nowhere.onnx'], "there is no model 'nowhere.onnx'"),
        (['{model}', '--gallery', '{model}'], 'a.pth'),
    ],
)
def test_mistakes_of_the_command(modules, monkeypatch, tmp_path, arguments, message):
    model = checkpoint(tmp_path / 'a.pth')
    words = [word.format(model=model) for word in arguments]
    monkeypatch.setattr(sys, 'argv', ['app.py', *words])
    with pytest.raises(UserError, match=re.escape(message)):
        modules.app.load(modules.app.parse_args())
