"""Block-diagonal linear maps."""

import math

import torch
from torch import Tensor, nn

MERGED_SIZE = 16
"""Blocks narrower than this are merged into block-diagonal matrices of about this size: with 4 x 4 blocks a batched
product is all overhead, and a dense one wastes most of its work. Of 4, 16, 32, 64 and 128, 16 took the least time on a CPU."""


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
        y = blockwise(x, merge_blocks(self.weight))
        return y if self.bias is None else y + self.bias.to(y.dtype)

    def extra_repr(self) -> str:
        return f"{self.features}, num_blocks={self.num_blocks}, bias={self.bias is not None}"


def merge_blocks(weight: Tensor) -> Tensor:
    """[N, out, in] -> [N / g, g * out, g * in] with the blocks on the diagonal; g is chosen by MERGED_SIZE."""
    N, rows, columns = weight.shape
    g = math.gcd(N, max(MERGED_SIZE // max(rows, columns), 1))
    if g == 1:
        return weight
    eye = torch.eye(g, dtype=weight.dtype, device=weight.device)
    merged = weight.view(N // g, g, rows, 1, columns) * eye[:, None, :, None]  # [N / g, g, out, g, in]
    return merged.view(N // g, g * rows, g * columns)


def blockwise(x: Tensor, weight: Tensor) -> Tensor:
    """x [..., N * in] by weight [N, out, in] -> [..., N * out]."""
    N, _, columns = weight.shape
    return torch.einsum("...ni,noi->...no", x.unflatten(-1, (N, columns)), weight).flatten(-2)
