"""The one door to the sLSTM recurrence."""

from typing import Any

from torch import Tensor

from openxlstm.ops import gpu as triton_kernels
from openxlstm.ops import native
from openxlstm.ops.backend import Backend, choose
from openxlstm.ops.checks import check_gate, check_same_device, check_shape, check_time_mask
from openxlstm.ops.numerics import accumulation_dtype, clear_padding, full_precision
from openxlstm.ops.slstm import cpu, gpu, reference, stepwise
from openxlstm.ops.state import SLSTMState, empty_slstm_state

REFERENCE = Backend("reference", reference.scan)
TORCH = Backend("torch", stepwise.scan)
CPU = Backend("cpu", cpu.scan, cpu.refuses, native.missing)
TRITON = Backend("triton", gpu.scan, gpu.refuses, triton_kernels.missing)
BACKENDS = (CPU, TRITON, TORCH, REFERENCE)


@full_precision
def slstm_scan(
    gates: Tensor,
    R: Tensor,
    b: Tensor,
    state: SLSTMState | None = None,
    *,
    reset: Tensor | None = None,
    mask: Tensor | None = None,
    forget_gate: str = "sigmoid",
    backend: str = "auto",
) -> tuple[Tensor, SLSTMState]:
    """sLSTM over a sequence: T steps of `slstm.reference`.

    gates: [B, T, 4, H, D], W x in the order i f z o. Any T from 0 up, any strides.
    R: [H, D, 4, D] recurrent weights (head, from, gate, to), block-diagonal over heads. b: [4, H, D] bias.
    state: where to start; None is the empty state. It is not modified, and gradients flow into its h, c and n.
        One made by hand needs n > 0 or m = EMPTY_M, as every state has that was ever left: c / n is what it says.
    reset: [B, T] bool, empty the state before this step. mask: [B, T] bool, False = padding: the state passes and h is 0.
    forget_gate: "sigmoid" (as the published code) or "exp". backend: "auto", or a name out of BACKENDS.

    Returns h [B, T, H, D] in the dtype of `gates` and the last state (float32, or float64 if any input is). Its `m` is not
    differentiable. Raises ValueError for shapes, dtypes, options or a backend that cannot serve them.
    Source: xLSTM (arXiv 2405.04517) eq. 8-17 (docs/math/slstm.md).
    """
    if gates.dim() != 5:
        raise ValueError(f"gates must be [B, T, 4, H, D], got {list(gates.shape)}")
    B, T, _, H, D = gates.shape
    check_shape("gates", gates, (B, T, 4, H, D))
    check_shape("R", R, (H, D, 4, D))
    check_shape("b", b, (4, H, D))
    check_gate("forget_gate", forget_gate)
    check_time_mask("reset", reset, B, T)
    check_time_mask("mask", mask, B, T)
    if state is None:
        state = empty_slstm_state(B, H, D, device=gates.device, dtype=accumulation_dtype(gates, R, b))
    else:
        for name, x in state._asdict().items():
            check_shape(f"state.{name}", x, (B, H, D))
    check_same_device(gates=gates, R=R, b=b, reset=reset, mask=mask, **state._asdict())
    gates = clear_padding(gates, mask)
    args = (gates, R, b, state)
    options: dict[str, Any] = dict(reset=reset, mask=mask, forget_gate=forget_gate)
    return choose(BACKENDS, backend, *args, **options).run(*args, **options)
