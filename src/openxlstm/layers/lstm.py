"""The classic LSTM in the place of the sLSTM: the comparison model of the xLSTM paper."""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from openxlstm.layers.feedforward import GatedFeedForward
from openxlstm.layers.heads import head_width
from openxlstm.layers.init import small_init
from openxlstm.layers.norm import HeadNorm, LayerNorm
from openxlstm.ops import LSTMState, lstm_layer


class LSTMBlockState(NamedTuple):
    """What an LSTMBlock remembers."""

    cell: LSTMState


class LSTMBlock(nn.Module):
    """u = x + HeadNorm(LSTM(LayerNorm(x))), then u + FFN(LayerNorm(u)): the sLSTM block, with the classic cell and no
    convolution. One head is the dense LSTM, more are block-diagonal.

    Arguments as SLSTMBlock. Raises ValueError for widths that do not divide.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int = 1,
        *,
        num_blocks: int = 1,
        ffn_factor: float = 1.3,
        ffn_multiple: int = 64,
        dropout: float = 0.0,
        norm_eps: float = 1e-5,
        backend: str = "auto",
    ) -> None:
        super().__init__()
        D = head_width(dim, num_heads)
        self.dim, self.num_heads, self.num_blocks, self.backend = dim, num_heads, num_blocks, backend
        self.norm = LayerNorm(dim, eps=norm_eps)
        self.W = nn.Parameter(torch.empty(4, num_heads, D, D))  # gate i f z o, head, to, from
        self.R = nn.Parameter(torch.empty(num_heads, D, 4, D))  # head, from, gate, to
        self.b = nn.Parameter(torch.empty(4, num_heads, D))
        self.head_norm = HeadNorm(num_heads, D, eps=norm_eps)
        self.ffn_norm = LayerNorm(dim, eps=norm_eps)
        self.ffn = GatedFeedForward(dim, ffn_factor, activation="gelu", num_blocks=num_blocks, multiple_of=ffn_multiple)
        self.dropout = nn.Dropout(dropout)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """small_init for W, U(+-1 / sqrt(D)) for R as torch.nn.LSTM, forget bias 1 (Jozefowicz et al. 2015), other biases 0."""
        for part in (self.norm, self.head_norm, self.ffn_norm, self.ffn):
            part.reset_parameters()
        small_init(self.W, self.dim)
        bound = self.R.shape[1] ** -0.5
        nn.init.uniform_(self.R, -bound, bound)
        nn.init.zeros_(self.b)
        nn.init.ones_(self.b[1])

    def forward(
        self,
        x: Tensor,
        state: LSTMBlockState | None = None,
        *,
        reset: Tensor | None = None,
        mask: Tensor | None = None,
    ) -> tuple[Tensor, LSTMBlockState]:
        """x [B, T, dim] -> y [B, T, dim] and the state. reset, mask: [B, T] bool (see `ops`)."""
        cell = state.cell if state is not None else None
        h, cell = lstm_layer(self.norm(x), self.W, self.R, self.b, cell, reset=reset, mask=mask, backend=self.backend)
        x = x + self.dropout(self.head_norm(h))
        x = x + self.dropout(self.ffn(self.ffn_norm(x)))
        return x, LSTMBlockState(cell)

    def extra_repr(self) -> str:
        return f"dim={self.dim}, num_heads={self.num_heads}"
