"""The evaluation code of other projects, taken function by function from checkouts.

Their scripts run at import, or import what no longer exists, so that only the functions
that compute are compiled, with what they use put beside them. Nothing of theirs is
copied. Files are looked for below ``DIR/insightface`` and ``DIR/opensphere``.
"""

import ast
import math
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from common import peer_file

from mmhyperface.utils.errors import UserError

SHIMS = (
    "insightface's verification.py: interp1d is given unique x; its and OpenSphere's "
    'progress bars and prints are left out'
)
FPIRS = (0.01, 0.1)
RANKS = (1, 5, 10)


def taken(folder: Path, file: str, *names: str, **beside: Any) -> SimpleNamespace:
    """Functions and classes of a file, compiled with other names beside them.

    Raises:
        UserError: If there is no such file, or it lacks one of them.
    """
    import torch

    path = peer_file(folder, file)
    tree = ast.parse(path.read_text())
    chosen = [node for node in tree.body if getattr(node, 'name', None) in names]
    if len(chosen) < len(names):
        raise UserError(f'{path} does not define all of {", ".join(names)}')
    space = dict(np=np, torch=torch, math=math, print=lambda *_: None, **beside)
    code = compile(ast.Module(chosen, []), str(path), 'exec')
    exec(code, space)
    return SimpleNamespace(**{name: space[name] for name in names})


def _quiet(items: Any, *_: Any, **__: Any) -> Any:
    """In the place of tqdm."""
    return items


def insightface_ijb(peer_dir: Path) -> Callable[[Any], dict[str, float]]:
    """``ijb_evals.py``: N0D1F1, both protocols; its ROC comes from scikit-learn."""
    import sklearn.metrics
    from sklearn.preprocessing import normalize

    theirs = taken(
        peer_dir / 'insightface',
        'ijb_evals.py',
        'process_embeddings',
        'image2template_feature',
        'verification_11',
        'evaluation_1N',
        tqdm=_quiet,
        normalize=normalize,
    )

    def examine(data: Any) -> dict[str, float]:
        images = theirs.process_embeddings(
            data.features, data.mirrored, face_scores=data.detector_scores
        )
        templates, ids, _ = theirs.image2template_feature(
            images, data.template_ids, data.media_ids
        )
        scores = theirs.verification_11(templates, ids, *data.pairs)
        far, tar, _ = sklearn.metrics.roc_curve(data.same, scores)
        far, tar = np.flipud(far), np.flipud(tar)
        figures = {
            f'tar@far={rate:.0e}': tar[np.argmin(abs(far - rate))] for rate in data.fars
        }
        probes = _chosen(theirs, images, data, data.probes)
        hits, tpirs = np.zeros(3), np.zeros(2)
        for gallery in data.galleries:
            enrolled = _chosen(theirs, images, data, gallery)
            *top, _, recalls, _ = theirs.evaluation_1N(
                probes[0], enrolled[0], probes[1], enrolled[1], FPIRS
            )
            hits += top
            tpirs += np.array(recalls) / len(data.galleries)
        return figures | _searches(hits / len(probes[1]), tpirs)

    return examine


def _chosen(theirs: Any, images: Any, data: Any, chosen: Any) -> tuple[Any, Any]:
    features, _, subjects = theirs.image2template_feature(
        images, data.template_ids, data.media_ids, *chosen
    )
    return features, subjects


def _searches(ranks: Any, tpirs: Any) -> dict[str, float]:
    figures = {f'rank-{k}': float(rate) for k, rate in zip(RANKS, ranks, strict=True)}
    return figures | {
        f'tpir@fpir={fpir:.0e}': float(tpir)
        for fpir, tpir in zip(FPIRS, tpirs, strict=True)
    }


def opensphere_ijb(peer_dir: Path) -> Callable[[Any], dict[str, float]]:
    """``IJBDataset.evaluate`` of revision 032c31b, its lists made beforehand."""
    import scipy.interpolate
    import sklearn.metrics
    import torch
    from scipy.optimize import brentq

    folder = peer_dir / 'opensphere'
    metrics = taken(
        folder,
        'dataset/utils.py',
        'get_metrics',
        metrics=sklearn.metrics,
        interp1d=scipy.interpolate.interp1d,
        brentq=brentq,
    )
    theirs = taken(
        folder,
        'dataset/ijb_dataset.py',
        'IJBDataset',
        Dataset=object,
        F=torch.nn.functional,
        get_metrics=metrics.get_metrics,
    )
    prepared: dict[int, Any] = {}

    def examine(data: Any) -> dict[str, float]:
        if id(data) not in prepared:
            prepared[id(data)] = _opensphere_lists(theirs.IJBDataset, data)
        dataset = prepared[id(data)]
        fused = torch.from_numpy(data.features + data.mirrored)
        values = [float(value) / 100 for _, value in dataset.evaluate(fused)]
        tars = {
            f'tar@far={rate:.0e}': x
            for rate, x in zip(data.fars, values[:6], strict=True)
        }
        return tars | _searches(values[6:9], values[9:])

    examine.prepare = lambda data: prepared.update(  # type: ignore[attr-defined]
        {id(data): _opensphere_lists(theirs.IJBDataset, data)}
    )
    return examine


def _opensphere_lists(dataset_class: type, data: Any) -> Any:
    """What the data set's constructor would read from files."""
    dataset = dataset_class.__new__(dataset_class)
    dataset.data_items = [{'faceness': float(x)} for x in data.detector_scores]
    order = np.argsort(data.template_ids, kind='stable')
    ids, starts = np.unique(data.template_ids[order], return_index=True)
    dataset.tmpl_items = {}
    for place, images in enumerate(np.split(order, starts[1:])):
        _, medium, counts = np.unique(
            data.media_ids[images], return_inverse=True, return_counts=True
        )
        dataset.tmpl_items[int(ids[place])] = {
            'posn_id': place,
            'image_ids': images.tolist(),
            'weights': (1 / counts[medium] / len(counts)).astype(np.float32),
        }
    places = [np.searchsorted(ids, x).tolist() for x in data.pairs]
    dataset.veri_info = dict(
        posn_ids0=places[0], posn_ids1=places[1], labels=data.same.astype(int).tolist()
    )
    enrolled = [np.concatenate(x) for x in zip(*data.galleries, strict=True)]
    dataset.iden_info = {
        which: dict(
            posn_ids=np.searchsorted(ids, templates).tolist(),
            subj_ids=subjects.tolist(),
        )
        for which, (templates, subjects) in (('g', enrolled), ('p', data.probes))
    }
    return dataset


def insightface_pairs(peer_dir: Path) -> Callable[[Any], dict[str, float]]:
    """``verification.evaluate`` of arcface_torch on ten folds."""

    import scipy.interpolate
    from sklearn.model_selection import KFold
    from sklearn.preprocessing import normalize

    def interp1d(x: Any, y: Any, **kwargs: Any) -> Any:
        x, places = np.unique(x, return_index=True)
        return scipy.interpolate.interp1d(x, np.asarray(y)[places], **kwargs)

    theirs = taken(
        peer_dir / 'insightface',
        'arcface_torch/eval/verification.py',
        'LFold',
        'calculate_roc',
        'calculate_accuracy',
        'calculate_val',
        'calculate_val_far',
        'evaluate',
        KFold=KFold,
        interpolate=SimpleNamespace(interp1d=interp1d),
    )

    def examine(data: Any) -> dict[str, float]:
        # Their callers normalise the embeddings.
        embeddings = normalize(data.embeddings)
        _, _, accuracy, *_ = theirs.evaluate(embeddings, data.same.tolist(), 10)
        return {'accuracy': float(np.mean(accuracy))}

    return examine
