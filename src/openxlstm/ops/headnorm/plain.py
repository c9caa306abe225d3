"""The head-wise norm out of torch's layer_norm."""

import torch
import torch.nn.functional as F
from torch import Tensor

from openxlstm.ops.headnorm.reference import ACTIVATIONS


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
    """Each step is rounded to h's dtype, which keeps the passes over memory small."""
    dtype = h.dtype
    y = F.layer_norm(h, h.shape[-1:], None, None, eps).to(dtype).flatten(-2) * weight.to(dtype)
    if bias is not None:
        y = y + bias.to(dtype)
    if skip is not None and a is not None:
        y = torch.addcmul(y, skip.to(dtype), a.to(dtype))
    if gate is not None:
        y = y * ACTIVATIONS[activation](gate.to(dtype))
    return y
