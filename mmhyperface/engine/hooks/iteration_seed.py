"""Random numbers of the network that do not depend on how an iteration was reached."""

from typing import Any

import numpy as np
import torch
from mmengine.dist import get_rank
from mmengine.hooks import Hook
from mmengine.runner import Runner

from mmhyperface.registry import HOOKS


@HOOKS.register_module()
class IterationSeedHook(Hook):
    """Gives the network a random stream of its own, by (seed, rank, iteration).

    Dropout, say, is then the same in a resumed run as in an uninterrupted one,
    without any state in the checkpoint. The stream of the data is left alone: a
    loader of one's own is replayed by mmengine up to the iteration it resumes from.
    """

    data_stream: torch.Tensor

    def before_train_iter(self, runner: Runner, *args: Any, **kwargs: Any) -> None:
        self.data_stream = torch.get_rng_state()
        entropy = [runner.seed, get_rank(), runner.iter]
        seed = np.random.SeedSequence(entropy).generate_state(1)[0]
        # torch.manual_seed takes longer, for GPUs of all makes and numbers.
        torch.default_generator.manual_seed(int(seed))
        if torch.cuda.is_initialized():
            torch.cuda.manual_seed(int(seed))

    def after_train_iter(self, *args: Any, **kwargs: Any) -> None:
        torch.set_rng_state(self.data_stream)
