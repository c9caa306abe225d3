"""The doors to the classic LSTM recurrence: `lstm_scan` on ready-made gates, `lstm_layer` on inputs."""

from typing import Any

import torch
from torch import Tensor

from openxlstm.ops.backend import Backend, choose
from openxlstm.ops.checks import check_same_device, check_shape, check_time_mask
from openxlstm.ops.headwise import head_gates
from openxlstm.ops.lstm import aten, reference, stepwise
from openxlstm.ops.numerics import accumulation_dtype, clear_padding, full_precision
from openxlstm.ops.state import LSTMState, empty_lstm_state

TORCH = Backend("torch", stepwise.scan)
REFERENCE = Backend("reference", reference.scan)
BACKENDS = (TORCH, REFERENCE)


@full_precision
def lstm_scan(
    gates: Tensor,
    R: Tensor,
    b: Tensor,
    state: LSTMState | None = None,
    *,
    reset: Tensor | None = None,
    mask: Tensor | None = None,
    backend: str = "auto",
) -> tuple[Tensor, LSTMState]:
    """Classic LSTM over a sequence: T steps of `lstm.reference`. One head is the LSTM of torch.nn, more are independent.

    gates: [B, T, 4, H, D], W x in the order i f z o (z is the cell input, PyTorch's g). Any T from 0 up, any strides.
    R: [H, D, 4, D] recurrent weights (head, from, gate, to), block-diagonal over heads. b: [4, H, D] bias.
    state: where to start; None is zeros. It is not modified, and gradients flow into it.
    reset: [B, T] bool, empty the state before this step. mask: [B, T] bool, False = padding: the state passes and h is 0.
    backend: "auto", or a name out of BACKENDS.

    Returns h [B, T, H, D] in the dtype of `gates` and the last state (float32, or float64 if any input is).
    Raises ValueError for shapes, dtypes or a backend that cannot serve them.
    Source: Hochreiter & Schmidhuber 1997 with the forget gate of Gers et al. 2000; xLSTM (arXiv 2405.04517) eq. 2-7.
    """
    if gates.dim() != 5:
        raise ValueError(f"gates must be [B, T, 4, H, D], got {list(gates.shape)}")
    B, T, _, H, D = gates.shape
    check_shape("gates", gates, (B, T, 4, H, D))
    check_shape("R", R, (H, D, 4, D))
    check_shape("b", b, (4, H, D))
    check_time_mask("reset", reset, B, T)
    check_time_mask("mask", mask, B, T)
    if state is None:
        state = empty_lstm_state(B, H, D, device=gates.device, dtype=accumulation_dtype(gates, R, b))
    else:
        for name, x in state._asdict().items():
            check_shape(f"state.{name}", x, (B, H, D))
    check_same_device(gates=gates, R=R, b=b, reset=reset, mask=mask, **state._asdict())
    gates = clear_padding(gates, mask)
    args = (gates, R, b, state)
    options = dict(reset=reset, mask=mask)
    return choose(BACKENDS, backend, *args, **options).run(*args, **options)


@full_precision
def lstm_layer(
    x: Tensor,
    W: Tensor,
    R: Tensor,
    b: Tensor,
    state: LSTMState | None = None,
    *,
    reset: Tensor | None = None,
    mask: Tensor | None = None,
    backend: str = "auto",
) -> tuple[Tensor, LSTMState]:
    """lstm_scan on the gates W x, for kernels that want to make W x themselves.

    x: [B, T, H * I]. W: [4, H, D, I] (gate, head, to, from): a head reads its own part of x. The rest as `lstm_scan`.
    backend: "auto", "aten" (torch's own kernel: one head, no reset, no mask, float32 or float64), or a name out of BACKENDS.
    """
    if W.dim() != 4:
        raise ValueError(f"W must be [4, H, D, I], got {list(W.shape)}")
    _, H, D, width = W.shape
    if x.dim() != 3:
        raise ValueError(f"x must be [B, T, H * I], got {list(x.shape)}")
    B, T, _ = x.shape
    check_shape("x", x, (B, T, H * width))
    check_shape("W", W, (4, H, D, width))
    check_shape("R", R, (H, D, 4, D))
    check_shape("b", b, (4, H, D))
    check_time_mask("reset", reset, B, T)
    check_time_mask("mask", mask, B, T)
    if state is None:
        state = empty_lstm_state(B, H, D, device=x.device, dtype=accumulation_dtype(x, W, R, b))
    else:
        for name, leaf in state._asdict().items():
            check_shape(f"state.{name}", leaf, (B, H, D))
    check_same_device(x=x, W=W, R=R, b=b, reset=reset, mask=mask, **state._asdict())
    x = clear_padding(x, mask)
    args = (x, W, R, b, state)
    options = dict(reset=reset, mask=mask)
    return choose(LAYER_BACKENDS, backend, *args, **options).run(*args, **options)


def _after_projection(scan: Backend) -> Backend:
    def run(x: Tensor, W: Tensor, *args: Any, **options: Any) -> tuple[Tensor, LSTMState]:
        both = torch.promote_types(x.dtype, W.dtype)  # under autocast x may be of lower precision than the weights
        h, last = scan.run(head_gates(x.to(both), W.to(both)), *args, **options)
        return h.to(x.dtype), last

    return Backend(scan.name, run)


LAYER_BACKENDS = (Backend("aten", aten.run, aten.refuses), *(_after_projection(scan) for scan in BACKENDS))
