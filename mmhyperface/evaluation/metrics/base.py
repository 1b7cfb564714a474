"""What the metrics of embeddings have in common."""

import copy
import logging
import math
from abc import abstractmethod
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, ClassVar, TypeVar

import numpy as np
from mmengine.dist import broadcast_object_list, is_main_process
from mmengine.evaluator import BaseMetric
from mmengine.logging import print_log

from mmhyperface.utils.errors import UserError

from ..arrays import Ints, NoDirectionError, as_integers, check_lengths, check_rows
from ..protocols import Result
from .embedding_store import EmbeddingStore
from .embeddings import Embeddings, SetFeatures

T = TypeVar('T')


class EmbeddingMetric(BaseMetric):
    """Figures of each test set of one kind, from the embeddings of its images.

    A sample carries ``sample_idx`` (the image's number in the data set) and
    ``embedding`` [D], not normalised. The test sets are those of
    ``dataset_meta['test_sets']``, a dict by name of ``dict(kind, offset, num_images,
    …)``, where image i of the set is sample ``offset + i``. They are checked when the
    metric is told of them, which is before anything is computed. Sets of another kind
    are left to other metrics, images of no set are left aside.

    Each image counts once, however many processes there are and whatever their
    samplers repeat; every figure is the same to the last digit. Figures are called
    ``prefix/set/figure``, see the ``figures`` of :attr:`RESULT`; they are fractions,
    NaN where the set cannot resolve a rate. Rank 0 keeps the rest in
    :attr:`results_by_set` until the next evaluation.

    :class:`~mmhyperface.evaluation.FaceEvaluator` keeps embeddings once for all such
    metrics; in mmengine's ``Evaluator`` each keeps its own.

    Args:
        prefix: of the figures' names.
        kwargs: ``collect_device`` and ``collect_dir`` of mmengine's ``BaseMetric``,
            which are of no effect.

    Attributes:
        tolerant: Whether a test set whose embeddings admit no figure (some are zero,
            NaN or infinite, or all are alike) has figures that are NaN, and a warning,
            instead of an error. So it is in training, which this is not to end.
    """

    #: Of the test sets that are examined, and what results they have.
    KIND: ClassVar[str]
    RESULT: ClassVar[type[Result]]

    default_prefix = ''

    def __init__(self, prefix: str | None = None, **kwargs: Any) -> None:
        super().__init__(prefix=prefix, **kwargs)
        self.store = EmbeddingStore()
        self.test_sets: dict[str, dict] = {}
        self.results_by_set: dict[str, Result] = {}
        self.tolerant = False

    @abstractmethod
    def check(self, test_set: dict) -> None:
        """Refuse a test set that cannot be examined.

        Raises:
            UserError: what is wrong with it.
        """

    @abstractmethod
    def examine(self, name: str, test_set: dict, features: SetFeatures) -> Result:
        """What is found out about one test set.

        Raises:
            UserError: features that admit no figure.
        """

    def concerns(self, test_set: dict) -> bool:
        """Whether the metric has anything to say about a test set of its kind."""
        return True

    @property
    def dataset_meta(self) -> dict | None:
        return self._dataset_meta

    @dataset_meta.setter
    def dataset_meta(self, dataset_meta: dict | None) -> None:
        # Checked here, when the loop is built, and not after hours of computing.
        self.test_sets = {}
        if dataset_meta is not None:
            self.test_sets = self._own(dataset_meta.get('test_sets', {}))
        for name, test_set in self.test_sets.items():
            with naming(name):
                self.check(test_set)
        self.store.ranges = sample_ranges(self.test_sets)
        self._dataset_meta = dataset_meta

    def fresh(self) -> 'EmbeddingMetric':
        """Another metric with the same settings and sets, and no samples yet."""
        other = copy.copy(self)
        other.store = EmbeddingStore(self.store.ranges)
        other.results_by_set = {}
        return other

    def process(self, data_batch: Any, data_samples: Sequence[dict]) -> None:
        """Keep the embeddings of one batch, as float32 on the CPU."""
        self.store.add(data_samples)

    def evaluate(self, size: int) -> dict[str, float]:
        """Figures of all test sets; all ranks return the same, or raise the same error.

        Args:
            size: number of images in the data set; unused, for the test sets say
                which images are needed.

        Raises:
            UserError: when an image was not processed, or has a zero or non-finite
                embedding, and when the embeddings admit no figure (but see
                :attr:`tolerant`).
        """
        embeddings = self.store.gather()
        return on_main_process(lambda: self.compute_metrics(embeddings))

    def compute_metrics(self, results: Any) -> dict[str, float]:
        """Figures of all test sets.

        Args:
            results: :class:`Embeddings` of their images; None if there are none.
        """
        if not self.test_sets:
            raise self._nothing_to_examine({})
        if results is None:
            raise UserError(
                f'{type(self).__name__} was given no samples: its data loader has none'
            )
        self.results_by_set = {
            name: self._examine(name, test_set, results)
            for name, test_set in self.test_sets.items()
        }
        return {
            '/'.join(filter(None, (self.prefix, name, figure))): value
            for name, result in self.results_by_set.items()
            for figure, value in result.figures().items()
        }

    def _examine(self, name: str, test_set: dict, embeddings: Embeddings) -> Result:
        with naming(name):
            try:
                features = embeddings.of(name, test_set)
            except NoDirectionError as error:
                return self._without_figures(name, test_set, error)
            try:
                return self.examine(name, test_set, features)
            except UserError as error:
                return self._without_figures(name, test_set, error)

    def _without_figures(self, name: str, test_set: dict, error: UserError) -> Result:
        if not self.tolerant:
            raise error
        print_log(
            f'test set {name!r}: {error}; its figures are NaN',
            'current',
            logging.WARNING,
        )
        # Any embeddings have figures of the same names.
        shape = test_set['num_images'], 8
        rows = np.random.default_rng(0).standard_normal(shape, np.float32)
        return replace(self.examine(name, test_set, SetFeatures(rows)), finite=False)

    def _own(self, test_sets: dict[str, dict]) -> dict[str, dict]:
        own = {
            name: test_set
            for name, test_set in test_sets.items()
            if test_set['kind'] == self.KIND and self.concerns(test_set)
        }
        if not own:
            raise self._nothing_to_examine(test_sets)
        return own

    def _nothing_to_examine(self, test_sets: dict[str, dict]) -> UserError:
        return UserError(
            f'{type(self).__name__} needs a data set (val_dataloader.dataset, or '
            "test_dataloader.dataset) whose metainfo has 'test_sets' "
            f'for the protocol {self.RESULT.protocol}, with at least one of kind '
            f'{self.KIND!r}; it has {sorted(test_sets) or "none"}'
        )


def not_finite_sets(loop: Any, figures: Mapping[str, float]) -> list[str]:
    """Names, with prefixes, of the test sets whose result is not finite; on all ranks.

    Args:
        loop: of the validation or test; one without an evaluator has none.
        figures: what its evaluator has found out.
    """
    names = [
        '/'.join(filter(None, (metric.prefix, name)))
        for metric in getattr(getattr(loop, 'evaluator', None), 'metrics', ())
        if isinstance(metric, EmbeddingMetric)
        for name in metric.test_sets
    ]
    by_set: dict[str, list[float]] = {}
    for figure, value in figures.items():
        by_set.setdefault(figure.rpartition('/')[0], []).append(value)
    # Some figures, such as EER and ranks, are resolvable with whatever test set.
    return [
        name
        for name in dict.fromkeys(names)
        if name in by_set and all(map(math.isnan, by_set[name]))
    ]


def sample_ranges(test_sets: dict[str, dict]) -> list[tuple[int, int]]:
    """(first, one past the last) numbers of the samples of test sets, ascending."""
    merged: list[tuple[int, int]] = []
    for first, end in sorted(
        (test_set['offset'], test_set['offset'] + test_set['num_images'])
        for test_set in test_sets.values()
    ):
        if merged and first <= merged[-1][1]:
            merged[-1] = merged[-1][0], max(merged[-1][1], end)
        else:
            merged.append((first, end))
    return merged


def on_main_process(compute: Callable[[], T]) -> T:
    """What rank 0 computes, on all ranks; or the error that it meets."""
    answer: list[Any] = [None, None]
    if is_main_process():
        try:
            answer[0] = compute()
        except UserError as error:
            answer[1] = error
        except Exception as error:
            # The other ranks wait for an answer, and not every error can be sent.
            answer[1] = RuntimeError(f'rank 0 failed: {error!r}')
            broadcast_object_list(answer)
            raise
    broadcast_object_list(answer)
    value, failure = answer
    if failure is not None:
        raise failure
    return value


@contextmanager
def naming(name: str) -> Generator[None, None, None]:
    """Let errors tell which test set they are about."""
    try:
        yield
    except UserError as error:
        raise UserError(f'test set {name!r}: {error}') from error


def check_pairs(first: Ints, second: Ints, same: Any, count: int, what: str) -> None:
    """Refuse pairs that do not fit one another, the set, or verification.

    Raises:
        UserError: It names the list.
    """
    first, second = as_integers(first, 'index_a'), as_integers(second, 'index_b')
    check_lengths(index_a=first, index_b=second, same=same)
    kinds = [kind for kind in (False, True) if (same == kind).any()]
    if len(kinds) != 2:
        raise UserError(
            f'it needs same and different pairs; its {len(same)} pairs hold {kinds}'
        )
    check_rows('index_a', first, count, what)
    check_rows('index_b', second, count, what)
