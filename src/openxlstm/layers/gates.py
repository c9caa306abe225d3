"""Gate pre-activations: one number a head, always in float32 or better, whatever the rest of the layer runs in."""

import torch
import torch.nn.functional as F
from torch import Tensor

from openxlstm.ops.numerics import soft_cap


def scalar_gates(inputs: tuple[Tensor, ...], weight: Tensor, bias: Tensor, cap: float | None = None) -> tuple[Tensor, Tensor]:
    """i_pre and f_pre [B, T, H] = weight @ cat(inputs) + bias, soft-capped; the concatenation is never made.

    weight: [2 H, sum of the inputs' widths], bias: [2 H], input gates first. A bfloat16 product would leave an error of
    0.03 in the exponent of a gate near 10, so autocast is off here.
    """
    dtype = torch.promote_types(weight.dtype, torch.float32)
    with torch.autocast(weight.device.type, enabled=False):
        widths = [x.shape[-1] for x in inputs]
        pre: Tensor | None = None
        for x, w in zip(inputs, weight.to(dtype).split(widths, 1), strict=True):
            part = F.linear(x.to(dtype), w, bias.to(dtype) if pre is None else None)
            pre = part if pre is None else pre + part
        assert pre is not None
        i_pre, f_pre = soft_cap(pre, cap).chunk(2, -1)
    return i_pre, f_pre
