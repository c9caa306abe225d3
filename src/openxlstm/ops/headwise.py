"""Products of heads, or of other blocks of channels, with matrices of their own."""

import math

import torch
from torch import Tensor

MERGED_SIZE = 16
"""Blocks narrower than this are merged into block-diagonal matrices of about this size: with 4 x 4 blocks a batched
product is all overhead, and a dense one wastes most of its work. Of 4, 16, 32, 64 and 128, 16 took the least time on a CPU."""


def head_gates(x: Tensor, W: Tensor) -> Tensor:
    """x [B, T, H * I] by W [G, H, D, I], head by head -> [B, T, G, H, D]."""
    G, H, D, width = W.shape
    B, T, _ = x.shape
    heads = x.reshape(B * T, H, width).transpose(0, 1)  # [H, B * T, I]
    out = torch.bmm(heads, W.permute(1, 3, 0, 2).reshape(H, width, G * D))  # [H, B * T, G * D]
    return out.view(H, B, T, G, D).permute(1, 2, 3, 0, 4)


def block_diagonal(x: Tensor, weight: Tensor) -> Tensor:
    """x [..., N * in] by the block-diagonal matrix of weight [N, out, in] -> [..., N * out], in x's dtype."""
    weight = merge_blocks(weight.to(x.dtype))
    N, _, columns = weight.shape
    return torch.einsum("...ni,noi->...no", x.unflatten(-1, (N, columns)), weight).flatten(-2)


def merge_blocks(weight: Tensor) -> Tensor:
    """[N, out, in] -> [N / g, g * out, g * in] with the blocks on the diagonal; g is chosen by MERGED_SIZE."""
    N, rows, columns = weight.shape
    g = math.gcd(N, max(MERGED_SIZE // max(rows, columns), 1))
    if g == 1:
        return weight
    eye = torch.eye(g, dtype=weight.dtype, device=weight.device)
    merged = weight.reshape(N // g, g, rows, 1, columns) * eye[:, None, :, None]  # [N / g, g, out, g, in]
    return merged.reshape(N // g, g * rows, g * columns)
