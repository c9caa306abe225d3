"""The Transformer block of Llama, whose state is the cache of keys and values: the comparison model, and for hybrids."""

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from openxlstm.layers.dropout import Dropout
from openxlstm.layers.feedforward import GatedFeedForward
from openxlstm.layers.init import small_init, wang_init
from openxlstm.layers.norm import RMSNorm
from openxlstm.layers.rope import rope_table, rotate


class AttentionState(NamedTuple):
    """Keys and values of all S steps seen so far. It grows with every step; empty values are 0 and False."""

    k: Tensor  # [B, S, H, D]  rotated
    v: Tensor  # [B, S, H, D]
    alive: Tensor  # [B, S] bool  valid and not before the last reset
    position: Tensor  # [B] int64  valid steps since the last reset


class AttentionBlock(nn.Module):
    """u = x + out(Attention(RMSNorm(x))), then u + SwiGLU(RMSNorm(u)); causal, rotary positions, no biases.

    A reset hides all earlier keys and starts the positions at 0; padding is not counted and not seen.
    dim: model width. num_heads: heads. num_blocks: blocks of the stack (scales the start of what writes). ffn_factor: hidden
    width / dim, rounded up to a multiple of ffn_multiple. rope_base: base of the rotary frequencies. dropout: on the residual
    branches. causal: False lets every step see all others, as in an encoder, which reads whole sequences: no state, no reset.
    Raises ValueError for widths that do not divide.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int = 4,
        *,
        num_blocks: int = 1,
        ffn_factor: float = 2.667,
        ffn_multiple: int = 64,
        rope_base: float = 10000.0,
        dropout: float = 0.0,
        norm_eps: float = 1e-6,
        causal: bool = True,
    ) -> None:
        super().__init__()
        if dim % (2 * num_heads):
            raise ValueError(f"dim={dim} is not divisible by 2 * num_heads={2 * num_heads} (rotary positions turn pairs)")
        self.dim, self.num_heads, self.num_blocks, self.rope_base = dim, num_heads, num_blocks, rope_base
        self.causal = causal
        self.norm = RMSNorm(dim, eps=norm_eps)
        self.qkv = nn.Linear(dim, 3 * dim, bias=False)
        self.out = nn.Linear(dim, dim, bias=False)
        self.ffn_norm = RMSNorm(dim, eps=norm_eps)
        self.ffn = GatedFeedForward(dim, ffn_factor, activation="silu", num_blocks=num_blocks, multiple_of=ffn_multiple)
        self.dropout = Dropout(dropout)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """small_init for what reads the residual stream, wang_init for what writes to it."""
        for part in (self.norm, self.ffn_norm, self.ffn):
            part.reset_parameters()
        small_init(self.qkv.weight, self.dim)
        wang_init(self.out.weight, self.dim, self.num_blocks)

    def forward(
        self,
        x: Tensor,
        state: AttentionState | None = None,
        *,
        reset: Tensor | None = None,
        mask: Tensor | None = None,
    ) -> tuple[Tensor, AttentionState]:
        """x [B, T, dim] -> y [B, T, dim] and the state. reset, mask: [B, T] bool (see `ops`)."""
        if not self.causal and (state is not None or reset is not None):
            raise ValueError("attention to both sides reads whole sequences: it takes no state and no reset")
        B, T, _ = x.shape
        qkv = self.qkv(self.norm(x)).view(B, T, 3, self.num_heads, self.dim // self.num_heads)
        q, k, v = qkv.unbind(2)  # [B, T, H, D]
        if state is None and reset is None and mask is None:
            position = torch.arange(T, device=x.device)  # [T]
            total = position.new_full((B,), T)
            alive = torch.ones(B, T, dtype=torch.bool, device=x.device)
            visible = None
        else:
            position, total = positions(B, T, state.position if state is not None else None, reset, mask, x.device)
            visible, alive = visibility(B, T, state.alive if state is not None else None, reset, mask, x.device)
            if not self.causal:
                visible = visible | alive[:, None, None, :]  # [B, 1, T, T]
        table = rope_table(position, q.shape[-1], self.rope_base, torch.promote_types(q.dtype, torch.float32))
        q, k = rotate(q, table), rotate(k, table)
        if state is not None:
            k, v = torch.cat([state.k.to(k.dtype), k], 1), torch.cat([state.v.to(v.dtype), v], 1)
        causal = self.causal and visible is None
        h = F.scaled_dot_product_attention(
            q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2), attn_mask=visible, is_causal=causal
        )
        x = x + self.dropout(self.out(h.transpose(1, 2).flatten(2)))
        x = x + self.dropout(self.ffn(self.ffn_norm(x)))
        return x, AttentionState(k, v, alive, total)

    def extra_repr(self) -> str:
        causal = "" if self.causal else ", causal=False"
        return f"dim={self.dim}, num_heads={self.num_heads}, rope_base={self.rope_base}{causal}"


def keep_recent(state: Any, steps: int) -> Any:
    """The same states with every key-value cache cut to its last `steps` steps, as Transformer-XL does between windows of
    training; states of constant size are left as they are."""
    if isinstance(state, AttentionState):
        first = max(state.k.shape[1] - steps, 0)
        return AttentionState(state.k[:, first:], state.v[:, first:], state.alive[:, first:], state.position)
    if type(state) in (tuple, list):
        return type(state)(keep_recent(child, steps) for child in state)
    return state


def positions(
    B: int, T: int, start: Tensor | None, reset: Tensor | None, mask: Tensor | None, device: torch.device
) -> tuple[Tensor, Tensor]:
    """Valid steps since the last reset: before each step [B, T], and after the last one [B]."""
    start = start[:, None] if start is not None else torch.zeros(B, 1, dtype=torch.long, device=device)
    valid = mask.long() if mask is not None else torch.ones(B, T, dtype=torch.long, device=device)
    count = torch.cat([start, start + valid.cumsum(1)], 1)  # [B, T + 1] valid steps before each, never falling
    position, total = count[:, :-1], count[:, -1]
    if reset is None or T == 0:
        return position, total
    base = torch.where(reset, position, 0).cummax(1).values  # the count at the last reset
    return position - base, total - base[:, -1]


def visibility(
    B: int, T: int, cached: Tensor | None, reset: Tensor | None, mask: Tensor | None, device: torch.device
) -> tuple[Tensor, Tensor]:
    """Who sees whom [B, 1, T, S + T] bool, and which of the S + T keys the steps to come may see [B, S + T] bool."""
    valid = mask if mask is not None else torch.ones(B, T, dtype=torch.bool, device=device)
    cached = cached if cached is not None else valid.new_zeros(B, 0)
    document = reset.cumsum(1) if reset is not None else torch.zeros(B, T, dtype=torch.long, device=device)
    last = document[:, -1:] if T else document.new_zeros(B, 1)
    causal = torch.ones(T, T, dtype=torch.bool, device=device).tril()
    new = causal & valid[:, None, :] & (document[:, :, None] == document[:, None, :])
    new = new | torch.eye(T, dtype=torch.bool, device=device)  # padding sees itself: a row without any key would be NaN
    old = cached[:, None, :] & (document == 0)[:, :, None]  # [B, T, S]
    alive = torch.cat([cached & (last == 0), valid & (document == last)], 1)
    return torch.cat([old, new], 2)[:, None], alive
