"""PyTorch's own LSTM kernel (and cuDNN's, on a GPU). It makes W x itself, so it serves `lstm_layer`, not `lstm_scan`: fed
with ready-made gates it would multiply them by an identity four times as wide as the state, which costs more than it saves.

cuDNN rounds what it multiplies to TF32 unless `torch.backends.cudnn.allow_tf32` is False, as with every nn.LSTM."""

from typing import Any

import torch
from torch import Tensor

from openxlstm.ops.native import contiguous
from openxlstm.ops.state import LSTMState


def refuses(
    x: Tensor, W: Tensor, R: Tensor, b: Tensor, state: LSTMState, *, reset: Tensor | None, mask: Tensor | None
) -> str | None:
    """It knows one dense head in one dtype, neither resets nor padding, and torch.compile would unroll it."""
    if R.shape[0] != 1:
        return "torch's LSTM has one head"
    if reset is not None or mask is not None:
        return "torch's LSTM knows neither reset nor mask"
    if x.shape[0] == 0 or x.shape[1] == 0:
        return "torch's LSTM needs at least one row and one step"
    if {x.dtype, W.dtype, R.dtype, b.dtype, *(s.dtype for s in state)} not in ({torch.float32}, {torch.float64}):
        return "torch's LSTM would keep its state in a lower precision than float32"
    if torch.is_autocast_enabled(x.device.type):
        return "torch's LSTM would keep its state in the precision of autocast"
    if torch.compiler.is_compiling():
        return "torch.compile unrolls torch's LSTM"
    return None


def run(
    x: Tensor, W: Tensor, R: Tensor, b: Tensor, state: LSTMState, *, reset: Tensor | None, mask: Tensor | None
) -> tuple[Tensor, LSTMState]:
    """x [B, T, I] to h [B, T, 1, D]. torch's gate order i f g o is ours."""
    D = R.shape[1]
    recurrent = R[0].permute(1, 2, 0).reshape(4 * D, D)
    own = (W.reshape(4 * D, -1), recurrent, b.flatten(), torch.zeros_like(b).flatten())
    weights = in_one_piece(*own) if x.is_cuda else contiguous(*own)
    first = tuple(s.transpose(0, 1).contiguous() for s in state)  # [1, B, D] each
    y, h, c = layer(x, first, weights)
    return y[:, :, None], LSTMState(h.transpose(0, 1), c.transpose(0, 1))


def in_one_piece(*weights: Tensor) -> tuple[Tensor, ...]:
    """The same weights as views of one tensor, as cuDNN wants to read them: it would copy others itself, and warn."""
    whole = torch.cat([w.flatten() for w in weights])
    return tuple(part.view(w.shape) for part, w in zip(whole.split([w.numel() for w in weights]), weights, strict=True))


def layer(x: Tensor, first: tuple[Tensor, ...], weights: tuple[Tensor, ...]) -> tuple[Tensor, Tensor, Tensor]:
    """y [B, T, D], and h and c [1, B, D]. cuDNN refuses very long sequences (65,536 steps on an H100): those in halves."""
    kernel: Any = torch._VF.lstm  # type: ignore[attr-defined]
    train = torch.is_grad_enabled()  # cuDNN keeps what its backward needs only when told
    try:
        return kernel(x, first, weights, True, 1, 0.0, train, False, True)  # type: ignore[no-any-return]
    except RuntimeError as error:
        if "CUDNN_STATUS_NOT_SUPPORTED" not in str(error) or x.shape[1] == 1:
            raise
    half = x.shape[1] // 2
    y, *between = layer(x[:, :half].contiguous(), first, weights)
    rest, h, c = layer(x[:, half:].contiguous(), tuple(between), weights)
    return torch.cat([y, rest], 1), h, c
