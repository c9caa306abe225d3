"""Attention of a decoder to what an encoder wrote."""

from typing import NamedTuple

import torch.nn.functional as F
from torch import Tensor, nn

from openxlstm.layers.dropout import Dropout
from openxlstm.layers.init import small_init, wang_init
from openxlstm.layers.norm import RMSNorm


class AttentionMemory(NamedTuple):
    """Keys and values of the S steps of an encoder, made once for all steps of the decoder."""

    k: Tensor  # [B, S, H, D]
    v: Tensor  # [B, S, H, D]


class CrossAttention(nn.Module):
    """x + out(Attention(RMSNorm(x), memory)): a residual branch that looks at every step of an encoder (arXiv 1706.03762,
    sec. 3.2.3). No positions of its own, no biases.

    dim: model width. num_heads: heads. num_blocks: blocks of the decoder (scales the start of what writes). dropout: on the
    branch. Raises ValueError for widths that do not divide.
    """

    def __init__(
        self, dim: int, num_heads: int = 4, *, num_blocks: int = 1, dropout: float = 0.0, norm_eps: float = 1e-6
    ) -> None:
        super().__init__()
        if dim % num_heads:
            raise ValueError(f"dim={dim} is not divisible by num_heads={num_heads}")
        self.dim, self.num_heads, self.num_blocks = dim, num_heads, num_blocks
        self.norm = RMSNorm(dim, eps=norm_eps)
        self.q = nn.Linear(dim, dim, bias=False)
        self.kv = nn.Linear(dim, 2 * dim, bias=False)
        self.out = nn.Linear(dim, dim, bias=False)
        self.dropout = Dropout(dropout)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """small_init for what reads, wang_init for what writes to the residual stream."""
        self.norm.reset_parameters()
        small_init(self.q.weight, self.dim)
        small_init(self.kv.weight, self.dim)
        wang_init(self.out.weight, self.dim, self.num_blocks)

    def memory(self, encoded: Tensor) -> AttentionMemory:
        """encoded [B, S, dim] as keys and values."""
        k, v = self.kv(encoded).unflatten(-1, (2, self.num_heads, -1)).unbind(2)
        return AttentionMemory(k, v)

    def forward(self, x: Tensor, memory: AttentionMemory, mask: Tensor | None = None) -> Tensor:
        """x [B, T, dim] -> [B, T, dim]. mask: [B, S] bool, False = padding of the memory; at least one step a row is none."""
        q = self.q(self.norm(x)).unflatten(-1, (self.num_heads, -1))  # [B, T, H, D]
        visible = None if mask is None else mask[:, None, None, :]
        h = F.scaled_dot_product_attention(
            q.transpose(1, 2), memory.k.transpose(1, 2), memory.v.transpose(1, 2), attn_mask=visible
        )
        return x + self.dropout(self.out(h.transpose(1, 2).flatten(2)))

    def extra_repr(self) -> str:
        return f"dim={self.dim}, num_heads={self.num_heads}"
