"""Parts of a network that begin with the weights of a file."""

from collections import OrderedDict

from mmengine.logging import print_log
from mmengine.model import PretrainedInit, update_init_info
from mmengine.runner.checkpoint import _load_checkpoint, load_state_dict
from torch import nn

from mmhyperface.centres import storage
from mmhyperface.registry import WEIGHT_INITIALIZERS
from mmhyperface.utils.errors import UserError, some
from mmhyperface.weights.shapes import shapes_of


@WEIGHT_INITIALIZERS.register_module()
class Pretrained(PretrainedInit):
    """mmengine's ``Pretrained`` that does not pass over a file of another network.

    mmengine warns, and the training begins from chance.

    Args:
        checkpoint: A file, a folder with centres in parts, or an address.
        prefix: Beginning of the names that are taken, which they lose.
        map_location: See mmengine.

    Raises:
        UserError: When it loads, if nothing of the file fits.
    """

    def __call__(self, module: nn.Module) -> None:
        if '://' in self.checkpoint:
            content = _load_checkpoint(self.checkpoint, self.map_location)
        else:
            content = storage.read(self.checkpoint)
        state = content.get('state_dict', content) if isinstance(content, dict) else {}
        names = {str(name).removeprefix('module.'): name for name in state}
        prefix = f'{self.prefix.removesuffix(".")}.' if self.prefix else ''
        own = OrderedDict(
            (name.removeprefix(prefix), state[key])
            for name, key in names.items()
            if name.startswith(prefix)
        )
        wanted, stored = shapes_of(module.state_dict()), shapes_of(own)
        fitting = [name for name in wanted if stored.get(name) == wanted[name]]
        kind = type(module).__name__
        if not fitting:
            beginnings = sorted({name.partition('.')[0] for name in names})
            raise UserError(
                f'init_cfg of {kind}: nothing in {self.checkpoint} fits, with '
                f'prefix={self.prefix!r}; its names begin with {some(beginnings)}. Set '
                'init_cfg.prefix to what stands before the names of the network '
                '(prefix=backbone in a checkpoint of ours), or convert the file with '
                'tools/model_converters'
            )
        print_log(
            f'init_cfg of {kind}: {len(fitting)} of {len(wanted)} entries are taken '
            f'from {self.checkpoint}',
            'current',
        )
        load_state_dict(module, own, strict=False, logger='current')
        if hasattr(module, '_params_init_info'):
            update_init_info(module, init_info=self._get_init_info())
