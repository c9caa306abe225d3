"""Start values (docs/architecture.md). All of them write in place into a parameter and return it, like torch.nn.init."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def small_init(weight: Tensor, dim: int) -> Tensor:
    """N(0, sqrt(2 / (5 dim))), for what reads the residual stream (Nguyen & Salazar 2019). `dim` is the model width."""
    return nn.init.normal_(weight, std=math.sqrt(2 / (5 * dim)))


def wang_init(weight: Tensor, dim: int, num_blocks: int) -> Tensor:
    """N(0, 2 / (num_blocks sqrt(dim))), for what writes to the residual stream (Wang & Komatsuzaki, GPT-J)."""
    return nn.init.normal_(weight, std=2 / (num_blocks * math.sqrt(dim)))


def linspace_init(bias: Tensor, start: float, end: float) -> Tensor:
    """Equidistant over the heads: short memories in the first, long ones in the last. A single head starts at `start`."""
    with torch.no_grad():
        return bias.copy_(torch.linspace(start, end, bias.numel()).view_as(bias))


def log_uniform_softplus_init(bias: Tensor, low: float, high: float) -> Tensor:
    """softplus(bias) is log-uniform in low..high: steps of all sizes between (Mamba, arXiv 2312.00752, sec. 3.6)."""
    with torch.no_grad():
        value = bias.uniform_(math.log(low), math.log(high)).exp()
        return bias.copy_(value + torch.log(-torch.expm1(-value)))


def power_law_init(bias: Tensor, block_index: int, num_blocks: int, *, forget_gate: str = "sigmoid") -> Tensor:
    """Forget bias of an sLSTM head, `bias` [..., D]: 5 - 12 (j / (D - 1)) ** p for unit j, so from +5 (remembers) down to -7
    (forgets). p goes from 0.3 in the first block, where few units remember, to 1.6 in the last.

    With forget_gate="exp" the logarithm of the gate is the same as with the sigmoid. One unit per head gets 5.
    """
    D = bias.shape[-1]
    depth = block_index / (num_blocks - 1) if num_blocks > 1 else 0.0
    place = torch.arange(D, dtype=torch.float64) / max(D - 1, 1)
    values = 5 - 12 * place ** (0.3 + 1.3 * depth)
    if forget_gate == "exp":
        values = F.logsigmoid(values)
    with torch.no_grad():
        return bias.copy_(values.expand_as(bias))
