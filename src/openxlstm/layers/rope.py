"""Rotary position embedding (Su et al. 2021), in the half-split form of Llama."""

import torch
from torch import Tensor

from openxlstm.ops.numerics import gate_dtype


def rope_table(position: Tensor, head_dim: int, base: float, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """cos and sin of the angles, [..., 1, head_dim / 2], for integer positions of shape [...].

    Angles are made in float64 where the device has it: at position 64k float32 would be off by 0.004.
    """
    exact = gate_dtype(position.device)
    frequency = base ** (-torch.arange(0, head_dim, 2, device=position.device, dtype=exact) / head_dim)
    angle = position[..., None, None].to(exact) * frequency
    return angle.cos().to(dtype), angle.sin().to(dtype)


def rotate(x: Tensor, table: tuple[Tensor, Tensor]) -> Tensor:
    """Turn the pairs (x_j, x_{j + D/2}) of x [..., H, D] by their angles."""
    cos, sin = table
    a, b = x.to(cos.dtype).chunk(2, -1)
    return torch.cat([a * cos - b * sin, b * cos + a * sin], -1).to(x.dtype)
