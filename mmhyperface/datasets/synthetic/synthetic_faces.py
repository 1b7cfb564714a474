"""Data sets of drawn faces: no download, no files, any number of people.

A picture is a function of (seed, identity, number of the picture) alone: not of how
many identities or pictures a data set has, nor of order, process or worker.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from mmhyperface.datasets.face_dataset import FaceDataset
from mmhyperface.registry import DATASETS

from .face_renderer import (
    LABEL_STREAM,
    PAIR_STREAM,
    identity_parameters,
    nuisance_parameters,
    random_stream,
    render,
)

# Below this a face has no features left.
SMALLEST_IMAGE = 16
# Pairs of images are numbered in 63 bits.
MOST_IMAGES = 2**32
# Names are a part of every checkpoint, and of the data set that each worker gets.
MOST_NAMES = 100_000


class SyntheticFaceBase(FaceDataset):
    """Pictures number 0 … num_identities × images_per_identity − 1, drawn when asked.

    Args:
        num_identities: number of people.
        images_per_identity: pictures of each.
        image_size: height and width in pixels.
        seed: another seed, other people.
        first_identity: number of the first person. Data sets of one seed whose ranges
            [first_identity, first_identity + num_identities) do not overlap share no
            person.
        difficulty: scales how much pictures of one person differ (pose, expression,
            light, occlusion, blur, noise, background): 0 not at all, 1 the default,
            2 hard.
        cache_images: keep each picture in the memory of the process that has drawn
            it, for data sets that are small beside it and visited often.
        **kwargs: see :class:`FaceDataset`: pipeline, indices, metainfo, test_mode,
            lazy_init.

    Raises:
        UserError: an argument out of range.
    """

    #: Not a list of the images but their numbers: it takes no memory.
    data_list: Sequence[int] | np.ndarray

    def __init__(
        self,
        num_identities: int,
        images_per_identity: int,
        image_size: int = 112,
        seed: int = 0,
        first_identity: int = 0,
        difficulty: float = 1.0,
        cache_images: bool = False,
        metainfo: dict | None = None,
        **kwargs: Any,
    ) -> None:
        self.num_identities = num_identities
        self.images_per_identity = images_per_identity
        self.image_size = image_size
        self.seed = seed
        self.first_identity = first_identity
        self.difficulty = difficulty
        self._drawn: dict[int, np.ndarray] | None = {} if cache_images else None
        for name, lowest in (
            ('num_identities', 1),
            ('images_per_identity', 1),
            ('image_size', SMALLEST_IMAGE),
            ('seed', 0),
            ('first_identity', 0),
        ):
            self._check_integer(name, lowest, np.inf)
        if not difficulty >= 0:
            raise self._error(
                f'difficulty={difficulty} is not a number ≥ 0; set '
                f'{self._option("difficulty")} to 0 (pictures of a person do not '
                'differ) … 2 (hard)'
            )
        super().__init__(
            metainfo=dict(metainfo or {}, num_classes=num_identities),
            serialize_data=False,
            **kwargs,
        )

    def load_data_list(self) -> Sequence[int] | np.ndarray:
        return range(self.num_identities * self.images_per_identity)

    def get_data_info(self, idx: int) -> dict:
        """``img`` (uint8 [H, W, 3], BGR), ``img_shape``, ``ori_shape``, ``gt_label``
        (in [0, num_identities)) and ``sample_idx``."""
        idx = self._number(idx)
        person, index = self._person_and_index(idx)
        image = self._image(person, index)
        return dict(
            img=image,
            img_shape=image.shape[:2],
            ori_shape=image.shape[:2],
            gt_label=self._label(person, index),
            sample_idx=idx,
        )

    def _image(self, person: int, index: int) -> np.ndarray:
        number = person * self.images_per_identity + index
        if self._drawn is not None and number in self._drawn:
            return self._drawn[number].copy()
        identity = self.first_identity + person
        image = render(
            identity_parameters(self.seed, identity),
            nuisance_parameters(self.seed, identity, index, self.difficulty),
            self.image_size,
        )
        if self._drawn is not None:
            self._drawn[number] = image.copy()
        return image

    def get_cat_ids(self, idx: int) -> list[int]:
        return [self._label(*self._person_and_index(self._number(idx)))]

    def get_gt_labels(self) -> np.ndarray:
        return np.array([self.get_cat_ids(idx)[0] for idx in range(len(self))])

    def _label(self, person: int, index: int) -> int:
        return person

    def _person_and_index(self, idx: int) -> tuple[int, int]:
        return divmod(int(self.data_list[idx]), self.images_per_identity)


@DATASETS.register_module()
class SyntheticFaces(SyntheticFaceBase):
    """Drawn faces to train on: label k is person first_identity + k.

    Whose faces they are is told by the names ``metainfo['classes']``, 'drawn
    SEED-PERSON', unless they are more than 100 000 people or `metainfo` has others.

    Args:
        label_noise: share of the images that carry the label of someone else, every
            other person being as likely. The image itself does not change.
        **kwargs: see :class:`SyntheticFaceBase`.

    Raises:
        UserError: an argument out of range.
    """

    def __init__(
        self,
        num_identities: int,
        images_per_identity: int,
        label_noise: float = 0.0,
        **kwargs: Any,
    ) -> None:
        self.label_noise = label_noise
        if not 0 <= label_noise <= 1:
            raise self._error(
                f'label_noise={label_noise} is not a share; set '
                f'{self._option("label_noise")} to 0 … 1'
            )
        if label_noise and num_identities == 1:
            raise self._error(
                'one person leaves no wrong label; set label_noise to 0 or '
                f'{self._option("num_identities")} to 2 or more'
            )
        super().__init__(num_identities, images_per_identity, **kwargs)
        if self.num_identities <= MOST_NAMES:
            last = self.first_identity + self.num_identities
            people = range(self.first_identity, last)
            names = tuple(f'drawn {self.seed}-{person}' for person in people)
            self._metainfo.setdefault('classes', names)

    def _label(self, person: int, index: int) -> int:
        if not self.label_noise:
            return person
        identity = self.first_identity + person
        rng = random_stream(self.seed, LABEL_STREAM, identity, index)
        if rng.random() >= self.label_noise:
            return person
        others = int(rng.integers(1, self.num_identities))
        return (person + others) % self.num_identities


@DATASETS.register_module()
class SyntheticFacePairs(SyntheticFaceBase):
    """Drawn faces to test on: as many pairs of one person as of two.

    Items are the distinct images of the pairs, each once. The pairs are in
    ``metainfo['test_sets'][name]``, described in
    :mod:`.pair_sets`. No pair comes twice. Every fold has as many
    pairs of one person as of two.

    Args:
        num_pairs: of both kinds together; even.
        name: of the test set, in reports.
        folds: number of parts for cross validation.
        test_mode: as in mmengine.
        **kwargs: see :class:`SyntheticFaceBase`; `indices` is refused.

    Raises:
        UserError: an argument out of range; more pairs than there are.
    """

    LOADER = 'test_dataloader'

    def __init__(
        self,
        num_identities: int,
        images_per_identity: int,
        num_pairs: int = 1000,
        name: str = 'synthetic',
        folds: int = 10,
        test_mode: bool = True,
        **kwargs: Any,
    ) -> None:
        self.num_pairs = num_pairs
        self.folds = folds
        self._check_integer('folds', 1, np.inf)
        self._check_integer('num_pairs', 2 * self.folds, np.inf)
        if self.num_pairs % 2:
            raise self._error(
                f'num_pairs={num_pairs} is odd, and half of the pairs are of the same '
                f'person; set {self._option("num_pairs")} to an even number'
            )
        lazy_init = kwargs.pop('lazy_init', False)
        super().__init__(
            num_identities,
            images_per_identity,
            test_mode=test_mode,
            lazy_init=True,
            **kwargs,
        )
        numbers, pairs = np.unique(self._draw_pairs(), return_inverse=True)
        self._numbers = numbers
        index_a, index_b = pairs.reshape(2, -1)
        half = self.num_pairs // 2
        self._set_pairs(
            name,
            source=type(self).__name__,
            num_images=len(numbers),
            index_a=index_a,
            index_b=index_b,
            same=np.arange(self.num_pairs) < half,
            folds=np.arange(self.num_pairs) % half % self.folds,
            identities=numbers // images_per_identity,
        )
        if not lazy_init:
            self.full_init()

    def load_data_list(self) -> np.ndarray:
        return self._numbers

    def _draw_pairs(self) -> np.ndarray:
        """[2, num_pairs]: numbers of images, first those of the same person.

        All pairs of a kind are numbered, and different numbers are drawn.
        """
        people, images = self.num_identities, self.images_per_identity
        half = self.num_pairs // 2
        if people * images > MOST_IMAGES:
            raise self._error(
                f'num_identities * images_per_identity = {people * images} is above '
                f'{MOST_IMAGES}; set {self._option("num_identities")} lower'
            )
        same_each = images * (images - 1) // 2
        different_each = images**2
        num_same = people * same_each
        num_different = people * (people - 1) // 2 * different_each
        if half > min(num_same, num_different):
            raise self._error(
                f'{people} identities with {images} images each have {num_same} pairs '
                f'of the same person and {num_different} of different people, so '
                f'num_pairs can be at most {2 * min(num_same, num_different)}; lower '
                f'{self._option("num_pairs")} or raise num_identities or '
                'images_per_identity'
            )
        rng = random_stream(self.seed, PAIR_STREAM)
        same = _distinct(rng, num_same, half)
        person, pair = np.divmod(same, max(same_each, 1))
        first, second = _unrank(pair)
        same_pairs = person * images + np.stack([first, second])
        different = _distinct(rng, num_different, half)
        pair, choice = np.divmod(different, different_each)
        first, second = _unrank(pair)
        chosen = np.stack(np.divmod(choice, images))
        different_pairs = np.stack([first, second]) * images + chosen
        return np.concatenate([same_pairs, different_pairs], axis=1)


def _distinct(rng: np.random.Generator, total: int, count: int) -> np.ndarray:
    """`count` different integers below `total`, in random order."""
    if total < 4 * count:
        return rng.permutation(total)[:count]
    drawn = np.empty(0, np.int64)
    while len(drawn) < count:
        more = rng.integers(total, size=count)
        _, first = np.unique(joined := np.concatenate([drawn, more]), return_index=True)
        drawn = joined[np.sort(first)]
    return drawn[:count]


def _unrank(rank: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Pair number 0, 1, 2, … of (0, 1), (0, 2), (1, 2), (0, 3), …"""
    second = ((1 + np.sqrt(1 + 8 * rank.astype(np.float64))) / 2).astype(np.int64)
    second -= second * (second - 1) // 2 > rank  # the root was rounded up
    return rank - second * (second - 1) // 2, second
