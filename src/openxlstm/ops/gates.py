"""Pre-activations of scalar gates: one number a head."""

import torch
import torch.nn.functional as F
from torch import Tensor


def gate_preactivations(inputs: tuple[Tensor, ...], weight: Tensor, bias: Tensor) -> Tensor:
    """weight @ cat(inputs) + bias in float32 or better; the concatenation is never made. weight: [gates, sum of widths].

    A bfloat16 product would leave an error of 0.03 in the exponent of a gate near 10.
    """
    dtype = torch.promote_types(weight.dtype, torch.float32)
    total: Tensor | None = None
    for x, w in zip(inputs, weight.to(dtype).split([x.shape[-1] for x in inputs], 1), strict=True):
        part = F.linear(x.to(dtype), w, bias.to(dtype) if total is None else None)
        total = part if total is None else total + part
    assert total is not None
    return total
