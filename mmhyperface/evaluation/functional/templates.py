"""Image features to template features, as IJB-B and IJB-C need them.

A template is what is known of one person: images of several media, a medium being a
photograph or a video. Sources: IJB-B (CVPR workshops 2017), IJB-C (ICB 2018); the
weights are those of insightface's evaluation, whose default is the default here.
"""

from typing import NamedTuple

import numpy as np
import torch
from torch.nn.functional import embedding_bag

from mmhyperface.utils.choices import MEDIA, NORMS
from mmhyperface.utils.errors import UserError, some
from mmhyperface.utils.lookup import rows_of

from ..arrays import (
    Array,
    Floats,
    Ints,
    as_integers,
    as_rows,
    blocks,
    check_choice,
    check_lengths,
    row_dots,
    to_numpy,
    to_torch,
    unit_rows,
    unusable_rows,
)

FLIPS = ('sum', 'concat', 'none')


class Templates(NamedTuple):
    """``ids`` int64 [T], ascending, and ``features`` [T, D], of length 1."""

    ids: Ints
    features: Floats


def pool_templates(
    features: Array,
    template_ids: Array,
    media_ids: Array,
    detector_scores: Array | None = None,
    mirrored: Array | None = None,
    norm: str = 'keep',
    flip: str = 'sum',
    media: str = 'mean',
) -> Templates:
    """Weighted sums of the image features of each template, brought to length 1.

    Template = Σ over its media (mean over the medium's images in this template of
    weight · image feature), divided by its length. All of this is linear in the
    features: each is read once and the memory is that of the templates.

    Args:
        features: [N, D], one row per image, not normalised.
        template_ids, media_ids: integers [N]; media of two templates are not the same
            even if their ids are.
        detector_scores: [N], weights of the images; None: all count alike.
        mirrored: [N, D], features of the mirror images. None: there are none, or they
            have been fused.
        norm: ``'keep'``: image features keep their lengths, which tell quality;
            ``'unit'``: each is brought to length 1, after the flips are fused.
        flip: with ``mirrored``, ``'sum'`` of an image and its mirror image,
            ``'concat'``, giving [T, 2D], or ``'none'``, leaving ``mirrored`` aside.
        media: ``'mean'`` as above; ``'none'``: every image counts by itself.

    Returns:
        Templates in the type of the features, float32 or float64.

    Raises:
        UserError: lengths that differ, features or scores that are not finite,
            negative scores, a template without a usable image (its weights, or its
            features, sum to zero).
    """
    check_choice('norm', norm, NORMS)
    check_choice('flip', flip, FLIPS)
    check_choice('media', media, MEDIA)
    parts = [as_rows(features)]
    if mirrored is not None and flip != 'none':
        parts.append(as_rows(mirrored, 'mirrored'))
        if parts[0].shape != parts[1].shape:
            raise UserError(
                f'features are {list(parts[0].shape)} but mirrored '
                f'{list(parts[1].shape)}'
            )
    given = as_integers(template_ids, 'template_ids')
    media_of = as_integers(media_ids, 'media_ids')
    check_lengths(features=parts[0], template_ids=given, media_ids=media_of)
    if not len(given):
        raise UserError('there are no images')
    weights = image_weights(detector_scores, given)
    ids, template = np.unique(given, return_inverse=True)
    if media == 'mean':
        weights = weights / _images_of_medium(template, media_of)
    if norm == 'unit':
        lengths = _lengths(parts, flip)
        weights = np.divide(
            weights, lengths, out=np.zeros_like(weights), where=lengths > 0
        )
    sums = [_weighted_sums(rows, template, weights, len(ids)) for rows in parts]
    pooled = (
        np.concatenate(sums, axis=1) if flip == 'concat' else sum(sums[1:], sums[0])
    )
    bad = unusable_rows(pooled)
    if len(bad):
        _refuse(parts, ids[bad])
    return Templates(ids.astype(np.int64), unit_rows(pooled))


def template_rows(ids: Array, wanted: Array) -> Ints:
    """Rows [P] of :class:`Templates` whose ids are ``wanted`` [P].

    Args:
        ids: [T], ascending, as :class:`Templates` has them.

    Raises:
        UserError: ids that no template has, or that do not ascend.
    """
    known, asked = as_integers(ids, 'ids'), as_integers(wanted, 'wanted')
    if (np.diff(known) <= 0).any():
        raise UserError('ids must ascend, each once, as those of Templates do')
    rows = rows_of(known, asked)
    if rows.min(initial=0) < 0:
        unknown = np.unique(asked[rows < 0])
        raise UserError(f'no image belongs to template {some(unknown)}')
    return rows


def image_weights(detector_scores: Array | None, template_ids: Ints) -> Floats:
    """The weights of images, float64 [N], of their templates [N].

    Raises:
        UserError: see :func:`pool_templates`.
    """
    if detector_scores is None:
        return np.ones(len(template_ids))
    scores = to_numpy(detector_scores)
    if scores.ndim != 1 or scores.dtype.kind not in 'iuf':
        raise UserError(
            f'detector_scores must be numbers [N], not {scores.dtype} of shape '
            f'{list(scores.shape)}'
        )
    scores = scores.astype(np.float64)
    check_lengths(template_ids=template_ids, detector_scores=scores)
    bad = np.flatnonzero(~(np.isfinite(scores) & (scores >= 0)))
    if len(bad):
        raise UserError(
            f'detector scores are negative, NaN or infinite of images {some(bad)}'
        )
    dark = np.setdiff1d(template_ids, template_ids[scores > 0])
    if len(dark):
        raise UserError(
            f'no image of template {some(dark)} is usable: all their detector scores '
            'are 0'
        )
    return scores


def _images_of_medium(template: Ints, media_of: Ints) -> Ints:
    """For each image, how many of its template are of its medium, [N]."""
    media, medium = np.unique(media_of, return_inverse=True)
    _, group, size = np.unique(
        template * len(media) + medium, return_inverse=True, return_counts=True
    )
    return size[group]


def _lengths(parts: list[Floats], flip: str) -> Floats:
    """Lengths of the fused image features, float64 [N]."""
    squares = np.empty(len(parts[0]))
    for part in blocks(*parts[0].shape):
        chosen = [rows[part].astype(np.float64) for rows in parts]
        fused = chosen if flip == 'concat' else [sum(chosen[1:], chosen[0])]
        squares[part] = sum(row_dots(rows, rows) for rows in fused)
    return np.sqrt(squares)


def _weighted_sums(rows: Floats, template: Ints, weights: Floats, count: int) -> Floats:
    """Sums [T, D] of the rows of each template, each row read once."""
    order = np.argsort(template, kind='stable')
    starts = np.searchsorted(template[order], np.arange(count))
    return embedding_bag(
        torch.from_numpy(order),
        to_torch(rows),
        torch.from_numpy(starts),
        mode='sum',
        per_sample_weights=torch.from_numpy(weights[order].astype(rows.dtype)),
    ).numpy()


def _refuse(parts: list[Floats], bad: Ints) -> None:
    """Raises an error that says why templates have no direction."""
    infinite = np.zeros(len(parts[0]), np.bool_)
    for rows in parts:
        for part in blocks(*rows.shape):
            infinite[part] |= ~np.isfinite(rows[part]).all(1)
    if infinite.any():
        raise UserError(
            f'features are NaN or infinite in rows {some(np.flatnonzero(infinite))}'
        )
    raise UserError(
        f'no image of template {some(bad)} is usable: the features sum to zero or are '
        'too large'
    )
