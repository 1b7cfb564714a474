"""Which of our backbones weights belong to, recognised by names and shapes."""

import math
import re
from collections.abc import Callable
from itertools import groupby

import torch
from torch import Tensor

from mmhyperface.models.backbones import ir, iresnet, sfnet
from mmhyperface.registry import MODELS
from mmhyperface.utils.errors import UserError, some

from .state_dicts import State, as_float32

# What an entry says that networks we do not have are known by.
_OTHERS = {
    r'layers\.0\.layers\.0\.weight': "insightface's MobileFaceNet (mbf), which is "
    'another, wider net than ours',
    r'(.*\.)?(patch_embed|pos_embed|cls_token)\b.*': 'a vision transformer',
    r'body\.0\.res_layer\.\d\.fc1\.weight|body\.0\.res_layer\.se_block\..*': 'an IR '
    'with squeeze and excitation (IR-SE)',
    r'body\.0\.res_layer\.7\.weight': 'an IR of bottlenecks (depth 152 or 200)',
}


def recognise(state: State) -> dict:
    """The config of the backbone whose weights these are, named as ours.

    Of an SFNet without batch norm it leaves ``variant`` open, which the weights do not
    tell.

    Raises:
        UserError: If they belong to none of ours.
    """
    for pattern, name in _OTHERS.items():
        if any(re.fullmatch(pattern, key) for key in state):
            raise UserError(f'these are the weights of {name}; there is no such here')
    for marker, describe in _KINDS.items():
        if marker in state:
            return describe(state)
    raise UserError(
        'these are the weights of no IResNet, IR, SFNet or MobileFaceNet; they are '
        f'named {some(list(state), 6)}'
    )


def fitted(state: State, config: dict) -> State:
    """The weights, in fp32, if they are exactly those of the backbone.

    Counters of batch norms, which older versions of torch did not have, are added.

    Raises:
        UserError: Naming what is missing, too much, or of another shape.
    """
    with torch.device('meta'):
        wanted = MODELS.build(config).state_dict()
    counters = {
        key: torch.zeros((), dtype=torch.int64)
        for key in wanted
        if key.endswith('.num_batches_tracked')
    }
    state = counters | state
    faults = {
        'missing': [key for key in wanted if key not in state],
        'too much': [key for key in state if key not in wanted],
        'of another shape': [
            f'{key} {list(state[key].shape)} instead of {list(wanted[key].shape)}'
            for key in wanted
            if key in state and state[key].shape != wanted[key].shape
        ],
    }
    listed = '; '.join(f'{what}: {some(keys)}' for what, keys in faults.items() if keys)
    if listed:
        raise UserError(f'these weights do not fit {label(config)}: {listed}')
    return {key: as_float32(state[key]) for key in wanted}


def label(config: dict) -> str:
    """What a backbone is called: ``IResNet-50``."""
    depth = f'-{config["depth"]}' if 'depth' in config else ''
    variant = f' ({config["variant"]})' if 'variant' in config else ''
    with_bn = ' with batch norm' if config.get('with_bn') else ''
    return f'{config["type"]}{depth}{variant}{with_bn}'


def _iresnet(state: State) -> dict:
    blocks = _blocks_per_layer(state)
    return {
        'type': 'IResNet',
        'depth': _depth('IResNet', iresnet.BLOCKS, blocks),
        **_end(state, 'fc', iresnet.WIDTHS[-1]),
    }


def _sfnet(state: State) -> dict:
    widths = [
        _tensor(state, f'layer{stage}.0.conv1.weight', 4).shape[0]
        for stage in range(1, 5)
    ]
    # The first block only strides.
    blocks = tuple(count - 1 for count in _blocks_per_layer(state))
    with_bn = 'layer1.0.bn1.weight' in state
    return {
        'type': 'SFNet',
        'depth': _depth('SFNet', sfnet.BLOCKS, blocks),
        'with_bn': with_bn,
        **({'variant': 'opensphere'} if with_bn else {}),
        'widths': widths,
        **_end(state, 'fc', widths[-1]),
    }


def _ir(state: State) -> dict:
    matches = map(re.compile(r'body\.(\d+)\.').match, state)
    count = 1 + max(int(match[1]) for match in matches if match)
    widths = [
        _tensor(state, f'body.{block}.res_layer.1.weight', 4).shape[0]
        for block in range(count)
    ]
    depths = tuple(len(list(same)) for _, same in groupby(widths))
    inner_bn = 'body.0.res_layer.2.running_mean' in state
    return {
        'type': 'IR',
        'depth': _depth('IR', ir.BLOCKS, depths),
        'variant': 'tface' if inner_bn else 'evolve',
        **_end(state, 'output_layer.3', ir.WIDTHS[-1]),
    }


def _mobilefacenet(state: State) -> dict:
    positions = _tensor(state, 'conv_6dw7_7.conv2d.weight', 4)[0, 0].numel()
    return {
        'type': 'MobileFaceNet',
        'embedding_size': _tensor(state, 'pre_fc1.weight', 2).shape[0],
        'input_size': _side(positions),
    }


_KINDS: dict[str, Callable[[State], dict]] = {
    'layer1.0.prelu.weight': _iresnet,
    'body.0.res_layer.1.weight': _ir,
    'conv_6dw7_7.conv2d.weight': _mobilefacenet,
    'layer4.0.conv1.weight': _sfnet,
}


def _tensor(state: State, key: str, ndim: int) -> Tensor:
    if key not in state or state[key].ndim != ndim:
        raise UserError(f'these weights have no {key} of {ndim} dimensions')
    return state[key]


def _blocks_per_layer(state: State) -> tuple[int, ...]:
    return tuple(
        len({key.split('.')[1] for key in state if key.startswith(f'layer{stage}.')})
        for stage in range(1, 5)
    )


def _depth(name: str, known: dict[int, tuple], blocks: tuple[int, ...]) -> int:
    for depth, those in known.items():
        if those == blocks:
            return depth
    raise UserError(
        f'these are the weights of an {name} with {", ".join(map(str, blocks))} blocks '
        f'in its stages; there is none of these here, only depth '
        f'{", ".join(map(str, known))}'
    )


def _end(state: State, fc: str, width: int) -> dict:
    weight = _tensor(state, f'{fc}.weight', 2)
    return {
        'embedding_size': weight.shape[0],
        'input_size': _side(weight.shape[1] // width),
    }


def _side(positions: int) -> int:
    """Of the images, from the number of positions of the last map."""
    side = math.isqrt(positions)
    if side * side != positions or not side:
        raise UserError(
            f'the last layer sees a map of {positions} positions, which is no square; '
            'no peer trains on such images'
        )
    return 16 * side
