"""How alike pairs of images are, and how far images are from class centres, drawn."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from mmhyperface.evaluation.functional import roc
from mmhyperface.evaluation.protocols import VerificationResult
from mmhyperface.models.heads import HypersphereHead
from mmhyperface.utils.figures import COLORS, finish, new_figure, plain

Floats = npt.NDArray[np.float64]

BINS = 80
# Samples whose cosines to all centres are held at once.
CHUNK = 256
SAME, DIFFERENT = COLORS[0], COLORS[1]


@dataclass(frozen=True)
class Separation:
    """Two distributions, and how well a threshold tells them apart.

    Attributes:
        edges: [bins + 1].
        lower, higher: Shares [bins] of the values of each kind, of which the former
            should be the lower ones.
        threshold: Where as many of the lower kind are above as of the higher kind are
            below: that of the equal error rate.
        eer: This rate, a fraction.
    """

    edges: Floats
    lower: Floats
    higher: Floats
    threshold: float
    eer: float

    @property
    def overlap(self) -> float:
        """Share of the area that the histograms have in common."""
        return float(np.minimum(self.lower, self.higher).sum())


def separation(lower: npt.ArrayLike, higher: npt.ArrayLike) -> Separation:
    """Histograms [BINS] of two kinds of values, and the threshold between them.

    Raises:
        UserError: If there are none of a kind, some are not finite, or all are equal.
    """
    low, high = np.asarray(lower, np.float64), np.asarray(higher, np.float64)
    values = np.concatenate([low, high])
    is_high = np.repeat([False, True], [len(low), len(high)])
    curve = roc(values, is_high)
    # The highest threshold at which no fewer are accepted wrongly than rejected.
    crossing = int(np.argmax(curve.far >= 1 - curve.tar))
    edges = np.linspace(values.min(), values.max(), BINS + 1)
    shares = [np.histogram(kind, edges)[0] / len(kind) for kind in (low, high)]
    error = (curve.far[crossing] + 1 - curve.tar[crossing]) / 2
    return Separation(
        edges, shares[0], shares[1], float(curve.thresholds[crossing]), float(error)
    )


@dataclass(frozen=True)
class CentreAngles:
    """Angles of samples to class centres, in degrees, [N] each.

    Attributes:
        own: To the own centre.
        other: To the nearest other one.
    """

    own: Floats
    other: Floats

    @property
    def nearest(self) -> float:
        """Share of the samples that no other centre is nearer to than the own."""
        return float((self.own < self.other).mean())


@torch.no_grad()
def centre_angles(head: HypersphereHead, rows: Tensor, labels: Tensor) -> CentreAngles:
    """Angles of embeddings [N, D], not normalised, of classes int64 [N]."""
    parts = []
    for part, own in zip(rows.split(CHUNK), labels.split(CHUNK), strict=True):
        cos = head((part.to(head.weight.device, torch.float64),)).cpu()
        to_own = cos.gather(1, own[:, None])
        to_other = cos.scatter(1, own[:, None], -1).amax(1, keepdim=True)
        parts.append(torch.cat([to_own, to_other], 1).arccos().rad2deg())
    own_angles, other_angles = torch.cat(parts).T.numpy()
    return CentreAngles(own_angles, other_angles)


def draw_similarities(
    pairs: Mapping[str, Mapping[str, VerificationResult]],
    angles: Mapping[str, CentreAngles],
) -> Figure:
    """A row for each network, a column for each test set, and one for centres.

    Args:
        pairs: Results by network and test set.
        angles: Those of training images, by network; may be empty.
    """
    networks = list(pairs)
    sets = list(dict.fromkeys(name for results in pairs.values() for name in results))
    columns = len(sets) + bool(angles)
    figure = new_figure(5.6 * columns, 4.1 * len(networks))
    axes = figure.subplots(len(networks), columns, squeeze=False, sharex='col')
    for row, network in zip(axes, networks, strict=True):
        for ax, name in zip(row, sets, strict=False):
            if name in pairs[network]:
                draw_pairs(ax, pairs[network][name])
                ax.set_title(plain(f'{network}: {name}'), fontsize='medium')
            else:
                ax.set_axis_off()
        if network in angles:
            draw_centre_angles(row[-1], angles[network])
            title = f'{network}: training images to class centres'
            row[-1].set_title(plain(title), fontsize='medium')
        elif angles:
            row[-1].set_axis_off()
    for ax in axes.flat:
        ax.tick_params(labelbottom=True)
    return figure


def draw_pairs(ax: Axes, result: VerificationResult) -> None:
    """Cosines of pairs of one person and of two."""
    split = separation(result.scores[~result.same], result.scores[result.same])
    names = (f'{result.num_different:,} different', f'{result.num_same:,} same')
    _draw(ax, split, names, f'EER {split.eer:.2%} at {split.threshold:.3f}')
    ax.set(xlabel='similarity (cosine)', ylabel='share of the pairs of a kind')


def draw_centre_angles(ax: Axes, angles: CentreAngles) -> None:
    """Angles to the own centre, which should be the lower ones, and to the nearest."""
    split = separation(angles.own, angles.other)
    names = (f'own centre, nearest of {angles.nearest:.1%}', 'nearest other centre')
    line = f'equal errors, {split.eer:.1%}, at {split.threshold:.1f}°'
    _draw(ax, split, names, line, (SAME, DIFFERENT))
    ax.set(xlabel='angle θ in degrees', ylabel=f'share of {len(angles.own):,} images')


def _draw(
    ax: Axes,
    split: Separation,
    names: tuple[str, str],
    line: str,
    colors: tuple[str, str] = (DIFFERENT, SAME),
) -> None:
    kinds = (split.lower, split.higher)
    for shares, name, one in zip(kinds, names, colors, strict=True):
        ax.stairs(shares, split.edges, fill=True, color=one, alpha=0.45, label=name)
        ax.stairs(shares, split.edges, color=one, linewidth=1.2)
    ax.stairs(
        np.minimum(*kinds),
        split.edges,
        fill=True,
        color='none',
        edgecolor='0.2',
        hatch='////',
        linewidth=0,
        label=f'overlap {split.overlap:.1%}',
    )
    ax.axvline(split.threshold, color='0.15', linestyle='--', label=line)
    ax.set_ylim(0, 1.42 * ax.get_ylim()[1])  # room for the legend
    ax.legend(loc='upper center', ncols=2, fontsize='small', framealpha=1)
    finish(ax)
