"""Products of matrices whose type need not be that of the result."""

import torch
from torch import Tensor

# Products of 16-bit matrices can be had in fp32, without a copy.
_WIDENING_PRODUCTS = (
    'dtype_out' in torch.ops.aten.mm.overloads() and torch.version.hip is None
)
_HALF = torch.float16, torch.bfloat16


def product(a: Tensor, b: Tensor, out: Tensor) -> None:
    """out = a @ b."""
    if a.dtype == out.dtype:
        torch.mm(a, b, out=out)
    elif _widens(a, out):
        torch.mm(a, b, out_dtype=out.dtype, out=out)
    else:
        out.copy_(a @ b)


def add_product(total: Tensor, a: Tensor, b: Tensor, alpha: float = 1.0) -> None:
    """total += alpha * a @ b."""
    if a.dtype == total.dtype:
        total.addmm_(a, b, alpha=alpha)
    elif _widens(a, total):
        total.add_(torch.mm(a, b, out_dtype=total.dtype), alpha=alpha)
    else:
        total.add_(a @ b, alpha=alpha)


def _widens(a: Tensor, result: Tensor) -> bool:
    right = a.dtype in _HALF and result.dtype == torch.float32
    return _WIDENING_PRODUCTS and right and a.is_cuda
