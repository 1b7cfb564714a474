"""Features in ``.npy`` files, and what metrics find out from them."""

import copy
import inspect
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from mmengine.config import Config

from mmhyperface.datasets import FacePack, FacePairs
from mmhyperface.datasets.face_dataset import FaceDataset
from mmhyperface.datasets.ijb_meta import read_ijb_meta
from mmhyperface.datasets.megaface_lists import (
    read_feature_files,
    read_megaface_lists,
)
from mmhyperface.datasets.pair_sets import consecutive_folds
from mmhyperface.datasets.template_sets import template_test_set
from mmhyperface.errors import UserError
from mmhyperface.evaluation.evaluator import FaceEvaluator, set_places
from mmhyperface.evaluation.functional.arrays import Floats
from mmhyperface.evaluation.metrics import EmbeddingMetric, MegaFaceIdentification
from mmhyperface.evaluation.metrics.base import naming
from mmhyperface.evaluation.metrics.embeddings import FLIPS, Embeddings
from mmhyperface.evaluation.results import Result
from mmhyperface.registry import DATASETS

from .launch import dataset_config
from .testing import metrics_of

# Test set -> protocol -> result.
Results = dict[str, dict[str, Result]]

FLOATS = ('float16', 'float32', 'float64')


def open_features(path: str, count: int, source: str) -> Floats:
    """Features [N, D] of a ``.npy`` file, which stay on the disk if possible.

    Args:
        count: N, as many as are expected.
        source: what expects them, for errors.

    Raises:
        UserError: If the file cannot be read, or holds anything else.
    """
    try:
        # What is written to a copy does not reach the file; torch likes it better
        # than an array that is read-only.
        rows = np.load(path, mmap_mode='c', allow_pickle=False)
    except (OSError, ValueError) as error:
        raise UserError(f'{path} cannot be read as a .npy file: {error}') from None
    if not isinstance(rows, np.ndarray):
        raise UserError(f'{path} is no .npy file, but an archive of several arrays')
    if rows.ndim != 2 or rows.dtype.name not in FLOATS:
        raise UserError(
            f'{path}: expected features [N, D] of {", ".join(FLOATS)}, got '
            f'{rows.dtype} of shape {list(rows.shape)}'
        )
    if len(rows) != count:
        raise UserError(f'{path} has {len(rows)} rows, but {source} tells of {count}')
    if rows.dtype == np.float16:
        return rows.astype(np.float32)
    return rows.view(np.ndarray)


def open_embeddings(
    path: str, count: int, source: str, mirrored: str | None, flip: str | None
) -> Embeddings:
    """Features in one file, and in another one those of the mirror images.

    Args:
        path, count, source: see :func:`open_features`.
        mirrored: the other file, if there is one.
        flip: how they are fused; None: the sum.

    Raises:
        UserError: also where both are of different widths.
    """
    rows = open_features(path, count, source)
    numbers = np.arange(count)
    if mirrored is None:
        if flip not in (None, 'none'):
            raise UserError(
                f'to fuse by {flip!r}, give the features of the mirror images too: '
                '--mirrored'
            )
        return Embeddings(numbers, rows, flip='none' if flip == 'none' else 'given')
    others = open_features(mirrored, count, source)
    if others.shape != rows.shape:
        raise UserError(
            f'{path} has features of {rows.shape[1]} values, {mirrored} of '
            f'{others.shape[1]}'
        )
    if flip == 'none':
        return Embeddings(numbers, rows, flip='none')
    return Embeddings(numbers, rows, others, flip or 'sum')


def examine_config(cfg: Config, path: str) -> Results:
    """Features that a test of a config saved: row i is item i of its data set.

    No image is read.

    Raises:
        UserError: also if the test that saved them had other test sets.
    """
    options = dataset_config(cfg, 'test')
    _leave_images(options)
    dataset: Any = DATASETS.build(options)
    embeddings = open_features(path, len(dataset), 'the data set of the config')
    test_sets = dataset.metainfo.get('test_sets', {})
    _check_places(Path(path).with_suffix('.json'), test_sets)
    evaluator = FaceEvaluator(
        [copy.deepcopy(metric) for metric in metrics_of(cfg.get('test_evaluator'))]
    )
    evaluator.dataset_meta = dataset.metainfo
    return _examine(
        evaluator.embedding_metrics, Embeddings(np.arange(len(dataset)), embeddings)
    )


def examine_ijb(
    meta_dir: str,
    subset: str,
    protocols: Sequence[str],
    metrics: Iterable[EmbeddingMetric],
    path: str,
    mirrored: str | None = None,
    flip: str | None = None,
) -> Results:
    """Features of the images of IJB-B or IJB-C in the order of the meta files.

    Raises:
        UserError: see :func:`read_ijb_meta` and :func:`open_embeddings`.
    """
    meta = read_ijb_meta(meta_dir, subset, protocols)
    test_set = template_test_set(
        meta.template_ids, meta.media_ids, meta.detector_scores, meta.protocol
    )
    embeddings = open_embeddings(path, len(meta.names), meta_dir, mirrored, flip)
    return _examine_one(subset.lower(), test_set, metrics, embeddings)


def examine_pairs(
    pairs: str,
    folds: int | None,
    metrics: Iterable[EmbeddingMetric],
    path: str,
    mirrored: str | None = None,
    flip: str | None = None,
) -> Results:
    """Features of the images of a list of pairs.

    Args:
        pairs: a list that :class:`FacePairs` reads, and rows are its distinct images in
            the order in which it first names them; or a ``.bin`` pack, or a ``.npy``
            file of P labels, and rows 2i and 2i + 1 are pair i.
        folds: consecutive ones; None: the list is not organised in any.

    Raises:
        UserError: see the data sets and :func:`open_embeddings`.
    """
    name = Path(pairs).stem
    if pairs.endswith('.npy'):
        test_set = _labelled_pairs(pairs, folds)
    else:
        dataset: FaceDataset
        if pairs.endswith('.bin'):
            dataset = FacePack(pairs, name, folds=folds)
        else:
            dataset = FacePairs(pairs, name, folds=folds, check_files=False)
        test_set = dataset.metainfo['test_sets'][name]
    embeddings = open_embeddings(path, test_set['num_images'], pairs, mirrored, flip)
    return _examine_one(name, test_set, metrics, embeddings)


def examine_megaface(
    lists_dir: str,
    metric: MegaFaceIdentification,
    probes: str,
    distractors: str,
    suffix: str = '',
    **options: Any,
) -> Results:
    """Features of MegaFace's probes and distractors, in the order of their lists.

    Args:
        probes, distractors: ``.npy`` files, or folders with the devkit's file of each
            image.
        suffix: of the latter, what follows the path of an image.
        options: of :func:`read_megaface_lists`.

    Raises:
        UserError: see :func:`read_megaface_lists`, :func:`open_features` and
            :func:`read_feature_files`.
    """
    lists = read_megaface_lists(lists_dir, **options)
    test_set = {
        'kind': 'megaface',
        'offset': 0,
        'num_images': len(lists.subjects),
        'subjects': lists.subjects,
        'noisy': lists.noisy,
    }
    metric.dataset_meta = {'test_sets': {'megaface': test_set}}
    rows, others = (
        read_feature_files(path, paths, suffix)
        if Path(path).is_dir()
        else open_features(path, len(paths), f'the list of the {what}')
        for path, paths, what in (
            (probes, lists.probes, 'probes'),
            (distractors, lists.distractors, 'distractors'),
        )
    )
    with naming('megaface'):
        result = metric.search(test_set, rows, others, FLIPS['given'])
    return {'megaface': {result.protocol: result}}


def _examine_one(
    name: str,
    test_set: dict,
    metrics: Iterable[EmbeddingMetric],
    embeddings: Embeddings,
) -> Results:
    metrics = list(metrics)
    for metric in metrics:
        metric.dataset_meta = {'test_sets': {name: test_set}}
    return _examine(metrics, embeddings)


def _examine(metrics: Iterable[EmbeddingMetric], embeddings: Embeddings) -> Results:
    found: Results = {}
    for metric in metrics:
        metric.compute_metrics(embeddings)
        for name, result in metric.results_by_set.items():
            label = '/'.join(filter(None, (metric.prefix, name)))
            found.setdefault(label, {})[result.protocol] = result
    return found


def _labelled_pairs(path: str, folds: int | None) -> dict[str, Any]:
    try:
        labels = np.load(path, allow_pickle=False)
    except (OSError, ValueError) as error:
        raise UserError(f'{path} cannot be read as a .npy file: {error}') from None
    if (
        not isinstance(labels, np.ndarray)
        or labels.ndim != 1
        or labels.dtype.kind not in 'biu'
        or not np.isin(labels, (0, 1)).all()
    ):
        raise UserError(f'{path}: expected one of True and False, or 1 and 0, a pair')
    return dict(
        kind='pairs',
        offset=0,
        num_images=2 * len(labels),
        index_a=np.arange(0, 2 * len(labels), 2),
        index_b=np.arange(1, 2 * len(labels), 2),
        same=labels.astype(bool),
        folds=consecutive_folds(len(labels), folds, path),
        identities=None,
    )


def _leave_images(options: Any) -> None:
    """Let data sets not look for images, which nothing here needs."""
    for inner in options.get('datasets') or ():
        _leave_images(inner)
    kind = options.type
    cls = DATASETS.get(kind) if isinstance(kind, str) else kind
    if cls is not None and 'check_files' in inspect.signature(cls).parameters:
        options.check_files = False


def _check_places(path: Path, test_sets: Mapping[str, dict]) -> None:
    """What the test told that saved the features, if it is known."""
    if not path.is_file():
        return
    try:
        saved = json.loads(path.read_text(encoding='utf-8'))['test_sets']
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f'{path} does not tell of test sets: {error!r}') from None
    here = set_places(dict(test_sets))
    if saved != here:
        raise UserError(
            f'the features are those of other test sets: {path} tells of {saved}, the '
            f'config of {here}'
        )
