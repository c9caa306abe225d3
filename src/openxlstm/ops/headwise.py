"""Products of heads with matrices of their own."""

import torch
from torch import Tensor


def head_gates(x: Tensor, W: Tensor) -> Tensor:
    """x [B, T, H * I] by W [G, H, D, I], head by head -> [B, T, G, H, D]."""
    G, H, D, width = W.shape
    B, T, _ = x.shape
    heads = x.reshape(B * T, H, width).transpose(0, 1)  # [H, B * T, I]
    out = torch.bmm(heads, W.permute(1, 3, 0, 2).reshape(H, width, G * D))  # [H, B * T, G * D]
    return out.view(H, B, T, G, D).permute(1, 2, 3, 0, 4)
