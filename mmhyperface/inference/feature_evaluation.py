"""What metrics find out from features in files."""

import copy
import inspect
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from mmengine.config import Config

from mmhyperface.datasets import FacePack, FacePairs
from mmhyperface.datasets.pair_sets import (
    consecutive_folds,
    pair_test_set,
    require_both_in_folds,
)
from mmhyperface.datasets.readers.ijb_meta import read_ijb_meta
from mmhyperface.datasets.readers.megaface_lists import (
    feature_width,
    read_feature_files,
    read_megaface_lists,
)
from mmhyperface.evaluation.arrays import Bools
from mmhyperface.evaluation.evaluator import FaceEvaluator, set_places
from mmhyperface.evaluation.metrics import EmbeddingMetric, MegaFaceIdentification
from mmhyperface.evaluation.metrics.base import naming
from mmhyperface.evaluation.metrics.embeddings import FLIPS, Embeddings
from mmhyperface.evaluation.protocols import Result
from mmhyperface.registry import DATASETS
from mmhyperface.utils.choices import FOLDS
from mmhyperface.utils.configs import dataset_config, metrics_of
from mmhyperface.utils.errors import UserError

from .feature_files import (
    about_features,
    has_names,
    named_features,
    open_embeddings,
    open_features,
    open_labels,
    require_usable,
)

# Test set -> protocol -> result.
Results = dict[str, dict[str, Result]]

NO_FOLDS = '--folds 0'


def examine_config(cfg: Config, path: str) -> Results:
    """Features that a test of a config saved: row i is item i of its data set.

    Or those that ``embed.py`` saved, by the paths of its images. No image is read.

    Raises:
        UserError: also if the test that saved them had other test sets.
    """
    options = dataset_config(cfg, 'test')
    _leave_images(options)
    dataset: Any = DATASETS.build(options)
    test_sets = dataset.metainfo.get('test_sets', {})
    about = about_features(path)
    flip: Any
    if has_names(path):
        paths = _paths_of(dataset)
        rows, flip = named_features(path, paths, 'the data set of the config')
    else:
        rows = open_features(
            path, len(dataset), 'the data set of the config', warn=not about
        )
        flip = about.get('flip_fusion')
        _check_places(path, about, test_sets)
    evaluator = FaceEvaluator(
        [copy.deepcopy(metric) for metric in metrics_of(cfg.get('test_evaluator'))]
    )
    evaluator.dataset_meta = dataset.metainfo
    require_usable(path, rows, unused=_noise_of(test_sets, len(rows)))
    embeddings = Embeddings(
        np.arange(len(rows)), rows, flip=flip if flip in FLIPS else 'model'
    )
    return _examine(evaluator.embedding_metrics, embeddings)


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
    advice = 'Check the folder of the meta files and --subset'
    meta = read_ijb_meta(meta_dir, subset, protocols, advice, '--protocols {}')
    embeddings = open_embeddings(
        path, len(meta.names), meta_dir, mirrored, flip, meta.names
    )
    return _examine_one(subset.lower(), meta.test_set(), metrics, embeddings)


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
        pairs: a list that :class:`FacePairs` reads, and rows are its distinct images,
            by name, or without names in the order in which it first names them; or a
            ``.bin`` pack, or a ``.npy`` file of P labels, and rows 2i and 2i + 1 are
            pair i.
        folds: so many consecutive ones; 0: none; None: those of the list, or 10.

    Raises:
        UserError: see the data sets and :func:`open_embeddings`.
    """
    name = Path(pairs).stem
    test_set, tells_of_folds, paths = _pairs_of(pairs, name)
    if folds is not None or not tells_of_folds:
        same = test_set['same']
        wanted = FOLDS if folds is None else folds or None
        test_set['folds'] = consecutive_folds(len(same), wanted, pairs, NO_FOLDS)
        require_both_in_folds(same, test_set['folds'], pairs, NO_FOLDS)
    embeddings = open_embeddings(
        path, test_set['num_images'], pairs, mirrored, flip, paths=paths
    )
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
        probes, distractors: ``.npy`` files, files of ``embed.py``, or folders with
            the devkit's file of each image.
        suffix: of the latter, what follows the path of an image.
        options: of :func:`read_megaface_lists`.

    Raises:
        UserError: see :func:`read_megaface_lists`, :func:`open_features` and
            :func:`read_feature_files`.
    """
    lists = read_megaface_lists(
        lists_dir,
        advice='Check the folder of the lists',
        no_noise='--no-noise-lists',
        **options,
    )
    test_set = lists.test_set()
    metric.dataset_meta = {'test_sets': {'megaface': test_set}}
    parts = (
        (probes, lists.probes, 'the list of the probes'),
        (distractors, lists.distractors, 'the list of the distractors'),
    )
    opened = [
        None if Path(path).is_dir() else _listed_features(path, images, source)
        for path, images, source in parts
    ]
    # Before a million files are read.
    one, other = (
        feature_width(path, images, suffix) if rows is None else rows.shape[1]
        for rows, (path, images, _) in zip(opened, parts, strict=True)
    )
    if one != other:
        cleaned = ': one of them is cleaned' if abs(one - other) == 1 else ''
        raise UserError(
            f'{probes} has features of {one} values, {distractors} of {other}{cleaned}'
        )
    noisy = np.split(lists.noisy, [len(lists.probes)])
    features = []
    for rows, unused, (path, images, _) in zip(opened, noisy, parts, strict=True):
        if rows is None:
            rows = read_feature_files(path, images, suffix)
        require_usable(path, rows, images, unused)
        features.append(rows)
    with naming('megaface'):
        result = metric.search(test_set, features[0], features[1], FLIPS['given'])
    return {'megaface': {result.protocol: result}}


def _listed_features(
    path: str, images: npt.NDArray[np.bytes_], source: str
) -> npt.NDArray[Any]:
    if has_names(path):
        names = [name.decode() for name in images.tolist()]
        return named_features(path, names, source)[0]
    return open_features(path, len(images), source)


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
    results: Results = {}
    for metric in metrics:
        metric.compute_metrics(embeddings)
        for name, result in metric.results_by_set.items():
            label = '/'.join(filter(None, (metric.prefix, name)))
            results.setdefault(label, {})[result.protocol] = result
    return results


def _pairs_of(
    path: str, name: str
) -> tuple[dict[str, Any], bool, Sequence[str] | None]:
    """The test set of a list, whether it tells of its folds, and its images' paths."""
    if not os.path.exists(path):
        raise UserError(f'there is no list of pairs {path}')
    if path.endswith('.npy'):
        same = open_labels(path)
        first = np.arange(0, 2 * len(same), 2)
        pairs = pair_test_set(2 * len(same), first, first + 1, same, None, path)
        return pairs, False, None
    if path.endswith('.bin'):
        pack = FacePack(path, name, folds=None)
        return pack.metainfo['test_sets'][name], False, None
    listed = FacePairs(path, name, check_files=False)
    test_set = listed.metainfo['test_sets'][name]
    return test_set, listed.tells_folds, _paths_of(listed)


def _paths_of(dataset: Any) -> list[str] | None:
    """Of the images of a data set; None where they have none, as drawn ones."""
    if 'img_path' not in dataset.get_data_info(0):
        return None
    return [str(dataset.get_data_info(i)['img_path']) for i in range(len(dataset))]


def _leave_images(options: Any) -> None:
    """Let data sets not look for images, which nothing here needs."""
    for inner in options.get('datasets') or ():
        _leave_images(inner)
    kind = options.type
    cls = DATASETS.get(kind) if isinstance(kind, str) else kind
    if cls is not None and 'check_files' in inspect.signature(cls).parameters:
        options.check_files = False


def _noise_of(test_sets: Mapping[str, dict], count: int) -> Bools:
    """Which of so many images are noise of MegaFace, whose features may be anything."""
    noise = np.zeros(count, np.bool_)
    for test_set in test_sets.values():
        if test_set['kind'] == 'megaface':
            start = test_set['offset']
            noise[start : start + test_set['num_images']] = test_set['noisy']
    return noise


def _check_places(
    path: str, about: Mapping[str, Any], test_sets: Mapping[str, dict]
) -> None:
    """Whether the test that saved the features, if it is known, had these sets."""
    description = Path(path).with_suffix('.json')
    if not description.is_file():
        return
    if 'test_sets' not in about:
        raise UserError(f'{description} does not tell of the test sets of {path}')
    here = set_places(dict(test_sets))
    if about['test_sets'] != here:
        raise UserError(
            f'the features are those of other test sets: {description} tells of '
            f'{about["test_sets"]}, the config of {here}'
        )
