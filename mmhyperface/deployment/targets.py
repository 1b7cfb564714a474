"""The clients that exported models are for, and what each of them feeds.

A client decides on its own what it does to pixels. What it leaves out has to be in the
graph; what it cannot be told otherwise is refused here, before anything is exported.
"""

from collections.abc import Collection
from dataclasses import dataclass

from mmhyperface.inference.exported_metadata import Graph
from mmhyperface.utils.errors import UserError
from mmhyperface.weights.convention import Convention

PRECISIONS = ('fp32', 'fp16')
PREPROCESSINGS = ('inside', 'outside')
INSIDE = "preprocessing='inside', --preprocessing inside"
#: What cv2.FaceRecognizerSF takes, and insightface's alignment gives.
ALIGNED = 112
_ZEROS, _ONES = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)


@dataclass(frozen=True)
class Target:
    """A client, and what it insists on.

    Attributes:
        name: As on the command line.
        suffix: Of the file.
        multiples: It has square crops with sides that are multiples of these, and none
            but those; a network of another size gets 112 x 112 and reduces them in the
            graph. Empty: it takes the network's own size.
        side: The only side it has; None for any.
        batch: The only batch that it feeds; None for any.
    """

    name: str
    suffix: str = '.onnx'
    multiples: tuple[int, ...] = ()
    side: int | None = None
    batch: int | None = None

    def size(self, convention: Convention) -> tuple[int, int]:
        """(height, width) of the crops that it gives to a network.

        Raises:
            UserError: If the network takes no squares, and the client has no others.
        """
        height, width = convention.input_size
        if not self.multiples:
            return height, width
        if height != width:
            raise UserError(
                f'{self.name} has square crops only, and the network takes '
                f'{height} x {width} (height x width): take --target onnxruntime or '
                'opencv-dnn, and align the faces to that size'
            )
        if self.side is not None:
            return self.side, self.side
        fits = any(height % multiple == 0 for multiple in self.multiples)
        return (height, width) if fits else (ALIGNED, ALIGNED)

    def require(self, convention: Convention, preprocessing: str) -> None:
        """Refuse what would feed other pixels than the network takes.

        Raises:
            UserError: If the client cannot leave the preprocessing outside of the graph
                and feed what the network takes.
        """
        if preprocessing == 'inside' or not self.multiples:
            return
        if self.side is not None:
            raise UserError(
                f'{self.name} feeds pixels from 0 to 255 and cannot be told otherwise: '
                f'it needs {INSIDE}'
            )
        # What ArcFaceONNX does where it finds no Sub and Mul.
        order, mean, std = convention.channel_order, convention.mean, convention.std
        if order != 'RGB' or not mean == std == (127.5,) * 3:
            raise UserError(
                f'{self.name} feeds (x - 127.5) / 127.5 in RGB to a graph without '
                f'preprocessing, and the network takes {order}, mean {mean}, std '
                f'{std}: it needs {INSIDE}'
            )
        if self.size(convention) != convention.input_size:
            raise UserError(
                f'{self.name} gives crops of {ALIGNED} x {ALIGNED}, and the network '
                f'takes {convention.input_size[0]} x {convention.input_size[1]}; they '
                f'are reduced before they are scaled: it needs {INSIDE}'
            )


TARGETS = {
    target.name: target
    for target in (
        Target('onnxruntime'),
        Target('opencv-dnn'),
        Target('opencv-sface', multiples=(ALIGNED,), side=ALIGNED, batch=1),
        Target('insightface', multiples=(ALIGNED, 128)),
        Target('torch-export', suffix='.pt2'),
    )
}


def plan(
    convention: Convention,
    target: str,
    batch: int | None = None,
    precision: str = 'fp32',
    preprocessing: str | None = None,
) -> Graph:
    """What is to be exported for a client.

    Args:
        convention: Of the network.
        target: A key of :data:`TARGETS`.
        batch: How many images at once. None: any number, or what the client has.
        precision: Of the weights, ``fp32`` or ``fp16``.
        preprocessing: ``inside``, the default: the graph takes RGB pixels from 0 to
            255. ``outside``: it takes what the network takes.

    Raises:
        UserError: If there is no such choice, or the client does not allow it.
    """
    preprocessing = preprocessing or 'inside'
    choices: tuple[tuple[str, str, Collection[str]], ...] = (
        ('target', target, TARGETS),
        ('precision', precision, PRECISIONS),
        ('preprocessing', preprocessing, PREPROCESSINGS),
    )
    for name, value, known in choices:
        if value not in known:
            raise UserError(
                f'there is no {name} {value!r}: choose from {", ".join(known)}'
            )
    client = TARGETS[target]
    if batch is not None and batch < 1:
        raise UserError(f'batch is a number of images from 1 on (--batch), got {batch}')
    if client.batch is not None and batch not in (None, client.batch):
        raise UserError(
            f'{target} feeds {client.batch} image at a time: leave batch={batch}, '
            '--batch, out'
        )
    client.require(convention, preprocessing)
    inside = preprocessing == 'inside'
    return Graph(
        size=client.size(convention),
        channel_order='RGB' if inside else convention.channel_order,
        mean=_ZEROS if inside else convention.mean,
        std=_ONES if inside else convention.std,
        batch=batch or client.batch,
        precision=precision,
        target=target,
    )
