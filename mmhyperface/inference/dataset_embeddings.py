"""Embeddings of a config's data sets by the model of a runner, and who is on them."""

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.config import Config
from mmengine.runner import Runner, set_random_seed
from torch import Tensor
from torch.utils.data import Subset

from mmhyperface.datasets.face_dataset import loader
from mmhyperface.datasets.wrappers import labels_of, numbered
from mmhyperface.models.heads import HypersphereHead
from mmhyperface.utils.configs import dataset_config
from mmhyperface.utils.errors import UserError


def head_of(model: Any, source: str) -> HypersphereHead:
    """The head of a model.

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
    configured = cfg[f'{phase}_dataloader']
    options = {
        key: copy.deepcopy(configured[key])
        for key in ('batch_size', 'num_workers', 'collate_fn')
        if key in configured
    }
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
