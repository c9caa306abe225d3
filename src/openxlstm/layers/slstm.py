"""The sLSTM block of the xLSTM paper: post up-projection (arXiv 2405.04517, fig. 10)."""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from openxlstm.layers.conv import CausalConv1d
from openxlstm.layers.dropout import Dropout
from openxlstm.layers.feedforward import GatedFeedForward
from openxlstm.layers.heads import head_width
from openxlstm.layers.init import power_law_init, small_init
from openxlstm.layers.norm import HeadNorm, LayerNorm
from openxlstm.ops import SLSTMState, slstm_scan
from openxlstm.ops.headwise import head_gates


class SLSTMBlockState(NamedTuple):
    """What an SLSTMBlock remembers."""

    conv: Tensor | None  # [B, W - 1, dim]  last inputs of the convolution
    cell: SLSTMState


class SLSTMBlock(nn.Module):
    """u = x + HeadNorm(sLSTM(LayerNorm(x))), then u + FFN(LayerNorm(u)).

    Gates read their own head only (block-diagonal W and R). The input and forget gates see the convolved input, the cell
    input z and the output gate the plain one.

    dim: model width. num_heads: heads of the cell. num_blocks, block_index: blocks of the stack and the place of this one
    (start of the FFN and of the forget bias). conv_width: steps the convolution sees; 0 leaves it and its SiLU out.
    ffn_factor: hidden width / dim, rounded up to a multiple of ffn_multiple. forget_gate: "sigmoid" (as the published code)
    or "exp". recurrent_init: R starts as "zeros" (as in the published code) or "normal", N(0, 1 / sqrt(D)), as in the paper's
    formal-language runs. dropout: on the residual branches. backend: as `ops.slstm_scan`. Raises ValueError for widths that do
    not divide and for an unknown recurrent_init.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int = 4,
        *,
        num_blocks: int = 1,
        block_index: int = 0,
        conv_width: int = 4,
        ffn_factor: float = 1.3,
        ffn_multiple: int = 64,
        forget_gate: str = "sigmoid",
        recurrent_init: str = "zeros",
        dropout: float = 0.0,
        norm_eps: float = 1e-5,
        backend: str = "auto",
    ) -> None:
        super().__init__()
        if recurrent_init not in ("zeros", "normal"):
            raise ValueError(f"recurrent_init must be zeros or normal, got {recurrent_init!r}")
        D = head_width(dim, num_heads)
        self.dim, self.num_heads, self.num_blocks, self.block_index = dim, num_heads, num_blocks, block_index
        self.forget_gate, self.recurrent_init, self.backend = forget_gate, recurrent_init, backend
        self.norm = LayerNorm(dim, eps=norm_eps)
        self.conv = CausalConv1d(dim, conv_width, activation="silu") if conv_width else None
        self.W = nn.Parameter(torch.empty(4, num_heads, D, D))  # gate i f z o, head, to, from
        self.R = nn.Parameter(torch.empty(num_heads, D, 4, D))  # head, from, gate, to
        self.b = nn.Parameter(torch.empty(4, num_heads, D))
        self.head_norm = HeadNorm(num_heads, D, eps=norm_eps)
        self.ffn_norm = LayerNorm(dim, eps=norm_eps)
        self.ffn = GatedFeedForward(dim, ffn_factor, activation="gelu", num_blocks=num_blocks, multiple_of=ffn_multiple)
        self.dropout = Dropout(dropout)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """small_init for W, R by recurrent_init, forget bias by the power law of the place in the stack, other biases zero."""
        if self.conv is not None:
            self.conv.reset_parameters()
        for part in (self.norm, self.head_norm, self.ffn_norm, self.ffn):
            part.reset_parameters()
        small_init(self.W, self.dim)
        if self.recurrent_init == "normal":
            nn.init.normal_(self.R, std=self.R.shape[1] ** -0.5)
        else:
            nn.init.zeros_(self.R)
        nn.init.zeros_(self.b)
        power_law_init(self.b[1], self.block_index, self.num_blocks, forget_gate=self.forget_gate)

    def forward(
        self,
        x: Tensor,
        state: SLSTMBlockState | None = None,
        *,
        reset: Tensor | None = None,
        mask: Tensor | None = None,
    ) -> tuple[Tensor, SLSTMBlockState]:
        """x [B, T, dim] -> y [B, T, dim] and the state. reset, mask: [B, T] bool (see `ops`)."""
        conv_state, cell = state if state is not None else (None, None)
        u = self.norm(x)
        a = u
        if self.conv is not None:
            a, conv_state = self.conv(u, conv_state, reset=reset, mask=mask)
        if a is u:
            gates = head_gates(u, self.W)
        else:
            gates = torch.cat([head_gates(a, self.W[:2]), head_gates(u, self.W[2:])], 2)
        h, cell = slstm_scan(
            gates, self.R, self.b, cell, reset=reset, mask=mask, forget_gate=self.forget_gate, backend=self.backend
        )
        x = x + self.dropout(self.head_norm(h))
        x = x + self.dropout(self.ffn(self.ffn_norm(x)))
        return x, SLSTMBlockState(conv_state, cell)

    def extra_repr(self) -> str:
        return f"dim={self.dim}, num_heads={self.num_heads}, forget_gate={self.forget_gate}"
