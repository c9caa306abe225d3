"""The head-wise norm, word for word."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from openxlstm.ops.numerics import accumulation_dtype

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {"silu": F.silu, "sigmoid": torch.sigmoid}


def run(
    h: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    skip: Tensor | None,
    a: Tensor | None,
    gate: Tensor | None,
    *,
    activation: str,
    eps: float,
) -> Tensor:
    """The definition."""
    dtype = accumulation_dtype(h)
    x = h.to(dtype)
    mean = x.mean(-1, keepdim=True)
    variance = (x - mean).square().mean(-1, keepdim=True)
    y = ((x - mean) / torch.sqrt(variance + eps)).flatten(-2) * weight.to(dtype)
    if bias is not None:
        y = y + bias.to(dtype)
    if skip is not None and a is not None:
        y = y + skip.to(dtype) * a.to(dtype)
    if gate is not None:
        y = y * ACTIVATIONS[activation](gate.to(dtype))
    return y.to(h.dtype)
