"""mLSTM as the paper writes it: one step after another (docs/math/mlstm.md). Faster versions are judged against it."""

import torch
from torch import Tensor

from openxlstm.ops.numerics import accumulation_dtype, inverse_scale, log_gate
from openxlstm.ops.state import MLSTMState
from openxlstm.ops.state import reset as reset_state


def mlstm_update(state: MLSTMState, k: Tensor, v: Tensor, log_i: Tensor, log_f: Tensor) -> MLSTMState:
    """Write one key-value pair (eq. 19-20, 25-27). Subtracting m keeps every exp() argument <= 0."""
    m = torch.maximum(log_f + state.m, log_i).detach()  # a choice of scale, not part of the function: no gradient
    f = torch.exp(log_f + state.m.detach() - m)  # [B, H]
    i = torch.exp(log_i - m)
    C = f[..., None, None] * state.C + i[..., None, None] * k[..., :, None] * v[..., None, :]
    n = f[..., None] * state.n + i[..., None] * k
    return MLSTMState(C, n, m)


def mlstm_read(state: MLSTMState, q: Tensor, *, normalize: bool, eps: float) -> Tensor:
    """Read the memory with a query (eq. 21-22): the scaled 1 of max(|n q|, 1) is exp(-m)."""
    q = q * q.shape[-1] ** -0.5
    num = torch.einsum("bhk,bhkv->bhv", q, state.C)
    if not normalize:
        return num * torch.exp(state.m)[..., None]
    nq = torch.einsum("bhk,bhk->bh", q, state.n)
    return num / (torch.maximum(nq.abs(), inverse_scale(state.m)) + eps)[..., None]


def scan(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    i_pre: Tensor,
    f_pre: Tensor,
    state: MLSTMState,
    *,
    reset: Tensor | None,
    mask: Tensor | None,
    input_gate: str,
    normalize: bool,
    eps: float,
    chunk_size: int | None,
) -> tuple[Tensor, MLSTMState]:
    """The loop over time. `chunk_size` has no meaning here."""
    dtype, out_dtype = accumulation_dtype(q, k, v, i_pre, f_pre, state.C), v.dtype
    q, k, v, i_pre, f_pre = (x.to(dtype) for x in (q, k, v, i_pre, f_pre))
    log_i, log_f = log_gate(i_pre, input_gate), log_gate(f_pre, "sigmoid")
    state = MLSTMState(*(x.to(dtype) for x in state))
    outputs = []
    for t in range(q.shape[1]):
        if reset is not None:
            state = reset_state(state, reset[:, t])
        new = mlstm_update(state, k[:, t], v[:, t], log_i[:, t], log_f[:, t])
        h = mlstm_read(new, q[:, t], normalize=normalize, eps=eps)
        if mask is not None:
            new, h = keep_padded(mask[:, t], new, state), h * mask[:, t, None, None]
        state = new
        outputs.append(h.to(out_dtype))
    h = torch.stack(outputs, 1) if outputs else v.new_zeros(v.shape)
    return h, state


def keep_padded(valid: Tensor, new: MLSTMState, old: MLSTMState) -> MLSTMState:
    """The new state where the step is `valid` [B], the old one where it is padding."""
    return MLSTMState(
        torch.where(valid[:, None, None, None], new.C, old.C),
        torch.where(valid[:, None, None], new.n, old.n),
        torch.where(valid[:, None], new.m, old.m),
    )
