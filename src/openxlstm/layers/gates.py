"""Gate pre-activations: one number a head, always in float32 or better, whatever the rest of the layer runs in."""

import torch
from torch import Tensor

from openxlstm.ops.gates import gate_preactivations
from openxlstm.ops.numerics import soft_cap


def scalar_gates(inputs: tuple[Tensor, ...], weight: Tensor, bias: Tensor, cap: float | None = None) -> tuple[Tensor, Tensor]:
    """i_pre and f_pre [B, T, H] = weight @ cat(inputs) + bias, soft-capped; the concatenation is never made.

    weight: [2 H, sum of the inputs' widths], bias: [2 H], input gates first. Autocast is off here.
    """
    with torch.autocast(weight.device.type, enabled=False):
        i_pre, f_pre = soft_cap(gate_preactivations(inputs, weight, bias), cap).chunk(2, -1)
    return i_pre, f_pre
