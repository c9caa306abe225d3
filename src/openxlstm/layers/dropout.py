"""Dropout with cheap random numbers on CPUs."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

LEVELS = 1 << 16


def dropout(x: Tensor, p: float, training: bool) -> Tensor:
    """As torch.nn.functional.dropout. On a CPU that draws a double for every number of x, a tenth of the time of a training
    step; here a draw of 64 bits serves four numbers, and p is rounded to a multiple of 2^-16."""
    if not training or p == 0:
        return x
    dropped = round(p * LEVELS)
    if x.device.type != "cpu" or dropped == LEVELS or torch.compiler.is_compiling():
        return F.dropout(x, p)
    draws = torch.empty(-(-x.numel() // 4), dtype=torch.int64).random_(-(2**63), None)
    kept = draws.view(torch.int16)[: x.numel()] >= dropped - LEVELS // 2
    return x * kept.view(x.shape).to(x.dtype).mul_(LEVELS / (LEVELS - dropped))


class Dropout(nn.Dropout):
    """As torch.nn.Dropout, by `dropout`."""

    def forward(self, input: Tensor) -> Tensor:
        return dropout(input, self.p, self.training)
