"""Draws stylised faces: who it is apart from how the picture was taken.

Three pure functions. ``identity_parameters(seed, identity)`` says what belongs to
the person, ``nuisance_parameters(seed, identity, index, difficulty)`` what belongs
to the picture, and ``render(identity, nuisance, size)`` draws them.

A face is a list of polygons in a frame fixed to the head: x to the right of the
picture, y down, z towards the camera; the chin is near y = 1, the crown near
y = −1.1. The polygons are turned together, projected and painted back to front,
which gives the parallax of a turned head. A second, smaller picture, the relief,
collects soft shadows; blurred and multiplied with a shaded ellipsoid and the colour
of the light, it becomes the gain that is applied to the painted picture.
"""

import functools
import math
from collections.abc import Iterator
from typing import Annotated, Any, NamedTuple, get_type_hints

import cv2
import numpy as np

Array = np.ndarray[Any, Any]

# Streams of random numbers that must not touch each other.
IDENTITY_STREAM, NUISANCE_STREAM, LABEL_STREAM, PAIR_STREAM = range(4)

# Fractional bits of the coordinates handed to OpenCV: 1/16 of a pixel.
SUBPIXEL_BITS = 4
# Size of one unit of the head's frame as a share of the picture: head and hair
# fit with a small margin.
UNIT = 0.335
# Of the relief; zero is what only the background covers.
NEUTRAL_SHADE = 128


def _bgr(colours: str) -> Array:
    """Colours in hexadecimal RGB, [n, 3]; [3] of a single one."""
    rgb = [list(bytes.fromhex(colour)) for colour in colours.split()]
    return np.array(rgb, np.float64)[:, ::-1].copy().squeeze()


# From light to dark.
SKIN = _bgr('f2d4c0 e8c2a4 deae86 be8a62 8e5e3e 5c3c2a')
HAIR = _bgr('1e1a1a 3e2a20 62402a 8e6842 803622 b85c2c d6b070 ecd8ac 96969a dedcd8')
IRIS = _bgr('342016 684224 7a7038 4a7a4a 4a7cb0 7a8894')
MASKS = _bgr('96c8e2 ececee 2c2c32 b0ceb4')
LIP, TOOTH, THROAT = map(_bgr, ('b03e4a', 'eeeae2', '461a1c'))
SCLERA, DARK = map(_bgr, ('ece8e4', '181212'))


class HairStyle(NamedTuple):
    """One way to wear hair; lengths in units of the head's frame."""

    hairline: float  # added to the person's hairline; positive covers the forehead
    sweep: float  # how far the hair falls to both sides of the parting
    squareness: float  # exponent of the hairline: high is a straight fringe
    sideburn: float  # y where the front hair ends beside the eyes
    volume: float  # added to the person's volume
    back: float  # y down to which the hair behind the head reaches
    flare: float  # how much wider it gets there
    curl: float  # amplitude of the bumps of the outline
    bun: float  # radius of a bun on top


BALD = None
HAIR_STYLES: tuple[HairStyle | None, ...] = (
    BALD,
    HairStyle(-0.02, 0.00, 5.0, 0.00, -0.03, -9.0, 0.00, 0.00, 0.00),  # buzz cut
    HairStyle(-0.04, 0.28, 3.2, 0.08, 0.06, -9.0, 0.00, 0.00, 0.00),  # side parting
    HairStyle(0.24, 0.02, 9.0, 0.05, 0.08, 0.20, 0.00, 0.00, 0.00),  # fringe
    HairStyle(-0.06, 0.34, 2.4, 0.40, 0.05, 1.30, 0.04, 0.00, 0.00),  # long, straight
    HairStyle(-0.02, 0.28, 2.8, 0.45, 0.14, 1.10, 0.12, 0.05, 0.00),  # long, wavy
    HairStyle(0.26, 0.03, 9.0, 0.45, 0.07, 0.66, 0.05, 0.00, 0.00),  # bob
    HairStyle(0.04, 0.00, 5.0, 0.05, 0.22, 0.50, -0.22, 0.09, 0.00),  # afro
    HairStyle(-0.04, 0.06, 3.0, 0.05, -0.02, -9.0, 0.00, 0.00, 0.26),  # bun
    HairStyle(-0.20, 0.00, 1.5, 0.05, -0.02, -9.0, 0.00, 0.00, 0.00),  # receding
    HairStyle(0.06, 0.26, 4.0, 0.10, 0.12, -9.0, 0.00, 0.06, 0.00),  # tousled
)


# Kinds of beard, in the order of Identity.beard.
MOUSTACHE_ONLY, GOATEE, STUBBLE = range(3)
# A smaller standard deviation, in pixels, changes nothing one could see.
VISIBLE_BLUR = 0.3


class Identity(NamedTuple):
    """What belongs to the person, each annotated with (lowest, highest)."""

    face_width: Annotated[float, 0.64, 0.84]
    face_length: Annotated[float, 0.90, 1.14]
    forehead: Annotated[float, 0.84, 1.02]  # of the face's width, like jaw and chin
    jaw: Annotated[float, 0.66, 0.96]
    chin: Annotated[float, 0.20, 0.52]
    skin: Annotated[float, 0.0, 1.0]
    skin_red: Annotated[float, -1.0, 1.0]
    blush: Annotated[float, 0.0, 1.0]
    age: Annotated[float, 0.0, 1.0]
    freckles: Annotated[float, -2.0, 1.0]  # none below zero
    hair_style: Annotated[float, 0.0, 1.0]
    hair_colour: Annotated[float, 0.0, 1.0]
    hair_shade: Annotated[float, 0.85, 1.20]
    hairline: Annotated[float, -0.76, -0.56]
    hair_volume: Annotated[float, 0.08, 0.20]
    hair_length: Annotated[float, -0.15, 0.15]
    parting: Annotated[float, -0.7, 0.7]
    brow_thickness: Annotated[float, 0.020, 0.070]
    brow_length: Annotated[float, 0.16, 0.24]
    brow_tilt: Annotated[float, -0.06, 0.04]
    brow_arch: Annotated[float, 0.00, 0.09]
    brow_height: Annotated[float, 0.15, 0.26]  # above the eye
    brow_gap: Annotated[float, -0.05, 0.04]
    brow_shade: Annotated[float, 0.55, 1.05]
    eye_size: Annotated[float, 0.140, 0.200]
    eye_open: Annotated[float, 0.36, 0.66]  # of the eye's size
    eye_spacing: Annotated[float, 0.28, 0.38]
    eye_tilt: Annotated[float, -0.22, 0.22]
    eye_height: Annotated[float, -0.16, -0.04]
    iris_colour: Annotated[float, 0.0, 1.0]
    iris_size: Annotated[float, 0.50, 0.62]
    crease: Annotated[float, 0.0, 1.0]
    lashes: Annotated[float, 0.2, 1.0]
    nose_width: Annotated[float, 0.09, 0.20]
    nose_length: Annotated[float, 0.30, 0.48]
    nose_bridge: Annotated[float, 0.04, 0.09]
    nose_relief: Annotated[float, 0.5, 1.0]
    mouth_width: Annotated[float, 0.19, 0.34]
    mouth_height: Annotated[float, 0.16, 0.26]  # below the nose
    upper_lip: Annotated[float, 0.025, 0.085]
    lower_lip: Annotated[float, 0.040, 0.110]
    lip_bow: Annotated[float, 0.0, 1.0]
    lip_curve: Annotated[float, -0.035, 0.035]
    lip_colour: Annotated[float, 0.15, 0.75]
    ear_size: Annotated[float, 0.17, 0.26]
    ear_out: Annotated[float, 0.02, 0.10]
    neck: Annotated[float, 0.52, 0.74]  # of the face's width
    beard: Annotated[float, 0.0, 1.0]
    beard_density: Annotated[float, 0.25, 0.95]
    mole: Annotated[float, -1.0, 1.0]  # none below zero
    mole_x: Annotated[float, -0.45, 0.45]
    mole_y: Annotated[float, 0.05, 0.75]


class Nuisance(NamedTuple):
    """What belongs to the picture, each annotated with (neutral, spread).

    A value is uniform in neutral ± difficulty × spread. What is there or not, like
    glasses, is there when its value exceeds a threshold.
    """

    yaw: Annotated[float, 0.0, 0.42]  # radians
    pitch: Annotated[float, 0.0, 0.24]
    roll: Annotated[float, 0.0, 0.20]
    log_scale: Annotated[float, 0.0, 0.12]
    shift_x: Annotated[float, 0.0, 0.06]  # of the picture
    shift_y: Annotated[float, 0.0, 0.05]
    smile: Annotated[float, 0.1, 0.9]
    mouth_open: Annotated[float, -0.01, 0.12]
    brow_raise: Annotated[float, 0.0, 0.04]
    brow_frown: Annotated[float, 0.0, 0.04]
    eye_closure: Annotated[float, 0.0, 0.35]
    gaze_x: Annotated[float, 0.0, 0.30]
    gaze_y: Annotated[float, 0.0, 0.12]
    light_x: Annotated[float, 0.0, 0.9]
    light_y: Annotated[float, -0.3, 0.5]
    light_contrast: Annotated[float, 0.45, 0.30]
    exposure: Annotated[float, -0.1, 0.50]  # natural logarithm
    warmth: Annotated[float, 0.0, 0.16]
    green: Annotated[float, 0.0, 0.06]
    contrast: Annotated[float, 0.0, 0.25]  # natural logarithm
    brightness: Annotated[float, 0.0, 26.0]  # grey levels
    blur: Annotated[float, 0.0, 1.2]  # standard deviation in pixels of 112
    noise: Annotated[float, 0.0, 10.0]  # standard deviation in grey levels
    noise_x: Annotated[float, 0.5, 0.5]
    noise_y: Annotated[float, 0.5, 0.5]
    clothes_b: Annotated[float, 110.0, 100.0]
    clothes_g: Annotated[float, 100.0, 95.0]
    clothes_r: Annotated[float, 96.0, 95.0]
    glasses: Annotated[float, 0.0, 1.0]
    glasses_shape: Annotated[float, 0.5, 0.5]
    glasses_colour: Annotated[float, 0.5, 0.5]
    occluder: Annotated[float, 0.0, 1.0]
    occluder_kind: Annotated[float, 0.5, 0.5]
    occluder_x: Annotated[float, 0.0, 0.7]
    occluder_y: Annotated[float, 0.2, 0.6]
    occluder_angle: Annotated[float, 0.0, 1.4]
    occluder_colour: Annotated[float, 0.5, 0.5]
    background: tuple[float, ...]  # a coarse BGR picture, BACKGROUND_SHAPE


BACKGROUND_SHAPE = (4, 4, 3)
# Grey levels: neutral, and the spreads of the whole picture's brightness and colour
# and of the patches' brightness and colour.
BACKGROUND_NEUTRAL, BACKGROUND_SPREADS = 126.0, (70.0, 26.0, 70.0, 26.0)

# Above these the picture has them: 16 % and 12 % of the pictures at difficulty 1,
# none below difficulty 0.68.
GLASSES_ABOVE, SUNGLASSES_ABOVE, OCCLUDER_ABOVE = 0.68, 0.93, 0.76


def _annotations(kind: type) -> Array:
    hints = get_type_hints(kind, include_extras=True).values()
    return np.array([h.__metadata__ for h in hints if hasattr(h, '__metadata__')])


_IDENTITY_RANGES = _annotations(Identity)
_NUISANCE_RANGES = _annotations(Nuisance)
_BACKGROUND_SPREADS = np.repeat(BACKGROUND_SPREADS, (1, 3, 16, 48))


def random_stream(seed: int, stream: int, *counter: int) -> np.random.Generator:
    """Numbers that depend on the arguments alone, cheap to reach in any order."""
    counter_words = np.zeros(4, np.uint64)
    counter_words[1 : 1 + len(counter)] = counter  # word 0 counts the draws
    key = np.array([seed, stream], np.uint64)
    return np.random.Generator(np.random.Philox(counter=counter_words, key=key))


def identity_parameters(seed: int, identity: int) -> Identity:
    low, high = _IDENTITY_RANGES.T
    uniform = random_stream(seed, IDENTITY_STREAM, identity).random(len(low))
    return Identity(*(low + (high - low) * uniform).tolist())


def nuisance_parameters(
    seed: int, identity: int, index: int, difficulty: float = 1.0
) -> Nuisance:
    """The picture number `index` of a person; all alike at difficulty 0."""
    neutral, spread = _NUISANCE_RANGES.T
    rng = random_stream(seed, NUISANCE_STREAM, identity, index)
    values = neutral + difficulty * spread * rng.uniform(-1, 1, len(neutral))
    # In the order of BACKGROUND_SPREADS: 1 + 3 + 16 + 48 numbers.
    varied = rng.uniform(-1, 1, 68) * _BACKGROUND_SPREADS * difficulty
    background = varied[20:].reshape(BACKGROUND_SHAPE) + varied[4:20].reshape(4, 4, 1)
    background += BACKGROUND_NEUTRAL + varied[0] + varied[1:4]
    return Nuisance._make([*values.tolist(), tuple(background.ravel().tolist())])


class Part(NamedTuple):
    """Polygons of the head's frame, [k, n, 3], filled or (width > 0) drawn as lines.

    ``colour`` (BGR) paints on the picture, ``shade`` on the relief; None leaves it.
    """

    points: Array
    colour: Array | None = None
    shade: float | None = None
    width: float = 0.0


# Along an eye, a brow or a mouth, and what every face needs of it.
T = np.linspace(-1, 1, 9)
ARCH = 1 - T**2
UPPER_LID, LOWER_LID = ARCH**0.7, ARCH**0.9
UPPER_LIP, LOWER_LIP = 1 - np.abs(T) ** 1.8, ARCH**0.8
LIP_BOW = 0.45 * np.exp(-((T / 0.2) ** 2))
BROW_ARCH, BROW_TAPER = np.sin(1.2 * (T + 1)), 1.15 - 0.225 * (T + 1) ** 2
MOUSTACHE = 1 - 0.7 * T**2

_angles = np.linspace(0, 2 * np.pi, 13)[:-1]
CIRCLE = np.stack([np.cos(_angles), np.sin(_angles), 0 * _angles], axis=1)
SQUARE = CIRCLE[::3]

# Over the head, from the left ear to the right: [n, 3] unit vectors, how far the
# hair stands off (close to the ears it lies flat) and the bumps of curly hair.
_crown = np.linspace(-1.72, 1.72, 41)
CROWN = np.stack([np.sin(_crown), -np.cos(_crown), 0 * _crown], axis=1)
STAND_OFF = 1 - 0.8 * np.abs(_crown[:, None] / 1.72) ** 3
CURLS = np.abs(np.sin(4.5 * _crown[:, None])) - 0.5
# Back from the right to the left, in face widths.
HAIRLINE = np.linspace(1, -1, 19)

FRECKLES = np.array(  # x in face widths, y
    [
        (-0.62, 0.12), (-0.48, 0.20), (-0.36, 0.13), (-0.52, 0.30), (-0.12, 0.16),
        (0.10, 0.20), (0.34, 0.16), (0.46, 0.25), (0.60, 0.15), (0.52, 0.34),
    ]
)  # fmt: skip
MIRROR = np.array((-1.0, 1.0, 1.0))
SIDES = np.array(((-1.0,), (1.0,)))


def _unit(value: float) -> float:
    return min(max(value, 0.0), 1.0)


def _between(palette: Array, position: float) -> Array:
    """A colour between two neighbours of a palette; position in [0, 1)."""
    whole, part = divmod(position * (len(palette) - 1), 1)
    return palette[int(whole)] * (1 - part) + palette[int(whole) + 1] * part


def _points(*points: tuple[float, float, float]) -> Array:
    """[n, 3] of the head's frame."""
    return np.array(points)


def _curve(x: Array, y: Any, depth: Any) -> Array:
    points = np.empty((1, len(x), 3))
    points[0, :, 0], points[0, :, 1], points[0, :, 2] = x, y, depth
    return points


def _band(x: Array, top: Array, bottom: Array, depth: float) -> Array:
    """The area between two curves over the same x."""
    curves = _curve(x, top, depth), _curve(x, bottom, depth)[:, ::-1]
    return np.concatenate(curves, axis=1)


def _oval(x: float, y: float, width: float, height: float, depth: float) -> Array:
    return (CIRCLE * (width, height, 0) + (x, y, depth))[None]


def _pair(points: Array) -> Array:
    """The same on both sides of the face."""
    return np.concatenate([points, points * MIRROR])


def _symmetric(right: Array) -> Array:
    """A closed outline of its right half, whose ends lie on the axis."""
    return np.concatenate([right, right[-2:0:-1] * MIRROR])


@functools.cache
def _catmull_rom(count: int, steps: int = 4) -> Array:
    """[count × steps, count]: a smooth closed curve through `count` points."""
    t = np.arange(steps) / steps
    weights = (
        -t + 2 * t**2 - t**3,
        2 - 5 * t**2 + 3 * t**3,
        t + 4 * t**2 - 3 * t**3,
        -(t**2) + t**3,
    )
    basis = np.zeros((count, steps, count))
    for i in range(count):
        for k, weight in enumerate(weights, start=-1):
            basis[i, :, (i + k) % count] += weight / 2
    return basis.reshape(-1, count)


class Face:
    """The parts of one face, from back to front."""

    def __init__(self, identity: Identity, nuisance: Nuisance) -> None:
        self.i, self.n = identity, nuisance
        self.skin = _between(SKIN, identity.skin)
        self.skin[2] *= 1 + 0.05 * identity.skin_red
        self.skin = np.minimum(self.skin, 255)
        hair = HAIR[int(identity.hair_colour * len(HAIR))]
        self.hair = np.minimum(hair * identity.hair_shade, 255)
        self.style = HAIR_STYLES[int(identity.hair_style * len(HAIR_STYLES))]
        self.mouth_open = max(nuisance.mouth_open, 0.0)
        self.nose_y = identity.eye_height + identity.nose_length
        space = identity.face_length - self.nose_y
        self.mouth_y = self.nose_y + identity.mouth_height * space
        # How much more light comes from the right.
        self.side = min(max(nuisance.light_x, -1.0), 1.0)
        self.outline = self._outline()

    def parts(self) -> Iterator[Part]:
        for parts in (
            *(self._hair_behind, self._body, self._head, self._wrinkles, self._beard),
            *(self._nose, self._mouth, self._eyes, self._brows, self._marks),
            *(self._hair_in_front, self._glasses, self._occluder),
        ):
            yield from parts()

    def _outline(self) -> Array:
        """[18, 3] control points, clockwise from the crown."""
        i = self.i
        w, length = i.face_width, i.face_length + 0.5 * self.mouth_open
        right = _points(
            (0, -1.08, 0),
            (0.62 * i.forehead * w, -0.96, 0),
            (0.94 * i.forehead * w, -0.62, 0),
            (0.5 * (1 + i.forehead) * w, -0.25, 0),
            (w, 0.05, 0),
            ((0.4 + 0.6 * i.jaw) * w, 0.40 * length, 0),
            (i.jaw * w, 0.62 * length, 0),
            (0.53 * (i.jaw + i.chin) * w, 0.86 * length, 0),
            (0.80 * i.chin * w, 0.98 * length, 0),
            (0, length, 0),
        )
        return _symmetric(right)

    def _over_the_head(self, stand_off: Any, curl: float) -> Array:
        """[41, 3]"""
        radius = np.empty((len(CROWN), 2))
        radius[:] = (self.i.face_width, 0.88)
        radius += stand_off
        radius *= 1 + curl * CURLS
        points = CROWN.copy()
        points[:, :2] *= radius
        points[:, 1] -= 0.2
        return points

    def _hair_behind(self) -> Iterator[Part]:
        style = self.style
        if style is None:
            return
        grow = self.i.hair_volume + style.volume
        if style.bun:
            bun = _oval(0, -1.16 - grow, style.bun, style.bun, -0.3)
            yield Part(bun, self.hair, NEUTRAL_SHADE)
        bottom = style.back + self.i.hair_length
        if bottom < 0:
            return
        top = self._over_the_head(grow, style.curl)
        x = (self.i.face_width + grow) * (1 + style.flare)
        right = _points(
            (x, 0.6 * bottom, 0), (0.96 * x, 0.84 * bottom, 0), (0.8 * x, bottom, 0)
        )
        behind = np.concatenate([top, right, right[::-1] * MIRROR]) - (0, 0, 0.25)
        yield Part(behind[None], self.hair * 0.78, NEUTRAL_SHADE)

    def _body(self) -> Iterator[Part]:
        i, n = self.i, self.n
        half = i.neck * i.face_width
        base = i.face_length + 0.14
        clothes = np.array((n.clothes_b, n.clothes_g, n.clothes_r))
        shoulders = _points(
            (0, base + 0.12, -0.1),
            (half, base, -0.1),
            (1.05, base + 0.16, -0.1),
            (1.35, base + 0.34, -0.1),
            (1.5, 2.6, -0.1),
            (0, 2.6, -0.1),
        )
        neck = _points(
            (0, 0.4, -0.1),
            (half, 0.4, -0.1),
            (half, base, -0.1),
            (0.6 * half, base + 0.12, -0.1),
            (0, base + 0.2, -0.1),
        )
        clothes = np.minimum(np.maximum(clothes, 4), 250)
        yield Part(_symmetric(shoulders)[None], clothes, NEUTRAL_SHADE)
        yield Part(_symmetric(neck)[None], self.skin * 0.8, 108)
        yield Part(_oval(0, i.face_length - 0.05, 0.85 * half, 0.24, -0.05), shade=64)

    def _head(self) -> Iterator[Part]:
        i = self.i
        w = i.face_width
        x, y = w + 0.3 * i.ear_out, i.eye_height + 0.13
        ear = _oval(x, y, 0.05 + i.ear_out, i.ear_size, -0.12)
        hollow = _oval(x + 0.02, y, 0.02 + 0.5 * i.ear_out, 0.6 * i.ear_size, -0.1)
        yield Part(_pair(ear), self.skin * 0.95, 122)
        yield Part(_pair(hollow), self.skin * 0.74)
        face = _catmull_rom(len(self.outline)) @ self.outline
        yield Part(face[None], self.skin, NEUTRAL_SHADE)
        yield Part(face[None, 20:53], self.skin * 0.8, width=0.01)
        yield Part(_oval(0, -0.55, 0.45 * w, 0.2, 0.5), shade=136)
        cheek = _oval(0.6 * w, 0.2, 0.2, 0.14, 0.45)
        yield Part(cheek * MIRROR, shade=136 - 14 * self.side)
        yield Part(cheek, shade=136 + 14 * self.side)
        hollow = _oval((0.15 + 0.6 * i.jaw) * w, 0.42, 0.1, 0.24, 0.25)
        yield Part(_pair(hollow), shade=116)
        socket = _oval(i.eye_spacing, i.eye_height - 0.06, 0.2, 0.13, 0.5)
        yield Part(_pair(socket), shade=108)
        if i.blush > 0.5:
            for size, strength in ((1.0, 0.06), (0.65, 0.12)):
                colour = self.skin * (1 - strength * i.blush)
                colour[2] = self.skin[2]
                oval = _oval(0.58 * w, 0.24, 0.18 * size, 0.12 * size, 0.45)
                yield Part(_pair(oval), colour)
        yield Part(_oval(0, i.face_length - 0.12, 0.12, 0.08, 0.5), shade=140)
        yield Part(_oval(0, self.mouth_y + 0.17, 0.16, 0.03, 0.55), shade=104)

    def _wrinkles(self) -> Iterator[Part]:
        i = self.i
        top, height = self.nose_y - 0.03, self.mouth_y - self.nose_y
        fold = _points(
            (i.nose_width + 0.02, top, 0.55),
            (i.nose_width + 0.09, top + 0.4 * height, 0.55),
            (i.nose_width + 0.15, top + 0.8 * height, 0.55),
            (i.nose_width + 0.16, top + height, 0.55),
        )
        depth = 12 + 40 * max(i.age - 0.4, 0) + 14 * max(self.n.smile, 0)
        yield Part(_pair(fold[None]), shade=NEUTRAL_SHADE - depth, width=0.05)
        if i.age > 0.5:
            shade = NEUTRAL_SHADE - 110 * (i.age - 0.5)
            line = _curve(0.42 * i.face_width * T, -0.53 - 0.03 * ARCH, 0.5)
            lines = line + _points((0, -0.09, 0), (0, 0, 0), (0, 0.09, 0))[:, None]
            yield Part(lines, shade=shade, width=0.05)
            bag = _curve(
                i.eye_spacing + 0.14 * T, i.eye_height + 0.06 + 0.1 * ARCH, 0.5
            )
            yield Part(_pair(bag), shade=shade, width=0.05)

    def _beard(self) -> Iterator[Part]:
        i = self.i
        # Three of five people have none; then a tenth each.
        if i.beard < 0.6:
            return
        kind = int((i.beard - 0.6) * 10)
        density = i.beard_density * (0.35 if kind == STUBBLE else 1)
        colour = self.hair * (0.85 * density) + self.skin * (0.9 - 0.9 * density)
        soft = 0.5 * (colour + self.skin)
        m, width = self.mouth_y, i.mouth_width
        if kind == GOATEE:
            y, tall = 0.5 * (m + i.face_length), 0.62 * (i.face_length - m)
            yield Part(_oval(0, y, 0.8 * width, tall, 0.45), soft)
            yield Part(_oval(0, y, 0.68 * width, 0.88 * tall, 0.45), colour)
        elif kind != MOUSTACHE_ONLY:
            w = i.face_width
            cheek = _points(
                (-0.93 * w, 0.05, 0),
                (-0.80 * w, 0.28, 0.1),
                (-1.3 * width, m - 0.08, 0.3),
                (0, self.nose_y + 0.06, 0.5),
            )
            jaw = self.outline[5:14] * (0.98, 0.99, 1)
            area = np.concatenate([jaw, cheek, cheek[-2::-1] * MIRROR])[None]
            yield Part(area, soft)
            yield Part(0.93 * area + (0, 0.042, 0.014), colour)
        thick = 0.5 * (m - self.nose_y - 0.05)
        top = m - thick - thick * MOUSTACHE
        yield Part(_band(1.12 * width * T, top, m - i.upper_lip * ARCH, 0.58), colour)

    def _nose(self) -> Iterator[Part]:
        i, y = self.i, self.nose_y
        wall = _points(
            (0.8 * i.nose_bridge, i.eye_height - 0.08, 0.5),
            (i.nose_bridge, y - 0.14, 0.62),
            (i.nose_width, y - 0.02, 0.56),
            (0.3 * i.nose_bridge, y - 0.06, 0.8),
            (0.3 * i.nose_width, i.eye_height - 0.1, 0.56),
        )[None]
        depth = 46 * i.nose_relief
        for points, facing in ((wall * MIRROR, -self.side), (wall, self.side)):
            yield Part(points, shade=NEUTRAL_SHADE + depth * (facing - 0.55))
        under = _band(0.9 * i.nose_width * T, y + 0.02 + 0 * T, y + 0.09 * ARCH, 0.6)
        yield Part(under, shade=86)
        yield Part(_oval(0.03 * self.side, y - 0.07, 0.05, 0.06, 0.82), shade=158)
        wing = _points(
            (0.86 * i.nose_width, y - 0.10, 0.6),
            (1.02 * i.nose_width, y - 0.03, 0.6),
            (0.98 * i.nose_width, y + 0.03, 0.6),
            (0.62 * i.nose_width, y + 0.035, 0.6),
        )[None]
        yield Part(_pair(wing), self.skin * 0.7, width=0.02)
        w = i.nose_width
        yield Part(
            _pair(_oval(0.48 * w, y + 0.025, 0.28 * w, 0.02, 0.68)), self.skin * 0.5
        )

    def _mouth(self) -> Iterator[Part]:
        i, n, gap = self.i, self.n, self.mouth_open
        x = i.mouth_width * (1 + 0.14 * n.smile) * T
        middle = self.mouth_y + (i.lip_curve + 0.06 * n.smile) * (ARCH - 0.5)
        upper, lower = middle - 0.3 * gap * ARCH, middle + 0.9 * gap * ARCH
        top = upper - i.upper_lip * UPPER_LIP * (1 - i.lip_bow * LIP_BOW)
        bottom = lower + i.lower_lip * LOWER_LIP
        lip = self.skin * (1 - i.lip_colour) + LIP * i.lip_colour
        yield Part(_band(x, top, upper, 0.64), lip * 0.82)
        yield Part(_band(x, lower, bottom, 0.66), lip * 0.95)
        y = float(lower[len(T) // 2]) + 0.45 * i.lower_lip
        yield Part(_oval(0.02, y, 0.08, 0.015, 0.68), np.minimum(lip * 1.15 + 12, 255))
        if gap > 0.02:
            yield Part(_band(x, upper, lower, 0.6), THROAT)
            teeth = upper + 0.55 * (lower - upper)
            yield Part(_band(0.8 * x, upper, teeth, 0.6), TOOTH)
        else:
            yield Part(_curve(x, middle, 0.64), lip * 0.42, width=0.02)

    def _eyes(self) -> Iterator[Part]:
        i, n = self.i, self.n
        size, radius = i.eye_size, i.iris_size * i.eye_size
        opening = i.eye_open * size * min(max(1 - n.eye_closure, 0.08), 1.3)
        gaze = (size * n.gaze_x, size * (n.gaze_y - 0.05), 0)
        # Both eyes look alike; [65, 2] around the centre of one:
        ends = (0, 18, 30, 42, 54, 58, 65)
        white, ring, iris, pupil, glint, fold = map(slice, ends, ends[1:])
        eye = np.empty((65, 2))
        eye[:9, 0], eye[:9, 1] = size * T, -opening * UPPER_LID
        eye[9:18, 0], eye[9:18, 1] = -size * T, 0.55 * opening * LOWER_LID
        for disc, share in ((ring, 1.12), (iris, 0.92), (pupil, 0.45)):
            eye[disc] = (gaze + share * radius * CIRCLE)[:, :2]
        discs = eye[18:54]  # between the lids
        arch = np.maximum(1 - (discs[:, 0] / size) ** 2, 0)
        discs[:, 1] = np.minimum(
            np.maximum(discs[:, 1], -opening * arch**0.7), 0.55 * opening * arch
        )
        eye[glint] = eye[iris].mean(0) + size * (0.12 * SQUARE[:, :2] + (0.15, -0.15))
        eye[fold] = eye[1:8] - (0, 0.03 + 0.03 * i.crease)
        eyes = np.empty((2, len(eye), 3))
        eyes[..., 0] = i.eye_spacing * SIDES + eye[:, 0]
        eyes[..., 1] = i.eye_height + eye[:, 1] - i.eye_tilt * SIDES * eye[:, 0]
        eyes[..., 2] = 0.5 - 0.2 * SIDES * eye[:, 0]

        colour = _between(IRIS, i.iris_colour)
        yield Part(eyes[:, white], SCLERA)
        yield Part(eyes[:, ring], colour * 0.55)
        yield Part(eyes[:, iris], colour)
        yield Part(eyes[:, pupil], DARK)
        if opening > 0.04:
            yield Part(eyes[:, glint], SCLERA)
        yield Part(eyes[:, 9:18], self.skin * 0.72, width=0.01)
        lash = DARK * i.lashes + self.skin * (0.45 - 0.45 * i.lashes)
        yield Part(eyes[:, :9], lash, width=0.03)
        if i.crease > 0.35:
            yield Part(eyes[:, fold], self.skin * 0.7, width=0.01)

    def _brows(self) -> Iterator[Part]:
        i, n = self.i, self.n
        x = i.eye_spacing + i.brow_gap + 1.15 * i.brow_length * T
        middle = (i.eye_height - i.brow_height - n.brow_raise) - i.brow_tilt * T
        middle += 0.5 * n.brow_frown * (1 - T) - i.brow_arch * BROW_ARCH
        half = 0.5 * i.brow_thickness * BROW_TAPER
        brow = _band(x, middle - half, middle + half, 0.55)
        colour = (0.88 * self.hair + 0.12 * self.skin) * i.brow_shade
        yield Part(_pair(brow), colour)

    def _marks(self) -> Iterator[Part]:
        i = self.i
        if i.freckles > 0:
            spots = np.full((len(FRECKLES), len(SQUARE), 3), 0.5)
            centres = FRECKLES * (i.face_width, 1)
            spots[..., :2] = centres[:, None] + 0.011 * SQUARE[:, :2]
            yield Part(spots, self.skin * (0.72, 0.8, 0.86))
        if i.mole > 0.2:
            yield Part(_oval(i.mole_x, i.mole_y, 0.026, 0.026, 0.5), self.skin * 0.36)

    def _hair_in_front(self) -> Iterator[Part]:
        style, i = self.style, self.i
        if style is None:
            return
        stand_off = (i.hair_volume + style.volume) * STAND_OFF
        outer = self._over_the_head(stand_off, style.curl)
        line = min(i.hairline + style.hairline, i.eye_height - 0.16)
        y = line + (style.sideburn - line) * np.abs(HAIRLINE) ** style.squareness
        from_parting = np.abs(HAIRLINE - i.parting) / (1 + abs(i.parting))
        y += style.sweep * from_parting**1.3
        inner = _curve(0.99 * i.face_width * HAIRLINE, y, 0.4 * (1 - HAIRLINE**2))[0]
        yield Part(np.concatenate([outer, inner])[None], self.hair, NEUTRAL_SHADE)
        # Strands fall from the parting to the hairline.
        strands = np.empty((7, 3, 3))
        strands[:, 2] = inner[3:17:2]
        strands[:, 0] = 0.1 * strands[:, 2]
        strands[:, 0] += (0.72 * i.parting * i.face_width, -0.9, 0.2)
        strands[:, 1] = 0.5 * (strands[:, 0] + strands[:, 2])
        strands[:, 1] += strands[:, 2] * (0.25, 0, 0) - (0, 0.08, 0)
        yield Part(strands[::2], self.hair * 0.86, width=0.01)
        bright = np.minimum(self.hair * 1.12 + 6, 255)
        yield Part(strands[1::2], bright, width=0.01)
        yield Part(_oval(0.3 * self.side, -0.98, 0.34, 0.1, 0.3), shade=144)

    def _glasses(self) -> Iterator[Part]:
        i, n = self.i, self.n
        if n.glasses < GLASSES_ABOVE:
            return
        power = 0.5 + 0.5 * _unit(n.glasses_shape)  # from square to round
        tone = _unit(n.glasses_colour)
        lens = (
            np.sign(CIRCLE) * np.abs(CIRCLE) ** power * (0.215, 0.13 + 0.04 * tone, 0)
        )
        lens += (i.eye_spacing + 0.01, i.eye_height + 0.02, 0.62)
        rims = _pair(lens[None])
        frame = tone * _bgr('825a46') + 12
        if n.glasses > SUNGLASSES_ABOVE:
            yield Part(rims, frame * 0.5, NEUTRAL_SHADE)
        yield Part(np.concatenate([rims, rims[:, :1]], axis=1), frame, width=0.03)
        y, inner = i.eye_height - 0.02, i.eye_spacing - 0.2
        temple = _points(
            (i.eye_spacing + 0.22, y, 0.6), (1.02 * i.face_width, y - 0.02, 0)
        )
        yield Part(_pair(temple[None]), frame, width=0.03)
        bridge = _points((-inner, y, 0.66), (0, y - 0.03, 0.72), (inner, y, 0.66))
        yield Part(bridge[None], frame, width=0.03)

    def _occluder(self) -> Iterator[Part]:
        if self.n.occluder > OCCLUDER_ABOVE:
            # Beyond difficulty 1 the value leaves [0, 1): it wraps.
            kind = int(3 * (self.n.occluder_kind % 1))
            yield from (self._mask, self._hand, self._bar)[kind]()

    def _mask(self) -> Iterator[Part]:
        w, y = self.i.face_width, self.nose_y
        colour = MASKS[int(self.n.occluder_colour % 1 * len(MASKS))]
        top = _points(
            (-w, 0.22, 0),
            (-0.35, y - 0.16, 0.55),
            (0, y - 0.24, 0.75),
            (0.35, y - 0.16, 0.55),
            (w, 0.22, 0),
        )
        jaw = self.outline[5:14] * (1, 1.02, 1)
        yield Part(np.concatenate([jaw, top])[None], colour, NEUTRAL_SHADE)
        pleat = _curve(0.6 * w * T, 0.5 + 0.03 * ARCH, 0.6)
        pleats = pleat + _points((0, 0, 0), (0, 0.16, 0), (0, 0.3, 0))[:, None]
        yield Part(pleats, colour * 0.8, width=0.01)

    def _placed(self, points: Array) -> Array:
        """An occluder, turned and moved to its place."""
        n = self.n
        c, s = np.cos(n.occluder_angle), np.sin(n.occluder_angle)
        points = points @ np.array(((c, s, 0), (-s, c, 0), (0, 0, 1)))
        points += np.array((n.occluder_x, n.occluder_y, 0.6))
        return points[None]

    def _hand(self) -> Iterator[Part]:
        for k, length in enumerate((0.42, 0.52, 0.48, 0.34)):
            finger = CIRCLE * (0.085, length, 0) + (0.15 * (k - 1.5), 0.1 * length, 0)
            yield Part(self._placed(1.04 * finger), self.skin * 0.62, NEUTRAL_SHADE)
            yield Part(self._placed(0.97 * finger), self.skin, NEUTRAL_SHADE)

    def _bar(self) -> Iterator[Part]:
        bar = _points((-3, -0.13, 0), (3, -0.13, 0), (3, 0.13, 0), (-3, 0.13, 0))
        tone = _unit(self.n.occluder_colour)
        colour = np.array((150 - 60 * tone, 70 + 110 * tone, 40 + 170 * tone))
        yield Part(self._placed(bar), colour, NEUTRAL_SHADE)


def _projection(nuisance: Nuisance, size: int) -> tuple[Array, Array]:
    """[3, 2] and [2]: from the head's frame to pixels."""
    n = nuisance
    cy, sy = np.cos(n.yaw), np.sin(n.yaw)
    cp, sp = np.cos(n.pitch), np.sin(n.pitch)
    cr, sr = np.cos(n.roll), np.sin(n.roll)
    turn = np.array(((cy, 0, sy), (sp * sy, cp, -sp * cy)))
    roll = np.array(((cr, -sr), (sr, cr)))
    scale = size * UNIT * np.exp(n.log_scale)
    centre = np.array((0.5 + n.shift_x, 0.51 + n.shift_y))
    return (scale * roll @ turn).T, size * centre - 0.5


def _paint(
    parts: list[Part], picture: Array, relief: Array, turn: Array, shift: Array
) -> None:
    points = np.concatenate([part.points.reshape(-1, 3) for part in parts])
    points[:, 2] -= 0.25 * points[:, 0] ** 2  # the head is round
    fixed = np.rint((points @ turn + shift) * 2**SUBPIXEL_BITS).astype(np.int32)
    unit = float(np.hypot(*turn[1]))
    start = 0
    value: Any
    for part in parts:
        count, length, _ = part.points.shape
        stop = start + count * length
        polygons = list(fixed[start:stop].reshape(count, length, 2))
        start = stop
        for canvas, value, width, line, bits in (
            (picture, part.colour, unit * part.width, cv2.LINE_AA, SUBPIXEL_BITS),
            # Half the size is one more fractional bit. Hard edges: halfway between
            # a shade and the zero of the background would be a dark rim.
            (relief, part.shade, unit * part.width / 2, cv2.LINE_8, SUBPIXEL_BITS + 1),
        ):
            if value is not None and width:
                thick = max(round(width), 1)
                cv2.polylines(canvas, polygons, False, value, thick, line, bits)
            elif value is not None:
                cv2.fillPoly(canvas, polygons, value, line, bits)


@functools.lru_cache(8)
def _axis(size: int) -> Array:
    """Coordinates of the relief's pixels in units of the head's frame."""
    half = (size + 1) // 2
    return (((np.arange(half) + 0.5) / half - 0.5) / UNIT).astype(np.float32)


@functools.lru_cache(8)
def _noise(size: int) -> Array:
    """Noise to cut pictures from: fresh noise would cost as much as the drawing."""
    rng = np.random.Generator(np.random.Philox(key=0))
    return rng.standard_normal((2 * size, 2 * size, 3), np.float32)


def _light(nuisance: Nuisance, relief: Array, size: int, centre: Array) -> Array:
    """[size, size, 3] float32: by how much light multiplies the picture."""
    n = nuisance
    # The head as an ellipsoid: the normals of what is inside its outline.
    cx, cy = ((centre + 0.5) / size - 0.5) / UNIT
    x = (_axis(size)[None] - np.float32(cx)) / np.float32(0.95)
    y = (_axis(size)[:, None] - np.float32(cy)) / np.float32(1.15)
    z = np.sqrt(np.maximum(1 - x * x - y * y, 0))
    length = (1 + n.light_x**2 + n.light_y**2) ** 0.5
    lit = (n.light_x / length * x + n.light_y / length * y) + z / length
    background = relief == 0
    relief[background] = NEUTRAL_SHADE
    inside = np.minimum(4 * z, 1)
    inside[background] = 0
    lit = np.maximum(lit, 0) * inside + 0.5 * (1 - inside)
    contrast = min(max(n.light_contrast, 0.0), 0.95)
    level = math.exp(n.exposure + n.contrast) / NEUTRAL_SHADE
    kernel = 3 if size < 80 else 5
    soft = cv2.blur(cv2.blur(relief, (kernel, kernel)), (3, 3))
    gain = (lit * (1.3 * contrast * level) + (1 - contrast) * level) * soft
    tints = (1 - n.warmth, 1 + n.green, 1 + n.warmth)
    gains = cv2.merge([gain * tint for tint in tints])
    return cv2.resize(gains, (size, size), interpolation=cv2.INTER_LINEAR)


def render(identity: Identity, nuisance: Nuisance, size: int) -> Array:
    """uint8 [size, size, 3], BGR."""
    n = nuisance
    background = np.array(n.background).reshape(BACKGROUND_SHAPE).clip(0, 255)
    picture = cv2.resize(
        background.astype(np.uint8), (size, size), interpolation=cv2.INTER_CUBIC
    )
    half = (size + 1) // 2
    relief = np.zeros((half, half), np.uint8)
    turn, centre = _projection(n, size)
    _paint(list(Face(identity, n).parts()), picture, relief, turn, centre)
    sigma = n.blur * size / 112
    if sigma > VISIBLE_BLUR:
        width = 2 * math.ceil(2 * sigma) + 1
        picture = cv2.GaussianBlur(picture, (width, width), sigma)
    light = _light(n, relief, size, centre)
    lit = cv2.multiply(picture, light, dtype=cv2.CV_32F)
    top, left = (int(v % 1 * size) for v in (n.noise_y, n.noise_x))
    offset = _noise(size)[top : top + size, left : left + size] * np.float32(n.noise)
    offset += np.float32(128 * (1 - math.exp(n.contrast)) + n.brightness)
    return cv2.add(lit, offset, dtype=cv2.CV_8U)
