"""The causal depthwise convolution by the compiled kernel (csrc/conv.cpp): one pass over the input, SiLU included; padding
and documents cost nothing. Nothing but the inputs is kept for the backward pass, which computes the rest again."""

import ctypes
from typing import Any

import torch
from torch import Tensor

from openxlstm.ops import native
from openxlstm.ops.native import address, at, contiguous, rows
from openxlstm.ops.operator import differentiable

MAX_WIDTH = 64  # of csrc/conv.cpp


def refuses(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    state: Tensor,
    *,
    reset: Tensor | None,
    mask: Tensor | None,
    activation: str | None,
) -> str | None:
    """It knows CPUs, float32 and bfloat16."""
    if reason := native.unknown(x):
        return reason
    if weight.shape[1] > MAX_WIDTH:
        return f"the compiled kernel has at most {MAX_WIDTH} taps"
    return None


def scan(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    state: Tensor,
    *,
    reset: Tensor | None,
    mask: Tensor | None,
    activation: str | None,
) -> tuple[Tensor, Tensor]:
    """All steps, as one operator for torch.compile."""
    taps = weight.float().T.contiguous()  # [W, D]
    return _run(x, taps, None if bias is None else bias.float(), state, reset, mask, activation == "silu")


@torch.library.custom_op("openxlstm::conv1d", mutates_args=())
def conv1d(
    x: Tensor, taps: Tensor, bias: Tensor | None, state: Tensor, reset: Tensor | None, mask: Tensor | None, silu: bool
) -> tuple[Tensor, Tensor]:
    """x [B, T, D], taps [W, D] oldest first, state [B, W - 1, D] -> y [B, T, D] and the last state."""
    x, state = rows(x), rows(state)
    taps, bias, reset, mask = contiguous(taps, bias, reset, mask)
    y, last = native.empty(x, *x.shape), state.new_empty(state.shape)
    native.library().openxlstm_conv1d_forward(
        at(x), at(state), address(taps), address(bias), address(reset), address(mask), at(y), at(last),
        *_sizes(x, taps), silu, native.threads(),
    )  # fmt: skip
    return y, last


@conv1d.register_fake
def _(x: Tensor, taps: Tensor, bias: Any, state: Tensor, reset: Any, mask: Any, silu: bool) -> Any:
    return x.new_empty(x.shape), state.new_empty(state.shape)


@torch.library.custom_op("openxlstm::conv1d_backward", mutates_args=())
def conv1d_backward(
    dy: Tensor,
    dlast: Tensor,
    x: Tensor,
    taps: Tensor,
    bias: Tensor | None,
    state: Tensor,
    reset: Tensor | None,
    mask: Tensor | None,
    silu: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients of x, taps, bias and state."""
    x, state, dy, dlast = rows(x), rows(state), rows(dy), rows(dlast)
    taps, bias, reset, mask = contiguous(taps, bias, reset, mask)
    dx, dstate = native.empty(x, *x.shape), state.new_empty(state.shape)
    W, D = taps.shape
    sums, work = taps.new_empty(W + 1, D), taps.new_empty(x.shape[0], W + 1, D)
    native.library().openxlstm_conv1d_backward(
        at(x), at(state), address(taps), address(bias), address(reset), address(mask), at(dy), at(dlast),
        at(dx), at(dstate), address(sums), address(work), *_sizes(x, taps), silu, native.threads(),
    )  # fmt: skip
    return dx, sums[:W].clone(), sums[W].clone(), dstate


@conv1d_backward.register_fake
def _(dy: Any, dlast: Any, x: Tensor, taps: Tensor, bias: Any, state: Tensor, reset: Any, mask: Any, silu: bool) -> Any:
    return x.new_empty(x.shape), taps.new_empty(taps.shape), taps.new_empty(taps.shape[1]), state.new_empty(state.shape)


def _sizes(x: Tensor, taps: Tensor) -> tuple[Any, ...]:
    B, T, D = x.shape
    return ctypes.c_int64(B), ctypes.c_int64(T), D, taps.shape[0]


def _save(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    *tensors, ctx.silu = inputs
    ctx.save_for_backward(*tensors)
    ctx.set_materialize_grads(False)


def _backward(ctx: Any, dy: Tensor | None, dlast: Tensor | None) -> tuple[Tensor | None, ...]:
    x, taps, bias, state, reset, mask = ctx.saved_tensors
    dy = x.new_zeros(x.shape) if dy is None else dy
    dlast = state.new_zeros(state.shape) if dlast is None else dlast
    dx, dtaps, dbias, dstate = conv1d_backward(dy, dlast, x, taps, bias, state, reset, mask, ctx.silu)
    return dx, dtaps, None if bias is None else dbias, dstate, None, None, None


_run = differentiable(conv1d, _save, _backward)
