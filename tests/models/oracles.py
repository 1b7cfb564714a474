"""The losses as plain loops in float64, from the papers' formulas.

Nothing of mmhyperface is used here. Characteristic gradient detachment is written
as what it means: the offset of a function from the cosine is frozen at the point
where the gradient is taken.
"""

import math
from collections.abc import Callable

import numpy as np

Function = Callable[[float], float]


def cosine(x: np.ndarray, w: np.ndarray) -> float:
    dot = sum(float(a) * float(b) for a, b in zip(x, w, strict=True))
    return max(-1.0, min(1.0, dot / (norm(x) * norm(w))))


def norm(x: np.ndarray) -> float:
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
    x: np.ndarray,
    w: np.ndarray,
    y: np.ndarray,
    base: tuple[np.ndarray, np.ndarray],
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


def sphereface2(
    x: np.ndarray,
    w: np.ndarray,
    y: np.ndarray,
    bias: float,
    base: tuple[np.ndarray, np.ndarray],
    margin_type: str,
    lam: float,
    r: float,
    m: float,
    t: float,
    detach: bool,
) -> float:
    def g(z: float) -> float:
        return 2 * ((z + 1) / 2) ** t - 1

    def own(cos: float) -> float:
        theta = math.acos(cos)
        if margin_type == 'A':
            return g(math.cos(min(math.pi, theta + m)))
        if margin_type == 'M':
            return g(math.cos(min(math.pi, m * theta)))
        return g(cos) - m

    def other(cos: float) -> float:
        return g(cos) + m if margin_type == 'C' else g(cos)

    total = 0.0
    for i in range(len(x)):
        for j in range(len(w)):
            cos, at = cosine(x[i], w[j]), cosine(base[0][i], base[1][j])
            if j == y[i]:
                logit = r * frozen(own, cos, at, detach) + bias
                total += lam / r * log1pexp(-logit)
            else:
                logit = r * frozen(other, cos, at, detach) + bias
                total += (1 - lam) / r * log1pexp(logit)
    return total / len(x)


def wespeaker(
    x: np.ndarray,
    w: np.ndarray,
    y: np.ndarray,
    bias: float,
    scale: float,
    m: float,
    lam: float,
    t: float,
) -> float:
    """SphereFace2-A as speakers are trained with: sines and cosines, no angles."""

    def g(z: float) -> float:
        return 2 * ((z + 1) / 2) ** t - 1

    total = 0.0
    for i in range(len(x)):
        for j in range(len(w)):
            cos = cosine(x[i], w[j])
            sin = math.sqrt(max(0.0, 1 - cos * cos))
            if j != y[i]:
                nearer = cos * math.cos(m) + sin * math.sin(m)
                total += (1 - lam) * log1pexp(scale * g(nearer) + bias)
                continue
            further = cos * math.cos(m) - sin * math.sin(m)
            if cos <= -math.cos(m):
                further = cos - (1 - math.cos(m))
            total += lam * log1pexp(-scale * g(further) - bias)
    return total / len(x)


def uniface(
    x: np.ndarray,
    w: np.ndarray,
    y: np.ndarray,
    bias: float,
    s: float,
    m: float,
    lam: float,
) -> float:
    total = 0.0
    for i in range(len(x)):
        for j in range(len(w)):
            cos = cosine(x[i], w[j])
            if j == y[i]:
                total += log1pexp(-s * (cos - m) + bias)
            else:
                total += lam * log1pexp(s * cos - bias)
    return total / len(x)


def sface(
    x: np.ndarray,
    w: np.ndarray,
    y: np.ndarray,
    base: tuple[np.ndarray, np.ndarray],
    s: float,
    k: float,
    a: float,
    b: float,
) -> tuple[float, float]:
    """The intra and the inter term."""

    def sigmoid(z: float) -> float:
        return 1 / (1 + math.exp(-z)) if z > -700 else 0.0

    intra = inter = 0.0
    for i in range(len(x)):
        for j in range(len(w)):
            cos = cosine(x[i], w[j])
            theta = math.acos(cosine(base[0][i], base[1][j]))
            if j == y[i]:
                intra -= sigmoid(k * (theta - a)) * s * cos
            else:
                inter += sigmoid(-k * (theta - b)) * s * cos
    return intra / len(x), inter / len(x)


def energy(w: np.ndarray, y: np.ndarray) -> float:
    """Mean of theta^-2 over the pairs of the batch's distinct centres."""
    classes = sorted(set(y.tolist()))
    pairs = [
        math.acos(cosine(w[a], w[b])) ** -2 for a in classes for b in classes if a < b
    ]
    return sum(pairs) / len(pairs) if pairs else 0.0


def gradient(function: Callable[[np.ndarray], float], at: np.ndarray) -> np.ndarray:
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
