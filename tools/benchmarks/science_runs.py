"""The runs of the comparison of losses: which there are, and what one does.

A run trains a small network and verifies on other people. Everything that it depends on
is in its :class:`Run`; nothing else differs between two losses.
"""

from __future__ import annotations

import functools
import math
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmengine.config import Config

from mmhyperface.engine.launch import load_config
from mmhyperface.utils.errors import UserError

if TYPE_CHECKING:
    from mmengine.hooks import Hook
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
NOISES = (0.0, 0.2, 0.4, 0.6)
MARGINS = (1.5, 2.5, 4.0)
# People whom no table shows, on whom settings are chosen.
CHOICE_SEED = 100


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


# ---- which runs there are

Settings = Sequence[dict]


def _four(type_: str, scale: str, published: dict, half: dict) -> Settings:
    """As published; with scales for few classes, also with half of the margin."""
    return (
        dict(type=type_, **published),
        dict(type=type_, **{**published, scale: 16.0}),
        dict(type=type_, **{**published, scale: 16.0, **half}),
        dict(type=type_, **{**published, scale: 8.0, **half}),
    )


def _sphereface2(margin_type: str, m: float, half: float) -> Settings:
    published = dict(
        margin_type=margin_type, lam=0.7, r=40.0, m=m, t=3.0, loss_weight=10.0
    )
    return _four('SphereFace2Loss', 'r', published, dict(m=half))


#: Of each loss some settings, the published one first: that of VGGFace2 and SFNet-20
#: where there is one, else that of the authors' larger runs. SphereFace-R v1 has none
#: with a constant scale: it has that of SphereFace. NormFace has no margin to halve.
LOSSES: Mapping[str, Settings] = {
    'NormFace': tuple(dict(type='NormFaceLoss', s=s) for s in (30.0, 16.0, 8.0)),
    'CosFace': _four('CosFaceLoss', 's', dict(s=30.0, m=0.35), dict(m=0.175)),
    'ArcFace': _four('ArcFaceLoss', 's', dict(s=30.0, m=0.5), dict(m=0.25)),
    'CurricularFace': _four(
        'CurricularFaceLoss', 's', dict(s=64.0, m=0.5), dict(m=0.25)
    ),
    'MagFace': _four(
        'MagFaceLoss', 's', dict(s=64.0, l_m=0.45, u_m=0.8), dict(l_m=0.225, u_m=0.4)
    ),
    'AdaFace': _four('AdaFaceLoss', 's', dict(s=64.0, m=0.4), dict(m=0.2)),
    'SphereFace': _four('SphereFaceLoss', 's', dict(s=30.0, m=1.5), dict(m=1.25)),
    'SphereFace+': _four('SphereFacePlusLoss', 's', dict(s=30.0, m=1.5), dict(m=1.25)),
    'SphereFace-R v1': _four(
        'SphereFaceRLoss', 's', dict(version='v1', s=30.0, m=1.5), dict(m=1.25)
    ),
    'SphereFace-R v2': _four(
        'SphereFaceRLoss',
        's',
        dict(version='v2', s=60.0, m=1.4, loss_weight=50 / 60),
        dict(m=1.2),
    ),
    'SphereFace2-C': _sphereface2('C', 0.4, 0.2),
    'SphereFace2-A': _sphereface2('A', 0.5, 0.25),
    'SphereFace2-M': _sphereface2('M', 1.7, 1.35),
    'SFace': tuple(
        dict(type='SFaceLoss', s=s, k=k, a=0.87, b=1.2)
        for s, k in ((64.0, 80.0), (16.0, 80.0), (16.0, 20.0), (8.0, 20.0))
    ),
}
#: Version, feature normalisation and detachment by name.
VARIANTS: Mapping[str, tuple[str, str, bool]] = {
    'v0 none, no detachment': ('v0', 'none', False),
    'v0 hard, no detachment': ('v0', 'hard', False),
    **{
        f'{version} {norm}': (version, norm, True)
        for version in ('v1', 'v2')
        for norm in ('none', 'hard', 'soft')
    },
}
UNTRAINED = 'untrained'


def choices(size: str, losses: Sequence[str]) -> dict[str, list[Run]]:
    """The runs that choose a setting for each loss."""
    return {
        loss: [
            Run('settings', f'{slug(loss)}_{i}', size, setting, seed=CHOICE_SEED)
            for i, setting in enumerate(LOSSES[loss])
        ]
        for loss in losses
    }


def low_scale(chosen: Mapping[str, dict]) -> dict[str, dict]:
    """The setting with the lowest scale, 8, of each loss that has been given another.

    Else it would not be told apart whether the loss or the scale bears wrong labels.
    """
    return {
        f'{loss}, scale 8': LOSSES[loss][-1]
        for loss in chosen
        if chosen[loss] != LOSSES[loss][-1]
    }


def noise_runs(
    size: str, chosen: Mapping[str, dict], seeds: Sequence[int]
) -> dict[tuple[str, float], list[Run]]:
    """One run for each loss, share of wrong labels and seed."""
    runs = {
        (loss, noise): [
            Run('noise', slug(loss), size, setting, noise=noise, seed=seed)
            for seed in seeds
        ]
        for loss, setting in chosen.items()
        for noise in NOISES
    }
    runs[UNTRAINED, 0.0] = [
        Run('noise', UNTRAINED, size, None, seed=seed) for seed in seeds
    ]
    return runs


def stability_runs(
    size: str, seeds: Sequence[int]
) -> dict[tuple[str, float], list[Run]]:
    """One run for each variant of SphereFace-R, margin and seed.

    Gradients are not clipped. The margin is annealed where the features are not
    normalised, or softly, as published.
    """
    return {
        (name, m): [
            Run(
                'stability',
                f'{slug(name)}_m{m:g}',
                size,
                dict(
                    type='SphereFaceRLoss',
                    version=version,
                    feature_norm=norm,
                    s=30.0,
                    m=m,
                    detach=detach,
                ),
                seed=seed,
                clip=None,
                annealed=norm != 'hard',
            )
            for seed in seeds
        ]
        for name, (version, norm, detach) in VARIANTS.items()
        for m in MARGINS
    }


def slug(name: str) -> str:
    """A name as a file has it."""
    return name.lower().replace('+', '_plus').replace(', ', '_').replace(' ', '_')


# ---- what a run does


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


class Diverged(UserError):
    """The loss is no number any more."""


def trace_hook() -> Hook:
    """Keeps the loss and the norm of the gradients of each iteration."""
    from mmengine.hooks import Hook

    class Trace(Hook):
        def __init__(self) -> None:
            self.loss: list[float] = []
            self.grad_norm: list[float] = []

        def after_train_iter(
            self, runner: Any, batch_idx: int, data_batch: Any, outputs: Mapping
        ) -> None:
            loss = float(outputs['loss'])
            norm = float(runner.message_hub.get_scalar('train/grad_norm').current())
            if not math.isfinite(loss + norm):
                raise Diverged(f'not finite at iteration {runner.iter + 1}')
            self.loss.append(loss)
            self.grad_norm.append(norm)

    return Trace()


def execute(run: Run) -> dict[str, Any]:
    """Train and verify.

    Returns:
        The figures, fractions, or None of a run that diverged; ``diverged``, the
        iteration at which its loss or gradient was no number any more, or None;
        ``loss`` and ``grad_norm`` of each iteration before.
    """
    from mmengine.logging import MMLogger

    trace = trace_hook()
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


def _runner(run: Run, trace: Hook, folder: str) -> FaceRunner:
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
