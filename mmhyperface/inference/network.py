"""A trained network outside a training: loaded, and asked for embeddings."""

import copy
import io
import tempfile
import uuid
from collections.abc import Sequence
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from mmengine.runner import Runner, set_random_seed
from torch import Tensor
from torch.utils.data import Subset

from mmhyperface.datasets.face_dataset import loader
from mmhyperface.datasets.wrappers import labels_of, numbered
from mmhyperface.engine.launch import (
    MMENGINE_HOOKS,
    build_runner,
    count_classes,
    require_checkpoint,
)
from mmhyperface.models.heads import HypersphereHead
from mmhyperface.utils.configs import dataset_config
from mmhyperface.utils.errors import UserError


def load_runner(cfg: Config, checkpoint: str, test: bool = False) -> Runner:
    """A runner whose model holds the weights of a checkpoint.

    What it logs goes to a temporary folder, which goes when the runner does.

    Args:
        cfg: Stays as it is. Its training is left out.
        test: Whether the runner is to test.

    Raises:
        UserError: If there is no such checkpoint, or it is of another network.
    """
    require_checkpoint(checkpoint)
    cfg = copy.deepcopy(cfg)
    count_classes(cfg)
    for phase in ('train', 'val') if test else ('train', 'val', 'test'):
        cfg[f'{phase}_dataloader'] = cfg[f'{phase}_cfg'] = None
        cfg[f'{phase}_evaluator'] = None
    cfg.optim_wrapper = cfg.param_scheduler = None
    cfg.auto_scale_lr = cfg.load_from = None
    cfg.custom_hooks, cfg.resume = [], False
    cfg.log_level = 'WARNING'
    hooks = cfg.get('default_hooks') or {}
    cfg.default_hooks = dict.fromkeys({*MMENGINE_HOOKS, *hooks})
    folder = tempfile.TemporaryDirectory(prefix='mmhyperface_')
    cfg.work_dir, cfg.experiment_name = folder.name, uuid.uuid4().hex
    runner = build_runner(cfg)
    runner.temporary_folder = folder  # type: ignore[attr-defined]
    refuse_other_networks(runner, cfg, checkpoint, centres=True)
    # mmengine prints which weights do not match; those of a loss may well be others.
    with redirect_stdout(io.StringIO()):
        runner.load_checkpoint(checkpoint)
    runner.model.eval()
    return runner


def refuse_other_networks(
    runner: Runner, cfg: Config, checkpoint: str, centres: bool = False
) -> None:
    """Let a runner raise ``UserError`` if what it is going to load is another network.

    mmengine only warns: of weights that are missing, and keeps those of chance; and of
    those that are too much, as a deeper network has them.

    Args:
        cfg: The runner's.
        checkpoint: What it is going to load.
        centres: Whether the class centres are needed, too.
    """
    parts = ('backbone.', 'neck.', *(['head.weight'] if centres else []))
    hook = _FitHook(str(cfg.filename), checkpoint, parts)
    runner.register_hook(hook, 'HIGHEST')


class _FitHook(Hook):
    def __init__(self, config: str, checkpoint: str, parts: tuple[str, ...]) -> None:
        self.config, self.checkpoint, self.parts = config, checkpoint, parts

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Called before the model, or a hook's copy of it, takes anything."""
        from mmhyperface.centres.checkpoint import require_fit

        model: Any = runner.model
        # With EMAHook the averaged weights, which are tested.
        require_fit(
            (model.module if is_model_wrapper(model) else model).state_dict(),
            checkpoint.get('state_dict', checkpoint),
            self.parts,
            self.checkpoint,
            self.config,
        )


def head_of(model: Any, source: str) -> HypersphereHead:
    """
    Raises:
        UserError: If the model has no class centres.
    """
    if not isinstance(getattr(model, 'head', None), HypersphereHead):
        raise UserError(f'{source}: the model has no HypersphereHead, so no centres')
    return model.head


def build_dataset(cfg: Config, phase: str) -> Any:
    """The data set of a phase, ready.

    Raises:
        UserError: If the config has none.
    """
    with loader(f'{phase}_dataloader', cfg.get('data_root')):
        return numbered(dataset_config(cfg, phase))


def people_of(dataset: Any) -> np.ndarray:
    """Who is on the images of a training or test set, int64 [N].

    Raises:
        UserError: If it is not known.
    """
    test_sets = getattr(dataset, 'metainfo', {}).get('test_sets')
    if test_sets is None:
        return labels_of(dataset)
    people = np.full(len(dataset), -1)
    for test_set in test_sets.values():
        identities = test_set.get('identities')
        if identities is not None:
            start = test_set['offset']
            people[start : start + len(identities)] = identities
            return people
    raise UserError('the test set does not tell who is on its images')


@torch.no_grad()
def embed(
    runner: Runner, cfg: Config, phase: str, dataset: Any, numbers: Sequence[int]
) -> Tensor:
    """Embeddings [N, D], not normalised, of some images, without mirror images.

    They pass through the pipeline of the data set, as the phase sees them; with the
    same random augmentations each time.
    """
    loader = cfg[f'{phase}_dataloader']
    options = {
        key: loader[key]
        for key in ('batch_size', 'num_workers', 'collate_fn')
        if key in loader
    }
    options = copy.deepcopy(options)
    # What `package::` marks would be handed to the function.
    options.get('collate_fn', {}).pop('_scope_', None)
    batches = Runner.build_dataloader(
        {
            **options,
            'dataset': Subset(dataset, numbers),
            'sampler': {'type': 'DefaultSampler', 'shuffle': False},
        },
        seed=0,
    )
    model: Any = runner.model
    set_random_seed(0)
    rows = []
    for batch in batches:
        inputs = model.data_preprocessor(batch)['inputs']
        rows.append(model.extract_feat(inputs)[-1].float().cpu())
    return torch.cat(rows)


def require_names(names: Sequence[str] | None, checkpoints: Sequence[str]) -> list[str]:
    """A name for each checkpoint, by default that of its folder, or its path.

    Raises:
        UserError: For a wrong number of names, or two that are the same.
    """
    if names is None:
        folders = [Path(path).resolve().parent.name for path in checkpoints]
        names = folders if len(set(folders)) == len(folders) else list(checkpoints)
    if len(names) != len(checkpoints):
        raise UserError(
            f'{len(names)} names for {len(checkpoints)} checkpoints: one for each'
        )
    if len(set(names)) != len(names):
        raise UserError(f'two have the same name: {", ".join(names)}; give --names')
    return list(names)
