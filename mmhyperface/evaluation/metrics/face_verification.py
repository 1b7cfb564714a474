"""Face verification on lists of image pairs: LFW, CFP-FP, AgeDB-30 and their like."""

import copy
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from mmengine.dist import broadcast_object_list, gather_object, is_main_process
from mmengine.evaluator import BaseMetric

from mmhyperface.errors import UserError
from mmhyperface.registry import METRICS

from ..functional import (
    INSIGHTFACE_GRID,
    auc,
    equal_error_rate,
    global_accuracy,
    kfold_accuracy,
    score_pairs,
    stratified_folds,
    tar_at_far,
)
from ..functional.verification import INTERPOLATIONS, some, unusable_rows

ACCURACIES = {
    'exact': 'the threshold that is best on the other folds, exactly',
    'grid': "the best d² of insightface's grid on the other folds",
    'global': 'one threshold fitted on all pairs (no folds, no std)',
}
TARS = {
    'exact': 'exact, ties with the threshold rejected',
    'linear': 'linear interpolation of the ROC',
    'nearest': 'the point of the ROC with the nearest FAR',
}


@dataclass
class VerificationResult:
    """One test set's figures (fractions, not percent) and what they stand on.

    ``scores`` and ``same`` are [P]; ``fars``, ``tars`` and ``thresholds`` (of the
    TARs, as scores) are [K], with NaN where the FAR is not resolvable;
    ``accuracy_thresholds`` has one entry per fold. ``accuracy_std`` is NaN when
    there are no folds. ``convention`` says in words how all this was computed.
    """

    scores: npt.NDArray[np.floating]
    same: npt.NDArray[np.bool_]
    accuracy: float
    accuracy_std: float
    accuracy_thresholds: npt.NDArray[np.floating]
    eer: float
    auc: float
    fars: npt.NDArray[np.floating]
    tars: npt.NDArray[np.floating]
    thresholds: npt.NDArray[np.floating]
    convention: str

    @property
    def num_same(self) -> int:
        return int(np.count_nonzero(self.same))

    @property
    def num_different(self) -> int:
        return len(self.same) - self.num_same

    def state_dict(self) -> dict[str, Any]:
        """Only tensors, floats and strings, as ``torch.load`` admits by default."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return {
            name: torch.from_numpy(value) if isinstance(value, np.ndarray) else value
            for name, value in values.items()
        }

    @classmethod
    def from_state_dict(cls, state: dict[str, Any]) -> 'VerificationResult':
        values: dict[str, Any] = {
            name: value.cpu().numpy() if isinstance(value, torch.Tensor) else value
            for name, value in state.items()
        }
        return cls(**values)


@METRICS.register_module()
class FaceVerification(BaseMetric):
    """Accuracy, EER, AUC and TAR@FAR of each list of pairs in the data set.

    A sample carries ``sample_idx`` (the image's number in the data set) and
    ``embedding`` [D], not normalised, the flipped image already added to it. The
    pairs are those of ``dataset_meta['test_sets']``: ``{name: dict(kind='pairs',
    offset, num_images, index_a, index_b, same, folds)}``, where image i of the set
    is sample ``offset + i``. Sets of another kind are left to other metrics.

    The result holds, for each set, ``name/accuracy``, ``name/accuracy_std`` (not
    for ``accuracy='global'``), ``name/eer``, ``name/auc`` and ``name/tar@far=1e-03``
    …, as fractions; the TAR is NaN when the set's different pairs cannot resolve the
    FAR. Rank 0 keeps the rest in :attr:`results_by_set` until the next evaluation.

    Each image is scored once, however many processes there are and whatever their
    samplers repeat; every figure is the same to the last digit.

    Args:
        fars: false accept rates at which to report the true accept rate.
        folds: number of folds for a list that is not organised in folds; such a
            list gets stratified ones.
        folds_seed: the seed they are drawn from.
        accuracy: ``'exact'``, ``'grid'`` (insightface) or ``'global'`` (OpenSphere);
            see :func:`kfold_accuracy` and :func:`global_accuracy`.
        interpolation: of TAR@FAR, see :func:`tar_at_far`.
    """

    default_prefix = ''

    def __init__(
        self,
        fars: Sequence[float] = (1e-4, 5e-4, 1e-3, 5e-3, 1e-2),
        folds: int = 10,
        folds_seed: int = 0,
        accuracy: str = 'exact',
        interpolation: str = 'exact',
        prefix: str | None = None,
        collect_device: str = 'cpu',
        collect_dir: str | None = None,
    ) -> None:
        super().__init__(collect_device, prefix, collect_dir)
        if accuracy not in ACCURACIES:
            raise UserError(f'accuracy is {accuracy!r}; it can be {tuple(ACCURACIES)}')
        if interpolation not in INTERPOLATIONS:
            raise UserError(
                f'interpolation is {interpolation!r}; it can be {INTERPOLATIONS}'
            )
        self.fars = tuple(fars)
        self.folds = folds
        self.folds_seed = folds_seed
        self.accuracy = accuracy
        self.interpolation = interpolation
        self.results_by_set: dict[str, VerificationResult] = {}

    @property
    def dataset_meta(self) -> dict | None:
        return self._dataset_meta

    @dataset_meta.setter
    def dataset_meta(self, dataset_meta: dict | None) -> None:
        # Checked here, when the loop is built, and not after hours of training.
        if dataset_meta is not None:
            for name, pairs in _pair_sets(dataset_meta).items():
                _check_pairs(name, pairs)
        self._dataset_meta = dataset_meta

    def fresh(self) -> 'FaceVerification':
        """Another metric with the same settings and pairs, and no samples yet."""
        other = copy.copy(self)
        other.results = []
        other.results_by_set = {}
        return other

    def process(self, data_batch: Any, data_samples: Sequence[dict]) -> None:
        """Keep the embeddings of one batch, as float32 on the CPU."""
        if not data_samples:
            return
        numbers = np.array([int(sample['sample_idx']) for sample in data_samples])
        # One transfer for the batch.
        stacked = torch.stack([sample['embedding'] for sample in data_samples])
        self.results.append((numbers, stacked.detach().float().cpu().numpy()))

    def evaluate(self, size: int) -> dict:
        """Score every pair; all ranks return the same dict, or raise the same error.

        Args:
            size: number of images in the data set; unused, for the pairs say which
                images are needed.

        Raises:
            UserError: when an image was not processed, or has a zero or non-finite
                embedding; when the scores admit no figure (all equal, one kind).
        """
        parts = gather_object(self._unique())
        self.results.clear()
        answer: list[Any] = [None, None]
        if is_main_process():
            try:
                answer[0] = self.compute_metrics(parts)
            except Exception as error:  # the other ranks wait for an answer
                answer[1] = error
        broadcast_object_list(answer)
        metrics, failure = answer
        if failure is not None:
            raise failure
        return metrics

    def compute_metrics(self, results: list) -> dict:
        """Figures of all sets from (numbers [N], embeddings [N, D]) per rank."""
        parts = [part for part in results if part is not None]
        if not parts:
            raise UserError('FaceVerification was given no samples')
        numbers, rows = np.unique(
            np.concatenate([numbers for numbers, _ in parts]), return_index=True
        )
        embeddings = np.concatenate([embeddings for _, embeddings in parts])
        self.results_by_set = {
            name: self._examine(
                name, pairs, _rows_of(name, pairs, numbers, rows), embeddings
            )
            for name, pairs in _pair_sets(self.dataset_meta).items()
        }
        metrics: dict[str, float] = {}
        for name, result in self.results_by_set.items():
            metrics.update(_flat('/'.join(filter(None, (self.prefix, name))), result))
        return metrics

    def _unique(self) -> tuple[npt.NDArray, npt.NDArray] | None:
        # What the sampler repeats on this rank need not travel.
        if not self.results:
            return None
        numbers = np.concatenate([numbers for numbers, _ in self.results])
        embeddings = np.concatenate([embeddings for _, embeddings in self.results])
        numbers, rows = np.unique(numbers, return_index=True)
        return numbers, embeddings[rows]

    def _examine(
        self, name: str, pairs: dict, rows: npt.NDArray, embeddings: npt.NDArray
    ) -> VerificationResult:
        features = embeddings[rows]
        bad = unusable_rows(features)
        if len(bad):
            raise UserError(
                f'test set {name!r}: the embedding is zero, NaN or infinite of sample '
                f'{some(bad + pairs["offset"])}'
            )
        scores = score_pairs(features, pairs['index_a'], pairs['index_b'])
        try:
            return self._figures(
                scores, np.asarray(pairs['same'], bool), pairs['folds']
            )
        except UserError as error:
            raise UserError(f'test set {name!r}: {error}') from error

    def _figures(
        self, scores: npt.NDArray, same: npt.NDArray, folds: npt.NDArray | None
    ) -> VerificationResult:
        accuracy, std, thresholds, how = self._accuracy(scores, same, folds)
        tars = tar_at_far(scores, same, self.fars, self.interpolation)
        return VerificationResult(
            scores=scores,
            same=same,
            accuracy=accuracy,
            accuracy_std=std,
            accuracy_thresholds=thresholds,
            eer=equal_error_rate(scores, same),
            auc=auc(scores, same),
            fars=np.array(self.fars, np.float64),
            tars=tars.tars,
            thresholds=tars.thresholds,
            convention=(
                'cosine of the embeddings, flips fused by the model; accuracy: '
                f'{how}; TAR@FAR: {TARS[self.interpolation]}'
            ),
        )

    def _accuracy(
        self, scores: npt.NDArray, same: npt.NDArray, folds: npt.NDArray | None
    ) -> tuple[float, float, npt.NDArray, str]:
        how = ACCURACIES[self.accuracy]
        if self.accuracy == 'global':
            accuracy, threshold = global_accuracy(scores, same)
            return accuracy, float('nan'), np.array([threshold]), how
        if folds is None:
            folds = stratified_folds(same, self.folds, self.folds_seed)
            origin = f'stratified from seed {self.folds_seed}'
        else:
            origin = 'from the list'
        grid = INSIGHTFACE_GRID if self.accuracy == 'grid' else None
        mean, std, accuracies, thresholds = kfold_accuracy(scores, same, folds, grid)
        how = f'{len(accuracies)} folds {origin}, {how}, mean ± std (ddof 0)'
        return mean, std, thresholds, how


def far_name(far: float) -> str:
    """``0.005`` as ``'5e-03'``."""
    return np.format_float_scientific(far, trim='-', exp_digits=2)


def _flat(name: str, result: VerificationResult) -> dict[str, float]:
    figures = {f'{name}/accuracy': result.accuracy}
    if not np.isnan(result.accuracy_std):
        figures[f'{name}/accuracy_std'] = result.accuracy_std
    figures[f'{name}/eer'] = result.eer
    figures[f'{name}/auc'] = result.auc
    for far, tar in zip(result.fars, result.tars, strict=True):
        figures[f'{name}/tar@far={far_name(far)}'] = float(tar)
    return figures


def _pair_sets(dataset_meta: dict | None) -> dict[str, dict]:
    test_sets = (dataset_meta or {}).get('test_sets', {})
    pairs = {
        name: entry for name, entry in test_sets.items() if entry['kind'] == 'pairs'
    }
    if not pairs:
        raise UserError(
            "FaceVerification needs a data set whose metainfo has 'test_sets' with at "
            f"least one of kind 'pairs'; it has {sorted(test_sets) or 'none'}"
        )
    return pairs


def _check_pairs(name: str, pairs: dict) -> None:
    lengths = {key: len(pairs[key]) for key in ('index_a', 'index_b', 'same')}
    if pairs['folds'] is not None:
        lengths['folds'] = len(pairs['folds'])
    if len(set(lengths.values())) != 1:
        raise UserError(f'test set {name!r}: lengths differ: {lengths}')
    kinds = np.unique(pairs['same'])
    if len(kinds) != 2:
        raise UserError(
            f'test set {name!r} needs same and different pairs; its {lengths["same"]} '
            f'pairs hold {kinds.tolist()}'
        )
    for key in ('index_a', 'index_b'):
        lowest, highest = np.min(pairs[key]), np.max(pairs[key])
        if lowest < 0 or highest >= pairs['num_images']:
            raise UserError(
                f'test set {name!r}: {key} goes from {lowest} to {highest}, but the '
                f'set has {pairs["num_images"]} images'
            )


def _rows_of(
    name: str, pairs: dict, numbers: npt.NDArray, rows: npt.NDArray
) -> npt.NDArray:
    """The rows of a set's images; ``rows`` [N] holds those of sorted ``numbers``."""
    wanted = pairs['offset'] + np.arange(pairs['num_images'])
    missing = np.setdiff1d(wanted, numbers)
    if len(missing):
        raise UserError(
            f'test set {name!r}: {len(missing)} of {len(wanted)} samples were not '
            f'processed: {some(missing)}'
        )
    return rows[np.searchsorted(numbers, wanted)]
