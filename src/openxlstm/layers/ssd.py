"""The block of Mamba-2 (arXiv 2405.21060, fig. 6, right): the comparison model with a state of fixed size."""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from openxlstm.layers.conv import CausalConv1d
from openxlstm.layers.dropout import Dropout
from openxlstm.layers.heads import head_width
from openxlstm.layers.init import log_uniform_softplus_init, small_init, wang_init
from openxlstm.layers.norm import RMSNorm
from openxlstm.ops import MLSTMState
from openxlstm.ops.gates import gate_preactivations
from openxlstm.ops.ssd import ssd_scan


class SSDBlockState(NamedTuple):
    """What an SSDBlock remembers."""

    conv: Tensor | None  # [B, W - 1, inner + 2 K]  last inputs of the convolution
    cell: MLSTMState  # C [B, H, K, V]; its normaliser is not used


class SSDBlock(nn.Module):
    """x + down(RMSNorm((SSD(q, k, v) + D v) * silu(z))), where (z, u) = up(RMSNorm(x)) and (v, k, q) = silu(conv(u)).

    v, k, q are x, B, C of the paper. k and q are shared by the heads (one group); dt reads RMSNorm(x).
    dim: model width. num_heads: heads of the cell. num_blocks: blocks of the stack (scales the start of `down`).
    projection_factor: inner width / dim. state_dim: width K of k and q; None is 128, or the inner width if that is less.
    conv_width: steps the convolution sees; 0 leaves it and its SiLU out. dropout: on the residual branch. backend,
    chunk_size: as `ops.mlstm_scan`.

    What differs from the published code is in docs/math/ssd.md. Raises ValueError for widths that do not divide.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int = 4,
        *,
        num_blocks: int = 1,
        projection_factor: float = 2.0,
        state_dim: int | None = None,
        conv_width: int = 4,
        dropout: float = 0.0,
        norm_eps: float = 1e-5,
        backend: str = "auto",
        chunk_size: int | None = None,
    ) -> None:
        super().__init__()
        inner = round(projection_factor * dim)
        head_width(inner, num_heads, "projection_factor * dim")
        if state_dim is not None and state_dim < 1:
            raise ValueError(f"state_dim must be at least 1, got {state_dim}")
        K = min(128, inner) if state_dim is None else state_dim
        self.dim, self.inner, self.state_dim, self.num_heads, self.num_blocks = dim, inner, K, num_heads, num_blocks
        self.backend, self.chunk_size = backend, chunk_size
        self.norm = RMSNorm(dim, eps=norm_eps)
        self.up = nn.Linear(dim, 2 * inner + 2 * K, bias=False)  # one product: z, then v, k, q
        self.dt = nn.Linear(dim, num_heads)  # apart from `up`, because it is computed in float32
        self.conv = CausalConv1d(inner + 2 * K, conv_width, activation="silu") if conv_width else None
        self.A_log = nn.Parameter(torch.empty(num_heads))
        self.D = nn.Parameter(torch.ones(num_heads))
        self.out_norm = RMSNorm(inner, eps=norm_eps)
        self.down = nn.Linear(inner, dim, bias=False)
        self.dropout = Dropout(dropout)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """small_init for up and dt, wang_init for down; -A uniform in 1..16, dt log-uniform in 0.001..0.1, D 1, as Mamba-2."""
        if self.conv is not None:
            self.conv.reset_parameters()
        for norm in (self.norm, self.out_norm):
            norm.reset_parameters()
        for weight in (self.up.weight, self.dt.weight):
            small_init(weight, self.dim)
        wang_init(self.down.weight, self.dim, self.num_blocks)
        log_uniform_softplus_init(self.dt.bias, 1e-3, 1e-1)
        with torch.no_grad():
            self.A_log.uniform_(1, 16).log_()
        nn.init.ones_(self.D)

    def forward(
        self,
        x: Tensor,
        state: SSDBlockState | None = None,
        *,
        reset: Tensor | None = None,
        mask: Tensor | None = None,
    ) -> tuple[Tensor, SSDBlockState]:
        """x [B, T, dim] -> y [B, T, dim] and the state. reset, mask: [B, T] bool (see `ops`)."""
        conv_state, cell = state if state is not None else (None, None)
        normed = self.norm(x)
        z, u = self.up(normed).split((self.inner, self.inner + 2 * self.state_dim), -1)
        if self.conv is not None:
            u, conv_state = self.conv(u, conv_state, reset=reset, mask=mask)
        v, k, q = u.split((self.inner, self.state_dim, self.state_dim), -1)
        v = v.unflatten(-1, (self.num_heads, -1))  # [B, T, H, V]
        with torch.autocast(x.device.type, enabled=False):
            dt_pre = gate_preactivations((normed,), self.dt.weight, self.dt.bias)  # [B, T, H]
        h, cell = ssd_scan(
            q, k, v, dt_pre, self.A_log, cell, reset=reset, mask=mask, chunk_size=self.chunk_size, backend=self.backend
        )
        y = h + self.D.to(v.dtype)[:, None] * v
        y = self.out_norm(y.flatten(2) * F.silu(z))
        return x + self.dropout(self.down(y)), SSDBlockState(conv_state, cell)

    def extra_repr(self) -> str:
        return f"dim={self.dim}, num_heads={self.num_heads}, state_dim={self.state_dim}"
