"""Normalisation over features. Weights are plain multipliers that start at 1; sums run in float32 or better."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from openxlstm.ops import head_norm


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

    The same numbers as a group norm with one group a head. With `skip` [H * D], `a` and `gate` [..., H * D] it returns
    (norm(x) + skip * a) * activation(gate), which some backends do in the same pass.
    """

    def __init__(self, num_heads: int, head_dim: int, *, eps: float = 1e-5, bias: bool = False) -> None:
        super().__init__(num_heads * head_dim, eps, bias)
        self.num_heads, self.head_dim = num_heads, head_dim

    def forward(
        self,
        x: Tensor,
        *,
        skip: Tensor | None = None,
        a: Tensor | None = None,
        gate: Tensor | None = None,
        activation: str = "silu",
    ) -> Tensor:
        return head_norm(x, self.weight, self.bias, skip=skip, a=a, gate=gate, activation=activation, eps=self.eps)

    def extra_repr(self) -> str:
        return f"num_heads={self.num_heads}, head_dim={self.head_dim}, eps={self.eps}"


def _to(x: Tensor | None, dtype: torch.dtype) -> Tensor | None:
    return None if x is None else x.to(dtype)
