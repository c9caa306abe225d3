"""The inputs of the mLSTM cell by the compiled kernel (csrc/qkv.cpp): what is in cache is finished before the next rows
are read, and of the backward pass only sums over time and eight rows at a time exist at once."""

import ctypes
from typing import Any

import torch
from torch import Tensor

from openxlstm.ops import native
from openxlstm.ops.native import address, at, contiguous, rows
from openxlstm.ops.operator import differentiable

MAX_WIDTH = 64  # of csrc/conv.h
BLOCKS = (2, 4, 8)  # of csrc/qkv.cpp


def refuses(
    u: Tensor,
    taps: Tensor | None,
    tap_bias: Tensor | None,
    Q: Tensor,
    K: Tensor,
    V: Tensor,
    W_if: Tensor,
    b_if: Tensor,
    state: Tensor | None,
    *,
    reset: Tensor | None,
    mask: Tensor | None,
) -> str | None:
    """It knows CPUs, float32 and bfloat16, and small blocks."""
    if reason := native.unknown(u, Q, W_if):
        return reason
    if taps is not None and taps.shape[1] > MAX_WIDTH:
        return f"the compiled kernel has at most {MAX_WIDTH} taps"
    width = native.vector_width()
    if Q.shape[1] not in BLOCKS or Q.shape[1] > width:
        return f"the compiled kernel knows blocks of {', '.join(str(s) for s in BLOCKS if s <= width)}, not {Q.shape[1]}"
    return None


def run(
    u: Tensor,
    taps: Tensor | None,
    tap_bias: Tensor | None,
    Q: Tensor,
    K: Tensor,
    V: Tensor,
    W_if: Tensor,
    b_if: Tensor,
    state: Tensor | None,
    *,
    reset: Tensor | None,
    mask: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor | None]:
    """One operator for torch.compile."""
    silu = taps is not None
    if taps is None:  # one tap that changes nothing
        before, tap_bias = u.new_zeros(u.shape[0], 0, u.shape[2]), None
        columns = torch.ones(1, u.shape[2], dtype=torch.float32)
    else:
        assert state is not None
        before, columns = state, taps.float().T.contiguous()  # [W, D]
    a, q, k, v, pre, last = _run(
        u, columns, None if tap_bias is None else tap_bias.float(), before, reset, mask,
        Q.float(), K.float(), V.float(), W_if.float(), b_if.float(), silu,
    )  # fmt: skip
    return a, q, k, v, pre, last if silu else state


@torch.library.custom_op("openxlstm::qkv_gates", mutates_args=())
def qkv_gates(
    u: Tensor,
    taps: Tensor,
    tap_bias: Tensor | None,
    state: Tensor,
    reset: Tensor | None,
    mask: Tensor | None,
    Q: Tensor,
    K: Tensor,
    V: Tensor,
    W_if: Tensor,
    b_if: Tensor,
    silu: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """u [B, T, D], taps [W, D] oldest first -> a, q, k, v [B, T, D], pre [B, T, G], the last state [B, W - 1, D]."""
    u, state = rows(u), rows(state)
    taps, tap_bias, reset, mask, Q, K, V, W_if, b_if = contiguous(taps, tap_bias, reset, mask, Q, K, V, W_if, b_if)
    a, q, k, v = (native.empty(u, *u.shape) for _ in range(4))
    pre, last = W_if.new_empty(*u.shape[:2], W_if.shape[0]), state.new_empty(state.shape)
    native.library().openxlstm_qkv_gates_forward(
        at(u), at(state), address(taps), address(tap_bias), address(reset), address(mask), address(Q), address(K), address(V),
        address(W_if), address(b_if), at(a), at(q), at(k), at(v), address(pre), at(last),
        *_sizes(u, taps, Q, W_if), silu, native.threads(),
    )  # fmt: skip
    return a, q, k, v, pre, last


@qkv_gates.register_fake
def _(
    u: Tensor, taps: Any, tap_bias: Any, state: Tensor, reset: Any, mask: Any, Q: Any, K: Any, V: Any, W_if: Tensor, b_if: Any,
    silu: bool,
) -> Any:  # fmt: skip
    a, q, k, v = (u.new_empty(u.shape) for _ in range(4))
    return a, q, k, v, W_if.new_empty(u.shape[0], u.shape[1], W_if.shape[0]), state.new_empty(state.shape)


@torch.library.custom_op("openxlstm::qkv_gates_backward", mutates_args=())
def qkv_gates_backward(
    da: Tensor,
    dq: Tensor,
    dk: Tensor,
    dv: Tensor,
    dpre: Tensor,
    dlast: Tensor,
    u: Tensor,
    taps: Tensor,
    tap_bias: Tensor | None,
    state: Tensor,
    reset: Tensor | None,
    mask: Tensor | None,
    Q: Tensor,
    K: Tensor,
    V: Tensor,
    W_if: Tensor,
    silu: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Gradients of u, taps, tap_bias, state, Q, K, V and W_if."""
    u, state, da, dq, dk, dv, dlast = (rows(x) for x in (u, state, da, dq, dk, dv, dlast))
    dpre, taps, tap_bias, reset, mask, Q, K, V, W_if = contiguous(dpre, taps, tap_bias, reset, mask, Q, K, V, W_if)
    du, dstate = native.empty(u, *u.shape), state.new_empty(state.shape)
    dQ, dK, dV, dW_if = (x.new_empty(x.shape) for x in (Q, K, V, W_if))
    W, D = taps.shape
    dtaps = taps.new_empty(W + 1, D)
    native.library().openxlstm_qkv_gates_backward(
        at(u), at(state), address(taps), address(tap_bias), address(reset), address(mask), address(Q), address(K), address(V),
        address(W_if), at(da), at(dq), at(dk), at(dv), address(dpre), at(dlast), at(du), at(dstate),
        address(dQ), address(dK), address(dV), address(dW_if), address(dtaps),
        *_sizes(u, taps, Q, W_if), silu, native.threads(),
    )  # fmt: skip
    return du, dtaps[:W].clone(), dtaps[W].clone(), dstate, dQ, dK, dV, dW_if


@qkv_gates_backward.register_fake
def _(
    da: Any, dq: Any, dk: Any, dv: Any, dpre: Any, dlast: Any, u: Tensor, taps: Tensor, tap_bias: Any, state: Tensor,
    reset: Any, mask: Any, Q: Tensor, K: Tensor, V: Tensor, W_if: Tensor, silu: bool,
) -> Any:  # fmt: skip
    found = [x.new_empty(x.shape) for x in (u, taps, taps[0], state, Q, K, V, W_if)]
    return tuple(found)


def _sizes(u: Tensor, taps: Tensor, Q: Tensor, W_if: Tensor) -> tuple[Any, ...]:
    B, T, D = u.shape
    return ctypes.c_int64(B), ctypes.c_int64(T), D, taps.shape[0], Q.shape[1], W_if.shape[0]


def _save(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    u, taps, tap_bias, state, reset, mask, Q, K, V, W_if, _b_if, ctx.silu = inputs
    ctx.save_for_backward(u, taps, tap_bias, state, reset, mask, Q, K, V, W_if)
    ctx.set_materialize_grads(False)


def _backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
    u, taps, tap_bias, state, reset, mask, Q, K, V, W_if = ctx.saved_tensors
    kinds = [(u, u.shape)] * 4 + [(W_if, (*u.shape[:2], W_if.shape[0])), (state, state.shape)]
    da, dq, dk, dv, dpre, dlast = (
        g if g is not None else like.new_zeros(shape) for g, (like, shape) in zip(grads, kinds, strict=True)
    )
    du, dtaps, dtap_bias, dstate, dQ, dK, dV, dW_if = qkv_gates_backward(
        da, dq, dk, dv, dpre, dlast, u, taps, tap_bias, state, reset, mask, Q, K, V, W_if, ctx.silu
    )
    bias = None if tap_bias is None else dtap_bias
    return du, dtaps, bias, dstate, None, None, dQ, dK, dV, dW_if, dpre.sum((0, 1)), None


_run = differentiable(qkv_gates, _save, _backward)
