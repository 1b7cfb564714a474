"""How far an exported model is from the checkpoint, on the same crops."""

import copy
import json
import math
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from mmengine.config import Config
from mmengine.registry import init_default_scope

from mmhyperface.datasets import SyntheticFaces
from mmhyperface.datasets.synthetic.synthetic_faces import SyntheticFaceBase
from mmhyperface.datasets.transforms import AlignFace, LoadFace
from mmhyperface.evaluation.arrays import unusable_rows
from mmhyperface.evaluation.metrics import FaceVerification
from mmhyperface.evaluation.metrics.embeddings import Embeddings
from mmhyperface.inference.backends import EmbeddingNetwork
from mmhyperface.inference.dataset_embeddings import build_dataset
from mmhyperface.inference.inputs import images_below
from mmhyperface.registry import DATASETS, METRICS, TRANSFORMS, is_a
from mmhyperface.utils.configs import metrics_of
from mmhyperface.utils.errors import UserError, first_line, some

BATCH = 32


@dataclass(frozen=True)
class Parity:
    """The largest differences over some images.

    Attributes:
        images: How many.
        cosine_distance: 1 - cosine of the two embeddings of an image.
        pair_difference: Of the cosines of two images.
        relative_difference: |a - b| / |a| of an image, which sees the norm as well.
    """

    images: int
    cosine_distance: float
    pair_difference: float
    relative_difference: float


@dataclass(frozen=True)
class Verified:
    """The verification figures of one network.

    Attributes:
        figures: Fractions, by ``test set/figure``.
        pairs: How many pairs there are.
        difference: Largest difference of a pair's cosine from the reference's.
    """

    figures: dict[str, float]
    pairs: int
    difference: float


def compare(
    reference: EmbeddingNetwork, exported: EmbeddingNetwork, crops: np.ndarray
) -> Parity:
    """Compare what two networks make of the same crops.

    Args:
        reference: The network, in torch.
        exported: What was made of it, in whatever client.
        crops: uint8 [N, H, W, 3] BGR, N > 1. They are resized to those of both by
            the rule of ``LoadFace``.

    Raises:
        UserError: If an embedding is zero or not finite.
    """
    rows = [_rows(network, crops) for network in (reference, exported)]
    ours, theirs = (np.asarray(each, np.float64) for each in rows)
    norms = [np.linalg.norm(each, axis=1, keepdims=True) for each in (ours, theirs)]
    unit, other = ours / norms[0], theirs / norms[1]
    return Parity(
        images=len(crops),
        cosine_distance=float(1 - (unit * other).sum(1).min()),
        pair_difference=float(abs(unit @ unit.T - other @ other.T).max()),
        relative_difference=float(
            (np.linalg.norm(ours - theirs, axis=1) / norms[0][:, 0]).max()
        ),
    )


def crops_of_folder(folder: str, size: tuple[int, int], most: int) -> np.ndarray:
    """Evenly chosen images below a folder, uint8 [N, H, W, 3], resized.

    Raises:
        UserError: If there are fewer than two, or one is damaged.
    """
    names = [os.path.join(folder, name) for name in images_below(folder)[0]]
    if len(names) < 2:
        raise UserError(f'{folder} has {len(names)} images; at least two are compared')
    chosen = np.linspace(0, len(names) - 1, min(most, len(names))).round()
    load = LoadFace(size)
    return np.stack(
        [load.transform(dict(img_path=names[int(i)]))['img'] for i in chosen]
    )


def rendered_crops(size: tuple[int, int], count: int) -> np.ndarray:
    """Drawn faces, two of each person, uint8 [N, H, W, 3]."""
    faces = SyntheticFaces(-(-count // 2), 2, image_size=max(size))
    items = [faces.get_data_info(number)['img'] for number in range(count)]
    return resize_crops(np.stack(items), size)


def resize_crops(crops: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Crops in another size, as ``LoadFace`` does it."""
    if crops.shape[1:3] == size:
        return crops
    load = LoadFace(size)
    return np.stack([load.transform(dict(img=crop))['img'] for crop in crops])


def dataset_of(cfg: Config, size: tuple[int, int]) -> Any:
    """The test data set of a config, with crops of another size.

    Raises:
        UserError: If it has none.
    """
    cfg = copy.deepcopy(cfg)
    _set_crop_size(cfg.get('test_dataloader'), size)
    return build_dataset(cfg, 'test')


def verify(
    cfg: Config, dataset: Any, networks: Mapping[str, EmbeddingNetwork], reference: str
) -> dict[str, Verified]:
    """Verification figures of several networks, all of which see the same crops.

    Args:
        cfg: Tells the figures, by the ``FaceVerification`` of its ``test_evaluator``.
        dataset: Of :func:`dataset_of`.
        networks: By name; each compares with its own ``cosine``.
        reference: The name of the one that the others are compared with.

    Raises:
        UserError: If the config verifies nothing, the crops are not what they should
            be, or an embedding is zero or not finite.
    """
    init_default_scope('mmhyperface')
    configs = [
        metric
        for metric in metrics_of(cfg.get('test_evaluator') or [])
        if is_a(metric, METRICS, FaceVerification)
    ]
    if not configs:
        raise UserError(
            f'{cfg.filename}: its test_evaluator has no FaceVerification, which tells '
            "what is compared: test_evaluator=dict(type='FaceVerification')"
        )
    rows: dict[str, list[np.ndarray]] = {name: [] for name in networks}
    for crops in _batches(dataset):
        for name, network in networks.items():
            rows[name].append(_rows(network, crops))
    examined = {
        name: _examine(configs, dataset, networks[name], np.concatenate(parts))
        for name, parts in rows.items()
    }
    expected = examined[reference][1]
    return {
        name: Verified(figures, len(scores), float(abs(scores - expected).max()))
        for name, (figures, scores) in examined.items()
    }


def percent(fraction: float) -> str:
    """For a table; NaN is what the pairs cannot resolve."""
    return '-' if math.isnan(fraction) else f'{100 * fraction:.2f} %'


def report_bytes(report: dict) -> bytes:
    """As JSON, which has no NaN: figures that are not resolved are null."""
    return json.dumps(_finite(report), indent=2).encode() + b'\n'


def _finite(node: Any) -> Any:
    if isinstance(node, dict):
        return {key: _finite(value) for key, value in node.items()}
    return None if isinstance(node, float) and not math.isfinite(node) else node


def _rows(network: EmbeddingNetwork, crops: np.ndarray) -> np.ndarray:
    crops = resize_crops(crops, network.crop_size)
    starts = range(0, len(crops), BATCH)
    try:
        rows = np.concatenate([network.embed(crops[i : i + BATCH]) for i in starts])
    except cv2.error as error:
        raise UserError(
            f'OpenCV cannot run the graph it has read: {first_line(error)}'
        ) from None
    bad = unusable_rows(rows)
    if len(bad):
        raise UserError(
            f'{type(network).__name__}: the embedding is zero or not finite of image '
            f'{some(bad)} of {len(rows)}'
        )
    return rows


def _batches(dataset: Any) -> Iterator[np.ndarray]:
    for start in range(0, len(dataset), BATCH):
        numbers = range(start, min(start + BATCH, len(dataset)))
        items = [np.asarray(dataset[number]['inputs']) for number in numbers]
        # mmpretrain's PackInputs has the channels first.
        items = [x if x.shape[-1] == 3 else x.transpose(1, 2, 0) for x in items]
        shapes = {item.shape for item in items}
        if len(shapes) > 1:
            raise UserError(
                f'the images of the test set differ in size: {sorted(shapes)}; give '
                "LoadFace in test_dataloader.dataset.pipeline the network's size: "
                "dict(type='LoadFace', size=(height, width))"
            )
        yield np.stack(items)


def _examine(
    configs: list[dict], dataset: Any, network: EmbeddingNetwork, rows: np.ndarray
) -> tuple[dict[str, float], np.ndarray]:
    """Figures, and the cosines of all pairs of all sets as the network has them."""
    figures: dict[str, float] = {}
    scores: list[float] = []
    for config in configs:
        metric: Any = METRICS.build(dict(config))
        metric.dataset_meta = dataset.metainfo
        embeddings = Embeddings(np.arange(len(rows)), rows)
        figures |= metric.compute_metrics(embeddings)
        for test_set in metric.test_sets.values():
            own = rows[test_set['offset'] :]
            pairs = zip(test_set['index_a'], test_set['index_b'], strict=True)
            scores += [network.cosine(own[a], own[b]) for a, b in pairs]
    return figures, np.array(scores)


def _set_crop_size(node: Any, size: tuple[int, int]) -> None:
    """Let whatever makes crops make them of a size."""
    if isinstance(node, list | tuple):
        for child in node:
            _set_crop_size(child, size)
    if not isinstance(node, Mapping):
        return
    # Without a size AlignFace follows, whose landmarks are in the image's own pixels.
    loads = is_a(node, TRANSFORMS, LoadFace)
    keeps = loads and node.get('size', size) is None
    if (loads or is_a(node, TRANSFORMS, AlignFace)) and not keeps:
        node['size'] = size  # type: ignore[index]
    elif is_a(node, DATASETS, SyntheticFaceBase):
        if size[0] != size[1]:
            kind = str(node['type'])
            raise UserError(f'{kind} draws squares only, not {size[0]} x {size[1]}')
        node['image_size'] = size[0]  # type: ignore[index]
    for child in node.values():
        _set_crop_size(child, size)
