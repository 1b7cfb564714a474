"""OpenSphere (https://github.com/ydwen/opensphere), both of its programs.

Until 2022 (revision 032c31b, which holds the papers' recipes) ``backbone_ITER.pth`` and
``head_ITER.pth`` are state dicts of wrapped networks, names after ``module.``, and the
class centres ``w`` are columns, [D, C]. Since 2023 ``model_ITER.pth`` holds both, under
``backbone`` and ``head``, and ``ckpt_ITER.pth`` holds that under ``model``; the class
centres are rows, [C, D]. SphereFace2's bias is ``b`` in both. The backbones' names and
the input are ours.
"""

from typing import Any

from torch import Tensor

from mmhyperface.utils.errors import UserError

from .network import Network, Peer
from .state_dicts import DROP_HEAD, State, as_state, centres_in, unwrapped

PEER = Peer('OpenSphere', (('IResNet', None), ('SFNet', None)))


def to_ours(
    backbone: Any,
    head: Any = None,
    variant: str | None = None,
    with_head: bool = True,
) -> Network:
    """The network of one of OpenSphere's.

    Args:
        backbone: What ``backbone_ITER.pth``, ``model_ITER.pth`` or ``ckpt_ITER.pth``
            holds.
        head: What ``head_ITER.pth`` holds.
        variant: Of an SFNet without batch norm, see :class:`SFNet`: ``paper`` for
            ``sfnet*_deprecated``, else ``opensphere``.
        with_head: Whether to take the class centres, if there are any.

    Raises:
        UserError: If they are not those of one of its networks, or the variant is
            needed.
    """
    if isinstance(backbone, dict):
        backbone = backbone.get('model', backbone)
    in_one_file = isinstance(backbone, dict) and isinstance(
        backbone.get('backbone'), dict
    )
    if in_one_file:
        if head is not None:
            raise UserError('the file of the backbone holds a head, too; give no other')
        backbone, head = backbone['backbone'], backbone.get('head')
    state = unwrapped(as_state(backbone, 'the backbone'))
    centres: Tensor | None = None
    loss: State = {}
    if head is not None and with_head:
        centres, loss = _centres(unwrapped(as_state(head, 'the head')))
        if not in_one_file:
            centres = centres.t()
    options = {}
    if _is_plain_sfnet(state):
        # The newer program has no other.
        variant = variant or ('opensphere' if in_one_file else None)
        if variant is None:
            raise UserError(
                'whether an SFNet without batch norm adds before or after its last '
                'ReLU is not told by its weights: give --variant paper if the config '
                'of the run names sfnet*_deprecated, else --variant opensphere'
            )
        options['variant'] = variant
    return PEER.network(state, centres, loss, options)


def _require_newer(variant: str | None) -> None:
    if variant is None:
        raise UserError(
            'OpenSphere of 2023 has SFNet of the variant opensphere alone, and whether '
            'this one is such is not told by its weights: give --variant'
        )
    if variant != 'opensphere':
        raise UserError(
            'OpenSphere of 2023 has no SFNet that adds after its last ReLU, as the '
            'variant paper does; give --revision 2022, whose sfnet*_deprecated do'
        )


def _is_plain_sfnet(state: State) -> bool:
    return 'layer1.0.conv1.bias' in state


def _centres(head: State) -> tuple[Tensor, State]:
    centres, bias = centres_in(head, ['w'], ['b'], DROP_HEAD), head.get('b')
    if bias is None:
        return centres, {}
    if bias.numel() != 1:
        raise UserError(
            "the head's `b` is a bias per class, of a linear classifier; its `w` are "
            f'no class centres of ours. Convert the backbone alone{DROP_HEAD}'
        )
    return centres, {'bias': bias}


def from_ours(network: Network, revision: str, step: int = 0) -> dict[str, Any]:
    """Files for OpenSphere, by name.

    Args:
        revision: Of :data:`.REVISIONS`.
        step: The iteration that their names tell.

    Raises:
        UserError: If that program has no such network, or the variant is needed.
    """
    PEER.require(network)
    if revision == '2023' and _is_plain_sfnet(network.backbone):
        _require_newer(network.config.get('variant'))
    head: State = {}
    if network.centres is not None:
        head['w'] = network.centres
        if 'bias' in network.loss:
            head['b'] = network.loss['bias']
    if revision == '2023':
        model = {'backbone': network.backbone, **({'head': head} if head else {})}
        return {f'model_{step}.pth': model}
    files = {f'backbone_{step}.pth': _wrapped(network.backbone)}
    if head:
        files[f'head_{step}.pth'] = _wrapped({**head, 'w': head['w'].t()})
    return files


def _wrapped(state: State) -> State:
    return {f'module.{key}': value for key, value in state.items()}
