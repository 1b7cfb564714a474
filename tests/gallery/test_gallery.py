"""The gallery against loops over float64: who is found, with which score."""

import math
import sys
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from gallery_oracle import Oracle

from mmhyperface.evaluation.functional import identify
from mmhyperface.gallery import FaceGallery, Match, exact, rows, search
from mmhyperface.utils.errors import UserError

FINGERPRINT = 'a' * 64


def drawn(seed: int, count: int, width: int = 16) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((count, width), np.float32)


def names(person: str, count: int, start: int = 0) -> list[str]:
    return [f'{person}/{i}.png' for i in range(start, start + count)]


def filled(score: str, sizes: list[int], width: int = 16) -> tuple[FaceGallery, Oracle]:
    gallery, oracle = FaceGallery(FINGERPRINT, width, score), Oracle(score)
    for place, size in enumerate(sizes):
        # Of any lengths, as networks give them.
        rows = drawn(place, size, width) * 10.0 ** (place % 7 - 3)
        for one in (gallery, oracle):
            one.enrol(f'person {place}', rows, names(f'{place}', size))
    return gallery, oracle


def agree(
    actual: list[list[Match]], expected: list[list[tuple[str, float, str]]]
) -> None:
    assert [[(x[0], x[2]) for x in one] for one in actual] == [
        [(x[0], x[2]) for x in one] for one in expected
    ]
    for one, other in zip(actual, expected, strict=True):
        assert [x[1] for x in one] == pytest.approx([x[1] for x in other], abs=2e-7)


@pytest.fixture
def small_blocks(monkeypatch):
    """Passes of many blocks, of galleries of a few hundred rows."""
    monkeypatch.setattr(exact, 'FIRST_ROWS', 3)
    monkeypatch.setattr(exact, 'ROWS', 31)
    monkeypatch.setattr(search, 'QUERIES', 5)


@pytest.mark.parametrize('score', ['best', 'mean'])
@pytest.mark.parametrize('top_k', [1, 4, sys.maxsize])
@pytest.mark.parametrize('threshold', [None, 0.3, 2.0])
def test_search_is_that_of_loops(small_blocks, score, top_k, threshold):
    sizes = [1, 40, *[1 + i % 5 for i in range(60)], 25]
    gallery, oracle = filled(score, sizes)
    queries = np.concatenate([drawn(99, 11), drawn(7, 3)])
    actual = gallery.search(queries, top_k, threshold)
    limit = -math.inf if threshold is None else threshold
    agree(actual, oracle.search(queries, top_k, limit))
    assert all(isinstance(match, Match) for one in actual for match in one)
    if threshold == 2.0:
        assert actual == [[]] * len(queries)


def test_people_with_many_images_do_not_fill_the_memory():
    """Of those who are wanted, only the rows that may be their best are held."""
    rows = drawn(0, 20_000)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    queries = rows[:10].astype(np.float64)
    _, held = exact.candidates(queries, rows, np.arange(20_000) % 3, 3, -math.inf)
    assert 30 <= len(held) < 100


@pytest.mark.parametrize('width', [1, 3, 128, 513])
def test_any_width(small_blocks, width):
    gallery, oracle = filled('best', [3, 1, 2, 50], width)
    queries = drawn(5, 8, width)
    agree(gallery.search(queries, 3), oracle.search(queries, 3))


def test_scores_that_rise_along_the_gallery(small_blocks):
    """Every block holds something better: no early limit helps."""
    angles = np.linspace(np.pi, 0, 300)
    rows = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    gallery = FaceGallery(FINGERPRINT, 2)
    people = [f'p{i // 3}' for i in range(300)]
    gallery.enrol_many(people, rows, names('x', 300))
    actual = gallery.search(np.array([[1, 0]]), 4)[0]
    assert [x.person for x in actual] == ['p99', 'p98', 'p97', 'p96']
    assert [x.image for x in actual] == [f'x/{i}.png' for i in (299, 296, 293, 290)]


@pytest.mark.parametrize('score', ['best', 'mean'])
def test_equal_scores_are_in_the_order_of_enrolment(small_blocks, score):
    one, other = drawn(1, 2, 129)
    gallery = FaceGallery(FINGERPRINT, 129, score)
    for place in range(200):
        # The same direction everywhere, in places of the blocks that BLAS computes
        # in different ways.
        rows = np.stack([other, one]) if place % 7 == 3 else one[None]
        gallery.enrol(f'p{place}', rows, names(f'{place}', len(rows)))
    actual = gallery.search(one[None], 150)[0]
    exactly = [f'p{i}' for i in range(200) if i % 7 != 3 or score == 'best']
    assert [x.person for x in actual] == exactly[:150]
    assert len({x.score for x in actual}) == 1
    assert actual[0].score == pytest.approx(1, abs=2e-7)
    assert all('/0.' in x.image or int(x.person[1:]) % 7 == 3 for x in actual)


def test_scores_closer_than_float32_can_tell_are_told_apart(small_blocks):
    """Scores near 0, where a product is off by more than rows differ."""
    rng = np.random.default_rng(0)
    base = rng.standard_normal(256)
    rows = base + 1e-7 * rng.standard_normal((400, 256))
    gallery, oracle = FaceGallery(FINGERPRINT, 256), Oracle()
    for place, row in enumerate(rows):
        for one in (gallery, oracle):
            one.enrol(f'p{place}', row[None], names(f'{place}', 1))
    queries = rng.standard_normal((6, 256))
    queries -= np.outer(queries @ base, base) / (base @ base)
    actual, expected = gallery.search(queries, 9), oracle.search(queries, 9)
    for one, other in zip(actual, expected, strict=True):
        assert [x.score for x in one] == pytest.approx([x[1] for x in other], abs=1e-15)


def test_a_precision_that_was_lowered_for_training_does_not_matter():
    rows = drawn(0, 4000, 128)
    gallery = FaceGallery(FINGERPRINT, 128)
    gallery.enrol_many(names('p', 4000), rows, names('i', 4000))
    expected = gallery.search(rows[:64] + rows[64:128], 3)
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision('medium')
    try:
        assert gallery.search(rows[:64] + rows[64:128], 3) == expected
    finally:
        torch.set_float32_matmul_precision(before)


@pytest.mark.parametrize('score', ['best', 'mean'])
def test_interleaved_enrolment_and_removal(small_blocks, score):
    rng = np.random.default_rng(3)
    gallery, oracle = FaceGallery(FINGERPRINT, 16, score), Oracle(score)
    queries = drawn(1000, 6)
    for step in range(40):
        person = f'p{rng.integers(12)}'
        if person in gallery.people and rng.random() < 0.4:
            images = gallery.images(person)
            image = None if rng.random() < 0.4 else images[rng.integers(len(images))]
            removed = gallery.remove(person, image)
            assert removed == oracle.remove(person, image)
        else:
            count = int(rng.integers(1, 4))
            new = names(f'{person} {step}', count)
            for one in (gallery, oracle):
                one.enrol(person, drawn(step, count), new)
        assert gallery.people == oracle.people
        assert len(gallery) == len(oracle.images)
        agree(gallery.search(queries, 3), oracle.search(queries, 3))
    for person in gallery.people:
        expected = [image for name, image, _ in oracle.images if name == person]
        assert gallery.images(person) == expected
    for person in gallery.people:
        gallery.remove(person)
    assert len(gallery) == 0
    assert gallery.search(queries) == [[]] * 6
    gallery.enrol('again', drawn(0, 1), ['p0 0/0.png'])
    assert gallery.search(queries, 9)[0][0].person == 'again'


def test_tensors_halves_and_integers_are_taken():
    gallery = FaceGallery(FINGERPRINT, 16)
    rows = torch.from_numpy(drawn(0, 3)).requires_grad_()
    gallery.enrol('tensor', rows, names('t', 3))
    gallery.enrol('half', rows.detach().half() * -1, names('h', 3))
    gallery.enrol('integers', np.arange(16)[None], ['i'])
    gallery.enrol('lists', [[1.0] * 16], ['l'])
    match = gallery.search(np.arange(16)[None] * 3)[0][0]
    assert match == ('integers', pytest.approx(1), 'i')
    best = gallery.search(-rows.detach().bfloat16(), 1)
    assert [one[0].person for one in best] == ['half'] * 3


def test_what_was_given_is_copied():
    gallery = FaceGallery(FINGERPRINT, 16)
    rows = drawn(0, 2)
    gallery.enrol('a', rows, ['x', 'y'])
    before = gallery.search(drawn(1, 1))
    rows[:] = 0
    gallery.people.clear()
    gallery.images('a').clear()
    assert gallery.search(drawn(1, 1)) == before


BAD = {
    'zero, NaN or infinite, counted from 0, is row 1 \\(b\\)': dict(row=0.0),
    'is row 1': dict(row=np.nan),
    'row 1 ': dict(row=-np.inf),
    'have 15 values, those of the gallery 16': dict(width=15),
    'lengths differ: people 3, embeddings 3, images 2': dict(images=['a', 'b']),
    "has image 'here' already|has image here already": dict(images=['a', 'here', 'c']),
    'image b is given more than once': dict(images=['b', 'a', 'b']),
    'image 1: the name is empty': dict(images=['a', '', 'b']),
    'image 2: the name is empty': dict(images=['a', 'b', ' \u3000']),
    'image 0: .* line break': dict(images=['a\nb', 'b', 'c']),
    "image 0: .*'a.udcff' holds": dict(images=['a\udcff', 'b', 'c']),
    'image 2: the name must be a string, not 7': dict(images=['a', 'b', 7]),
    'images must be a list of names': dict(images='abc'),
    'person 1: .* holds a control': dict(people=['p', 'q\x00', 'r']),
    'person 2: the name must be a string, not None': dict(people=['p', 'q', None]),
    'must be real numbers': dict(row='x'),
}


@pytest.mark.parametrize(('message', 'change'), BAD.items())
def test_bad_enrolment_changes_nothing(message, change):
    gallery = FaceGallery(FINGERPRINT, 16)
    gallery.enrol('p', drawn(0, 1), ['here'])
    rows = drawn(1, 3, change.get('width', 16))
    if isinstance(change.get('row'), str):
        rows = rows.astype(str)
    elif 'row' in change:
        rows[1] = change['row']
    people, images = (
        change.get('people', ['p', 'q', 'r']),
        change.get('images', ['a', 'b', 'c']),
    )
    with pytest.raises(UserError, match=message):
        gallery.enrol_many(people, rows, images)
    assert (gallery.people, gallery.images('p'), len(gallery)) == (['p'], ['here'], 1)
    gallery.enrol_many(['p', 'q', 'r'], drawn(1, 3), ['a', 'b', 'c'])
    assert gallery.images('p') == ['here', 'a']


def test_an_interrupted_enrolment_changes_nothing(monkeypatch):
    gallery, _ = filled('best', [2, 1])
    with monkeypatch.context() as patch:
        patch.setattr(rows, 'unit_rows', Mock(side_effect=MemoryError))
        with pytest.raises(MemoryError):
            gallery.enrol('new', drawn(1, 1), ['new/0'])
    assert (gallery.people, len(gallery)) == (['person 0', 'person 1'], 3)
    gallery.enrol('new', drawn(1, 1), ['new/0'])
    assert gallery.search(drawn(1, 1), 1)[0][0].person == 'new'


def test_a_person_of_any_script():
    gallery = FaceGallery(FINGERPRINT, 16)
    people = ['Zoë', '山田\u3000太郎', 'نور\u200c', '👩🏽\u200d🔬', 'O`Brien, "x"\\']
    gallery.enrol_many(people, drawn(0, 5), [f'{x}/1' for x in people])
    assert [one[0].person for one in gallery.search(drawn(0, 5), 1)] == people


def test_nobody_is_enrolled_and_nothing_is_asked():
    gallery = FaceGallery(FINGERPRINT, 16)
    nothing = np.empty((0, 16), np.float32)
    assert gallery.search(drawn(0, 3)) == [[], [], []]
    assert gallery.search(nothing) == []
    with pytest.raises(UserError, match="'p' has no images to enrol"):
        gallery.enrol('p', nothing, [])
    assert gallery.people == []
    gallery.enrol('one', drawn(0, 1), ['a'])
    assert gallery.search(nothing) == []


def without_direction(value: float) -> np.ndarray:
    queries = drawn(0, 4)
    queries[2] = value
    return queries


MISTAKES = [
    (lambda x: x.search(drawn(0, 1), top_k=0), 'top_k must be an integer from 1 on'),
    (lambda x: x.search(drawn(0, 1), top_k=1.5), 'top_k must be'),
    (lambda x: x.search(drawn(0, 1), threshold=math.nan), 'threshold is NaN'),
    (lambda x: x.search(drawn(0, 1), index='flat'), "index is 'flat'; it can be"),
    (lambda x: x.search(without_direction(0)), 'queries: zero, NaN .* is row 2'),
    (lambda x: x.search(without_direction(np.nan)), 'queries: zero, .* is row 2'),
    (lambda x: x.search(drawn(0, 1, 3)), 'queries have 3 values, those of the gallery'),
    (lambda x: x.remove('nobody'), "there is no 'nobody' in the gallery"),
    (lambda x: x.remove('person 0', '1/0.png'), r"'person 0' has no image '1/0\.png'"),
    (lambda x: x.images('nobody'), "there is no 'nobody' in the gallery"),
    (lambda x: x.calibrate(drawn(0, 99), 0.01), '99 strangers cannot tell .* of 0.01'),
    (lambda x: x.calibrate(drawn(0, 99), 1.5), 'rate must lie in'),
    (lambda x: FaceGallery('x', 16).calibrate(drawn(0, 9), 0.5), 'gallery is empty'),
    (lambda x: FaceGallery('x', 0), 'dimensions must be'),
    (lambda x: FaceGallery('x', 4, 'worst'), 'score is'),
]


@pytest.mark.parametrize(('ask', 'message'), MISTAKES)
def test_mistakes_change_nothing(ask, message):
    gallery, _ = filled('best', [2, 1])
    with pytest.raises(UserError, match=message):
        ask(gallery)
    assert len(gallery) == 3


def test_images_without_a_mean():
    gallery = FaceGallery(FINGERPRINT, 16, 'mean')
    row = drawn(0, 1)
    gallery.enrol('fine', drawn(1, 2), ['a', 'b'])
    gallery.enrol('odd', np.concatenate([row, -row]), ['c', 'd'])
    with pytest.raises(UserError, match="images of 'odd' cancel each other out"):
        gallery.search(row)
    gallery.remove('odd', 'd')
    assert gallery.search(row)[0][0][::2] == ('odd', 'c')


def test_means_of_people_of_all_sizes(monkeypatch):
    """Sums are of parts of the rows; some people are larger than a part."""
    monkeypatch.setattr(rows, 'AT_ONCE', 100)
    gallery, oracle = filled('mean', [300, 90, 5, 700, 1, 1], 8)
    queries = drawn(77, 4, 8)
    agree(gallery.search(queries, 6), oracle.search(queries, 6))


@pytest.mark.parametrize('score', ['best', 'mean'])
@pytest.mark.parametrize('fpir', [0.01, 0.05, 0.5, 1.0])
def test_calibration_lets_in_as_many_strangers(score, fpir):
    gallery, _ = filled(score, [1, 3, 2, 4])
    strangers = drawn(5, 200)
    # Some score the same.
    strangers[50:60] = strangers[40:50]
    threshold = gallery.calibrate(strangers, fpir)
    actual = gallery.search(strangers, 1, threshold)
    assert sum(map(bool, actual)) <= 200 * fpir
    scores = sorted((x[0].score for x in gallery.search(strangers, 1)), reverse=True)
    allowed = int(200 * fpir)
    if fpir == 1:
        assert threshold == -math.inf
    else:
        assert 0 < threshold - scores[allowed] < 1.1e-6
    # The next lower score would let in too many.
    assert fpir == 1 or sum(x >= scores[allowed] for x in scores) > allowed


def test_calibration_is_that_of_the_identification_protocol():
    gallery, _ = filled('best', [1] * 20, 8)
    enrolled = np.concatenate([drawn(place, 1, 8) for place in range(20)])
    strangers, mates = drawn(50, 300, 8), enrolled + drawn(60, 20, 8) * 0.3
    result = identify(
        np.concatenate([mates, strangers]),
        np.concatenate([np.arange(20), np.arange(1000, 1300)]),
        [(enrolled, np.arange(20))],
        fpirs=(0.02, 0.2),
    )
    for place, fpir in enumerate(result.fpirs):
        threshold = gallery.calibrate(strangers, float(fpir))
        best = gallery.search(mates, 1, threshold)
        right = [
            bool(one) and one[0].person == f'person {i}' for i, one in enumerate(best)
        ]
        assert np.mean(right) == result.tpirs[place]
