"""Whole training steps for benchmarks: ours, by a runner, and insightface's.

Images are drawn noise of 112 x 112 in memory: what is measured is all that follows the
data loader.
"""

import importlib
import json
import sys
import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch
from classifier_peers import Peer, load
from mmengine.hooks import Hook
from torch import nn

from mmhyperface.registry import DATASETS

ARCFACE, COSFACE = (1.0, 0.5, 0.0), (1.0, 0.0, 0.4)
IMAGES = 256


@DATASETS.register_module()
class NoiseInMemory(torch.utils.data.Dataset):
    """A few images again and again, under labels that are spread over all classes."""

    def __init__(self, num_classes: int, length: int = 1_000_000) -> None:
        self.metainfo = dict(num_classes=num_classes)
        self.length = length
        shape = IMAGES, 112, 112, 3
        self.images = np.random.default_rng(0).integers(0, 256, shape, np.uint8)

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> dict[str, Any]:
        label = index * 7919 % self.metainfo['num_classes']
        image = self.images[index % IMAGES]
        return dict(inputs=image, sample_idx=index, gt_label=label)

    def prepare(self) -> None:
        """Nothing is left to read."""


class Enough(Exception):
    """All steps have been taken."""


def run_ours(
    config: str,
    options: dict[str, Any],
    compiled: bool,
    iterations: int,
    each: Callable[[int, bool], None],
) -> None:
    """Train a config on drawn images, without validation and checkpoints.

    The last of the steps is not the last of the training, which is no steady one.

    Args:
        config: Path of the config.
        options: As ``--cfg-options``.
        compiled: Whether CompileHook compiles the backbone.
        iterations: How many to run.
        each: ``each(iteration, before)``, called before and after each.
    """
    from mmhyperface.engine.hooks import CompileHook
    from mmhyperface.engine.launch import build_runner, load_config

    cfg = load_config(config, {'train_dataloader.num_workers': 2, **options})
    cfg.train_dataloader.dataset = dict(
        type='NoiseInMemory', num_classes=cfg.model.head.num_classes
    )
    for part in ('val', 'test'):
        for name in (f'{part}_cfg', f'{part}_dataloader', f'{part}_evaluator'):
            cfg[name] = None
    cfg.default_hooks.report = cfg.default_hooks.checkpoint = None
    # On noise a loss need not fall.
    cfg.default_hooks.divergence_guard.interval = 10**6
    cfg.train_cfg = dict(by_epoch=False, max_iters=10**6)
    cfg.launcher = 'pytorch'
    cfg.log_level = 'WARNING'
    folder = tempfile.TemporaryDirectory()
    cfg.work_dir = folder.name
    runner = build_runner(cfg)
    if compiled:
        runner.register_hook(CompileHook())

    class Before(Hook):
        def before_train_iter(self, runner, batch_idx, data_batch=None) -> None:
            each(batch_idx, True)

    class After(Hook):
        def after_train_iter(
            self, runner, batch_idx, data_batch=None, outputs=None
        ) -> None:
            each(batch_idx, False)
            if batch_idx + 1 == iterations:
                raise Enough

    runner.register_hook(Before(), priority=0)
    runner.register_hook(After(), priority=100)
    with folder, suppress(Enough):
        runner.train()


def insightface_step(
    peer_dir: Path,
    network: str,
    classes: int,
    batch_size: int,
    rate: float = 1.0,
    margins: tuple[float, float, float] = ARCFACE,
) -> Callable[[], None]:
    """The step of arcface_torch's ``train_v2.py`` with the settings of its recipes.

    Its classes come from the checkout; what they are given is what ``train_v2.py``
    gives them. Needs a process group.
    """
    partial_fc = load(peer_dir, Peer('insightface', 'partial_fc_v2.py', nn.Module))
    package = partial_fc.__package__
    backbones = importlib.import_module(f'{package}.backbones')
    losses = importlib.import_module(f'{package}.losses')
    from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import (
        fp16_compress_hook,
    )

    device = torch.cuda.current_device()
    network = backbones.get_model(network, dropout=0.0, fp16=True, num_features=512)
    backbone = nn.parallel.DistributedDataParallel(
        network.cuda(),
        broadcast_buffers=False,
        device_ids=[device],
        bucket_cap_mb=16,
        find_unused_parameters=True,
    )
    backbone.register_comm_hook(None, fp16_compress_hook)
    backbone.train()
    backbone._set_static_graph()
    margin = losses.CombinedMarginLoss(64, *margins, 0)
    head = partial_fc.PartialFC_V2(margin, 512, classes, rate, False).train().cuda()
    groups = [{'params': backbone.parameters()}, {'params': head.parameters()}]
    optimizer = torch.optim.SGD(groups, lr=0.1, momentum=0.9, weight_decay=5e-4)
    scaler = torch.amp.GradScaler('cuda', growth_interval=100)
    images = (torch.rand(batch_size, 3, 112, 112) * 2 - 1).pin_memory()
    labels = (torch.arange(batch_size) * 7919 % classes).pin_memory()

    def step() -> None:
        # DataLoaderX copies a batch ahead, on a stream of its own.
        x = images.to('cuda', non_blocking=True)
        y = labels.to('cuda', non_blocking=True)
        loss = head(backbone(x), y)
        scaler.scale(loss).backward()
        scaler.unscale_(optimizer)
        nn.utils.clip_grad_norm_(backbone.parameters(), 5)
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad()
        loss.item()

    return step


def emit(figures: dict[str, Any]) -> None:
    """Hand figures to the process that started this one, as the last line."""
    sys.stdout.flush()
    print(json.dumps(figures), flush=True)
