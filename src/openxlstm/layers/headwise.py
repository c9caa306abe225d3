"""Block-diagonal linear maps."""

import math

import torch
from torch import Tensor, nn

from openxlstm.ops.headwise import block_diagonal


class HeadwiseLinear(nn.Module):
    """Channels fall into `num_blocks` equal blocks, each with its own matrix. [..., features] -> [..., features].

    weight: [num_blocks, out, in]. Raises ValueError when `features` is not divisible by `num_blocks`.
    """

    def __init__(self, features: int, num_blocks: int, *, bias: bool = False) -> None:
        super().__init__()
        if num_blocks < 1 or features % num_blocks:
            raise ValueError(f"features={features} is not divisible by num_blocks={num_blocks}")
        self.features, self.num_blocks = features, num_blocks
        size = features // num_blocks
        self.weight = nn.Parameter(torch.empty(num_blocks, size, size))
        self.bias = nn.Parameter(torch.empty(features)) if bias else None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """N(0, sqrt(2 / (5 in))), bias 0."""
        nn.init.normal_(self.weight, std=math.sqrt(2 / (5 * self.weight.shape[-1])))
        if self.bias is not None:
            nn.init.zeros_(self.bias)

    def forward(self, x: Tensor) -> Tensor:
        y = block_diagonal(x, self.weight)
        return y if self.bias is None else y + self.bias.to(y.dtype)

    def extra_repr(self) -> str:
        return f"{self.features}, num_blocks={self.num_blocks}, bias={self.bias is not None}"
