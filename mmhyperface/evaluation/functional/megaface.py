"""MegaFace: mates to be found among up to a million distractors.

Source: The MegaFace Benchmark (CVPR 2016), challenge 1 with FaceScrub.
"""

from collections.abc import Sequence

import numpy as np

from mmhyperface.utils.choices import NOISE
from mmhyperface.utils.errors import UserError, some

from ..arrays import (
    Array,
    Bools,
    Floats,
    Ints,
    as_counts,
    as_integers,
    as_rates,
    as_rows,
    blocks,
    check_choice,
    check_directions,
    check_lengths,
    floor_product,
    rounding,
    row_dots,
    to_numpy,
    unit_rows,
)
from ..highest import Highest
from ..protocols.megaface import MegaFaceResult

COUNTS = (10, 100, 1_000, 10_000, 100_000, 1_000_000)
# Entries of the products of a block of probes with a block of distractors.
PROBES, DISTRACTORS = 1024, 4096


def megaface_identification(
    probes: Array,
    probe_subjects: Array,
    distractors: Array,
    counts: Sequence[int] = COUNTS,
    ranks: Sequence[int] = (1, 10),
    fars: Sequence[float] = (1e-6,),
    noisy_probes: Array | None = None,
    noisy_distractors: Array | None = None,
    noise: str = 'remove',
) -> MegaFaceResult:
    """Rank of the mate among distractors, and verification against all of them.

    Each ordered pair (a, b) of images of one subject is a search: of a, in a gallery of
    b and the first N distractors, by cosine. The rank of b is 1 + the number of
    distractors with at least its score; scores within rounding tie. For verification
    the same pairs are those of one subject and all pairs of a probe and a distractor
    those of two; TAR is exact, as :func:`tar_at_far` has it.

    The products are made in blocks: of all scores only the highest are kept.

    Args:
        probes: [P, D] of any lengths; ``probe_subjects`` integers [P].
        distractors: [N, D], in the order of the list.
        counts: numbers of distractors, at most N.
        ranks: K ranks k, for the share of mates among the first k.
        fars: F false accept rates in [0, 1].
        noisy_probes, noisy_distractors: bool [P] and [N], the images of the noise
            lists; None: none. ``counts`` are taken before distractors are removed.
        noise: ``'remove'`` noisy images; ``'overwrite'``, as insightface does, leaves
            noisy probes in, with the sum of their subject's other features in the place
            of their own, which makes them easy. Noisy distractors then lie far from
            everything, which is to remove them.

    Raises:
        UserError: lengths or widths that differ; features that are zero or not finite;
            no two images of one subject; more distractors asked for than there are;
            ranks or rates that are none.
    """
    check_choice('noise', noise, NOISE)
    rows, subjects = as_rows(probes, 'probes'), as_integers(probe_subjects, 'subjects')
    others = as_rows(distractors, 'distractors')
    check_lengths(probes=rows, probe_subjects=subjects)
    if rows.shape[1] != others.shape[1]:
        raise UserError(
            f'probes have {rows.shape[1]} values but distractors {others.shape[1]}'
        )
    wanted, asked = as_counts(ranks, 'ranks'), as_counts(counts, 'counts')
    if (asked > len(others)).any() or (np.diff(asked) <= 0).any():
        raise UserError(
            f'counts must ascend up to the {len(others)} distractors there are: '
            f'{asked.tolist()}'
        )
    rates = as_rates(fars, 'false accept rates')
    bad_probes = _flags(noisy_probes, len(rows), 'noisy_probes')
    bad_others = _flags(noisy_distractors, len(others), 'noisy_distractors')
    check_probes(subjects, bad_probes, noise)
    unit, people = _clean(rows, subjects, bad_probes, noise)
    first, second = _ordered_pairs(people)
    mates = _products(unit, first, second)
    total = len(unit) * int(np.count_nonzero(~bad_others))
    # More than are needed, since identities that are drawn again may weigh less.
    highest = Highest(4 * int(floor_product(rates, total).max(initial=0)) + 1024)
    deepest = int(wanted.max(initial=1))
    places = _ranks(unit, others, bad_others, asked, deepest, (first, mates), highest)
    scores, of_probe = highest.result()
    result = MegaFaceResult(
        distractors=asked,
        used=np.array([np.count_nonzero(~bad_others[:count]) for count in asked]),
        ranks=wanted,
        fars=rates,
        subjects=people[first],
        mate_scores=mates,
        mate_ranks=places,
        impostors=scores,
        impostor_subjects=people[of_probe],
        num_impostors=np.bincount(people) * (total // len(unit)),
        convention=_convention(noise, bool(bad_probes.any() or bad_others.any())),
        counts={
            'probes': len(unit),
            'subjects': int(people.max()) + 1,
            'distractors': len(others),
            'ordered pairs of a subject': len(first),
            'different pairs': total,
            'noisy probes': int(bad_probes.sum()),
            'noisy distractors': int(bad_others.sum()),
        },
    )
    result.set_rates()
    return result


def _flags(flags: Array | None, count: int, name: str) -> Bools:
    if flags is None:
        return np.zeros(count, np.bool_)
    given = to_numpy(flags)
    if given.shape != (count,) or given.dtype != np.bool_:
        raise UserError(
            f'{name} must be {count} booleans, not {given.dtype} {list(given.shape)}'
        )
    return given


def check_probes(subjects: Ints, noisy: Bools, noise: str) -> None:
    """Refuse probes without a mate to search for, or nothing to overwrite noise with.

    Raises:
        UserError: It names a subject.
    """
    clean, counts = np.unique(subjects[~noisy], return_counts=True)
    lost = np.setdiff1d(subjects, clean)
    if noise == 'overwrite' and len(lost):
        raise UserError(
            f'all images of subject {some(lost)} are noisy; nothing is there to '
            'overwrite them with'
        )
    if noise == 'overwrite':
        counts = np.unique(subjects, return_counts=True)[1]
    if counts.max(initial=0) < 2:
        raise UserError('no subject has two images: there is nothing to search for')


def _clean(
    rows: Floats, subjects: Ints, noisy: Bools, noise: str
) -> tuple[Floats, Ints]:
    """Unit features of the probes, and their subjects, numbered from 0."""
    check_directions('probes', rows, noisy)
    clean = unit_rows(rows[~noisy])
    names, people = np.unique(subjects[~noisy], return_inverse=True)
    if noise == 'overwrite' and noisy.any():
        where = np.searchsorted(names, subjects[noisy])
        sums = np.zeros((len(names), rows.shape[1]), clean.dtype)
        np.add.at(sums, people, clean)
        clean = np.concatenate([clean, unit_rows(sums[where])])
        people = np.concatenate([people, where])
    return clean, people


def _ordered_pairs(people: Ints) -> tuple[Ints, Ints]:
    """All (a, b), a ≠ b, of one subject, a ascending."""
    order = np.argsort(people, kind='stable')
    sizes = np.bincount(people)
    size = sizes[people[order]]
    begin = (np.cumsum(sizes) - sizes)[people[order]]
    first = np.repeat(np.arange(len(order)), size)
    offset = np.arange(len(first)) - np.repeat(np.cumsum(size) - size, size)
    second = begin[first] + offset
    apart = first != second
    pairs = order[first[apart]], order[second[apart]]
    ascending = np.argsort(pairs[0], kind='stable')
    return pairs[0][ascending], pairs[1][ascending]


def _products(rows: Floats, first: Ints, second: Ints) -> Floats:
    """[Q], the products of these rows, in blocks."""
    products = np.empty(len(first), rows.dtype)
    for part in blocks(len(first), rows.shape[1]):
        products[part] = row_dots(rows[first[part]], rows[second[part]])
    return products


def _ranks(
    probes: Floats,
    distractors: Floats,
    noisy: Bools,
    counts: Ints,
    deepest: int,
    pairs: tuple[Ints, Floats],
    highest: Highest,
) -> Ints:
    """Ranks of the mates, [C, Q], among the first so many distractors.

    Those beyond the deepest rank are told as the one after it: only the highest scores
    of a probe to distractors are kept.
    """
    first, mates = pairs
    nearest = np.full((len(probes), deepest), -np.inf, probes.dtype)
    ranks = np.empty((len(counts), len(first)), np.int64)
    done = 0
    # Those beyond the last count are for verification.
    for row, count in enumerate([*counts.tolist(), len(distractors)]):
        for start in range(done, count, DISTRACTORS):
            stop = min(start + DISTRACTORS, count)
            block, left_out = distractors[start:stop], noisy[start:stop]
            check_directions('distractors', block, left_out, start)
            block = unit_rows(block[~left_out])
            for low in range(0, len(probes), PROBES):
                product = probes[low : low + PROBES] @ block.T
                highest.add(product, low)
                _keep_nearest(nearest[low : low + PROBES], product)
        if row < len(counts):
            for part in blocks(len(first), deepest):
                # Equal features need not have equal products, made in another way.
                least = mates[part, None] - rounding(mates)
                ranks[row, part] = 1 + (nearest[first[part]] >= least).sum(1)
        done = count
    return ranks


def _keep_nearest(nearest: Floats, product: Floats) -> None:
    """Replaces the highest scores [B, K] of rows that have higher ones in [B, N]."""
    if not product.shape[1]:
        return
    deepest = nearest.shape[1]
    rows = np.flatnonzero(product.max(1) > nearest.min(1))
    scores = np.concatenate([nearest[rows], product[rows]], axis=1)
    cut = scores.shape[1] - deepest
    nearest[rows] = np.partition(scores, cut, axis=1)[:, cut:]


def _convention(noise: str, any_noise: bool) -> str:
    what = {
        'remove': 'noisy images removed, numbers of distractors counted before that',
        'overwrite': "noisy probes overwritten by the sum of their subject's other "
        "features (insightface's), noisy distractors removed",
    }
    return (
        'cosine; every ordered pair of a subject is searched for among the first N '
        'distractors, ties count against the mate; verification: all probes against '
        'all distractors, exact, ties with the threshold rejected; '
        + (what[noise] if any_noise else 'no noise lists')
    )
