"""The recurrence of Mamba-2 (state-space duality, arXiv 2405.21060): an mLSTM without normaliser (docs/math/ssd.md)."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from openxlstm.ops.checks import check_shape
from openxlstm.ops.mlstm.scan import mlstm_scan
from openxlstm.ops.numerics import full_precision
from openxlstm.ops.state import MLSTMState

LOG_DECAY_RANGE = (-46.0, 7.0)
"""Where the logarithm of -dt A is kept: below, a step forgets 1e-20, which is nothing; above, it keeps exp(-1096), which is 0
in float64 too. In between f_pre and its gradient are finite, in float32 as in float64."""

SMALL_DT_PRE = -30.0
"""Below it log(softplus(x)) = x up to 5e-14, and further down softplus(x) would be 0 and its logarithm infinite."""


@full_precision
def ssd_scan(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    dt_pre: Tensor,
    A_log: Tensor,
    state: MLSTMState | None = None,
    *,
    reset: Tensor | None = None,
    mask: Tensor | None = None,
    chunk_size: int | None = None,
    backend: str = "auto",
) -> tuple[Tensor, MLSTMState]:
    """C_t = exp(dt_t A) C_{t-1} + dt_t k_t v_t^T,  h_t = C_t^T q_t,  with dt = softplus(dt_pre) and A = -exp(A_log).

    q, k: [B, T, K], "C" and "B" of the paper, shared by all heads. v: [B, T, H, V], its "x". dt_pre: [B, T, H]. A_log: [H].
    state, reset, mask, chunk_size, backend: as `mlstm_scan`.

    Returns h [B, T, H, V] in v's dtype and the last state, whose exp(m) C is sqrt(K) times the C above.
    Raises ValueError for shapes, options or a backend that cannot serve them.
    Source: arXiv 2405.21060, eq. 1 with scalar A, discretised as in its listing 1; gradients exact.
    """
    if v.dim() != 4:
        raise ValueError(f"v must be [B, T, H, V], got {list(v.shape)}")
    B, T, H, _ = v.shape
    K = q.shape[-1]
    check_shape("q", q, (B, T, K))
    check_shape("k", k, (B, T, K))
    check_shape("dt_pre", dt_pre, (B, T, H))
    check_shape("A_log", A_log, (H,))
    log_dt, f_pre = ssd_gates(dt_pre, A_log)
    i_pre = log_dt + 0.5 * math.log(K)  # mlstm_scan divides queries by sqrt(K); here it costs one number a head to undo
    q, k = (x[:, :, None].expand(B, T, H, K) for x in (q, k))
    return mlstm_scan(
        q, k, v, i_pre, f_pre, state, reset=reset, mask=mask, normalize=False, chunk_size=chunk_size, backend=backend
    )


def ssd_gates(dt_pre: Tensor, A_log: Tensor) -> tuple[Tensor, Tensor]:
    """log dt and f_pre, whose sigmoid is exp(dt A): [B, T, H] each, in float32 or better."""
    dtype = torch.promote_types(dt_pre.dtype, torch.float32)
    dt_pre, A_log = dt_pre.to(dtype), A_log.to(dtype)
    log_dt = torch.where(dt_pre < SMALL_DT_PRE, dt_pre, F.softplus(dt_pre.clamp(min=SMALL_DT_PRE)).log())
    decay = (log_dt + A_log).clamp(*LOG_DECAY_RANGE).exp()  # -dt A
    return log_dt, -(decay + torch.log(-torch.expm1(-decay)))  # -log(exp(decay) - 1), which must not overflow
