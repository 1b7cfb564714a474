"""Trained networks are loaded: as a model that embeds, or as a runner with its data.

:func:`get_model` builds a network without head from its convention, for whoever has
faces; :func:`load_runner` builds all of a config, for whoever wants its class centres
and data sets. Weights of another network are refused by both.
"""

import copy
import dataclasses
import hashlib
import io
import math
import tempfile
import uuid
from collections.abc import Iterator, Mapping
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import torch
from mmengine import registry as mmengine_registry
from mmengine.config import Config, ConfigDict
from mmengine.evaluator import Evaluator
from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from mmengine.registry import init_default_scope
from mmengine.runner import Runner
from mmpretrain import registry as mmpretrain_registry
from torch import Tensor

import mmhyperface.models  # registers what a network is built of
from mmhyperface.centres import storage
from mmhyperface.engine.hooks.convention_hook import operating_points
from mmhyperface.engine.launch import (
    MMENGINE_HOOKS,
    build_runner,
    count_classes,
    load_config,
    require_checkpoint,
)
from mmhyperface.evaluation.metrics import FaceVerification
from mmhyperface.models.recognizers import FaceDataPreprocessor, FaceRecognizer
from mmhyperface.registry import MODELS
from mmhyperface.utils.errors import UserError, first_line
from mmhyperface.weights.convention import META_KEY, Convention, convention_of
from mmhyperface.weights.shapes import require_fit

_PARTS = ('backbone.', 'neck.')
# What is done with pixels, in a Convention.
_PIXELS = ('input_size', 'channel_order', 'mean', 'std')


def get_model(
    config: str | Path | Config | None,
    checkpoint: str | Path | None,
    device: str | torch.device | None = None,
    flip_fusion: str | None = None,
) -> FaceRecognizer:
    """The network of a config or a checkpoint, without head, to be evaluated.

    Args:
        config: Its path, ``mmhyperface::NAME.py`` or itself. None: the network of the
            checkpoint's convention.
        checkpoint: A file, or a folder with centres in parts. None: random weights,
            to measure a network that is not trained yet.
        device: By default a GPU if there is one.
        flip_fusion: Instead of the config's or the checkpoint's, ``sum``, ``none`` or
            ``concat``. The thresholds of another fusion do not hold and go.

    Returns:
        The network, with its ``convention`` (:class:`Convention`).

    Raises:
        UserError: If there is no such file, the weights are of another network, the
            checkpoint tells no convention and there is no config, or the two
            contradict each other.
    """
    if config is None and checkpoint is None:
        raise UserError('give a config, a checkpoint, or both')
    source = str(checkpoint or config)
    state, stored = _read(checkpoint)
    convention = _convention(config, stored, source)
    if flip_fusion not in (None, convention.flip_fusion):
        network = {**convention.network, 'flip_fusion': flip_fusion}
        convention = dataclasses.replace(
            convention, flip_fusion=flip_fusion, network=network, operating_points=()
        )
    model = _build(convention, source)
    if checkpoint is not None:
        name = str(getattr(config, 'filename', config) or 'its convention')
        require_fit(model.state_dict(), state, _PARTS, source, name)
        model.load_state_dict(state, strict=False)
    model.to(require_device(device)).eval()
    model.convention = dataclasses.replace(
        convention,
        embedding_size=_embedding_size(model, convention, source),
        fingerprint=fingerprint(model, convention),
    )
    return model


def read_convention(checkpoint: str | Path) -> Convention | None:
    """The convention that a checkpoint carries, if it does."""
    return _read(checkpoint)[1]


def examined_convention(checkpoint: str, cfg: Config) -> Convention:
    """The convention of a checkpoint that is tested with a config.

    If the checkpoint carries none yet, that of the config.

    Raises:
        UserError: If it is tested in another way than its convention has it, so that
            thresholds would not hold.
    """
    tested = convention_of(cfg)
    stored = read_convention(checkpoint)
    if stored is None:
        return _of_unknown_versions(tested)
    for name in (*_PIXELS, 'flip_fusion'):
        has, was = getattr(stored, name), getattr(tested, name)
        if has != was:
            raise UserError(
                f'{checkpoint} has {name} {has!r}, and is examined with {was!r}: such '
                'thresholds do not hold for it'
            )
    return stored


def save_operating_points(
    checkpoint: str, convention: Convention, evaluator: Evaluator
) -> None:
    """Write the thresholds of a test into the checkpoint that was tested.

    Args:
        checkpoint: Its path.
        convention: Of :func:`examined_convention`.
        evaluator: After the test.

    Raises:
        UserError: If there was no verification, or the file cannot be written.
    """
    points = operating_points(evaluator)
    if not points:
        raise UserError(f'no thresholds to save: {_unresolved(evaluator)}')
    convention = dataclasses.replace(convention, operating_points=points)
    storage.update_meta(checkpoint, META_KEY, convention.to_dict())


def _unresolved(evaluator: Evaluator) -> str:
    """Why a test has given no threshold."""
    metrics = [each for each in evaluator.metrics if isinstance(each, FaceVerification)]
    results: list[Any] = [x for one in metrics for x in one.results_by_set.values()]
    if not results:
        return (
            'test_evaluator has no FaceVerification, or there was no set of pairs; '
            'test on one, such as --test-sets lfw'
        )
    most = max(result.num_different for result in results)
    if not most:
        return 'no test set has a pair of two people'
    return (
        f'of at most {most} pairs of two people FARs from {1 / most:.2g} on can be '
        f'resolved, not {min(metrics[0].fars):g} to {max(metrics[0].fars):g}: set '
        f'test_evaluator.fars=[{math.ceil(1000 / most) / 1000:g}], or larger ones'
    )


def fingerprint(model: FaceRecognizer, convention: Convention) -> str:
    """32 hexadecimal digits of the weights and of what is done with pixels."""
    digest = hashlib.sha256()
    done = [convention.input_size, convention.mean, convention.std]
    digest.update(repr([*done, convention.channel_order]).encode())
    digest.update(convention.flip_fusion.encode())
    for name, value in sorted(model.state_dict().items()):
        if name.startswith(_PARTS) and not name.endswith('num_batches_tracked'):
            digest.update(f'{name} {value.dtype} {list(value.shape)}'.encode())
            raw = value.detach().cpu().contiguous().flatten().view(torch.uint8)
            digest.update(raw.numpy().data)
    return digest.hexdigest()[:32]


def _read(checkpoint: str | Path | None) -> tuple[dict, Convention | None]:
    """State dict without the head, and convention, of a checkpoint."""
    if checkpoint is None:
        return {}, None
    if '://' in str(checkpoint):
        raise UserError(f'{checkpoint}: download it first, and give its path')
    content = storage.read(str(checkpoint))
    state = content.get('state_dict', content) if isinstance(content, dict) else None
    if not isinstance(state, dict):
        raise UserError(f'{checkpoint} is no checkpoint: it holds no weights')
    state = {
        name.removeprefix('module.'): value
        for name, value in state.items()
        if isinstance(name, str)
    }
    state = {name: value for name, value in state.items() if name.startswith(_PARTS)}
    meta = content.get('meta')
    stored = meta.get(META_KEY) if isinstance(meta, dict) else None
    if stored is None:
        return state, None
    return state, Convention.from_dict(stored, str(checkpoint))


def _of_unknown_versions(convention: Convention) -> Convention:
    """A config does not tell which versions its checkpoint was trained with."""
    return dataclasses.replace(convention, versions={})


def _convention(
    config: str | Path | Config | None, stored: Convention | None, source: str
) -> Convention:
    """That of a checkpoint, with the network and the fusion of a config."""
    if config is None:
        if stored is None:
            raise UserError(
                f'{source} tells no convention (size, order and scale of its pixels): '
                'give the config that it was trained with'
            )
        return stored
    cfg = config if isinstance(config, Config) else load_config(str(config))
    wanted = convention_of(cfg)
    if stored is None:
        return _of_unknown_versions(wanted)
    for name in _PIXELS:
        asked, trained = getattr(wanted, name), getattr(stored, name)
        if asked != trained:
            raise UserError(
                f'{source} was trained with {name} {trained}, and {cfg.filename} has '
                f'{asked}; leave the config out to take what the checkpoint tells'
            )
    same = wanted.flip_fusion == stored.flip_fusion
    return dataclasses.replace(
        stored,
        network=wanted.network,
        flip_fusion=wanted.flip_fusion,
        operating_points=stored.operating_points if same else (),
    )


def _build(convention: Convention, source: str) -> FaceRecognizer:
    for name in _types(convention.network):
        if not _registered(name):
            raise UserError(
                f'{source}: its network has a part of the type {name}, which nobody '
                'has registered; import what defines it, or give a config that does '
                '(custom_imports)'
            )
    init_default_scope('mmhyperface')
    network: Any = ConfigDict(copy.deepcopy(convention.network))
    try:
        model = MODELS.build(network)
    except (AssertionError, KeyError, TypeError, ValueError) as error:
        raise UserError(
            f'{source}: its network cannot be built, perhaps as it is of another '
            f'version of mmhyperface: {error}'
        ) from None
    _require_fitting(model, convention, source)
    return model


def _require_fitting(model: Any, convention: Convention, source: str) -> None:
    """What a convention says must be what its network computes."""
    pixels = getattr(model, 'data_preprocessor', None)
    if not isinstance(model, FaceRecognizer) or not isinstance(
        pixels, FaceDataPreprocessor
    ):
        raise UserError(f'{source}: its network is no FaceRecognizer of ours')

    def same(computed: Tensor, declared: tuple[float, float, float]) -> bool:
        return torch.equal(computed.flatten().expand(3), torch.tensor(declared))

    fits = {
        'channel_order': pixels.to_rgb == (convention.channel_order == 'RGB'),
        'mean': same(pixels.mean, convention.mean),
        'std': same(pixels.std, convention.std),
        'flip_fusion': model.flip_fusion == convention.flip_fusion,
    }
    for name, fit in fits.items():
        if not fit:
            raise UserError(f'{source}: its {name} contradicts its network')


def _types(node: Any) -> Iterator[str]:
    if isinstance(node, Mapping):
        if isinstance(node.get('type'), str):
            yield node['type']
        for value in node.values():
            yield from _types(value)
    elif isinstance(node, list | tuple):
        for value in node:
            yield from _types(value)


def _registered(name: str) -> bool:
    """Whether a type is in a registry.

    mmengine would import any other, and call it: a file must not make us run code.
    """
    short = name.rpartition('.')[2]
    roots = (mmengine_registry, mmpretrain_registry, mmhyperface.registry)
    for root in roots:
        for registry in (root.MODELS, root.WEIGHT_INITIALIZERS):
            registry.import_from_location()
            if short in registry.module_dict and name in (
                short,
                f'{registry.scope}.{short}',
            ):
                return True
    return False


def require_device(device: str | torch.device | None) -> torch.device:
    """A device that can be used; by default a GPU if there is one.

    Raises:
        UserError: If it cannot.
    """
    if device is None:
        device = 'cuda' if torch.cuda.is_available() else 'cpu'
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, ValueError) as error:
        raise UserError(
            f'the device {device} (device=..., --device) cannot be used: '
            f'{first_line(error)}'
        ) from None
    return torch.device(device)


@torch.inference_mode()
def _embedding_size(model: FaceRecognizer, convention: Convention, source: str) -> int:
    """What the network gives for an image of its size."""
    device = next(model.parameters()).device
    try:
        images = torch.zeros(1, 3, *convention.input_size, device=device)
        return model.embed(images).shape[1]
    except (RuntimeError, TypeError, ValueError) as error:
        size = ' x '.join(map(str, convention.input_size))
        raise UserError(
            f'{source}: the network does not take images of {size}: {first_line(error)}'
        ) from None


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
        model: Any = runner.model
        # With EMAHook the averaged weights, which are tested.
        require_fit(
            (model.module if is_model_wrapper(model) else model).state_dict(),
            checkpoint.get('state_dict', checkpoint),
            self.parts,
            self.checkpoint,
            self.config,
        )
