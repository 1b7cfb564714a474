"""What an exported model tells of itself."""

import json
from dataclasses import asdict, dataclass
from typing import Any

from mmhyperface.utils.errors import UserError
from mmhyperface.weights.convention import Convention

#: Among the ``metadata_props`` of an ONNX model.
KEY = 'mmhyperface'
#: Among the extra files of ``torch.export.save``.
PT2_FILE = 'mmhyperface.json'


@dataclass(frozen=True)
class Graph:
    """How an exported graph is to be fed: (x - mean) / std, float32 [B, 3, H, W].

    Attributes:
        size: (height, width) of the crops it takes.
        channel_order: ``RGB`` or ``BGR``.
        mean, std: What the client does, of each channel in `channel_order`; 0 and 1
            where the graph does it itself.
        batch: How many images at once; None for any number.
        precision: ``fp32`` or ``fp16``, of the weights.
        target: The client it was made for.
    """

    size: tuple[int, int]
    channel_order: str
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    batch: int | None
    precision: str
    target: str


def to_json(convention: Convention, graph: Graph) -> str:
    """The text that an exported model carries."""
    return json.dumps({'convention': convention.to_dict(), 'graph': asdict(graph)})


def from_json(text: str | bytes, source: str) -> tuple[Convention, Graph]:
    """What :func:`to_json` wrote; `source` names the exported model in messages.

    Raises:
        UserError: If it is damaged.
    """
    try:
        data: Any = json.loads(text)
        convention = Convention.from_dict(data['convention'], source)
        values = dict(data['graph'])
        for name in ('size', 'mean', 'std'):
            values[name] = tuple(values[name])
        return convention, Graph(**values)
    except (ValueError, KeyError, TypeError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(
            f'{source}: what it tells of itself is damaged, or of another version of '
            f'mmhyperface ({type(error).__name__}: {error}); export it again'
        ) from None
