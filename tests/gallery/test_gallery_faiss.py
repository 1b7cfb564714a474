"""Search with FAISS: the people it finds have the scores of the exact search."""

import sys

import numpy as np
import pytest

from mmhyperface.gallery import FaceGallery, gallery
from mmhyperface.utils.errors import UserError

faiss = pytest.importorskip('faiss')

PEOPLE, IMAGES, WIDTH = 250, 4, 32


def images_of(centres: np.ndarray, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return centres + 0.5 * rng.standard_normal(centres.shape, np.float32)


@pytest.fixture(scope='module')
def centres() -> np.ndarray:
    return np.random.default_rng(0).standard_normal((PEOPLE, WIDTH), np.float32)


def enrolled(centres: np.ndarray, score: str = 'best') -> FaceGallery:
    gallery = FaceGallery('x', centres.shape[1], score)
    for place in range(IMAGES):
        people = [f'p{i}' for i in range(len(centres))]
        images = [f'{i}/{place}' for i in range(len(centres))]
        gallery.enrol_many(people, images_of(centres, place), images)
    return gallery


@pytest.mark.parametrize('score', ['best', 'mean'])
@pytest.mark.parametrize('threshold', [None, 0.5])
def test_found_people_have_exact_scores(centres, score, threshold):
    gallery = enrolled(centres, score)
    queries = images_of(centres[:50], 99)
    exact = gallery.search(queries, PEOPLE, threshold)
    actual = gallery.search(queries, 5, threshold, 'faiss')
    for one, all_of_them in zip(actual, exact, strict=True):
        assert len({match.person for match in one}) == len(one) <= 5
        assert set(one) <= set(all_of_them)
        assert [x.score for x in one] == sorted((x.score for x in one), reverse=True)
    right = [one[:1] == other[:1] for one, other in zip(actual, exact, strict=True)]
    assert np.mean(right) > 0.9


def test_a_small_gallery_is_searched_whole(centres):
    """One list: nothing is left out."""
    gallery = enrolled(centres[:10])
    queries = np.random.default_rng(5).standard_normal((30, WIDTH))
    for top_k in (1, 5, 10, 99):
        exact = gallery.search(queries, top_k)
        assert gallery.search(queries, top_k, index='faiss') == exact
    one = FaceGallery('x', WIDTH)
    one.enrol('a', centres[:1], ['a'])
    assert one.search(queries, 3, index='faiss') == one.search(queries, 3)
    assert FaceGallery('x', WIDTH).search(queries[:2], index='faiss') == [[], []]


def test_people_with_more_images_than_candidates(centres):
    gallery = FaceGallery('x', WIDTH)
    for place in range(4):
        rows = images_of(np.repeat(centres[place][None], 120, axis=0), place)
        gallery.enrol(f'p{place}', rows, [f'{place}/{i}' for i in range(120)])
    actual = gallery.search(centres[:4], 4, index='faiss')
    assert actual == gallery.search(centres[:4], 4)


def test_the_index_is_built_again_after_a_change(centres, monkeypatch):
    gallery = enrolled(centres[:50])
    before = gallery.search(centres[60:61], 1, index='faiss')[0][0]
    gallery.enrol('p60', centres[60:61], ['60'])
    assert gallery.search(centres[60:61], 1, index='faiss')[0][0].person == 'p60'
    gallery.remove('p60')
    assert gallery.search(centres[60:61], 1, index='faiss')[0][0] == before
    # It is kept until then.
    monkeypatch.setattr(faiss, 'IndexFlatIP', None)
    assert gallery.search(centres[60:61], 1, index='faiss')[0][0] == before


def test_auto_takes_faiss_for_large_galleries(centres, monkeypatch):
    small = enrolled(centres[:20])
    queries = centres[:9]
    exact = small.search(queries, 3)
    asked = []
    find = small._search.find
    monkeypatch.setattr(
        small._search, 'find', lambda *args: asked.append(args[-1]) or find(*args)
    )
    for rows, expected in ((81, False), (80, True)):
        monkeypatch.setattr(gallery, 'AUTO_ROWS', rows)
        assert small.search(queries, 3, index='auto') == exact
        assert asked.pop() is expected
    small.search(np.repeat(queries, 2, axis=0), 3, index='auto')
    assert asked.pop() is False
    monkeypatch.setattr(gallery.importlib.util, 'find_spec', lambda name: None)
    assert small.search(queries, 3, index='auto') == exact
    assert asked.pop() is False


def test_without_faiss(centres, monkeypatch):
    gallery = enrolled(centres[:5])
    monkeypatch.setitem(sys.modules, 'faiss', None)
    with pytest.raises(UserError, match=r'mmhyperface\[faiss\]'):
        gallery.search(centres[:1], index='faiss')
    assert gallery.search(centres[:1], 1)[0][0].person == 'p0'
