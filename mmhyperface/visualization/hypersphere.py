"""Embeddings of two or three dimensions on their circle or sphere, as in the papers.

SphereFace (arXiv 1704.08063), figure 3, and those that followed it: people as clouds of
points, class centres as arrows. Beside the directions, which recognition compares, the
embeddings as they are, whose norms tell how sure the network is.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from mmhyperface.utils.errors import UserError
from mmhyperface.utils.figures import finish, new_figure, plain

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.integer]

#: Of Paul Tol ("muted"), told apart with any colour vision; centres bear numbers too.
PEOPLE_COLORS = (
    *('#CC6677', '#332288', '#DDCC77', '#117733', '#88CCEE'),
    *('#882255', '#44AA99', '#999933', '#AA4499', '#777777'),
)
BINS = 180
# Of the highest bin above the circle.
PETAL = 0.55
# Where the 3-D pictures are looked at from, in degrees.
ELEVATION, AZIMUTH = 22.0, 35.0
HIDDEN_ALPHA, ALPHA = 0.08, 0.75
# Of a class centre.
_NUMBER: dict[str, Any] = dict(
    fontsize=8.5,
    ha='center',
    va='center',
    bbox=dict(boxstyle='circle,pad=0.15', facecolor='white', edgecolor='0.7'),
)


@dataclass(frozen=True)
class Cloud:
    """Embeddings of some people.

    Attributes:
        rows: [N, D], D 2 or 3, not normalised.
        people: int [N], who is on the images.
        centres: [C, D], directions of class centres, of which row p is that of person
            p; C = 0 if there are none.
    """

    rows: Floats
    people: Ints
    centres: Floats

    def __post_init__(self) -> None:
        width = self.rows.shape[1]
        if width not in (2, 3):
            raise UserError(
                f'only embeddings of 2 or 3 dimensions can be drawn, these have {width}'
            )

    @property
    def directions(self) -> Floats:
        """[N, D], unit vectors."""
        return unit_rows(self.rows)

    def angles(self) -> tuple[float, float]:
        """Mean angles to the own and to the nearest other centre, in degrees.

        NaN without centres.
        """
        if not len(self.centres):
            return float('nan'), float('nan')
        cos = (self.directions @ unit_rows(self.centres).T).clip(-1, 1)
        numbers = np.arange(len(cos))
        own = cos[numbers, self.people].copy()
        cos[numbers, self.people] = -1
        to_own, to_other = (np.rad2deg(np.arccos(x)) for x in (own, cos.max(1)))
        return float(to_own.mean()), float(to_other.mean())


def unit_rows(rows: Floats) -> Floats:
    """Unit vectors [N, D]; a row of zeros stays."""
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    return rows / np.where(norms == 0, 1, norms)


def petals(directions: Floats, bins: int = BINS) -> tuple[Floats, Floats]:
    """How many of the directions [N, 2] point where.

    Returns:
        Edges [bins + 1] in radians from -π to π, and shares [bins] of them.
    """
    angles = np.arctan2(directions[:, 1], directions[:, 0])
    counts, edges = np.histogram(angles, bins, (-np.pi, np.pi))
    return edges, counts / max(len(angles), 1)


def draw_hypersphere(clouds: Mapping[str, Cloud], note: str = '') -> Figure:
    """A column for each cloud: directions above, embeddings below."""
    width = max(4.2 * len(clouds), 5)
    figure = new_figure(width, 9.0)
    for number, (name, cloud) in enumerate(clouds.items()):
        flat = cloud.rows.shape[1] == 2
        options: dict[str, Any] = {} if flat else {'projection': '3d'}
        above, below = (
            figure.add_subplot(
                2, len(clouds), row * len(clouds) + number + 1, **options
            )
            for row in (0, 1)
        )
        (_draw_circle if flat else _draw_sphere)(above, cloud)
        farthest = np.linalg.norm(cloud.rows, axis=1).max(initial=0) or 1.0
        (_draw_plane if flat else _draw_space)(below, cloud, farthest)
        own, other = cloud.angles()
        angles = f'mean θ: own {own:.1f}°, nearest other {other:.1f}°'
        angles = 'directions' if np.isnan(own) else angles
        above.set_title(f'{plain(name, 40)}\n{angles}', fontsize='medium')
        below.set_title('embeddings with their norms', fontsize='medium')
    if note:
        figure.supxlabel(note, fontsize='small', color='0.3')
    return figure


def _color(person: int) -> str:
    return PEOPLE_COLORS[person % len(PEOPLE_COLORS)]


def _people(cloud: Cloud) -> list[int]:
    return np.unique(cloud.people).tolist()


def _draw_circle(ax: Axes, cloud: Cloud) -> None:
    """Points on the circle, and outside of it how many they are."""
    around = np.linspace(-np.pi, np.pi, 361)
    ax.plot(np.cos(around), np.sin(around), color='0.6', linewidth=0.8)
    of_person = {p: petals(cloud.directions[cloud.people == p]) for p in _people(cloud)}
    highest = max(shares.max() for _, shares in of_person.values())
    for person, (edges, shares) in of_person.items():
        radius = 1 + PETAL * np.repeat(shares, 2) / highest
        at = np.repeat(edges, 2)[1:-1]
        x, y = radius * np.cos(at), radius * np.sin(at)
        ax.fill(
            [*x, *np.cos(at[::-1])],
            [*y, *np.sin(at[::-1])],
            color=_color(person),
            alpha=0.6,
            linewidth=0,
        )
        _points(ax, cloud.directions[cloud.people == person], person)
    _arrows(ax, cloud, 0.88)
    _square(ax, 1 + PETAL + 0.05)
    ax.set_axis_off()


def _draw_plane(ax: Axes, cloud: Cloud, farthest: float) -> None:
    for person in _people(cloud):
        _points(ax, cloud.rows[cloud.people == person], person)
    _arrows(ax, cloud, 0.5 * farthest)
    _square(ax, 1.08 * farthest)
    finish(ax)


def _points(ax: Any, points: Floats, person: int) -> None:
    ax.scatter(*points.T, s=9, color=_color(person), alpha=0.6, linewidths=0)


def _arrows(ax: Axes, cloud: Cloud, length: float) -> None:
    for person in _shown_centres(cloud):
        x, y = length * unit_rows(cloud.centres[[person]])[0]
        ax.annotate(
            '',
            (x, y),
            (0, 0),
            arrowprops=dict(arrowstyle='-|>', color=_color(person), linewidth=1.8),
        )
        ax.text(0.72 * x, 0.72 * y, str(person), **_NUMBER)


def _shown_centres(cloud: Cloud) -> list[int]:
    return _people(cloud) if len(cloud.centres) else []


def _square(ax: Axes, side: float) -> None:
    ax.set(xlim=(-side, side), ylim=(-side, side), aspect='equal')


def _draw_sphere(ax: Any, cloud: Cloud) -> None:
    """A sphere of wires; what lies on its far side is faint."""
    u, v = np.meshgrid(np.linspace(0, 2 * np.pi, 25), np.linspace(0, np.pi, 13))
    wires = (np.cos(u) * np.sin(v), np.sin(u) * np.sin(v), np.cos(v))
    ax.plot_wireframe(*wires, color='0.7', linewidth=0.4, alpha=0.6)
    _points_in_space(ax, cloud, cloud.directions)
    _arrows_in_space(ax, cloud, 1.0, 1.22)
    _cube(ax, 1.0)


def _draw_space(ax: Any, cloud: Cloud, farthest: float) -> None:
    _points_in_space(ax, cloud, cloud.rows)
    _arrows_in_space(ax, cloud, 0.4 * farthest, 0.46 * farthest)
    # No cloud lies in a corner.
    _cube(ax, 0.7 * farthest)


def _points_in_space(ax: Any, cloud: Cloud, points: Floats) -> None:
    near = points @ _viewer() >= 0
    for person in _people(cloud):
        for side, alpha in ((~near, HIDDEN_ALPHA), (near, ALPHA)):
            shown = points[side & (cloud.people == person)]
            ax.scatter(
                *shown.T,
                s=9,
                color=_color(person),
                alpha=alpha,
                linewidths=0,
                depthshade=False,
            )


def _arrows_in_space(ax: Any, cloud: Cloud, length: float, number_at: float) -> None:
    for person in _shown_centres(cloud):
        centre = unit_rows(cloud.centres[[person]])[0]
        far = centre @ _viewer() < 0
        ax.quiver(
            *(0, 0, 0),
            *(length * centre),
            color=_color(person),
            alpha=0.35 if far else 1.0,
            linewidth=1.6,
            arrow_length_ratio=0.1,
        )
        ax.text(*(number_at * centre), str(person), **_NUMBER, alpha=0.5 if far else 1)


def _viewer() -> Floats:
    elevation, azimuth = np.deg2rad([ELEVATION, AZIMUTH])
    flat = np.cos(elevation)
    return np.array([flat * np.cos(azimuth), flat * np.sin(azimuth), np.sin(elevation)])


def _cube(ax: Any, side: float) -> None:
    ax.view_init(elev=ELEVATION, azim=AZIMUTH)
    ax.set(xlim=(-side, side), ylim=(-side, side), zlim=(-side, side))
    ax.set_box_aspect((1, 1, 1), zoom=1.25)
    ax.set_axis_off()
