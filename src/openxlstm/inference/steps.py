"""One token through each kind of block on a GPU: torch's matrix products, and between them the kernels of `triton.py`.

A step is called with x [n, dim], one row a stream, and the slots [n] of the streams' memories, negative for rows that only
fill up the batch. It launches the same work whatever the numbers are and looks at none, so that a CUDA graph can hold it."""

from collections.abc import Callable
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from openxlstm.inference.memory import StateMemory
from openxlstm.layers import GatedFeedForward, LayerNorm, MLSTMBlock, MLSTMLargeBlock, RMSNorm, SLSTMBlock
from openxlstm.layers.mlstm import MLSTMBlockState
from openxlstm.layers.mlstm_large import MLSTMLargeBlockState
from openxlstm.layers.slstm import SLSTMBlockState
from openxlstm.models.language import LanguageModel
from openxlstm.ops.headwise import block_diagonal
from openxlstm.ops.numerics import soft_cap
from openxlstm.ops.state import empty_mlstm_state, empty_slstm_state, map_state


class Step(Protocol):
    """A block and the memories of its streams."""

    memory: StateMemory

    def __call__(self, x: Tensor, slots: Tensor) -> Tensor: ...


class MLSTMStep:
    """See MLSTMBlock."""

    def __init__(self, block: MLSTMBlock, slots: int) -> None:
        H, D, like = block.num_heads, block.inner // block.num_heads, block.up.weight
        conv = None if block.conv is None else like.new_zeros(slots, block.conv.weight.shape[1] - 1, block.inner)
        self.conv, self.cell = conv, empty_mlstm_state(slots, H, D, D, device=like.device)
        self.memory = StateMemory(MLSTMBlockState(conv, self.cell))
        self.block, self.maps = block, tuple(m.weight.detach() for m in (block.q, block.k, block.v))
        self.W_if, self.b_if = block.gates.weight.detach().float(), block.gates.bias.detach().float()

    def __call__(self, x: Tensor, slots: Tensor) -> Tensor:
        from openxlstm.inference import triton

        block = self.block
        u, z = F.linear(norm(x, block.norm), block.up.weight).chunk(2, -1)
        taps, bias = (None, None) if block.conv is None else (block.conv.weight, block.conv.bias)
        if self.maps[0].shape[1] <= triton.MAX_BLOCK:
            a, qkv = triton.convolve_and_map(u, taps, bias, self.conv, slots, self.maps)
        else:
            a = u if taps is None or self.conv is None else triton.convolve(u, taps, bias, self.conv, slots)
            qkv = torch.cat([block_diagonal(each, M) for each, M in zip((a, a, u), self.maps, strict=True)], -1)
        q, k, v = qkv.chunk(3, -1)
        h = triton.mlstm(
            q, k, v, F.linear(qkv.float(), self.W_if, self.b_if), slots, *self.cell, weight=block.head_norm.weight,
            bias=block.head_norm.bias, skip=block.skip, a=a, gate=z, activation="silu", cap=block.gate_soft_cap,
            sigmoid_input=block.input_gate == "sigmoid", normalize=True, eps=CELL_EPS, norm_eps=block.head_norm.eps,
        )  # fmt: skip
        return add_linear(x, h, block.down)


class MLSTMLargeStep:
    """See MLSTMLargeBlock."""

    def __init__(self, block: MLSTMLargeBlock, slots: int) -> None:
        H = block.num_heads
        self.cell = empty_mlstm_state(slots, H, block.qk_dim // H, block.v_dim // H, device=block.out.weight.device)
        self.memory = StateMemory(MLSTMLargeBlockState(self.cell))
        self.block = block
        self.W_if, self.b_if = block.gates.weight.detach().float(), block.gates.bias.detach().float()

    def __call__(self, x: Tensor, slots: Tensor) -> Tensor:
        from openxlstm.inference import triton

        block = self.block
        u = norm(x, block.norm)
        q, k, v, o = block.qkvo(u).split((block.qk_dim, block.qk_dim, block.v_dim, block.v_dim), -1)
        h = triton.mlstm(
            q, k, v, F.linear(u.float(), self.W_if, self.b_if), slots, *self.cell, weight=block.head_norm.weight,
            bias=block.head_norm.bias, skip=None, a=None, gate=o, activation="sigmoid", cap=block.gate_soft_cap,
            sigmoid_input=block.input_gate == "sigmoid", normalize=block.normalize, eps=block.cell_eps,
            norm_eps=block.head_norm.eps,
        )  # fmt: skip
        x = add_linear(x, h, block.out)
        return feed_forward(x, block.ffn_norm, block.ffn)


class SLSTMStep:
    """See SLSTMBlock."""

    def __init__(self, block: SLSTMBlock, slots: int) -> None:
        H, D, like = block.num_heads, block.dim // block.num_heads, block.W
        conv = None if block.conv is None else like.new_zeros(slots, block.conv.weight.shape[1] - 1, block.dim)
        empty = empty_slstm_state(slots, H, D, device=like.device)
        self.conv, self.cell = conv, map_state(torch.clone, empty)  # h, c and n share their zeros
        self.memory = StateMemory(SLSTMBlockState(conv, self.cell))
        self.block = block
        W = block.W.detach().permute(1, 3, 0, 2)  # [H, from, gate, to]
        self.W_if, self.W_zo = (part.reshape(H, D, 2 * D) for part in W.split(2, 2))
        self.R = block.R.detach().float().reshape(H, D, 4 * D)

    def __call__(self, x: Tensor, slots: Tensor) -> Tensor:
        from openxlstm.inference import triton

        block, n = self.block, len(x)
        u = norm(x, block.norm)
        a = u
        if block.conv is not None and self.conv is not None:
            a = triton.convolve(u, block.conv.weight, block.conv.bias, self.conv, slots)
        heads = (n, block.num_heads, -1)
        before = self.cell.h.index_select(0, slots.clamp(min=0))  # [n, H, D]
        fed = [
            torch.bmm(source.view(heads).transpose(0, 1), M)  # [H, n, gates * D]
            for source, M in ((a, self.W_if), (u, self.W_zo), (before, self.R))
        ]
        x = triton.slstm(
            (fed[0], fed[1], fed[2]), block.b, slots, *self.cell, x, weight=block.head_norm.weight, bias=block.head_norm.bias,
            exp_forget=block.forget_gate == "exp", norm_eps=block.head_norm.eps,
        )  # fmt: skip
        return feed_forward(x, block.ffn_norm, block.ffn)


STEPS: dict[type[nn.Module], Callable[[Any, int], Step]] = {
    MLSTMBlock: MLSTMStep,
    MLSTMLargeBlock: MLSTMLargeStep,
    SLSTMBlock: SLSTMStep,
}
"""What each kind of block becomes."""

CELL_EPS = 1e-6
"""The default of `mlstm_scan`, which MLSTMBlock does not set."""


def read_token(model: LanguageModel, steps: list[Step], ids: Tensor, slots: Tensor) -> Tensor:
    """ids [n] -> logits [n, vocab_size] in float32."""
    x = F.embedding(ids, model.embedding.weight)
    for step in steps:
        x = step(x, slots)
    if not isinstance(model.stack.norm, nn.Identity):
        x = norm(x, model.stack.norm)
    return soft_cap(F.linear(x, model.head_weight).float(), model.config.logit_soft_cap)


def norm(x: Tensor, module: nn.Module) -> Tensor:
    """LayerNorm or RMSNorm."""
    from openxlstm.inference import triton

    assert isinstance(module, (LayerNorm, RMSNorm))
    return triton.norm(x, module.weight, module.bias, eps=module.eps, rms=isinstance(module, RMSNorm))


def feed_forward(x: Tensor, module: nn.Module, ffn: GatedFeedForward) -> Tensor:
    """x + FFN(norm(x))."""
    from openxlstm.inference import triton

    return add_linear(x, triton.gated(ffn.up(norm(x, module)), ffn.activation), ffn.down)


def add_linear(x: Tensor, h: Tensor, linear: nn.Linear) -> Tensor:
    """x + linear(h), one kernel where there is no bias."""
    x = torch.addmm(x, h, linear.weight.T)
    return x if linear.bias is None else x + linear.bias
