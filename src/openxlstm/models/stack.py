"""A stack of residual blocks and the norm after it."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from openxlstm.errors import UserError
from openxlstm.layers import BLOCKS, LayerNorm, RMSNorm
from openxlstm.models.config import StackConfig
from openxlstm.ops.numerics import clear_padding

StackState = tuple[Any, ...]
"""One state per block."""


def block_options(config: StackConfig, kind: str, index: int) -> dict[str, Any]:
    """The constructor arguments of block `index`, which is a `kind`."""
    common: dict[str, Any] = dict(
        dim=config.dim, num_heads=config.num_heads, num_blocks=config.num_blocks, dropout=config.dropout
    )
    if config.norm_eps is not None:
        common["norm_eps"] = config.norm_eps
    ffn: dict[str, Any] = dict(ffn_multiple=config.ffn_multiple)
    if config.ffn_factor is not None:
        ffn["ffn_factor"] = config.ffn_factor
    cap = {} if config.gate_soft_cap is None else {"gate_soft_cap": config.gate_soft_cap or None}
    match kind:
        case "mlstm":
            return common | cap | dict(
                projection_factor=config.projection_factor,
                conv_width=config.conv_width,
                qkv_block_size=config.qkv_block_size,
                input_gate=config.input_gate,
                input_gate_mode=config.input_gate_mode,
                forget_gate_mode=config.forget_gate_mode,
                backend=config.backend,
                chunk_size=config.chunk_size,
            )  # fmt: skip
        case "slstm":
            return common | ffn | dict(
                num_heads=config.num_heads if config.slstm_num_heads is None else config.slstm_num_heads,
                block_index=index,
                conv_width=config.conv_width if config.slstm_conv_width is None else config.slstm_conv_width,
                forget_gate=config.forget_gate,
                recurrent_init=config.recurrent_init,
                backend=config.backend,
            )  # fmt: skip
        case "mlstm_large":
            eps = {} if config.cell_eps is None else {"cell_eps": config.cell_eps}
            return common | ffn | cap | eps | dict(
                qk_factor=config.qk_factor,
                v_factor=config.v_factor,
                bias=config.bias,
                input_gate=config.input_gate,
                normalize=config.normalize,
                backend=config.backend,
                chunk_size=config.chunk_size,
            )  # fmt: skip
        case "lstm":
            return common | ffn | dict(num_heads=config.lstm_num_heads, backend=config.backend)
        case "lstm_residual" | "lstm_plain":
            return common | dict(num_heads=config.lstm_num_heads, backend=config.backend)
        case "attention":
            return common | ffn | dict(rope_base=config.rope_base)
        case "ssd":
            return common | dict(
                num_heads=config.num_heads if config.ssd_num_heads is None else config.ssd_num_heads,
                projection_factor=config.projection_factor,
                state_dim=config.ssd_state_dim,
                conv_width=config.conv_width,
                backend=config.backend,
                chunk_size=config.chunk_size,
            )  # fmt: skip
    raise UserError(f"unknown block {kind!r}; have {', '.join(BLOCKS)}")


def final_norm(config: StackConfig) -> nn.Module:
    """The norm after the last block."""
    if config.norm == "none":
        return nn.Identity()
    kind = LayerNorm if config.norm == "layer" else RMSNorm
    return kind(config.dim, eps=config.final_norm_eps, bias=config.norm_bias)


class BlockStack(nn.Module):
    """Blocks one after another, then the final norm.

    forward(x [B, T, D], state=None, *, reset=None, mask=None) -> (y [B, T, D], state); the state is a tuple with one entry
    per block. With `checkpoint_activations`, training keeps only each block's input and state and computes the rest again.
    """

    def __init__(self, config: StackConfig) -> None:
        super().__init__()
        self.config = config
        self.blocks = nn.ModuleList(BLOCKS[kind](**block_options(config, kind, i)) for i, kind in enumerate(config.blocks))
        self.norm = final_norm(config)

    def forward(
        self, x: Tensor, state: StackState | None = None, *, reset: Tensor | None = None, mask: Tensor | None = None
    ) -> tuple[Tensor, StackState]:
        """x: [B, T, D]. Returns y [B, T, D] and one state per block. Raises ValueError for a state of another stack."""
        if state is None:
            state = (None,) * len(self.blocks)
        if len(state) != len(self.blocks):
            raise ValueError(f"the state has {len(state)} entries, the stack {len(self.blocks)} blocks")
        x = clear_padding(x, mask)
        remember = self.config.checkpoint_activations and self.training and torch.is_grad_enabled()
        states = []
        for block, block_state in zip(self.blocks, state, strict=True):
            if remember:
                x, new = checkpoint(block, x, block_state, reset=reset, mask=mask, use_reentrant=False)
            else:
                x, new = block(x, block_state, reset=reset, mask=mask)
            states.append(new)
        return self.norm(x), tuple(states)
