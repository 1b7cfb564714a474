"""An evaluator that keeps embeddings once, whatever number of metrics need them."""

import json
import logging
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from mmengine.evaluator import BaseMetric, Evaluator
from mmengine.logging import print_log
from mmengine.structures import BaseDataElement

from mmhyperface.registry import EVALUATORS
from mmhyperface.utils.atomic_files import new_files
from mmhyperface.utils.errors import UserError

from .metrics.base import EmbeddingMetric, on_main_process, sample_ranges
from .metrics.embedding_store import EmbeddingStore
from .metrics.embeddings import Embeddings

PREFIX = 'give one of them a prefix=... in val_evaluator, or test_evaluator'


@EVALUATORS.register_module()
class FaceEvaluator(Evaluator):
    """mmengine's ``Evaluator``, in which all :class:`EmbeddingMetric` share a store.

    The embeddings exist once among the processes and, at the end, once on rank 0;
    templates are pooled once for all metrics that ask for the same. Other metrics work
    as ever.

    Args:
        metrics: the metrics or their configs.
        save_features: a file ``NAME.npy`` to write all embeddings to, float32 [N, D],
            row i of sample i; ``NAME.json`` beside it tells of which test sets.
        about_features: what else ``NAME.json`` is to tell.

    Raises:
        UserError: a file of another name, or where none can be written. If that comes
            to light after the test, an error is logged, and the figures stay.
    """

    def __init__(
        self,
        metrics: dict | BaseMetric | Sequence,
        save_features: str | None = None,
        about_features: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(metrics)
        self.save_features = None if save_features is None else Path(save_features)
        self.about_features = about_features or {}
        self.store = EmbeddingStore()
        if self.save_features is not None:
            require_place(self.save_features)

    @property
    def embedding_metrics(self) -> list[EmbeddingMetric]:
        return [m for m in self.metrics if isinstance(m, EmbeddingMetric)]

    @property
    def dataset_meta(self) -> dict | None:
        return self._dataset_meta

    @dataset_meta.setter
    def dataset_meta(self, dataset_meta: dict | None) -> None:
        self._dataset_meta = dataset_meta
        for metric in self.metrics:
            metric.dataset_meta = dataset_meta
        self._refuse_homonyms()
        needed: dict[str, dict] = {}
        for embedding_metric in self.embedding_metrics:
            needed |= embedding_metric.test_sets
        self.store.ranges = None if self.save_features else sample_ranges(needed)

    def process(
        self, data_samples: Sequence[BaseDataElement], data_batch: Any = None
    ) -> None:
        """Let each metric have the samples of a batch, see mmengine's ``Evaluator``."""
        samples: list[Any] = [
            sample.to_dict() if isinstance(sample, BaseDataElement) else sample
            for sample in data_samples
        ]
        if self.embedding_metrics or self.save_features:
            self.store.add(samples)
        for metric in self.metrics:
            if not isinstance(metric, EmbeddingMetric):
                metric.process(data_batch, samples)

    def evaluate(self, size: int) -> dict[str, float]:
        """Figures of all metrics; all ranks return the same, or raise the same error.

        Args:
            size: number of samples in the data set.

        Raises:
            UserError: see :class:`EmbeddingMetric`; figures of one name.
        """
        embeddings = self.store.gather()
        figures = on_main_process(lambda: self._examine(embeddings, size))
        for metric in self.metrics:
            if not isinstance(metric, EmbeddingMetric):
                _add(figures, metric.evaluate(size))
        return figures

    def _examine(self, embeddings: Embeddings | None, size: int) -> dict[str, float]:
        # First of all: whatever is wrong with the test, the features have their price.
        if self.save_features is not None:
            try:
                self._save(self.save_features, embeddings, size)
            except UserError as error:
                print_log(f'Features are not saved: {error}', 'current', logging.ERROR)
        figures: dict[str, float] = {}
        for metric in self.embedding_metrics:
            _add(figures, metric.compute_metrics(embeddings))
        return figures

    def _save(self, path: Path, embeddings: Embeddings | None, size: int) -> None:
        count = 0 if embeddings is None else len(embeddings.numbers)
        if embeddings is None or count != size:
            raise UserError(
                f'{path} is not written: there are embeddings of {count} of {size} '
                'samples'
            )
        about = {
            'features': path.name,
            'shape': list(embeddings.rows.shape),
            'test_sets': set_places((self.dataset_meta or {}).get('test_sets', {})),
            **self.about_features,
        }
        with new_files([str(path), str(path.with_suffix('.json'))], overwrite=True) as (
            features,
            description,
        ):
            np.save(features, embeddings.rows)
            description.write(json.dumps(about, indent=2).encode() + b'\n')

    def _refuse_homonyms(self) -> None:
        """Metrics whose figures would bear one name are told early."""
        seen: set[tuple] = set()
        for metric in self.embedding_metrics:
            for name in metric.test_sets:
                # Protocols on templates and on pairs do not share a test set.
                key = metric.prefix, name, metric.RESULT
                if key in seen:
                    raise UserError(
                        f'two metrics examine the test set {name!r} by the protocol '
                        f'{metric.RESULT.protocol}: {type(metric).__name__}; {PREFIX}'
                    )
                seen.add(key)


def set_places(test_sets: dict[str, dict]) -> dict[str, dict]:
    """The kind of each test set, and which samples are its images."""
    return {
        name: {key: test_set[key] for key in ('kind', 'offset', 'num_images')}
        for name, test_set in test_sets.items()
    }


def _add(figures: dict[str, float], more: dict[str, float]) -> None:
    both = sorted(figures.keys() & more.keys())
    if both:
        raise UserError(f'two metrics have a figure called {both[0]!r}; {PREFIX}')
    figures.update(more)


def require_place(path: Path) -> None:
    """Makes the folder of a file of features.

    Raises:
        UserError: If it cannot be, or the file has another ending.
    """
    if path.suffix != '.npy' or path.is_dir():
        raise UserError(f'features are saved to a .npy file, not to {path}')
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # The folder may not be ours to write to.
        with tempfile.TemporaryFile(dir=path.parent):
            pass
    except OSError as error:
        raise UserError(f'{path} cannot be written: {error}') from None
