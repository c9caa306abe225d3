"""Normalisation over features. Weights are plain multipliers that start at 1; sums run in float32 or better."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class _Norm(nn.Module):
    def __init__(self, dim: int, eps: float, bias: bool) -> None:
        super().__init__()
        self.dim, self.eps = dim, eps
        self.weight = nn.Parameter(torch.ones(dim))
        self.bias = nn.Parameter(torch.zeros(dim)) if bias else None

    def reset_parameters(self) -> None:
        """Weight 1, bias 0."""
        nn.init.ones_(self.weight)
        if self.bias is not None:
            nn.init.zeros_(self.bias)

    def extra_repr(self) -> str:
        return f"{self.dim}, eps={self.eps}" + (", bias=True" if self.bias is not None else "")


class LayerNorm(_Norm):
    """LayerNorm over the last dimension, without a bias unless asked for. [..., dim] -> [..., dim]."""

    def __init__(self, dim: int, *, eps: float = 1e-5, bias: bool = False) -> None:
        super().__init__(dim, eps, bias)

    def forward(self, x: Tensor) -> Tensor:
        return F.layer_norm(x, (self.dim,), self.weight.to(x.dtype), _to(self.bias, x.dtype), self.eps).to(x.dtype)


class RMSNorm(_Norm):
    """x / rms(x), times a weight. [..., dim] -> [..., dim]; low-precision input is squared and summed in float32."""

    def __init__(self, dim: int, *, eps: float = 1e-6, bias: bool = False) -> None:
        super().__init__(dim, eps, bias)

    def forward(self, x: Tensor) -> Tensor:
        dtype = torch.promote_types(x.dtype, torch.float32)
        y = F.rms_norm(x.to(dtype), (self.dim,), self.weight.to(dtype), self.eps)
        return (y if self.bias is None else y + self.bias).to(x.dtype)


class HeadNorm(_Norm):
    """LayerNorm inside each head, then one weight vector for all of them. [..., H, D] -> [..., H * D].

    The same numbers as a group norm with one group a head.
    """

    def __init__(self, num_heads: int, head_dim: int, *, eps: float = 1e-5, bias: bool = False) -> None:
        super().__init__(num_heads * head_dim, eps, bias)
        self.num_heads, self.head_dim = num_heads, head_dim

    def forward(self, x: Tensor) -> Tensor:
        y = F.layer_norm(x, (self.head_dim,), None, None, self.eps).to(x.dtype).flatten(-2)
        y = y * self.weight.to(x.dtype)
        return y if self.bias is None else y + self.bias.to(x.dtype)

    def extra_repr(self) -> str:
        return f"num_heads={self.num_heads}, head_dim={self.head_dim}, eps={self.eps}"


def _to(x: Tensor | None, dtype: torch.dtype) -> Tensor | None:
    return None if x is None else x.to(dtype)
