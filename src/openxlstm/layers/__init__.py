"""Parameters and their start values around the recurrences of `ops`: residual blocks, by name in BLOCKS."""

from torch import nn

from openxlstm.layers.attention import AttentionBlock
from openxlstm.layers.conv import CausalConv1d
from openxlstm.layers.cross_attention import CrossAttention
from openxlstm.layers.dropout import Dropout
from openxlstm.layers.feedforward import GatedFeedForward
from openxlstm.layers.headwise import HeadwiseLinear
from openxlstm.layers.lstm import LSTMBlock, LSTMPlainBlock, LSTMResidualBlock
from openxlstm.layers.mlstm import MLSTMBlock
from openxlstm.layers.mlstm_large import MLSTMLargeBlock
from openxlstm.layers.norm import HeadNorm, LayerNorm, RMSNorm
from openxlstm.layers.slstm import SLSTMBlock
from openxlstm.layers.ssd import SSDBlock

BLOCKS: dict[str, type[nn.Module]] = {
    "mlstm": MLSTMBlock,
    "slstm": SLSTMBlock,
    "mlstm_large": MLSTMLargeBlock,
    "lstm": LSTMBlock,
    "lstm_residual": LSTMResidualBlock,
    "lstm_plain": LSTMPlainBlock,
    "attention": AttentionBlock,
    "ssd": SSDBlock,
}
"""Every block takes (dim, num_heads, *, num_blocks, dropout, norm_eps, ...) and is called as
`y, state = block(x, state=None, *, reset=None, mask=None)`."""

__all__ = [
    "BLOCKS",
    "AttentionBlock",
    "CausalConv1d",
    "CrossAttention",
    "Dropout",
    "GatedFeedForward",
    "HeadNorm",
    "HeadwiseLinear",
    "LSTMBlock",
    "LSTMPlainBlock",
    "LSTMResidualBlock",
    "LayerNorm",
    "MLSTMBlock",
    "MLSTMLargeBlock",
    "RMSNorm",
    "SLSTMBlock",
    "SSDBlock",
]
