"""The inputs of the mLSTM cell, word for word."""

import torch
from torch import Tensor

from openxlstm.ops.conv1d.conv import causal_conv1d
from openxlstm.ops.numerics import accumulation_dtype


def run(
    u: Tensor,
    taps: Tensor | None,
    tap_bias: Tensor | None,
    Q: Tensor,
    K: Tensor,
    V: Tensor,
    W_if: Tensor,
    b_if: Tensor,
    state: Tensor | None,
    *,
    reset: Tensor | None,
    mask: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor | None]:
    """The definition."""
    dtype = accumulation_dtype(u)
    a = u
    if taps is not None:
        a, state = causal_conv1d(u, taps, tap_bias, state, reset=reset, mask=mask, activation="silu", backend="reference")
    q, k, v = (
        torch.einsum("btni,noi->btno", x.to(dtype).unflatten(-1, M.shape[:2]), M.to(dtype)).flatten(-2)
        for x, M in ((a, Q), (a, K), (u, V))
    )
    pre = torch.cat([q, k, v], -1) @ W_if.to(dtype).T + b_if.to(dtype)
    return a, q.to(u.dtype), k.to(u.dtype), v.to(u.dtype), pre, state
