"""The characteristic functions of losses, their margins and their gradients, drawn.

psi(theta) stands in the logit of a sample's own class, eta(theta) in that of any other
class; the margin is Delta(theta) = eta(theta) - psi(theta) (SphereFace-R, arXiv
2109.05565, section 3). What moves a network is not their values but the gradient, which
characteristic gradient detachment (CGD) sets to that of cos(theta), and the weight that
the loss gives to it: the pull of the own centre and the push of others.
"""

import ast
import copy
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from mmengine.config import Config
from mmengine.registry import init_default_scope
from torch import Tensor

from mmhyperface.models.heads.hypersphere_head import build_loss
from mmhyperface.models.losses import DecoupledLoss, HypersphereLoss
from mmhyperface.models.losses.base import Context
from mmhyperface.models.losses.batch import Batch
from mmhyperface.models.losses.characteristic import characteristic
from mmhyperface.registry import MODELS
from mmhyperface.utils.errors import UserError
from mmhyperface.utils.figures import color, finish, legend_below, new_figure, plain

Floats = npt.NDArray[np.float64]

ANGLES = np.arange(1, 720) / 4
# Slopes of additive angles are infinite at 0: beyond this there is nothing to see.
STEEPEST = 4.0


@dataclass(frozen=True)
class Characteristics:
    """Functions of the angle, float64 [N] each.

    Attributes:
        theta: Angles in degrees.
        psi, eta: Characteristic functions of the own class and of others. NaN for a
            decoupled loss that has none: SFace designs the gradient alone.
        psi_slope, eta_slope: Their derivatives by cos(theta), as training sees them;
            of SFace, its two sigmoids.
        psi_true_slope, eta_true_slope: The same without CGD.
        pull: -dL/dcos(theta_y) of a sample at theta from its own centre, with all
            others at right angles.
        push: dL/dcos(theta_j) of a sample at theta from one other centre.
    """

    theta: Floats
    psi: Floats
    eta: Floats
    psi_slope: Floats
    eta_slope: Floats
    psi_true_slope: Floats
    eta_true_slope: Floats
    pull: Floats
    push: Floats

    @property
    def margin(self) -> Floats:
        """Delta = eta - psi."""
        return self.eta - self.psi


def characteristics_of(
    loss: HypersphereLoss,
    theta: npt.ArrayLike | None = None,
    norm: float = 30.0,
    num_classes: int = 10_000,
    own_angle: float = 60.0,
) -> Characteristics:
    """Evaluate a loss at angles, in float64 and in its initial state.

    Args:
        theta: Angles in degrees; by default those between 0 and 180 in quarters,
            without the ends, where slopes may be infinite.
        norm: Feature norm, for losses that depend on it.
        num_classes: Number of classes C, of which the pull and the push depend.
        own_angle: Angle of a sample to its own centre where others are looked at, in
            degrees.

    Raises:
        UserError: For a norm or a number of classes out of range.
    """
    if not norm > 0:
        raise UserError(f'the feature norm must be positive (--norm), got {norm}')
    if num_classes < 2:
        raise UserError(
            'the number of classes must be at least 2 (--num-classes), got '
            f'{num_classes}'
        )
    angles = ANGLES if theta is None else np.asarray(theta, float)
    cos = torch.from_numpy(np.cos(np.deg2rad(angles)))[:, None]
    own = torch.full_like(cos, math.cos(math.radians(own_angle)))
    norms = torch.full_like(cos, norm)
    trained = copy.deepcopy(loss).double().eval()
    trained.reset_parameters(num_classes)
    free = copy.deepcopy(trained)
    if hasattr(free, 'detach'):
        free.detach = False  # type: ignore[assignment]

    def psi(loss: HypersphereLoss) -> Callable[[Tensor], Tensor]:
        return lambda x: _term(loss, 'psi', x, loss.context(Batch(x, norms)))

    def eta(loss: HypersphereLoss) -> Callable[[Tensor], Tensor]:
        return lambda x: _term(loss, 'eta', x, loss.context(Batch(own, norms)))

    values = {
        'psi': psi(trained)(cos),
        'eta': eta(trained)(cos),
        'psi_slope': _derivative(psi(trained), cos),
        'eta_slope': _derivative(eta(trained), cos),
        'psi_true_slope': _derivative(psi(free), cos),
        'eta_true_slope': _derivative(eta(free), cos),
        'pull': -_derivative(lambda x: _loss(trained, x, norms, num_classes), cos),
        'push': _derivative(lambda x: _loss(trained, own, norms, num_classes, x), cos),
    }
    arrays = {name: x.detach().squeeze(1).numpy() for name, x in values.items()}
    if isinstance(loss, DecoupledLoss):
        for name in ('psi', 'eta'):
            if not hasattr(loss, name):
                arrays[name] = np.full_like(angles, np.nan)
    return Characteristics(theta=angles, **arrays)


def _term(loss: Any, name: str, cos: Tensor, context: Context) -> Tensor:
    """psi or eta of a loss, or its term of the own class or of others, unscaled."""
    if loss.additive and hasattr(loss, name):
        function = partial(getattr(loss, name), context=context)
        return characteristic(cos, function, getattr(loss, 'detach', False))
    scale = context.get('norm', getattr(loss, 's', 1.0))
    if name == 'eta':
        return loss.others(cos, context) / scale
    sign = -1 if isinstance(loss, DecoupledLoss) else 1
    return sign * loss.target(cos, context) / scale


def _derivative(function: Callable[[Tensor], Tensor], cos: Tensor) -> Tensor:
    x = cos.clone().requires_grad_()
    value = function(x)
    if not value.requires_grad:
        return torch.zeros_like(cos)
    (slope,) = torch.autograd.grad(value.sum(), x, materialize_grads=True)
    return slope


def _loss(
    loss: HypersphereLoss,
    own: Tensor,
    norms: Tensor,
    num_classes: int,
    cos: Tensor | None = None,
) -> Tensor:
    """L [N, 1] of samples with these cosines to their own centres.

    The other centres are at right angles, but for one with cosines `cos` [N, 1].
    """
    context = loss.context(Batch(own, norms))
    others = loss.others(torch.zeros_like(own), context)
    count = num_classes - 1 if cos is None else num_classes - 2
    if loss.additive:
        others = others * count
    else:
        others = others + (math.log(count) if count else -math.inf)
    if cos is not None:
        one = loss.others(cos, context)
        others = one + others if loss.additive else torch.logaddexp(one, others)
    return loss.loss_weight * loss.join(loss.target(own, context), others)


def loss_of_config(cfg: Config) -> HypersphereLoss:
    """The loss of a config's head.

    Raises:
        UserError: If the config has no loss of the cosine.
    """
    head = (cfg.get('model') or {}).get('head') or {}
    if 'loss' not in head:
        raise UserError(f'{cfg.filename} has no model.head.loss')
    init_default_scope(cfg.get('default_scope', 'mmhyperface'))
    return _built(dict(head['loss']), cfg.filename)


def loss_of_text(text: str) -> HypersphereLoss:
    """A loss from its name and arguments, ``SphereFaceRLoss(version=v2, m=1.4)``.

    ``Loss`` at the end of the name may be left out, quotes of words too.

    Raises:
        UserError: If the text is nothing of the kind.
    """
    try:
        node: Any = ast.parse(text.strip(), mode='eval').body
        call = node if isinstance(node, ast.Call) else ast.Call(node, [], [])
        if call.args or not isinstance(call.func, ast.Name):
            raise ValueError
        options = {_argument(entry): _literal(entry.value) for entry in call.keywords}
    except (SyntaxError, ValueError):
        raise UserError(
            f'{text!r} is no config (*.py), and no loss like '
            '"SphereFaceRLoss(version=v2, m=1.4)"'
        ) from None
    init_default_scope('mmhyperface')
    name = call.func.id
    known = [known for known in (name, f'{name}Loss') if MODELS.get(known)]
    if not known:
        raise UserError(f'there is no loss {name}; there are {", ".join(_losses())}')
    return _built({'type': known[0], **options}, text)


def _argument(entry: ast.keyword) -> str:
    if entry.arg is None:  # **
        raise ValueError
    return entry.arg


def _literal(node: ast.expr) -> Any:
    return node.id if isinstance(node, ast.Name) else ast.literal_eval(node)


def _losses() -> list[str]:
    return sorted(name for name in MODELS.module_dict if name.endswith('Loss'))


def _built(options: dict, source: str) -> HypersphereLoss:
    try:
        return build_loss(options)
    except (TypeError, KeyError) as error:  # arguments that the loss has not
        raise UserError(f'{source}: {error.args[0]}') from None


def draw_characteristics(curves: Mapping[str, Characteristics], note: str) -> Figure:
    """Six panels, a colour for each loss.

    Args:
        note: What the curves depend on besides the losses, for the small print.
    """
    figure = new_figure(14, 9.0)
    axes = figure.subplots(2, 3)
    for number, (name, curve) in enumerate(curves.items()):
        # The first line is broad, to be seen under others that coincide with it.
        width = max(4.2 - 0.8 * number, 1.4)
        _plot(axes, curve, plain(name), {'color': color(number), 'linewidth': width})
    (functions, margins, pulls), (own_slopes, other_slopes, pushes) = axes
    functions.set(title='ψ(θ), own centre (solid); η(θ), others (dashed)')
    margins.set(title='margin Δ(θ) = η(θ) - ψ(θ)')
    own_slopes.set(title='dψ / d cos θ: in training (solid), true (dotted)')
    other_slopes.set(title='dη / d cos θ: in training (solid), true (dotted)')
    pulls.set(title='pull of the own centre, -∂L/∂cos θ, its highest as 1')
    pushes.set(title='push of one other centre, ∂L/∂cos θ, its highest as 1')
    for ax in axes.flat:
        ax.set(xlim=(0, 180), xticks=range(0, 181, 30), xlabel='θ in degrees')
        finish(ax)
    _limit(functions, -3.2, 1.6)
    for ax in (own_slopes, other_slopes):
        _limit(ax, -0.6, STEEPEST)
    pulls.legend(loc='center right', fontsize='small')
    pushes.legend(loc='center right', fontsize='small')
    legend_below(figure, functions)
    figure.suptitle(note, fontsize='medium', color='0.3')
    return figure


def _plot(axes: Any, curve: Characteristics, name: str, style: dict) -> None:
    (functions, margins, pulls), (own_slopes, other_slopes, pushes) = axes
    functions.plot(curve.theta, curve.psi, label=name, **style)
    functions.plot(curve.theta, curve.eta, linestyle='--', **style)
    margins.plot(curve.theta, curve.margin, **style)
    for ax, trained, true in (
        (own_slopes, curve.psi_slope, curve.psi_true_slope),
        (other_slopes, curve.eta_slope, curve.eta_true_slope),
    ):
        ax.plot(curve.theta, trained, **style)
        if not np.array_equal(trained, true):
            ax.plot(curve.theta, true, linestyle=':', **style)
    _shares(pulls, curve.theta, curve.pull, style)
    _shares(pushes, curve.theta, curve.push, style)


def _shares(ax: Axes, theta: Floats, force: Floats, style: dict) -> None:
    highest = np.abs(force).max()
    ax.plot(
        theta,
        force / highest if highest > 0 else force,
        label=f'highest {highest:.3g}',
        **style,
    )


def _limit(ax: Axes, low: float, high: float) -> None:
    """The range of what is drawn, as far as it lies between two limits."""
    values = np.concatenate([np.asarray(line.get_ydata()) for line in ax.lines])
    values = values[np.isfinite(values)]
    bottom = max(values.min(initial=high), low)
    top = min(values.max(initial=low), high)
    space = 0.06 * max(top - bottom, 1)
    ax.set_ylim(bottom - space, top + space)
