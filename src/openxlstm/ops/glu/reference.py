"""The gated activation, word for word."""

import math

import torch
from torch import Tensor

from openxlstm.ops.numerics import accumulation_dtype


def run(x: Tensor, *, activation: str) -> Tensor:
    """gelu(x) = x P(N < x) for N normally distributed; silu(x) = x sigmoid(x)."""
    gate, up = x.to(accumulation_dtype(x)).chunk(2, -1)
    open_ = torch.special.erfc(-gate / math.sqrt(2)) / 2 if activation == "gelu" else torch.sigmoid(gate)
    return (gate * open_ * up).to(x.dtype)
