"""The losses as plain loops in float64, from the papers' formulas.

Nothing of mmhyperface is used here. Characteristic gradient detachment is written
as what it means: the offset of a function from the cosine is frozen at the point
where the gradient is taken.
"""

import math
from collections.abc import Callable

import numpy as np

Array = np.ndarray
Function = Callable[[float], float]


def cosine(x: Array, w: Array) -> float:
    dot = sum(float(a) * float(b) for a, b in zip(x, w, strict=True))
    return max(-1.0, min(1.0, dot / (norm(x) * norm(w))))


def norm(x: Array) -> float:
    return math.sqrt(sum(float(a) ** 2 for a in x))


def frozen(function: Function, cos: float, base: float, detach: bool) -> float:
    """``function`` of the cosine, with the gradient of the cosine if ``detach``."""
    return cos + (function(base) - base) if detach else function(cos)


def v0(m: float) -> Function:
    def psi(cos: float) -> float:
        m_theta = m * math.acos(cos)
        k = math.floor(m_theta / math.pi)
        return (-1) ** k * math.cos(m_theta) - 2 * k

    return psi


def v1(m: float) -> Function:
    return lambda cos: math.cos(min(m * math.acos(cos), math.pi))


def v2(m: float) -> Function:
    return lambda cos: math.cos(math.acos(cos) / m)


def additive(m: float, beyond: str = 'none') -> Function:
    def psi(cos: float) -> float:
        theta = math.acos(cos)
        if theta + m > math.pi and beyond == 'clip':
            return -1.0
        if theta + m > math.pi and beyond == 'linear':
            return cos - m * math.sin(m)
        if theta + m > math.pi and beyond == 'shift':
            return cos - 1 + math.cos(m)
        if cos <= 0 and beyond == 'easy':
            return cos
        return math.cos(theta + m)

    return psi


def identity(cos: float) -> float:
    return cos


def softmax(
    x: Array,
    w: Array,
    y: Array,
    base: tuple[Array, Array],
    psi: Callable[[int], Function],
    eta: Callable[[int], Function] = lambda i: identity,
    detach: bool = True,
    scale: float | str = 1.0,
) -> float:
    """Mean of -log softmax; psi and eta are given per sample."""
    total = 0.0
    for i in range(len(x)):
        s = norm(x[i]) if scale == 'norm' else float(scale)
        logits = []
        for j in range(len(w)):
            function = psi(i) if j == y[i] else eta(i)
            cos, at = cosine(x[i], w[j]), cosine(base[0][i], base[1][j])
            logits.append(s * frozen(function, cos, at, detach))
        top = max(logits)
        log_sum = top + math.log(sum(math.exp(z - top) for z in logits))
        total += log_sum - logits[y[i]]
    return total / len(x)


def log1pexp(z: float) -> float:
    return z + math.log1p(math.exp(-z)) if z > 0 else math.log1p(math.exp(z))


def sum_of_terms(
    x: Array,
    w: Array,
    y: Array,
    base: tuple[Array, Array],
    own: Callable[[float, float], float],
    other: Callable[[float, float], float],
) -> float:
    """Mean over the samples; terms of a cosine, and of that which is frozen."""
    total = 0.0
    for i in range(len(x)):
        for j in range(len(w)):
            term = own if j == y[i] else other
            total += term(cosine(x[i], w[j]), cosine(base[0][i], base[1][j]))
    return total / len(x)


def adjusted(z: float, t: float) -> float:
    """SphereFace2's g."""
    return 2 * ((z + 1) / 2) ** t - 1


def sphereface2(
    samples: tuple,
    bias: float,
    kind: str,
    lam: float,
    r: float,
    m: float,
    t: float,
    detach: bool,
) -> float:
    """``samples`` are x, w, y and base, here and below."""

    def psi(cos: float) -> float:
        theta = math.acos(cos)
        if kind == 'A':
            return adjusted(math.cos(min(math.pi, theta + m)), t)
        if kind == 'M':
            return adjusted(math.cos(min(math.pi, m * theta)), t)
        return adjusted(cos, t) - m

    def eta(cos: float) -> float:
        return adjusted(cos, t) + m if kind == 'C' else adjusted(cos, t)

    def own(cos: float, at: float) -> float:
        return lam / r * log1pexp(-r * frozen(psi, cos, at, detach) - bias)

    def other(cos: float, at: float) -> float:
        return (1 - lam) / r * log1pexp(r * frozen(eta, cos, at, detach) + bias)

    return sum_of_terms(*samples, own, other)


def wespeaker(
    samples: tuple, bias: float, scale: float, m: float, lam: float, t: float
) -> float:
    """SphereFace2-A as speakers are trained with: sines and cosines, no angles."""

    def sine(cos: float) -> float:
        return math.sqrt(max(0.0, 1 - cos * cos))

    def own(cos: float, _: float) -> float:
        further = cos * math.cos(m) - sine(cos) * math.sin(m)
        if cos <= -math.cos(m):
            further = cos - (1 - math.cos(m))
        return lam * log1pexp(-scale * adjusted(further, t) - bias)

    def other(cos: float, _: float) -> float:
        nearer = cos * math.cos(m) + sine(cos) * math.sin(m)
        return (1 - lam) * log1pexp(scale * adjusted(nearer, t) + bias)

    return sum_of_terms(*samples, own, other)


def uniface(samples: tuple, bias: float, s: float, m: float, lam: float) -> float:
    return sum_of_terms(
        *samples,
        lambda cos, _: log1pexp(-s * (cos - m) + bias),
        lambda cos, _: lam * log1pexp(s * cos - bias),
    )


def sface(
    samples: tuple, s: float, k: float, a: float, b: float, k_inter: float
) -> tuple:
    """The intra and the inter term."""

    def sigmoid(z: float) -> float:
        return 1 / (1 + math.exp(-z)) if z > -700 else 0.0

    def intra(cos: float, at: float) -> float:
        return -sigmoid(k * (math.acos(at) - a)) * s * cos

    def inter(cos: float, at: float) -> float:
        return sigmoid(-k_inter * (math.acos(at) - b)) * s * cos

    def nothing(cos: float, at: float) -> float:
        return 0.0

    return (
        sum_of_terms(*samples, intra, nothing),
        sum_of_terms(*samples, nothing, inter),
    )


def energy(w: Array, y: Array) -> float:
    """Mean of theta^-2 over the pairs of the batch's distinct centres."""
    classes = sorted(set(y.tolist()))
    pairs = [
        math.acos(cosine(w[a], w[b])) ** -2 for a in classes for b in classes if a < b
    ]
    return sum(pairs) / len(pairs) if pairs else 0.0


def gradient(function: Callable[[Array], float], at: Array) -> Array:
    """Central differences of fourth order."""
    result = np.zeros_like(at)
    h = 1e-4 * max(1.0, float(np.abs(at).max()))
    for index in np.ndindex(at.shape):
        step = np.zeros_like(at)
        step[index] = h
        result[index] = (
            8 * (function(at + step) - function(at - step))
            - (function(at + 2 * step) - function(at - 2 * step))
        ) / (12 * h)
    return result
