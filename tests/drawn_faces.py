"""Faces that are drawn, and a model for OpenCV's detector that finds them.

A face is a blue block, with a dot of a colour of its own on each landmark.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from onnx import TensorProto, ValueInfoProto, helper, numpy_helper

from mmhyperface.datasets.transforms import template

# BGR, without any blue.
COLOURS = ((0, 255, 0), (0, 0, 255), (0, 255, 255), (0, 128, 255), (0, 255, 128))


def moved(
    points: np.ndarray, angle: float, scale: float, shift: Sequence
) -> np.ndarray:
    """Points turned about their centre, scaled and shifted."""
    a = np.deg2rad(angle)
    turn = scale * np.array([[np.cos(a), -np.sin(a)], [np.sin(a), np.cos(a)]])
    return (points - points.mean(0)) @ turn.T + shift


#: Landmarks from the corner of a block on, where the model finds a face of green 100.
LAYOUT = moved(template(112, 112), 25, 0.8, (60, 50))


def draw_dots(image: np.ndarray, points: np.ndarray, radius: float) -> None:
    ys, xs = np.indices(image.shape[:2])
    for (x, y), colour in zip(points, COLOURS, strict=True):
        image[np.hypot(xs - x, ys - y) < radius] = colour


def draw_face(
    image: np.ndarray,
    cell: tuple[int, int],
    score: float = 0.9,
    green: int = 100,
    red: int = 100,
    scale: int = 1,
) -> np.ndarray:
    """A face for the model, in a picture that is `scale` times what it will see.

    Args:
        cell: column and row of its block, in units of 8 pixels.
        green: scales its landmarks.
        red: the logarithm of the side of its box, in hundredths.
    """
    side = 8 * scale
    x, y = side * np.array(cell)
    points = [x, y] + LAYOUT * (scale * green / 100)
    draw_dots(image, points, radius=3.5 * scale)
    image[y : y + side, x : x + side] = round(255 * score), green, red
    return points


def write_model(
    path: Path, names: Sequence[str] = ('cls', 'obj', 'bbox', 'kps')
) -> str:
    """A model with YuNet's inputs and outputs: each is a linear function of the mean
    colour of a square of 8 (16, 32) pixels, and zero for the larger ones."""
    colours = {
        'cls': np.array([[1 / 255, 0, 0]]),
        'obj': np.array([[1 / 255, 0, 0]]),
        # Centre (0.5, 0.5), and the logarithms of both sides.
        'bbox': np.array([[0, 0, 0]] * 2 + [[0, 0, 0.01]] * 2),
        'kps': np.outer(LAYOUT.ravel() / 8 / 100, [0, 1, 0]),
    }
    nodes, tensors, outputs = [], [], []
    for stride in (8, 16, 32):
        for renamed, (name, weight) in zip(names, colours.items(), strict=True):
            out = f'{renamed}_{stride}'
            count = len(weight)
            kernel = np.zeros((count, 3, stride, stride), np.float32)
            if stride == 8:
                kernel += weight[:, :, None, None] / stride**2
            bias = np.zeros(count, np.float32)
            if name == 'bbox':
                bias[:2] = 0.5
            tensors += [
                numpy_helper.from_array(kernel, f'{out}.w'),
                numpy_helper.from_array(bias, f'{out}.b'),
                numpy_helper.from_array(np.array([1, -1, count]), f'{out}.s'),
            ]
            sides = dict(kernel_shape=[stride] * 2, strides=[stride] * 2)
            given = ['input', f'{out}.w', f'{out}.b']
            nodes += [
                helper.make_node('Conv', given, [f'{out}.1'], **sides),
                helper.make_node(
                    'Transpose', [f'{out}.1'], [f'{out}.2'], perm=[0, 2, 3, 1]
                ),
                helper.make_node('Reshape', [f'{out}.2', f'{out}.s'], [out]),
            ]
            outputs.append(of_floats(out, (1, (640 // stride) ** 2, count)))
    images = of_floats('input', (1, 3, 640, 640))
    graph = helper.make_graph(nodes, 'faces', [images], outputs, tensors)
    model = helper.make_model(
        graph, ir_version=8, opset_imports=[helper.make_opsetid('', 11)]
    )
    path.write_bytes(model.SerializeToString())
    return str(path)


def of_floats(name: str, shape: Sequence[int]) -> ValueInfoProto:
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
