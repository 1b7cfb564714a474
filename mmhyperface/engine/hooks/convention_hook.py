"""Checkpoints that tell how their network is to be used."""

import dataclasses
import io
import os
from contextlib import suppress
from typing import Any

import numpy as np
from mmengine.dist import is_main_process
from mmengine.evaluator import Evaluator
from mmengine.hooks import Hook
from mmengine.runner import Runner
from PIL import Image

from mmhyperface.centres.storage import update_meta
from mmhyperface.datasets.transforms import encoded_face
from mmhyperface.evaluation.metrics import FaceVerification
from mmhyperface.evaluation.protocols import VerificationResult
from mmhyperface.registry import HOOKS
from mmhyperface.utils.errors import UserError
from mmhyperface.weights.convention import META_KEY, OperatingPoint, convention_of

# Images that are looked at, and the most sizes that crops have.
SAMPLE = 32
FEW = 3


@HOOKS.register_module()
class ConventionHook(Hook):
    """Lets checkpoints carry the convention of their network.

    That is ``meta['convention']``, see :class:`.Convention`, with the thresholds of the
    last validation. Those belong to the weights that were validated: they go into
    checkpoints of just these weights, also into one that was saved before the
    validation, and not into later ones.

    A config whose network has no convention (another recogniser, an input size that
    nothing tells) trains all the same; its checkpoints carry none, and the log says so.
    """

    # After the metrics, and before CheckpointHook saves the best.
    priority = 'LOW'

    def __init__(self) -> None:
        self.points: tuple[OperatingPoint, ...] = ()
        self.sizes: tuple[tuple[int, int], ...] = ()
        self.has_saved = False

    def before_train(self, runner: Runner) -> None:
        try:
            convention = convention_of(runner.cfg)
        except UserError as error:
            runner.logger.warning(
                f'{error}. So checkpoints will not tell how the network is to be used: '
                'who embeds with them has to give this config, too'
            )
            return
        if is_main_process() and convention.resize:
            self.sizes = image_sizes(runner.train_dataloader.dataset)

    def before_train_iter(self, *args: Any, **kwargs: Any) -> None:
        """The weights are going to be others."""
        self.points, self.has_saved = (), False

    def after_val_epoch(self, runner: Runner, metrics: Any = None) -> None:
        self.points = operating_points(runner.val_loop.evaluator)
        if not self.points or not self.has_saved or not is_main_process():
            return
        path = runner.message_hub.get_info('last_ckpt')
        convention = self._convention(runner)
        # What lies elsewhere than on a disk is not written twice.
        if convention is not None and path and os.path.exists(path):
            update_meta(path, META_KEY, convention)

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        self.has_saved = True
        convention = self._convention(runner)
        if convention is not None:
            checkpoint['meta'][META_KEY] = convention

    def _convention(self, runner: Runner) -> dict | None:
        try:
            convention = convention_of(runner.cfg)
        except UserError:
            return None
        return dataclasses.replace(
            convention, operating_points=self.points, image_sizes=self.sizes
        ).to_dict()


def image_sizes(dataset: Any) -> tuple[tuple[int, int], ...]:
    """Sizes (height, width) of the images of a training set, by a sample of them.

    None where they are more than FEW: crops have one size, or very few.
    """
    inner = [*getattr(dataset, 'datasets', ()), getattr(dataset, 'dataset', None)]
    sizes: set[tuple[int, int]] = set()
    if not hasattr(dataset, 'get_data_info'):
        for part in filter(None, inner):
            sizes.update(image_sizes(part))
    else:
        for number in np.linspace(0, len(dataset), SAMPLE, endpoint=False, dtype=int):
            # What is wrong with an image training will tell.
            with suppress(
                OSError, UserError, LookupError, Image.DecompressionBombError
            ):
                sizes.add(_size(dataset.get_data_info(int(number))))
    return tuple(sorted(sizes)) if len(sizes) <= FEW else ()


def _size(info: dict) -> tuple[int, int]:
    if 'img' in info:
        height, width = info['img'].shape[:2]
    else:  # the header alone
        width, height = Image.open(io.BytesIO(encoded_face(info))).size
    return int(height), int(width)


def operating_points(evaluator: Evaluator) -> tuple[OperatingPoint, ...]:
    """Thresholds of every verification that an evaluator has just done.

    Rates that the test set cannot resolve have none. Empty but on the first process.
    """
    results: dict[str, Any] = {}
    for metric in evaluator.metrics:
        if isinstance(metric, FaceVerification):
            results |= {n: x for n, x in metric.results_by_set.items() if x.finite}
    return tuple(
        point for name, result in results.items() for point in _points(name, result)
    )


def _points(name: str, result: VerificationResult) -> list[OperatingPoint]:
    # Those of the examination accept what is above them, ours what reaches them.
    least = np.nextafter(result.thresholds, np.inf)
    triples = zip(result.fars, least, result.tars, strict=True)
    return [
        OperatingPoint(
            name, float(far), float(threshold), float(tar), result.num_different
        )
        for far, threshold, tar in triples
        if np.isfinite(threshold)
    ]
