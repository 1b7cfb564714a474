"""One run of the comparison of losses: train a small network, verify on other people.

Everything that a run depends on is in its :class:`Run`; nothing else differs between
two losses.
"""

from __future__ import annotations

import functools
import math
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmengine.config import Config

from mmhyperface.engine.launch import load_config

if TYPE_CHECKING:
    from science_trace import Trace
    from torch.utils.data import Dataset

    from mmhyperface.engine.runner import FaceRunner

CONFIG = Path(__file__).resolve().parents[2] / 'configs' / 'sphereface2_quickstart.py'
# What differs from the quickstart's network, people and schedule.
SIZES: dict[str, dict[str, Any]] = {
    # Some fifteen seconds a run on one CPU core.
    'small': {
        'image_size': 32,
        'widths': (8, 16, 32, 64),
        'embedding_size': 64,
        'people': 100,
        'images': 40,
        'test_people': 200,
        'iterations': 400,
    },
    # The quickstart's network: some minutes a run on a CPU.
    'medium': {
        'image_size': 64,
        'widths': (16, 32, 64, 128),
        'embedding_size': 128,
        'people': 500,
        'images': 60,
        'test_people': 200,
        'iterations': 4000,
    },
    # The channels of the papers' networks, for a GPU.
    'large': {
        'image_size': 64,
        'widths': (64, 128, 256, 512),
        'embedding_size': 512,
        'people': 2000,
        'images': 60,
        'test_people': 500,
        'iterations': 20_000,
    },
}
BATCH_SIZE = 64
TEST_IMAGES = 10
TEST_PAIRS = 4000
WARM_UP = 0.125  # of the iterations
ANNEALED = 0.5  # of the iterations, in which an annealed margin grows
FARS = [1e-2]


@dataclass(frozen=True, eq=False)
class Run:
    """What one run is to do.

    Attributes:
        study, name: Where it belongs; one row of a table.
        size: One of ``SIZES``.
        loss: Config of the loss, None for a network that is not trained.
        noise: Share of the training images with someone else's label.
        seed: Of the people, the wrong labels, the initial weights and the order.
        clip: Largest norm of the gradients, None for any.
        annealed: Whether the margin grows from 1 in the first half of the run.
    """

    study: str
    name: str
    size: str
    loss: dict | None
    noise: float = 0.0
    seed: int = 0
    clip: float | None = 5.0
    annealed: bool = False

    @property
    def file(self) -> str:
        noise = f'_noise{round(100 * self.noise)}' if self.noise else ''
        return f'{self.size}/{self.study}/{self.name}{noise}_seed{self.seed}.json'

    def settings(self) -> dict[str, Any]:
        """For a file; what a run that was done must have been done with."""
        return {**asdict(self), **SIZES[self.size]}


@functools.lru_cache(maxsize=1)
def people(size: str, seed: int) -> tuple[Dataset, Dataset]:
    """The training and the test set of a seed; they share nobody.

    Their images are drawn once by each process, and kept.
    """
    from mmhyperface.registry import DATASETS

    cfg, options = _config(size), SIZES[size]
    shared = {'seed': seed, 'image_size': options['image_size'], 'cache_images': True}
    train = {
        **cfg.train_dataloader.dataset,
        **shared,
        'num_identities': options['people'],
        'images_per_identity': options['images'],
    }
    test = {
        **cfg.val_dataloader.dataset,
        **shared,
        'first_identity': options['people'],
        'num_identities': options['test_people'],
        'images_per_identity': TEST_IMAGES,
        'num_pairs': TEST_PAIRS,
    }
    return DATASETS.build(train), DATASETS.build(test)


def execute(run: Run) -> dict[str, Any]:
    """Train and verify.

    Returns:
        The figures, fractions, or None of a run that diverged; ``diverged``, the
        iteration at which its loss or gradient was no number any more, or None;
        ``loss`` and ``grad_norm`` of each iteration before.
    """
    from mmengine.logging import MMLogger
    from science_trace import Diverged, Trace

    trace = Trace()
    with tempfile.TemporaryDirectory() as folder:
        runner = _runner(run, trace, folder)
        figures = diverged = None
        try:
            if run.loss is not None:
                runner.train()
            runner.val()
            (result,) = runner.val_evaluator.metrics[0].results_by_set.values()
            figures = result.figures()
        except Diverged:
            diverged = len(trace.loss) + 1
        # Else the next run would log into this one's folder.
        MMLogger._instance_dict.pop(runner.experiment_name).handlers.clear()
    return {
        'figures': figures,
        'diverged': diverged,
        'loss': trace.loss,
        'grad_norm': trace.grad_norm,
    }


def _config(size: str) -> Config:
    options = SIZES[size]
    return load_config(
        str(CONFIG),
        {
            'model.backbone.widths': options['widths'],
            'model.backbone.input_size': options['image_size'],
            'model.backbone.embedding_size': options['embedding_size'],
            'model.head.in_channels': options['embedding_size'],
            'model.head.num_classes': options['people'],
        },
    )


def _runner(run: Run, trace: Trace, folder: str) -> FaceRunner:
    from torch.utils.data import DataLoader

    from mmhyperface.datasets.collate import collate_faces
    from mmhyperface.datasets.samplers import InfiniteFaceSampler
    from mmhyperface.datasets.wrappers import LabelNoise
    from mmhyperface.engine.runner import FaceRunner

    cfg, total = _config(run.size), SIZES[run.size]['iterations']
    if run.loss is not None:
        cfg.model.head.loss = dict(run.loss)
    train, test = people(run.size, run.seed)
    if run.noise:
        train = LabelNoise(train, run.noise, seed=run.seed)
    warm = round(WARM_UP * total)
    warm_up, cosine = cfg.param_scheduler
    hooks: list[Any] = [trace]
    if run.annealed:
        end = round(ANNEALED * total)
        hooks.append(
            dict(type='MarginSchedulerHook', policy='linear', start=1.0, end=end)
        )
    return FaceRunner(
        model=cfg.model,
        work_dir=folder,
        train_dataloader=DataLoader(
            train,
            BATCH_SIZE,
            sampler=InfiniteFaceSampler(train, seed=run.seed),
            collate_fn=collate_faces,
            drop_last=True,
        ),
        val_dataloader=DataLoader(test, BATCH_SIZE, collate_fn=collate_faces),
        val_evaluator=dict(type='FaceVerification', fars=FARS),
        train_cfg=dict(by_epoch=False, max_iters=total, val_interval=total + 1),
        val_cfg=dict(),
        optim_wrapper={
            **cfg.optim_wrapper,
            # An infinite one clips nothing, and the norm is recorded.
            'clip_grad': dict(max_norm=run.clip or math.inf),
        },
        param_scheduler=[
            {**warm_up, 'end': warm},
            {**cosine, 'begin': warm, 'end': total},
        ],
        # No checkpoints and no log: a run is repeated, not resumed.
        default_hooks=dict(checkpoint=None, logger=None),
        custom_hooks=hooks,
        default_scope='mmhyperface',
        log_level='ERROR',
        randomness=dict(seed=run.seed),
        experiment_name=run.file.replace('/', '_'),
        visualizer=dict(type='Visualizer', vis_backends=[]),
    )
