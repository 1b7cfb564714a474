"""Products between types, also on a GPU that is not there; denormal numbers."""

import threading

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from mmhyperface.models import SphereFace2Loss
from mmhyperface.ops import Blocked
from mmhyperface.ops.denormals import denormals_flushed
from mmhyperface.ops.products import add_product, product

FLOATS = torch.float16, torch.bfloat16, torch.float32, torch.float64


@pytest.mark.parametrize('device', ['cpu', 'cuda'])
@pytest.mark.parametrize('result', FLOATS)
@pytest.mark.parametrize('operands', FLOATS)
def test_any_types_on_any_device(operands, result, device):
    with FakeTensorMode(allow_non_fake_inputs=True):
        a = torch.empty(3, 4, dtype=operands, device=device)
        b = torch.empty(4, 5, dtype=operands, device=device)
        out = torch.empty(3, 5, dtype=result, device=device)
        product(a, b, out)
        add_product(out, a, b, 0.5)


@pytest.mark.parametrize('result', [torch.float32, torch.float64])
@pytest.mark.parametrize('operands', FLOATS[1:])
def test_their_values(operands, result):
    a, b = torch.randn(3, 4).to(operands), torch.randn(4, 5).to(operands)
    expected = (a.double() @ b.double()).to(operands).to(result)
    out, total = torch.empty(3, 5, dtype=result), torch.ones(3, 5, dtype=result)
    product(a, b, out)
    add_product(total, a, b, -0.5)
    rounding = 4 * max(torch.finfo(dtype).eps for dtype in (operands, result))
    torch.testing.assert_close(out, expected, rtol=rounding, atol=rounding)
    torch.testing.assert_close(total, 1 - expected / 2, rtol=rounding, atol=rounding)


def denormals_are_kept() -> bool:
    return (torch.full((), 2.0**-126, dtype=torch.float32) / 2).item() > 0


def block_loop() -> None:
    loss = SphereFace2Loss()
    loss.reset_parameters(7)
    x, rows = (torch.randn(n, 3, dtype=torch.float64) for n in (2, 7))
    x = torch.nn.functional.normalize(x).requires_grad_()
    one = torch.ones(2, 1, dtype=torch.float64)
    context = loss.double().context(one / 2, one)
    fold = Blocked(4)(x, rows, torch.tensor([1, 5]), context, loss)
    fold.folded.sum().backward()


@pytest.mark.skipif(
    not torch.set_flush_denormal(False), reason='the processor cannot flush them'
)
@pytest.mark.parametrize('default', [torch.float32, torch.float64, torch.float16])
@pytest.mark.parametrize('kept', [True, False])
def test_a_block_loop_leaves_denormal_numbers_as_they_were(kept, default):
    actual = []

    def run() -> None:
        torch.set_flush_denormal(not kept)
        block_loop()
        actual.append(denormals_are_kept())
        with denormals_flushed():
            actual.append(not denormals_are_kept())
        actual.append(denormals_are_kept())

    before = torch.get_default_dtype()
    torch.set_default_dtype(default)
    try:
        thread = threading.Thread(target=run)
        thread.start()
        thread.join()
    finally:
        torch.set_default_dtype(before)
    assert actual == [kept, True, kept]
