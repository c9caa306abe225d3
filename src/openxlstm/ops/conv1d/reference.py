"""The causal depthwise convolution as a window that slides one step at a time."""

import torch
import torch.nn.functional as F
from torch import Tensor

from openxlstm.ops.numerics import accumulation_dtype


def scan(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    state: Tensor,
    *,
    reset: Tensor | None,
    mask: Tensor | None,
    activation: str | None,
) -> tuple[Tensor, Tensor]:
    """The loop over time; `state` [B, W - 1, D] is the window without its newest input."""
    dtype = accumulation_dtype(x)
    taps = weight.to(dtype).T  # [W, D]
    outputs = []
    for t in range(x.shape[1]):
        if reset is not None:
            state = torch.where(reset[:, t, None, None], 0.0, state)
        window = torch.cat([state, x[:, t : t + 1]], 1)  # [B, W, D]
        y = (window.to(dtype) * taps).sum(1)
        if bias is not None:
            y = y + bias.to(dtype)
        if activation == "silu":
            y = F.silu(y)
        if mask is None:
            state = window[:, 1:]
        else:
            valid = mask[:, t, None]
            state = torch.where(valid[:, None], window[:, 1:], state)
            y = torch.where(valid, y, 0.0)
        outputs.append(y.to(x.dtype))
    return torch.stack(outputs, 1) if outputs else torch.zeros_like(x), state
