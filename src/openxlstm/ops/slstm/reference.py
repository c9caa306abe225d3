"""sLSTM as the paper writes it: one step after another (docs/math/slstm.md). Faster versions are judged against it."""

import torch
from torch import Tensor

from openxlstm.ops.numerics import accumulation_dtype, log_gate
from openxlstm.ops.state import SLSTMState
from openxlstm.ops.state import reset as reset_state


def slstm_step(state: SLSTMState, pre: Tensor, R: Tensor, *, forget_gate: str) -> SLSTMState:
    """One step (eq. 8-17). `pre` [B, 4, H, D] is W x + b in the order i f z o; R [H, D, 4, D] mixes the memories of a head."""
    i_pre, f_pre, z_pre, o_pre = (pre + torch.einsum("bhd,hdge->bghe", state.h, R)).unbind(1)  # [B, H, D] each
    log_f = log_gate(f_pre, forget_gate)
    m = torch.maximum(log_f + state.m, i_pre).detach()  # a choice of scale, not part of the function: no gradient
    i = torch.exp(i_pre - m)
    f = torch.exp(log_f + state.m.detach() - m)
    c = f * state.c + i * torch.tanh(z_pre)
    n = f * state.n + i
    return SLSTMState(torch.sigmoid(o_pre) * c / n, c, n, m)


def scan(
    gates: Tensor,
    R: Tensor,
    b: Tensor,
    state: SLSTMState,
    *,
    reset: Tensor | None,
    mask: Tensor | None,
    forget_gate: str,
) -> tuple[Tensor, SLSTMState]:
    """The loop over time."""
    dtype, out_dtype = accumulation_dtype(gates, R, b, state.c), gates.dtype
    gates, R, b = gates.to(dtype), R.to(dtype), b.to(dtype)
    state = SLSTMState(*(x.to(dtype) for x in state))
    outputs = []
    for t in range(gates.shape[1]):
        if reset is not None:
            state = reset_state(state, reset[:, t])
        new = slstm_step(state, gates[:, t] + b, R, forget_gate=forget_gate)
        h = new.h
        if mask is not None:
            valid = mask[:, t, None, None]
            new = SLSTMState(*(torch.where(valid, x, y) for x, y in zip(new, state, strict=True)))
            h = h * valid
        state = new
        outputs.append(h.to(out_dtype))
    h = torch.stack(outputs, 1) if outputs else gates.new_zeros(gates[:, :, 0].shape, dtype=out_dtype)
    return h, state
