"""A few iterations of a config on GPUs that are not there, as JSON.

    PYTHONPATH=tests python -m null_gpu.dry_run configs/sphereface2_r100_ms1m.py

The runner is the real one, and so are its hooks, the loaders, DDP, the gradient scaler
and CUDA's caching allocator. In place of the images are drawn ones, with the labels of
as many classes as the config has.

The report: ``iterations``, each with ``syncs`` ([phase, reason, place]; phases are
forward, backward, update), ``operations`` (how many of torch's touch the device, and
kernels of Triton, that the host queues), ``replayed`` (those in CUDA graphs),
``exchanges`` ([name, backend, dtype, bytes]), ``seconds``, and ``allocated`` and
``reserved``, its peaks in bytes; ``convolutions``, how many of their inputs have which
layout; ``unknown``, operations that were not carried out; ``graphs`` and ``breaks`` of
torch's compiler; ``spills`` of its kernels, in bytes of a thread; of a whole run,
``metrics``, ``checkpoint`` and ``resumed``, iterations after resuming.
"""

import argparse
import gc
import json
import os
import sys
import tempfile
import uuid
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from mmengine.dataset import DefaultSampler
from mmengine.hooks import Hook
from mmengine.registry import DATA_SAMPLERS
from runs import leave_configs_unformatted

from mmhyperface.apis import build_runner, load_config

from . import harness, kernels, process_groups
from .device import NullDevice, watch_backward, watch_graphs

# Of a test set, in place of each of the config's.
PAIRS = dict(num_identities=10, images_per_identity=4, num_pairs=100)


@DATA_SAMPLERS.register_module()
class EverySample(DefaultSampler):
    """Gives this rank all samples: the others have what it has, and not the rest."""

    def __init__(self, dataset: Any, **kwargs: Any) -> None:
        super().__init__(dataset, shuffle=False)
        self.rank, self.world_size = 0, 1
        self.num_samples = self.total_size = len(dataset)


class Watch(Hook):
    """Notes what happens from the beginning of an iteration to that of the next."""

    def __init__(self, device: NullDevice) -> None:
        self.device = device
        self.exchanges: list = []
        self.iterations: list[dict] = []
        self.metrics: dict[str, float] = {}
        self._open = False

    def before_train(self, runner: Any) -> None:
        self.iterations = []

    def before_train_iter(self, runner: Any, *args: Any, **kwargs: Any) -> None:
        self.close()
        self._open = True
        self.device.begin()

    def close(self) -> None:
        """The iteration is over."""
        if self._open:
            exchanges = dict(exchanges=self.exchanges)
            self.iterations.append(self.device.end() | exchanges)
        self.exchanges, self._open = [], False

    def before_val(self, runner: Any) -> None:
        self.device.phase = 'validation'

    def after_val_epoch(self, runner: Any, metrics: Any = None) -> None:
        self.device.phase = 'between'
        self.metrics = metrics


class Close(Hook):
    """Ends the last iteration, before validation and checkpoints."""

    priority = 'LOW'

    def __init__(self, watch: Watch) -> None:
        self.watch = watch

    def after_train_iter(self, runner: Any, *args: Any, **kwargs: Any) -> None:
        if runner.iter + 1 == runner.max_iters:
            self.watch.close()


def drawn(cfg: Config, iters: int, folder: str) -> Config:
    """The config, on drawn images."""
    train = cfg.train_dataloader
    train.dataset = dict(
        type='SyntheticFaces',
        num_identities=cfg.model.head.num_classes,
        images_per_identity=1,
        pipeline=[step for step in train.dataset.pipeline if step.type != 'LoadFace'],
    )
    faces = dict(type='SyntheticFacePairs', pipeline=[dict(type='PackFace')], **PAIRS)
    faces |= dict(first_identity=cfg.model.head.num_classes, test_mode=True)
    for loader in (cfg.val_dataloader, cfg.test_dataloader):
        loader.dataset = faces
        loader.sampler = dict(type='EverySample')
    for loader in (train, cfg.val_dataloader, cfg.test_dataloader):
        loader.num_workers = 1
    cfg.train_cfg |= dict(max_iters=iters, val_interval=iters)
    cfg.default_hooks.checkpoint.interval = iters
    cfg.work_dir = folder
    return cfg


def train(cfg: Config, watch: Watch) -> None:
    cfg.experiment_name = uuid.uuid4().hex
    runner = build_runner(cfg)
    runner.register_hook(watch, 'HIGHEST')
    runner.register_hook(Close(watch), 'LOW')
    runner.train()
    # The next begins as in a process of its own.
    del runner
    gc.collect()
    torch.cuda.empty_cache()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('config')
    parser.add_argument('--iters', type=int, default=5)
    parser.add_argument('--world', type=int, default=8)
    parser.add_argument('--whole', action='store_true', help='validate, save, resume')
    parser.add_argument('--options', type=json.loads, default={}, help='as JSON')
    args = parser.parse_args()
    if 'NULL_GPU' not in os.environ:
        print(harness.run('dry_run', *sys.argv[1:], world=args.world), end='')
        return

    device = NullDevice()
    watch = Watch(device)
    process_groups.stand_in(lambda exchange: watch.exchanges.append(exchange))
    watch_backward(device)
    watch_graphs(device)
    leave_configs_unformatted()
    asked = kernels.recorded()
    cfg = load_config(args.config, args.options)
    iters, report = args.iters, {}
    with tempfile.TemporaryDirectory() as folder:
        cfg = drawn(cfg, iters, folder)
        cfg.launcher = 'pytorch' if int(os.environ['WORLD_SIZE']) > 1 else 'none'
        if not args.whole:
            cfg.val_cfg = cfg.val_dataloader = cfg.val_evaluator = None
            cfg.test_cfg = cfg.test_dataloader = cfg.test_evaluator = None
            cfg.default_hooks.report = cfg.default_hooks.checkpoint = None
        with device:
            train(cfg.copy(), watch)
            report['iterations'] = watch.iterations
            if args.whole:
                report['metrics'] = watch.metrics
                report['checkpoint'] = Path(folder, 'last_checkpoint').read_text()
                cfg.train_cfg |= dict(max_iters=iters + 2, val_interval=10 * iters)
                cfg.default_hooks.checkpoint = None
                cfg.resume = True
                train(cfg, watch)
                report['resumed'] = watch.iterations
    counters = torch._dynamo.utils.counters
    report |= dict(
        convolutions=device.convolutions,
        unknown=device.unknown,
        graphs=counters['stats'].get('unique_graphs', 0),
        breaks=list(counters['graph_break']),
        spills=kernels.spills(asked),
    )
    print(json.dumps(report))


if __name__ == '__main__':
    main()
