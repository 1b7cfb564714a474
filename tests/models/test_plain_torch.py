"""The head for users of PyTorch alone: tensors in, a loss out."""

import re

import pytest
import torch
from runs import CONFIGS

from mmhyperface.models import HypersphereHead, SphereFace2Loss
from mmhyperface.models.face_samples import FaceSamples
from mmhyperface.ops import dense

README = (CONFIGS.parent / 'README.md').read_text()
(LOOP,) = (
    code
    for code in re.findall(r'```python\n(.*?)```', README, re.DOTALL)
    if 'optimizer.step()' in code
)


def test_the_loop_of_the_readme_trains():
    torch.manual_seed(0)
    scope: dict = {}
    exec(LOOP, scope)
    head, network = scope['head'], scope['network']
    assert head.loss_module.m == pytest.approx(0.15)
    x, y = scope['utterances'], scope['speakers']
    # With the last batch alone it goes on until that is learned.
    head.weight.requires_grad_(True)
    optimizer = torch.optim.SGD([*network.parameters(), *head.parameters()], lr=0.1)
    first = head(network(x), y).item()
    for _ in range(100):
        optimizer.zero_grad()
        head(network(x), y).backward()
        optimizer.step()
    assert head(network(x), y).item() < first / 2


def test_tensors_give_what_data_samples_give():
    torch.manual_seed(0)
    head = HypersphereHead(7, 4, SphereFace2Loss())
    x, y = torch.randn(5, 4), torch.tensor([0, 6, 3, 3, 1])
    values = head.loss(x, y)
    of_samples = head.loss((x,), FaceSamples(torch.arange(5), y))
    assert values.keys() == of_samples.keys()
    assert {'loss', 'cos_own', 'cos_hardest', 'feature_norm', 'bias'} <= values.keys()
    for name, value in values.items():
        assert torch.equal(value, of_samples[name])
    loss = head(x, y)
    assert loss.shape == ()
    assert torch.equal(loss, values['loss'])
    assert head(x).shape == (5, 7)
    # One's own engine, as a function.
    head.engine = dense
    torch.testing.assert_close(head(x, y), loss)
    assert head(x[:0], y[:0]) == 0
    # Options count from when they are set.
    head.engine = 'blocked'
    torch.testing.assert_close(head(x, y), loss)
    head.matmul_dtype = 'bfloat16'
    assert not torch.allclose(head(x, y), loss, rtol=1e-5)
