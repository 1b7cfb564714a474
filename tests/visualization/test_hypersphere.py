import math

import numpy as np
import pytest
from matplotlib.figure import Figure

from mmhyperface.utils.errors import UserError
from mmhyperface.visualization import Cloud, draw_hypersphere, save_figure
from mmhyperface.visualization.hypersphere import petals, unit_rows


def cloud(dimensions, centres=4):
    generator = np.random.default_rng(dimensions)
    rows = 5 * generator.standard_normal((60, dimensions))
    people = np.arange(60) % 4
    return Cloud(rows, people, generator.standard_normal((centres, dimensions)))


@pytest.mark.parametrize('dimensions', [2, 3])
def test_mean_angles(dimensions):
    drawn = cloud(dimensions)
    own, other = [], []
    for row, person in zip(drawn.rows, drawn.people, strict=True):
        angles = [
            math.acos(row @ c / math.dist(row, 0 * row) / math.dist(c, 0 * c))
            for c in drawn.centres
        ]
        own.append(angles.pop(person))
        other.append(min(angles))
    expected = [math.degrees(sum(x) / 60) for x in (own, other)]
    assert drawn.angles() == pytest.approx(expected)
    assert np.isnan(cloud(dimensions, 0).angles()).all()


def test_directions():
    rows = np.array([[3.0, 4.0], [0.0, 0.0], [0.0, -1e-100]])
    assert unit_rows(rows).tolist() == [[0.6, 0.8], [0, 0], [0, -1]]


def test_petals():
    degrees = [-179, -179.5, 1, 91, 92, 179]
    directions = np.stack([np.cos(np.deg2rad(degrees)), np.sin(np.deg2rad(degrees))], 1)
    edges, shares = petals(directions, 4)
    assert edges.tolist() == [-math.pi, -math.pi / 2, 0, math.pi / 2, math.pi]
    assert shares.tolist() == pytest.approx([2 / 6, 0, 1 / 6, 3 / 6])


@pytest.mark.parametrize('dimensions', [1, 4])
def test_other_dimensions(dimensions):
    with pytest.raises(UserError, match=f'2 or 3 dimensions .* have {dimensions}'):
        cloud(dimensions)


def test_pictures(tmp_path):
    """On the circle and on the sphere, with centres and without, of one image."""
    one = Cloud(np.ones((1, 3)), np.array([2]), np.empty((0, 3)))
    figure = draw_hypersphere({'2$': cloud(2), 'bare': cloud(2, 0), 'one': one}, 'note')
    assert len(figure.axes) == 6
    figure = draw_hypersphere({'3': cloud(3)})
    save_figure(figure, tmp_path / 'new' / 'a.png')
    assert (tmp_path / 'new' / 'a.png').stat().st_size > 20_000


@pytest.mark.parametrize('name', ['a.gif', 'a', 'a.txt'])
def test_formats(tmp_path, name):
    with pytest.raises(UserError, match='a picture is one of'):
        save_figure(Figure(), tmp_path / name)
