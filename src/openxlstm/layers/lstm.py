"""The classic LSTM in the place of the sLSTM, and with less around it: comparison models of the xLSTM paper."""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from openxlstm.layers.dropout import Dropout
from openxlstm.layers.feedforward import GatedFeedForward
from openxlstm.layers.heads import head_width
from openxlstm.layers.init import small_init
from openxlstm.layers.norm import HeadNorm, LayerNorm
from openxlstm.ops import LSTMState, lstm_layer


class LSTMBlockState(NamedTuple):
    """What an LSTMBlock and its lesser forms remember."""

    cell: LSTMState


class LSTMBlock(nn.Module):
    """u = x + HeadNorm(LSTM(LayerNorm(x))), then u + FFN(LayerNorm(u)): the sLSTM block, with the classic cell and no
    convolution. One head is the dense LSTM, more are block-diagonal.

    Arguments as SLSTMBlock; ffn_factor None leaves the FFN and its norm out, residual False everything but the LSTM: the lower
    rungs of the paper's ablation (arXiv 2405.04517, table 2), which LSTMResidualBlock and LSTMPlainBlock name. Raises
    ValueError for widths that do not divide, and for an FFN without a residual branch.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int = 1,
        *,
        num_blocks: int = 1,
        ffn_factor: float | None = 1.3,
        ffn_multiple: int = 64,
        residual: bool = True,
        dropout: float = 0.0,
        norm_eps: float = 1e-5,
        backend: str = "auto",
    ) -> None:
        super().__init__()
        if ffn_factor is not None and not residual:
            raise ValueError("residual=False is the LSTM alone and takes ffn_factor=None")
        D = head_width(dim, num_heads)
        self.dim, self.num_heads, self.num_blocks, self.backend = dim, num_heads, num_blocks, backend
        self.norm = LayerNorm(dim, eps=norm_eps) if residual else None
        self.W = nn.Parameter(torch.empty(4, num_heads, D, D))  # gate i f z o, head, to, from
        self.R = nn.Parameter(torch.empty(num_heads, D, 4, D))  # head, from, gate, to
        self.b = nn.Parameter(torch.empty(4, num_heads, D))
        self.head_norm = HeadNorm(num_heads, D, eps=norm_eps) if residual else None
        self.ffn_norm = self.ffn = None
        if ffn_factor is not None:
            self.ffn_norm = LayerNorm(dim, eps=norm_eps)
            self.ffn = GatedFeedForward(dim, ffn_factor, activation="gelu", num_blocks=num_blocks, multiple_of=ffn_multiple)
        self.dropout = Dropout(dropout)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """small_init for W, U(+-1 / sqrt(D)) for R as torch.nn.LSTM, forget bias 1 (Jozefowicz et al. 2015), other biases 0."""
        for part in (self.norm, self.head_norm, self.ffn_norm, self.ffn):
            if part is not None:
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
        u = x if self.norm is None else self.norm(x)
        h, cell = lstm_layer(u, self.W, self.R, self.b, cell, reset=reset, mask=mask, backend=self.backend)
        if self.head_norm is None:
            return self.dropout(h.flatten(-2)), LSTMBlockState(cell)
        x = x + self.dropout(self.head_norm(h))
        if self.ffn is not None and self.ffn_norm is not None:
            x = x + self.dropout(self.ffn(self.ffn_norm(x)))
        return x, LSTMBlockState(cell)

    def extra_repr(self) -> str:
        return f"dim={self.dim}, num_heads={self.num_heads}"


class LSTMResidualBlock(LSTMBlock):
    """x + HeadNorm(LSTM(LayerNorm(x))): an LSTMBlock without its FFN. Arguments as there."""

    def __init__(
        self,
        dim: int,
        num_heads: int = 1,
        *,
        num_blocks: int = 1,
        dropout: float = 0.0,
        norm_eps: float = 1e-5,
        backend: str = "auto",
    ) -> None:
        super().__init__(
            dim, num_heads, num_blocks=num_blocks, ffn_factor=None, dropout=dropout, norm_eps=norm_eps, backend=backend
        )


class LSTMPlainBlock(LSTMBlock):
    """LSTM(x), without norm, residual branch and FFN: a layer of a stack as before ResNets. Arguments as LSTMBlock, of which
    num_blocks and norm_eps change nothing."""

    def __init__(
        self,
        dim: int,
        num_heads: int = 1,
        *,
        num_blocks: int = 1,
        dropout: float = 0.0,
        norm_eps: float = 1e-5,
        backend: str = "auto",
    ) -> None:
        super().__init__(
            dim,
            num_heads,
            num_blocks=num_blocks,
            ffn_factor=None,
            residual=False,
            dropout=dropout,
            norm_eps=norm_eps,
            backend=backend,
        )
