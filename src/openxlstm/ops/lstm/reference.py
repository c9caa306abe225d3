"""The classic LSTM, one step after another. Faster versions are judged against it."""

import torch
from torch import Tensor

from openxlstm.ops.numerics import accumulation_dtype
from openxlstm.ops.state import LSTMState
from openxlstm.ops.state import reset as reset_state


def lstm_step(state: LSTMState, pre: Tensor, R: Tensor) -> LSTMState:
    """One step. `pre` [B, 4, H, D] is W x + b in the order i f z o; R [H, D, 4, D] mixes the memories of a head."""
    i_pre, f_pre, z_pre, o_pre = (pre + torch.einsum("bhd,hdge->bghe", state.h, R)).unbind(1)  # [B, H, D] each
    c = torch.sigmoid(f_pre) * state.c + torch.sigmoid(i_pre) * torch.tanh(z_pre)
    return LSTMState(torch.sigmoid(o_pre) * torch.tanh(c), c)


def scan(
    gates: Tensor, R: Tensor, b: Tensor, state: LSTMState, *, reset: Tensor | None, mask: Tensor | None
) -> tuple[Tensor, LSTMState]:
    """The loop over time."""
    dtype, out_dtype = accumulation_dtype(gates, R, b, state.c), gates.dtype
    gates, R, b = gates.to(dtype), R.to(dtype), b.to(dtype)
    state = LSTMState(*(x.to(dtype) for x in state))
    outputs = []
    for t in range(gates.shape[1]):
        if reset is not None:
            state = reset_state(state, reset[:, t])
        new = lstm_step(state, gates[:, t] + b, R)
        h = new.h
        if mask is not None:
            valid = mask[:, t, None, None]
            new = LSTMState(*(torch.where(valid, x, y) for x, y in zip(new, state, strict=True)))
            h = torch.where(valid, h, 0.0)
        state = new
        outputs.append(h.to(out_dtype))
    h = torch.stack(outputs, 1) if outputs else gates.new_zeros(gates[:, :, 0].shape, dtype=out_dtype)
    return h, state
