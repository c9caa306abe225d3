"""The mLSTM block of the xLSTM paper: pre up-projection (arXiv 2405.04517, fig. 11)."""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from openxlstm.layers.conv import CausalConv1d
from openxlstm.layers.dropout import Dropout
from openxlstm.layers.gates import ScalarGates
from openxlstm.layers.heads import head_width
from openxlstm.layers.headwise import HeadwiseLinear
from openxlstm.layers.init import linspace_init, small_init, wang_init
from openxlstm.layers.norm import HeadNorm, LayerNorm
from openxlstm.ops import MLSTMState, mlstm_scan, qkv_gates
from openxlstm.ops.numerics import soft_cap


class MLSTMBlockState(NamedTuple):
    """What an MLSTMBlock remembers."""

    conv: Tensor | None  # [B, W - 1, inner]  last inputs of the convolution
    cell: MLSTMState


class MLSTMBlock(nn.Module):
    """x + down((HeadNorm(mLSTM(q, k, v)) + skip * a) * silu(z)), where (u, z) = up(LayerNorm(x)) and a = silu(conv(u)).

    q and k are block-diagonal maps of a, v of u; the scalar gates of a head read q, k and v of all heads.

    dim: model width. num_heads: heads of the cell. num_blocks: blocks of the stack (scales the start of `down`).
    projection_factor: inner width / dim. conv_width: steps the convolution sees; 0 leaves it and its SiLU out.
    qkv_block_size: width of the blocks of q, k and v. gate_soft_cap: bound of the gate pre-activations, or None.
    input_gate: "exp" or "sigmoid". input_gate_mode, forget_gate_mode: what of a gate is learned, weights and bias
    ("learned"), the "bias" alone, or nothing ("fixed", and "one" for a forget gate of 1; see ScalarGates). dropout: on the
    residual branch. backend, chunk_size: as `ops.mlstm_scan`.

    Differs from the paper's figure as the published code does: the output gate is silu(z). Raises ValueError for widths
    that do not divide and for an unknown mode.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int = 4,
        *,
        num_blocks: int = 1,
        projection_factor: float = 2.0,
        conv_width: int = 4,
        qkv_block_size: int = 4,
        gate_soft_cap: float | None = None,
        input_gate: str = "exp",
        input_gate_mode: str = "learned",
        forget_gate_mode: str = "learned",
        dropout: float = 0.0,
        norm_eps: float = 1e-5,
        backend: str = "auto",
        chunk_size: int | None = None,
    ) -> None:
        super().__init__()
        inner = round(projection_factor * dim)
        head_dim = head_width(inner, num_heads, "projection_factor * dim")
        if qkv_block_size < 1 or inner % qkv_block_size:
            raise ValueError(f"projection_factor * dim={inner} is not divisible by {qkv_block_size=}")
        self.dim, self.inner, self.num_heads, self.num_blocks = dim, inner, num_heads, num_blocks
        self.gate_soft_cap, self.input_gate = gate_soft_cap, input_gate
        self.backend, self.chunk_size = backend, chunk_size
        self.norm = LayerNorm(dim, eps=norm_eps)
        self.up = nn.Linear(dim, 2 * inner, bias=False)  # u, then z
        self.conv = CausalConv1d(inner, conv_width, activation="silu") if conv_width else None
        self.q, self.k, self.v = (HeadwiseLinear(inner, inner // qkv_block_size) for _ in range(3))
        self.gates: nn.Linear | ScalarGates  # reads q, k, v; input gates, then forget gates
        if input_gate_mode == forget_gate_mode == "learned":
            self.gates = nn.Linear(3 * inner, 2 * num_heads)
        else:
            self.gates = ScalarGates(3 * inner, num_heads, input_gate=input_gate_mode, forget_gate=forget_gate_mode)
        self.head_norm = HeadNorm(num_heads, head_dim, eps=norm_eps)
        self.skip = nn.Parameter(torch.ones(inner))
        self.down = nn.Linear(inner, dim, bias=False)
        self.dropout = Dropout(dropout)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """small_init for up, q, k, v; wang_init for down; gates read nothing, i bias N(0, 0.1), f bias 3..6; skip 1."""
        H = self.num_heads
        if self.conv is not None:
            self.conv.reset_parameters()
        self.norm.reset_parameters()
        self.head_norm.reset_parameters()
        for weight in (self.up.weight, self.q.weight, self.k.weight, self.v.weight):
            small_init(weight, self.dim)
        wang_init(self.down.weight, self.dim, self.num_blocks)
        if isinstance(self.gates, ScalarGates):
            self.gates.reset_parameters()
        else:
            nn.init.zeros_(self.gates.weight)
            nn.init.normal_(self.gates.bias[:H], std=0.1)
            linspace_init(self.gates.bias[H:], 3.0, 6.0)
        nn.init.ones_(self.skip)

    def forward(
        self,
        x: Tensor,
        state: MLSTMBlockState | None = None,
        *,
        reset: Tensor | None = None,
        mask: Tensor | None = None,
    ) -> tuple[Tensor, MLSTMBlockState]:
        """x [B, T, dim] -> y [B, T, dim] and the state. reset, mask: [B, T] bool (see `ops`)."""
        conv_state, cell = state if state is not None else (None, None)
        u, z = self.up(self.norm(x)).chunk(2, -1)  # [B, T, inner] each
        taps, tap_bias = (self.conv.weight, self.conv.bias) if self.conv is not None else (None, None)
        # a = silu(conv(u)); q, k = block-diagonal maps of a, v of u; pre = W_if [q; k; v] + b_if
        a, q, k, v, pre, conv_state = qkv_gates(
            u,
            taps,
            tap_bias,
            self.q.weight,
            self.k.weight,
            self.v.weight,
            self.gates.weight,
            self.gates.bias,
            conv_state,
            reset=reset,
            mask=mask,
        )
        i_pre, f_pre = soft_cap(pre, self.gate_soft_cap).chunk(2, -1)  # [B, T, H] each
        heads = (self.num_heads, -1)
        h, cell = mlstm_scan(
            q.unflatten(-1, heads),
            k.unflatten(-1, heads),
            v.unflatten(-1, heads),
            i_pre,
            f_pre,
            cell,
            reset=reset,
            mask=mask,
            input_gate=self.input_gate,
            backend=self.backend,
            chunk_size=self.chunk_size,
        )
        h = self.head_norm(h, skip=self.skip, a=a, gate=z, activation="silu")  # (norm(h) + skip * a) * silu(z)
        return x + self.dropout(self.down(h)), MLSTMBlockState(conv_state, cell)

    def extra_repr(self) -> str:
        return f"dim={self.dim}, num_heads={self.num_heads}, gate_soft_cap={self.gate_soft_cap}, input_gate={self.input_gate}"
