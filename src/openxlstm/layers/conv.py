"""The causal depthwise convolution with its parameters."""

import math

import torch
from torch import Tensor, nn

from openxlstm.ops import causal_conv1d


class CausalConv1d(nn.Module):
    """Depthwise convolution over the last `width` steps, then SiLU if `activation` is "silu".
    [B, T, dim] -> [B, T, dim] and the state [B, width - 1, dim].

    weight: [dim, width], the last tap meets the current input. Starts like torch.nn.Conv1d: U(+-1 / sqrt(width)).
    """

    def __init__(self, dim: int, width: int = 4, *, bias: bool = True, activation: str | None = None) -> None:
        super().__init__()
        if width < 1:
            raise ValueError(f"width must be at least 1, got {width}")
        self.activation = activation
        self.weight = nn.Parameter(torch.empty(dim, width))
        self.bias = nn.Parameter(torch.empty(dim)) if bias else None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """U(+-1 / sqrt(width)) for weight and bias."""
        bound = 1 / math.sqrt(self.weight.shape[1])
        nn.init.uniform_(self.weight, -bound, bound)
        if self.bias is not None:
            nn.init.uniform_(self.bias, -bound, bound)

    def forward(
        self, x: Tensor, state: Tensor | None = None, *, reset: Tensor | None = None, mask: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        return causal_conv1d(x, self.weight, self.bias, state, reset=reset, mask=mask, activation=self.activation)

    def extra_repr(self) -> str:
        dim, width = self.weight.shape
        return f"{dim}, width={width}, bias={self.bias is not None}, activation={self.activation}"
