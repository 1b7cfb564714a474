"""What one must know of a network to use it: how pixels come in, what comes out.

It travels in checkpoints (``meta['convention']``) and in exported models, so that
nobody has to guess at the scale or the order of channels.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import mmengine
from mmengine.config import Config

from mmhyperface.utils.configs import type_name
from mmhyperface.utils.errors import UserError
from mmhyperface.version import __version__

#: Where it is among a checkpoint's ``meta``.
META_KEY = 'convention'
# False accepts that a threshold stands on, unless another is asked for.
SOLID = 10


@dataclass(frozen=True)
class OperatingPoint:
    """A threshold of the last examination.

    Attributes:
        test_set: Its name.
        far: False accept rate that was asked for, a fraction.
        threshold: Pairs are taken for one person from this cosine on.
        tar: True accept rate there.
        impostors: Pairs of two people that the rate stands on.
    """

    test_set: str
    far: float
    threshold: float
    tar: float
    impostors: int


@dataclass(frozen=True)
class Convention:
    """The convention of a network.

    Attributes:
        input_size: (height, width) of the network's images.
        mean, std: Of each channel in `channel_order`, for pixels from 0 to 255; the
            network takes (pixel - mean) / std.
        channel_order: ``RGB`` or ``BGR``.
        flip_fusion: How an image and its mirror image make one embedding: ``sum``,
            ``none`` or ``concat``.
        embedding_size: Of the fused embedding; 0 where it is not known yet.
        resize: Whether its training brought crops of other sizes to `input_size` (as
            ``LoadFace`` does).
        image_sizes: Of the crops that it brought there, (height, width) each, where
            these were few sizes.
        network: Config of the :class:`FaceRecognizer` without its head.
        loss: Config of the loss it was trained with.
        data: What it was trained on: ``type`` of the data set, ``num_classes``,
            ``config``.
        operating_points: Of the last examination of these weights.
        versions: Of mmhyperface, torch and mmengine, when it was trained.
        fingerprint: Of weights, preprocessing and fusion: equal embeddings have equal
            fingerprints. Empty until the weights are loaded.
    """

    input_size: tuple[int, int]
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    channel_order: str
    flip_fusion: str
    embedding_size: int
    resize: bool
    network: dict
    loss: dict | None = None
    data: dict | None = None
    operating_points: tuple[OperatingPoint, ...] = ()
    versions: dict[str, str] = field(default_factory=dict)
    fingerprint: str = ''
    image_sizes: tuple[tuple[int, int], ...] = ()

    def to_dict(self) -> dict:
        """Only numbers, strings, and dicts and lists of them."""
        return _plain(asdict(self))

    @classmethod
    def from_dict(cls, data: Any, source: str) -> 'Convention':
        """The convention that :meth:`to_dict` has written.

        Args:
            data: See :meth:`to_dict`.
            source: Where it comes from, for messages.

        Raises:
            UserError: If it is no convention.
        """
        try:
            known = {item.name for item in fields(cls)}
            values = {key: value for key, value in data.items() if key in known}
            for name in ('input_size', 'mean', 'std'):
                values[name] = tuple(values[name])
            sizes = values.get('image_sizes', ())
            values['image_sizes'] = tuple((int(h), int(w)) for h, w in sizes)
            points = values.get('operating_points', ())
            values['operating_points'] = tuple(OperatingPoint(**x) for x in points)
            return cls(**values)
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise UserError(
                f'{source}: its convention is damaged, or of another version of '
                f'mmhyperface ({type(error).__name__}: {error})'
            ) from None

    def operating_point(
        self, far: float | None = None, test_set: str | None = None
    ) -> OperatingPoint | None:
        """The threshold for a false accept rate; None if there is none at all.

        Args:
            far: By default the strictest that ten pairs of two people or more stand
                on, for fewer make a threshold of chance; if none, the largest.
            test_set: By default the first that was examined.

        Raises:
            UserError: If that rate or test set was not examined.
        """
        if not self.operating_points:
            return None
        sets = list(dict.fromkeys(x.test_set for x in self.operating_points))
        chosen = sets[0] if test_set is None else test_set
        if chosen not in sets:
            raise UserError(
                f'there are no thresholds of the test set {test_set!r}, only of '
                f'{", ".join(sets)}'
            )
        points = [x for x in self.operating_points if x.test_set == chosen]
        if far is None:
            solid = [x for x in points if round(x.far * x.impostors) >= SOLID]
            if not solid:
                return max(points, key=lambda point: point.far)
            return min(solid, key=lambda point: point.far)
        for point in points:
            if abs(point.far - far) <= 1e-9 * far:
                return point
        rates = ', '.join(f'{point.far:g}' for point in points)
        raise UserError(
            f'there is no threshold for a false accept rate of {far:g} on {chosen}, '
            f'only for {rates}; give a threshold'
        )


def convention_of(cfg: Config) -> Convention:
    """The convention that a config has.

    Raises:
        UserError: If it does not tell, or has parts that are not ours.
    """
    import torch

    from mmhyperface.models import FaceDataPreprocessor, FaceRecognizer
    from mmhyperface.registry import MODELS, is_a

    source = str(cfg.filename or 'the config')
    model = cfg.get('model') or {}
    if not is_a(model, MODELS, FaceRecognizer):
        raise UserError(
            f'{source}: only a FaceRecognizer has a convention, and model is '
            f'{_name(model) or "missing"}'
        )
    preprocessor = model.get('data_preprocessor') or {}
    if 'type' in preprocessor and not _does_as(preprocessor, FaceDataPreprocessor):
        raise UserError(
            f'{source}: what a {_name(preprocessor)} does with pixels is not known; '
            'set model.data_preprocessor.type=FaceDataPreprocessor, or derive from it '
            'and leave its forward as it is'
        )
    head = model.get('head') or {}
    backbone = model['backbone']
    fusion = model.get('flip_fusion', 'sum')
    size = backbone.get('embedding_size') or head.get('in_channels') or 0
    network = {key: value for key, value in model.items() if key != 'head'}
    return Convention(
        input_size=_input_size(cfg, backbone, source),
        mean=_three(preprocessor.get('mean', 127.5)),
        std=_three(preprocessor.get('std', 127.5)),
        channel_order='RGB' if preprocessor.get('to_rgb', True) else 'BGR',
        flip_fusion=fusion,
        embedding_size=2 * size if fusion == 'concat' else size,
        resize=_resizes(_loading(cfg, 'train')),
        network=_plain(network),
        loss=_plain(head['loss']) if head.get('loss') else None,
        data=_data(cfg, head),
        versions={
            'mmhyperface': __version__,
            'torch': str(torch.__version__),
            'mmengine': mmengine.__version__,
        },
    )


def _does_as(config: Mapping, kind: type) -> bool:
    """Whether a class or one derived from it is to do the same with a batch."""
    from mmhyperface.registry import MODELS, is_a

    if not is_a(config, MODELS, kind):
        return False
    cls: Any = config['type']
    cls = MODELS.get(cls) if isinstance(cls, str) else cls
    return cls.forward is kind.forward  # type: ignore[attr-defined]


def _name(config: Any) -> str:
    if isinstance(config, Mapping):
        return type_name(config) if 'type' in config else ''
    return type(config).__name__


def _input_size(cfg: Config, backbone: Mapping, source: str) -> tuple[int, int]:
    """Of the backbone, or else of the images that the config loads."""
    candidates = [backbone.get('input_size'), backbone.get('img_size')]
    for phase in ('test', 'val', 'train'):
        candidates += [
            _loading(cfg, phase).get('size'),
            _dataset(cfg, phase).get('image_size'),
        ]
    for size in candidates:
        if size is not None:
            height, width = (size, size) if isinstance(size, int) else size
            return int(height), int(width)
    raise UserError(
        f'{source} does not tell the size of the images: set '
        'model.backbone.input_size, or the size of LoadFace in a test_dataloader'
    )


def _dataset(cfg: Config, phase: str) -> Mapping:
    """The innermost first data set of a phase."""
    dataset = (cfg.get(f'{phase}_dataloader') or {}).get('dataset') or {}
    while isinstance(dataset, Mapping) and not dataset.get('pipeline'):
        inner = [dataset.get('dataset'), *(dataset.get('datasets') or ())]
        first = next(filter(None, inner), None)
        if first is None:
            break
        dataset = first
    return dataset


def _loading(cfg: Config, phase: str) -> Mapping:
    """``LoadFace`` of a phase; without one, of images that are never resized."""
    from mmhyperface.datasets.transforms import LoadFace
    from mmhyperface.registry import TRANSFORMS, is_a

    for step in _dataset(cfg, phase).get('pipeline') or ():
        if is_a(step, TRANSFORMS, LoadFace):
            return step
    return {'resize': False}


def _resizes(loading: Mapping) -> bool:
    # Without a size each image keeps its own, for AlignFace.
    return loading.get('resize', True) and loading.get('size', 0) is not None


def _data(cfg: Config, head: Mapping) -> dict | None:
    dataset = _dataset(cfg, 'train')
    if not dataset:
        return None
    data = {'type': _name(dataset), 'num_classes': head.get('num_classes')}
    if cfg.filename:
        data['config'] = Path(cfg.filename).name
    return _plain(data)


def _three(value: Any) -> tuple[float, float, float]:
    values = [value] * 3 if isinstance(value, int | float) else list(value)
    red, green, blue = values * 3 if len(values) == 1 else values
    return float(red), float(green), float(blue)


def _plain(value: Any) -> Any:
    """Without classes of configs; classes as types become their names."""
    if isinstance(value, Mapping):
        # mmengine marks what is inherited from a package.
        return {str(k): _plain(x) for k, x in value.items() if k != '_scope_'}
    if isinstance(value, list | tuple):
        return [_plain(x) for x in value]
    if value is None or isinstance(value, bool | int | float | str):
        return value
    return getattr(value, '__name__', str(value))
