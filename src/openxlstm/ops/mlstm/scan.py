"""The one door to the mLSTM recurrence."""

from typing import Any

from torch import Tensor

from openxlstm.ops import gpu as triton_kernels
from openxlstm.ops import native
from openxlstm.ops.backend import Backend, choose
from openxlstm.ops.checks import check_gate, check_same_device, check_shape, check_time_mask
from openxlstm.ops.mlstm import chunkwise, cpu, gpu, reference
from openxlstm.ops.numerics import (
    CLOSED_FORGET_GATE,
    MASKED_LOG_GATE,
    accumulation_dtype,
    at_least,
    clear_padding,
    full_precision,
)
from openxlstm.ops.state import MLSTMState, empty_mlstm_state

REFERENCE = Backend("reference", reference.scan)
TORCH = Backend("torch", chunkwise.scan)
TRITON = Backend("triton", gpu.scan, gpu.refuses, triton_kernels.missing)
CPU = Backend("cpu", cpu.scan, cpu.refuses, native.missing)
BACKENDS = (CPU, TRITON, TORCH, REFERENCE)


@full_precision
def mlstm_scan(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    i_pre: Tensor,
    f_pre: Tensor,
    state: MLSTMState | None = None,
    *,
    reset: Tensor | None = None,
    mask: Tensor | None = None,
    input_gate: str = "exp",
    normalize: bool = True,
    eps: float = 1e-6,
    chunk_size: int | None = None,
    backend: str = "auto",
) -> tuple[Tensor, MLSTMState]:
    """mLSTM over a sequence: T steps of `mlstm.reference`, computed in parallel inside chunks.

    q, k: [B, T, H, K] queries (scaled by K**-0.5 inside) and keys. v: [B, T, H, V] values. Any T from 0 up, any strides.
    i_pre, f_pre: [B, T, H] gate pre-activations; the forget gate is a sigmoid, the input gate `input_gate`. -inf shuts a gate.
    state: where to start; None is the empty state. It is not modified, and gradients flow into its C and n.
    reset: [B, T] bool, empty the state before this step. mask: [B, T] bool, False = padding: the state passes and h is 0.
    normalize: divide by max(|n q|, 1); without it h = C q (TFLA's mLSTMsig, together with input_gate="sigmoid").
    eps: added to the denominator in the scaled frame, as the published kernels do.
    chunk_size: steps a chunk; None lets the backend choose. It changes speed and memory, not the result.
    backend: "auto", or a name out of BACKENDS.

    Returns h [B, T, H, V] in v's dtype and the last state (float32, or float64 if any input is). Its `m` is not differentiable.
    Raises ValueError for shapes, dtypes, options or a backend that cannot serve them.
    Source: xLSTM (arXiv 2405.04517) eq. 19-27; chunkwise form as in TFLA (arXiv 2503.14376);
    gradients exact (docs/math/mlstm.md).
    """
    if q.dim() != 4:
        raise ValueError(f"q must be [B, T, H, K], got {list(q.shape)}")
    B, T, H, K = q.shape
    V = v.shape[-1]
    check_shape("k", k, (B, T, H, K))
    check_shape("v", v, (B, T, H, V))
    check_shape("i_pre", i_pre, (B, T, H))
    check_shape("f_pre", f_pre, (B, T, H))
    check_gate("input_gate", input_gate)
    check_time_mask("reset", reset, B, T)
    check_time_mask("mask", mask, B, T)
    if chunk_size is not None and chunk_size < 1:
        raise ValueError(f"chunk_size must be at least 1, got {chunk_size}")
    if state is None:
        state = empty_mlstm_state(B, H, K, V, device=q.device, dtype=accumulation_dtype(q, k, v, i_pre, f_pre))
    else:
        check_shape("state.C", state.C, (B, H, K, V))
        check_shape("state.n", state.n, (B, H, K))
        check_shape("state.m", state.m, (B, H))
    check_same_device(q=q, k=k, v=v, i_pre=i_pre, f_pre=f_pre, reset=reset, mask=mask, **state._asdict())
    q, k, v, i_pre, f_pre = (clear_padding(x, mask) for x in (q, k, v, i_pre, f_pre))
    # Gates that are shut, -inf too, as finite numbers: the difference of two infinities would be NaN.
    i_pre, f_pre = at_least(i_pre, MASKED_LOG_GATE), at_least(f_pre, CLOSED_FORGET_GATE)
    args = (q, k, v, i_pre, f_pre, state)
    options: dict[str, Any] = dict(
        reset=reset, mask=mask, input_gate=input_gate, normalize=normalize, eps=eps, chunk_size=chunk_size
    )
    return choose(BACKENDS, backend, *args, **options).run(*args, **options)
