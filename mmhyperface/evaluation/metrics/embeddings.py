"""Embeddings of the images of a whole test, and of one of its test sets."""

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from mmhyperface.utils.choices import MEDIA, NORMS
from mmhyperface.utils.errors import UserError, some

from ..arrays import Floats, Ints, NoDirectionError, check_choice, unusable_rows
from ..functional import Templates, pool_templates

# What is known of mirror images, in words; the keys are pool_templates' flips.
FLIPS = {
    'model': 'flips fused by the model',
    'given': 'features as they were given',
    'sum': 'image + mirror image',
    'concat': 'image and mirror image concatenated',
    'none': 'no mirror images',
}


@dataclass(frozen=True)
class Pooling:
    """How image features become templates: options of :func:`pool_templates`.

    Raises:
        UserError: a value that there is not.
    """

    norm: str = 'keep'
    detector_scores: bool = True
    media: str = 'mean'

    def __post_init__(self) -> None:
        check_choice('norm', self.norm, NORMS)
        check_choice('media', self.media, MEDIA)

    @property
    def convention(self) -> str:
        weight = '' if self.detector_scores else 'not '
        return (
            f'image features: {NORMS[self.norm]}, {weight}weighted by detector score; '
            f'templates: {MEDIA[self.media]}, brought to length 1'
        )


@dataclass(eq=False)
class SetFeatures:
    """Features of the images of one test set, in their order.

    Args:
        rows: [N, D].
        mirrored: [N, D], of the mirror images, if they are yet to be fused.
        flip: How they are, or were, fused: a key of :data:`FLIPS`.
    """

    rows: Floats
    mirrored: Floats | None = None
    flip: str = 'model'
    _pooled: dict[Pooling, Templates] = field(default_factory=dict, init=False)

    @property
    def convention(self) -> str:
        return FLIPS[self.flip]

    @cached_property
    def fused(self) -> Floats:
        """[N, D], or [N, 2D] where mirror images are concatenated."""
        if self.mirrored is None:
            return self.rows
        if self.flip == 'concat':
            return np.concatenate([self.rows, self.mirrored], axis=1)
        return self.rows + self.mirrored

    def templates(self, test_set: dict[str, Any], pooling: Pooling) -> Templates:
        """The set's templates, pooled once for all who ask for the same."""
        if pooling not in self._pooled:
            self._pooled[pooling] = pool_templates(
                self.rows,
                test_set['template_ids'],
                test_set['media_ids'],
                test_set['detector_scores'] if pooling.detector_scores else None,
                mirrored=self.mirrored,
                norm=pooling.norm,
                flip='none' if self.mirrored is None else self.flip,
                media=pooling.media,
            )
        return self._pooled[pooling]


@dataclass(eq=False)
class Embeddings:
    """One embedding per image, in the order of the images' numbers in the data set.

    Args:
        numbers: int64 [N], ascending.
        rows: [N, D].
        mirrored, flip: see :class:`SetFeatures`.
    """

    numbers: Ints
    rows: Floats
    mirrored: Floats | None = None
    flip: str = 'model'
    _sets: dict[str, SetFeatures] = field(default_factory=dict, init=False)

    def of(self, name: str, test_set: dict[str, Any]) -> SetFeatures:
        """The embeddings of a test set's images, which are not copied.

        Raises:
            UserError: an image without one.
            NoDirectionError: an image whose embedding has no direction.
        """
        if name not in self._sets:
            self._sets[name] = self._part(test_set)
        return self._sets[name]

    def _part(self, test_set: dict[str, Any]) -> SetFeatures:
        offset, count = test_set['offset'], test_set['num_images']
        # What is removed need not have a direction.
        removed = test_set.get('noisy', np.zeros(count, np.bool_))
        first, last = np.searchsorted(self.numbers, (offset, offset + count))
        if last - first < count:
            wanted = np.arange(offset, offset + count)
            missing = np.setdiff1d(wanted, self.numbers[first:last])
            raise UserError(
                f'{len(missing)} of {count} samples were not processed: {some(missing)}'
            )
        rows = self.rows[first:last]
        mirrored = None if self.mirrored is None else self.mirrored[first:last]
        for kind, part in (('embedding', rows), ('mirrored embedding', mirrored)):
            bad = np.empty(0, np.int64) if part is None else unusable_rows(part)
            bad = bad[~removed[bad]]
            if len(bad):
                raise NoDirectionError(
                    f'the {kind} is zero, NaN or infinite of sample '
                    f'{some(bad + offset)}'
                )
        return SetFeatures(rows, mirrored, self.flip)
