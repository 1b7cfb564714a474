"""The benchmark measures what it says, in seconds; no figure is judged."""

import json
import sys
from itertools import chain

import gallery_search
import numpy as np
import pytest

from mmhyperface.utils.errors import UserError

pytestmark = pytest.mark.skipif(
    not sys.platform.startswith('linux'), reason='memory is measured on Linux only'
)


def test_a_small_gallery(call_main, tmp_path):
    file = tmp_path / 'figures.json'
    options = {'--size': 2000, '--dimensions': 16, '--repeats': 2, '--queries': 100}
    paths = ['--folder', tmp_path / 'new', '--json', file, '--markdown']
    shown = call_main('gallery_search', *chain(*options.items()), *paths)
    figures = json.loads(file.read_text())
    rows = {row['name']: row for row in figures['rows']}
    assert list(rows)[:3] == ['X @ q', 'X @ q, argsort', 'exact']
    assert set(rows['exact']['latency']) == {'1', '16', '100'}
    assert set(rows['X @ q, argsort']['latency']) == {'1'}
    assert figures['file'] * 1e6 > 2000 * 16 * 4
    assert min(figures['save'], figures['load'], figures['enrol']) > 0
    assert list((tmp_path / 'new').iterdir()) == []
    assert '2,000 embeddings of 16 values, 4 of each person' in shown
    assert '| exact ' in shown


def test_queries_are_of_people_or_of_strangers():
    population = gallery_search.Population(4000, 64, 4, 200)
    lengths = np.linalg.norm(population.rows, axis=1)
    np.testing.assert_allclose(lengths, 1, atol=1e-5)
    mates = (population.mates @ population.rows.T).max(1)
    strangers = (population.strangers @ population.rows.T).max(1)
    assert mates.min() > np.median(strangers)
    images = population.rows.reshape(1000, 4, 64)
    cosines = np.einsum('pd,pd->p', images[:, 0], images[:, 1])
    assert np.mean(cosines) == pytest.approx(0.7, abs=0.05)


@pytest.mark.parametrize(
    'arguments',
    [
        ('--queries', 99),
        ('--size', 79),
        ('--repeats', 0),
        ('--dimensions', 1),
        ('--processor-time',),
    ],
)
def test_bad_options(call_main, monkeypatch, arguments):
    monkeypatch.setenv('OMP_NUM_THREADS', '2')
    with pytest.raises(UserError, match=r'from \d+|of one thread'):
        call_main('gallery_search', *arguments)
