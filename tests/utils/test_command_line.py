"""What the tools share: how a process ends."""

import gc
import weakref

import torch
from torch import nn

from mmhyperface.utils.command_line import end_process_group


def test_what_refers_to_itself_goes_before_the_process_group(monkeypatch):
    """As a runner does, whose model in DDP holds the group."""
    alive = []
    monkeypatch.setattr('mmengine.dist.is_distributed', lambda: True)
    monkeypatch.setattr(
        torch.distributed, 'destroy_process_group', lambda: alive.append(reference())
    )
    gc.disable()
    try:
        model = nn.Linear(1, 1)
        model.itself = [model]
        reference = weakref.ref(model)
        del model
        end_process_group()
    finally:
        gc.enable()
    assert alive == [None]
