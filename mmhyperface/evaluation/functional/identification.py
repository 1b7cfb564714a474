"""1:N identification: ranks, and TPIR at FPIR, of probes searched for in galleries.

Sources: IJB-B (CVPR workshops 2017), IJB-C (ICB 2018), insightface's ``ijb_evals.py``
(galleries apart) and OpenSphere (galleries merged).
"""

from collections.abc import Sequence

import numpy as np

from mmhyperface.utils.choices import THRESHOLDS
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
    check_choice,
    check_directions,
    check_lengths,
    rounding,
    unit_rows,
)
from ..highest import Highest
from ..protocols.identification import IdentificationResult

# Entries of the products of a block of probes with a gallery.
BLOCK_ENTRIES = 2**20


def identify(
    probes: Array,
    probe_subjects: Array,
    galleries: Sequence[tuple[Array, Array]],
    ranks: Sequence[int] = (1, 5, 10),
    fpirs: Sequence[float] = (0.01, 0.1),
    merged: bool = False,
    threshold: str = 'exact',
    names: Sequence[str] | None = None,
) -> IdentificationResult:
    """Search probes in galleries by the cosine of their templates.

    The rank of a probe's mate is 1 + the number of other subjects with at least its
    score: ties count against it, and scores within rounding tie. Scores are of the
    widest type of the templates.

    Galleries apart (IJB's protocol): each is searched with all probes. The threshold is
    set by the highest score of each non-mated probe (whose subject the gallery lacks),
    so that a share FPIR of them is accepted; a mated probe counts when it ranks first
    and lies strictly above. TPIR is the mean over the galleries, the rates of ranks are
    those of all mated searches.

    Args:
        probes: [P, D] of any lengths.
        probe_subjects: integers [P].
        galleries: for each, features [G, D] and subjects, integers [G], each subject
            once.
        ranks: K ranks k, for the share of mates among the first k.
        fpirs: F false positive identification rates in [0, 1].
        merged: search all galleries as one. The threshold is then the
            ⌈FPIR·P⌉-th highest of all scores between different subjects, and a mated
            probe counts when its mate lies strictly above, whatever its rank
            (OpenSphere; insightface's ``ijb_1n.py``).
        threshold: galleries apart, ``'exact'``: the (⌊FPIR·n⌋ + 1)-th highest of the n
            non-mated probes, so that the FPIR is not exceeded; NaN where
            FPIR < 1 / n. ``'insightface'``: the max(⌊FPIR·n⌋, 1)-th.
        names: of the galleries, in results.

    Raises:
        UserError: lengths that differ; a template that is zero or not finite; a subject
            that is in two galleries, or twice in one; no probe with a mate; ranks or
            rates that are none.
    """
    check_choice('threshold', threshold, THRESHOLDS)
    wanted = as_counts(ranks, 'ranks')
    rates = as_rates(fpirs, 'false positive identification rates')
    if names is None:
        names = [f'gallery {i + 1}' for i in range(len(galleries))]
    check_lengths(galleries=galleries, names=names)
    searched = _unit('probes', probes, probe_subjects)
    enrolled = [
        _unit(f'{name}: features', *_two(name, gallery))
        for name, gallery in zip(names, galleries, strict=True)
    ]
    check_subjects(names, [subjects for _, subjects in enrolled])
    _check_widths(names, searched[0], [rows for rows, _ in enrolled])
    kept = 0
    if merged:
        rows, subjects = (np.concatenate(part) for part in zip(*enrolled, strict=True))
        enrolled, names = [(rows, subjects)], ['merged']
        # More than are needed, since identities that are drawn again may weigh less.
        kept = 4 * int(np.ceil(rates.max(initial=0) * len(searched[0]))) + 1024
    highest = Highest(kept)
    searches = [_search(*searched, *gallery, highest) for gallery in enrolled]
    mates, places, others = (np.stack(part) for part in zip(*searches, strict=True))
    if not places.any():
        raise UserError('no probe has a mate in a gallery')
    impostors, impostor_probes = highest.result()
    result = IdentificationResult(
        galleries=list(names),
        subjects=np.unique(searched[1], return_inverse=True)[1],
        mate_scores=mates,
        mate_ranks=places,
        best_others=others,
        ranks=wanted,
        fpirs=rates,
        threshold=threshold,
        merged=merged,
        impostors=impostors,
        impostor_probes=impostor_probes,
        convention=_convention(merged, threshold),
        counts={
            'probes': len(searched[0]),
            'subjects': len(np.unique(searched[1])),
            **_gallery_counts(names, enrolled, places, merged),
        },
    )
    result.set_rates()
    return result


def _unit(name: str, features: Array, subjects: Array) -> tuple[Floats, Ints]:
    rows, of = as_rows(features, name), as_integers(subjects, f'subjects of {name}')
    check_lengths(**{name: rows, 'subjects': of})
    if not len(rows):
        raise UserError(f'{name}: there are none')
    check_directions(name, rows)
    return unit_rows(rows), of


def _two(name: str, gallery: tuple[Array, Array]) -> tuple[Array, Array]:
    if not isinstance(gallery, tuple | list) or len(gallery) != 2:
        raise UserError(f'{name}: expected a pair of features and subjects')
    return gallery[0], gallery[1]


def check_subjects(names: Sequence[str], subjects: Sequence[Ints]) -> Ints:
    """All subjects of galleries, each of which is to be there once.

    Raises:
        UserError: there are no galleries, or a subject is there again.
    """
    seen: Ints = np.empty(0, np.int64)
    if not subjects:
        raise UserError('there are no galleries')
    for name, of in zip(names, subjects, strict=True):
        once, counts = np.unique(of, return_counts=True)
        if (counts > 1).any():
            raise UserError(
                f'{name} holds subject {some(once[counts > 1])} more than once; pool '
                'their images into one template'
            )
        shared = np.intersect1d(seen, once)
        if len(shared):
            raise UserError(
                f'{name} shares subject {some(shared)} with another gallery'
            )
        seen = np.concatenate([seen, once])
    return seen


def _check_widths(
    names: Sequence[str], probes: Floats, galleries: list[Floats]
) -> None:
    for name, rows in zip(names, galleries, strict=True):
        if rows.shape[1] != probes.shape[1]:
            raise UserError(
                f'probes have {probes.shape[1]} values, but the features of {name} '
                f'{rows.shape[1]}'
            )


def _search(
    probes: Floats, subjects: Ints, features: Floats, enrolled: Ints, highest: Highest
) -> tuple[Floats, Ints, Floats]:
    """Score and rank of each probe's mate, and its best score to another subject."""
    order = np.argsort(enrolled)
    place = np.minimum(np.searchsorted(enrolled[order], subjects), len(order) - 1)
    mate = np.where(enrolled[order[place]] == subjects, order[place], -1)
    kind = np.result_type(probes, features)
    scores = np.full(len(probes), np.nan, kind)
    ranks = np.zeros(len(probes), np.int64)
    others = np.empty(len(probes), kind)
    step = max(BLOCK_ENTRIES // len(features), 1)
    for start in range(0, len(probes), step):
        product = probes[start : start + step] @ features.T
        mated = np.flatnonzero(mate[start : start + step] >= 0)
        column = mate[start + mated]
        own = product[mated, column]
        scores[start + mated] = own
        product[mated, column] = -np.inf
        # Equal features need not have equal products: they are of other columns.
        least = (own - rounding(own))[:, None]
        ranks[start + mated] = 1 + np.count_nonzero(product[mated] >= least, axis=1)
        others[start : start + step] = product.max(1)
        highest.add(product, start)
    return scores, ranks, others


def _gallery_counts(
    names: Sequence[str],
    enrolled: list[tuple[Floats, Ints]],
    ranks: Ints,
    merged: bool,
) -> dict[str, int]:
    counts = {}
    for name, (_, subjects), places in zip(names, enrolled, ranks, strict=True):
        mated: Bools = places > 0
        counts[f'enrolled in {name}'] = len(subjects)
        counts[f'mated probes of {name}'] = int(np.count_nonzero(mated))
        if not merged:
            counts[f'non-mated probes of {name}'] = int(np.count_nonzero(~mated))
    return counts


def _convention(merged: bool, threshold: str) -> str:
    if merged:
        return (
            'galleries merged; threshold: the ⌈FPIR·probes⌉-th highest score of all '
            'comparisons of different subjects, rounded up however few the probes are; '
            'no condition on the rank; ties count against the mate'
        )
    return (
        f'galleries apart; threshold: {THRESHOLDS[threshold]} by their highest scores; '
        'TPIR over mated probes that rank first and lie strictly above, mean of the '
        'galleries; ranks over all mated searches, ties count against the mate'
    )
